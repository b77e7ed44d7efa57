"""The server of a living site, in a process of its own."""

import pathlib
import socket
import subprocess
import sys
import time
from collections.abc import Sequence

from features import command
from pipeline.living import processes
from pipeline.living.client import Client

_READY_WITHIN_S = 300.0
_STOP_WITHIN_S = 60.0


class Server:
    """A running ``python -m serving.serve``.

    Attributes:
        client: Client of it.
    """

    def __init__(self, arguments: Sequence[str], *, said: pathlib.Path, workers: int) -> None:
        """Starts it and waits until it answers.

        Args:
            arguments: Its flags, without the port.
            said: File that what it says is appended to.
            workers: Number of requests under way at a time.

        Raises:
            InputError: It ended, or is not ready after some minutes.
        """
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        line = [sys.executable, "-m", "serving.serve", *arguments, f"--port={port}"]
        with said.open("ab") as out:
            self._process = processes.start(line, out)
        self.client = Client(f"http://127.0.0.1:{port}", workers=workers)
        until = time.monotonic() + _READY_WITHIN_S
        try:
            while not self.client.answers():
                code = self._process.poll()
                if code is not None:
                    raise command.InputError(f"the server ended with {code}; {said} says why.")
                if time.monotonic() > until:
                    raise command.InputError(f"the server does not get ready; see {said}.")
                time.sleep(0.1)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Ends it: what was acknowledged is in the logs."""
        self.client.close()
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(_STOP_WITHIN_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._process.wait()
