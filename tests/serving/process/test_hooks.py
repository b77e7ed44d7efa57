"""Hooks: commands and webhooks that are told what happened."""

import http.server
import json
import sys
import threading

import pytest

from features import command
from serving.process import hooks


def test_a_command_is_given_the_news_and_the_event(tmp_path):
    told = tmp_path / "told"
    code = (
        "import os, sys; "
        f"open({str(told)!r}, 'w').write(os.environ['WATCHNEXT_EVENT'] + sys.stdin.read())"
    )
    assert hooks.tell(f'{sys.executable} -c "{code}"', "done", {"release": "7"})
    assert told.read_text() == 'done{"event": "done", "release": "7"}'


def test_a_command_that_fails_is_logged_and_harms_nobody(caplog):
    assert not hooks.tell("false", "done", {})
    assert "exit code 1" in caplog.text


@pytest.mark.parametrize("code", [200, 500])
def test_a_webhook_gets_the_news_by_post_and_its_address_is_kept_secret(code, caplog):
    posted = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            posted.append((self.path, self.headers["Content-Type"], json.loads(body)))
            self.send_response(code)
            self.end_headers()

        def log_message(self, *arguments):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        url = f"http://127.0.0.1:{server.server_address[1]}/services/SECRET"
        assert hooks.tell(url, "failed", {"reason": "why"}) is (code == 200)
        thread.join()
    assert posted == [
        ("/services/SECRET", "application/json", {"event": "failed", "reason": "why"})
    ]
    assert "SECRET" not in caplog.text


@pytest.mark.parametrize("hook", ["", "no-such-program now", "http://", "echo 'a"])
def test_what_is_no_hook_is_refused_before_anything_is_done(hook):
    with pytest.raises(command.InputError, match="--hook"):
        hooks.require(hook)
