"""A server in a process of its own, which ends with this one."""

import contextlib
import pathlib
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence

from features import command
from pipeline.living import processes
from pipeline.living.client import Client
from serving.process import listening

HOST = "127.0.0.1"
_READY_WITHIN_S = 300.0
_STOP_WITHIN_S = 60.0
_STANDARD_OUTPUT = 1


def require_free(port: int) -> None:
    """Refuses a port that cannot be listened on, with another one to try.

    Raises:
        command.InputError: Something else listens on it.
    """
    try:
        listening.require_free_port(HOST, port)
    except command.InputError as error:
        other = port + 1 if port < 65535 else port - 1
        raise command.InputError(f"{error} With make: make demo PORT={other}") from None


class Server:
    """A running ``python -m serving.serve``.

    Attributes:
        client: Client of it.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        said: pathlib.Path | None = None,
        port: int = 0,
        workers: int = 1,
    ) -> None:
        """Starts it and waits until it answers.

        Args:
            arguments: Its flags, without the port.
            said: File that what it says is appended to; None: it says it where this process does.
            port: Port to listen on; 0: a free one.
            workers: Number of requests under way at a time.

        Raises:
            InputError: It ended, or is not ready after some minutes.
        """
        with listening.bind(HOST, port) as free:
            port = free.getsockname()[1]
        line = [sys.executable, "-m", "serving.serve", *arguments, f"--port={port}"]
        with contextlib.ExitStack() as stack:
            out = stack.enter_context(said.open("ab")) if said else _STANDARD_OUTPUT
            self._process = processes.start(line, out)
        self.client = Client(f"http://{HOST}:{port}", workers=workers)
        until, where = time.monotonic() + _READY_WITHIN_S, said or "what it said above"
        try:
            while not self.client.answers():
                code = self._process.poll()
                if code is not None:
                    raise command.InputError(
                        f"the server ended with exit code {code}; see {where}."
                    )
                if time.monotonic() > until:
                    raise command.InputError(f"the server does not get ready; see {where}.")
                time.sleep(0.1)
        except BaseException:
            self.stop()
            raise

    def wait(self) -> int:
        """Waits until it ends and returns its exit code."""
        return self._process.wait()

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


@contextlib.contextmanager
def running(arguments: Sequence[str], *, port: int = 0) -> Iterator[Server]:
    """Yields a :class:`Server`, which is stopped at the end; arguments as there."""
    server = Server(arguments, port=port)
    try:
        yield server
    finally:
        server.stop()
