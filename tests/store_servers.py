"""Real servers of object stores on this machine, and a proxy between them and us that has faults.

``make stores`` builds versitygw (S3) and fake-gcs-server (Google Cloud Storage).
"""

import contextlib
import dataclasses
import http.client
import http.server
import importlib.util
import os
import pathlib
import re
import shutil
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping

KEY, SECRET = "watchnext", "not-a-secret"
BUCKET = "things"
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
_READY_S = 30


@dataclasses.dataclass(frozen=True, kw_only=True)
class Store:
    """A store that runs.

    Attributes:
        scheme: ``s3`` or ``gs``.
        port: Port of the server.
        directory: Where the server keeps what it has.
    """

    scheme: str
    port: int
    directory: pathlib.Path

    def url(self, path: str = "") -> str:
        return f"{self.scheme}://{BUCKET}/{path}"

    def environment(self, port: int | None = None) -> Mapping[str, str]:
        """Returns what points the libraries to the server, or to a proxy before it."""
        address = f"http://127.0.0.1:{port or self.port}"
        if self.scheme == "gs":
            return {"STORAGE_EMULATOR_HOST": address}
        return {
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": address,
        }


def program(name: str) -> str | None:
    """Returns the path of a program on PATH or where ``make stores`` puts it."""
    built = pathlib.Path.home() / ".cache" / "watchnext" / "bin"
    return shutil.which(name, path=f"{os.environ['PATH']}{os.pathsep}{built}")


def missing(scheme: str) -> str:
    """Says what is missing to run a store; "" where nothing is."""
    if importlib.util.find_spec("obstore") is None or importlib.util.find_spec("boto3") is None:
        return "pip install '.[s3,gcs]'"
    name = {"s3": "versitygw", "gs": "fake-gcs-server"}[scheme]
    return "" if program(name) else f"run make stores, which builds {name}"


@contextlib.contextmanager
def running(scheme: str, directory: pathlib.Path) -> Iterator[Store]:
    """Runs a server with one empty bucket."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    store = Store(scheme=scheme, port=port, directory=directory)
    (directory / "data").mkdir(parents=True)
    line, extra = {"s3": _versitygw, "gs": _fake_gcs_server}[scheme](store)
    with (directory / "server.log").open("wb") as log:
        process = subprocess.Popen(
            line, stdout=log, stderr=subprocess.STDOUT, env={**os.environ, **extra}
        )
    try:
        until = time.monotonic() + _READY_S
        while True:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            assert process.poll() is None, (directory / "server.log").read_text()
            assert time.monotonic() < until, "the store did not start"
            time.sleep(0.05)
        yield store
    finally:
        process.kill()
        process.wait()


def _versitygw(store: Store) -> tuple[list[str], dict[str, str]]:
    found = program("versitygw")
    assert found is not None
    metadata = store.directory / "metadata"
    metadata.mkdir()
    line = [found, "--port", f"127.0.0.1:{store.port}", "--quiet", "posix"]
    line += ["--sidecar", str(metadata), str(store.directory / "data")]
    return line, {"ROOT_ACCESS_KEY": KEY, "ROOT_SECRET_KEY": SECRET}


def _fake_gcs_server(store: Store) -> tuple[list[str], dict[str, str]]:
    found = program("fake-gcs-server")
    assert found is not None
    line = [found, "-scheme=http", "-host=127.0.0.1", f"-port={store.port}", "-backend=memory"]
    line += [f"-external-url=http://127.0.0.1:{store.port}"]
    return line, {}


_UPLOADED = re.compile(rb'"name": "([^"]+)"')
Fault = Callable[[str, str], str]


class Proxy:
    """A server between a client and a store. For each request it asks what is to go wrong.

    Faults: "" for none; ``503``, the store's way to say: slower; ``cut``, half of what is sent is
    passed on and the connection ends; ``cut answer``, likewise of what comes back; ``lost``, the
    request is carried out but no answer comes; ``late``, the answer of the last time.
    """

    def __init__(self, store: Store) -> None:
        self.fault: Fault = lambda method, path: ""
        self.requests: list[tuple[str, str]] = []
        self._answers: dict[str, tuple[int, list[tuple[str, str]], bytes]] = {}
        proxy = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _handle(self) -> None:
                proxy._handle(self, store.port)

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _handle  # noqa: N815

            def log_message(self, *_: object) -> None:
                """Says nothing."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _handle(self, handler: http.server.BaseHTTPRequestHandler, port: int) -> None:
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        path = handler.path
        if path.startswith("/upload/") and (named := _UPLOADED.search(body)):
            path = f"/{BUCKET}/{named.group(1).decode()}"  # Google's says it in the body.
        self.requests.append((handler.command, path))
        fault = self.fault(handler.command, path)
        if fault == "503":
            self._answer(handler, 503, [], b"<Error><Code>SlowDown</Code></Error>")
            return
        if fault == "late" and handler.path in self._answers:
            self._answer(handler, *self._answers[handler.path])
            return
        upstream = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        try:
            upstream.putrequest(
                handler.command, handler.path, skip_host=True, skip_accept_encoding=True
            )
            for name, value in handler.headers.items():
                upstream.putheader(name, value)
            upstream.endheaders()
            if fault == "cut":
                upstream.send(body[: len(body) // 2])
                handler.close_connection = True
                return
            upstream.send(body)
            got = upstream.getresponse()
            content = got.read()
            answer = (got.status, got.getheaders(), content)
            if fault == "lost":
                handler.close_connection = True
                return
            self._answers[handler.path] = answer
            self._answer(handler, *answer, is_cut=fault == "cut answer")
        finally:
            upstream.close()

    def _answer(
        self,
        handler: http.server.BaseHTTPRequestHandler,
        status: int,
        headers: list[tuple[str, str]],
        content: bytes,
        *,
        is_cut: bool = False,
    ) -> None:
        handler.send_response_only(status)
        names = {name.lower() for name, _ in headers}
        for name, value in headers:
            if name.lower() not in {"transfer-encoding", "connection"}:
                handler.send_header(name, value)
        if "content-length" not in names:
            handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        if handler.command == "HEAD":
            return
        handler.wfile.write(content[: len(content) // 2] if is_cut else content)
        if is_cut:
            handler.close_connection = True


def make_bucket(store: Store, name: str = BUCKET) -> None:
    """Creates a bucket by the store's own interface."""
    if store.scheme == "gs":
        request = urllib.request.Request(
            f"http://127.0.0.1:{store.port}/storage/v1/b?project=p",
            data=f'{{"name": "{name}"}}'.encode(),
            headers={"Content-Type": "application/json"},
        )
        _DIRECT.open(request).close()
        return
    import boto3

    client = boto3.client(
        "s3",
        endpoint_url=f"http://127.0.0.1:{store.port}",
        aws_access_key_id=KEY,
        aws_secret_access_key=SECRET,
        region_name="us-east-1",
    )
    client.create_bucket(Bucket=name)
