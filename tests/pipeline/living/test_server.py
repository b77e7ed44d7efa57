import socket
import textwrap

import pytest

from features import command
from pipeline.living import server as servers

# Stands for serving.serve: not ready for the first two questions.
SERVER = """
import http.server, json, sys
flags = dict(argument[2:].split("=", 1) for argument in sys.argv[1:])
if flags["mode"] == "broken":
    sys.exit(7)
asked = []
class Handler(http.server.BaseHTTPRequestHandler):
    def answer(self, code, value):
        body = json.dumps(value).encode()
        self.send_response(code)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def do_GET(self):
        asked.append(self.path)
        self.answer(503 if len(asked) < 3 else 200, {"asked": asked})
    def do_POST(self):
        length = int(self.headers["content-length"])
        self.answer(200, {"echo": json.loads(self.rfile.read(length))})
    def log_message(self, *arguments):
        pass
http.server.HTTPServer(("127.0.0.1", int(flags["port"])), Handler).serve_forever()
"""


@pytest.fixture
def port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture
def fake_serve(tmp_path, monkeypatch):
    """Makes ``python -m serving.serve`` run SERVER in processes that are started from here."""
    package = tmp_path / "serving"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "serve.py").write_text(textwrap.dedent(SERVER))
    monkeypatch.chdir(tmp_path)


def test_a_server_is_asked_until_it_is_ready_and_stopped_at_the_end(fake_serve, port):
    with servers.running(["--mode=good"], port=port) as server:
        assert server.client.get("/x")["asked"] == ["/readyz", "/readyz", "/readyz", "/x"]
        assert server.client.post("/y", {"k": 3}) == {"echo": {"k": 3}}
    servers.require_free(port)


def test_a_server_that_ends_at_once_is_reported(fake_serve, port):
    with (
        pytest.raises(command.InputError, match="exit code 7"),
        servers.running(["--mode=broken"], port=port),
    ):
        pass


def test_a_port_in_use_is_refused_with_another_one_to_try(port):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", port))
        listener.listen()
        with pytest.raises(command.InputError, match=rf":{port}: .*PORT={port + 1}"):
            servers.require_free(port)
    servers.require_free(port)
