"""A server in a process of its own, and what the demo asks it over HTTP."""

import contextlib
import http.client
import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from typing import Any

from features import command
from pipeline.steps import commands
from serving.process import listening

_HOST = "127.0.0.1"
_READY_WITHIN_S = 180
_ANSWER_WITHIN_S = 30
_STOP_WITHIN_S = 20
_LOOK_EVERY_S = 0.2


def require_free(port: int) -> None:
    """Refuses a port that cannot be listened on.

    Raises:
        command.InputError: Somebody else listens there, or the port is none.
    """
    try:
        listening.require_free_port(_HOST, port)
    except command.InputError as error:
        other = port + 1 if port < 65535 else port - 1
        raise command.InputError(f"{error} With make: make demo PORT={other}") from None


@contextlib.contextmanager
def running(arguments: Sequence[str], *, port: int) -> Iterator["Server"]:
    """Starts ``python -m serving.serve`` and yields it once it answers real predictions.

    Args:
        arguments: Flags of the server without ``--port``.
        port: Port to listen on.

    Raises:
        command.InputError: It ended, or did not become ready in time.
    """
    line = [sys.executable, "-m", "serving.serve", *arguments, f"--port={port}"]
    process = subprocess.Popen(line, env=commands.brief())
    try:
        server = Server(process, f"http://{_HOST}:{port}")
        server.wait_until_ready()
        yield server
    finally:
        _stop(process)


class Server:
    """A server that runs in ``process`` and answers at ``address``."""

    def __init__(self, process: subprocess.Popen[bytes], address: str) -> None:
        self.address = address
        self._process = process

    def wait_until_ready(self) -> None:
        """Returns when GET /readyz says so."""
        deadline = time.monotonic() + _READY_WITHIN_S
        while time.monotonic() < deadline:
            code = self._process.poll()
            if code is not None:
                raise command.InputError(
                    f"the server ended with exit code {code}; what it said stands above."
                )
            with contextlib.suppress(OSError, http.client.HTTPException):
                self.ask("/readyz")
                return
            time.sleep(_LOOK_EVERY_S)
        raise command.InputError(f"{self.address} was not ready within {_READY_WITHIN_S} s.")

    def ask(self, path: str, question: Any = None) -> Any:
        """Returns the JSON answer of a GET, or of a POST where a question is given."""
        body = None if question is None else json.dumps(question).encode()
        request = urllib.request.Request(
            self.address + path, data=body, headers={"content-type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=_ANSWER_WITHIN_S) as answer:
            return json.load(answer)

    def wait(self) -> int:
        """Waits until the server ends and returns its exit code."""
        return self._process.wait()


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(_STOP_WITHIN_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
