"""The process that owns the port and the process id, and lets others serve, one after the other.

It loads nothing and answers nothing. Its first child serves; when that asks for a successor, one
is started, and when the successor is ready, the first is told to leave. A successor that fails
changes nothing. When the child that serves ends, so does this process, with its exit code: what
restarts servers (systemd, Kubernetes) sees what it would see of a single process. SIGTERM and
SIGINT are passed on as SIGTERM, a second one as SIGINT, and all children have ended before this
process does. When it is killed itself, its children end at once. See
:mod:`serving.process.handover`.
"""

import contextlib
import dataclasses
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from types import FrameType

from absl import logging

from serving.process import cores, handover


@dataclasses.dataclass(eq=False)
class _Child:
    """A process that serves, or will, or did."""

    process: subprocess.Popen[bytes]
    control: socket.socket
    heard: bytes = b""
    is_leaving: bool = False


class Supervisor:
    """The process that owns the port, as the module tells; runs in one thread."""

    def __init__(self, listening: socket.socket, *, announce: Callable[[str], None]) -> None:
        """Prepares; :meth:`run` starts the first child.

        Args:
            listening: Bound socket; children listen on it.
            announce: Function called with the URL once the first child accepts connections.
        """
        self._listening = listening
        self._announce = announce
        self._started_s = time.time()
        self._selector = selectors.DefaultSelector()
        self._children: list[_Child] = []
        self._serving: _Child | None = None
        self._is_wanted = False
        self._is_stopping = False
        self._code = 0

    def run(self) -> int:
        """Returns the exit code once all children have ended."""
        with self._passing_on_signals():
            self._start()
            while self._children:
                for key, _ in self._selector.select():
                    self._hear(key.data)
        return self._code

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        place = handover.Place(
            listening=self._listening.fileno(),
            control=theirs.fileno(),
            started_s=self._started_s,
            is_successor=self._serving is not None,
        )
        with theirs:
            process = subprocess.Popen(
                [sys.executable, *sys.orig_argv[1:], f"--worker={place.to_text()}"],
                pass_fds=(place.listening, place.control),
                # Else Ctrl-C would reach it twice, and the second one means: at once.
                start_new_session=True,
                env=cores.environment(),
            )
        child = _Child(process, ours)
        self._children.append(child)
        self._selector.register(ours, selectors.EVENT_READ, child)
        if self._is_stopping:  # The signal came in between.
            process.terminate()

    def _hear(self, child: _Child) -> None:
        try:
            heard = child.control.recv(4096)
        except ConnectionResetError:
            heard = b""
        if not heard:
            self._bury(child)
            return
        *lines, child.heard = (child.heard + heard).split(b"\n")
        for line in lines:
            word, _, rest = line.decode().partition(" ")
            if word == handover.READY:
                self._let_serve(child, rest)
            elif word == handover.WANT and child is self._serving:
                logging.info("A new process is to load release %s.", rest)
                self._is_wanted = True
                self._start_successor()

    def _let_serve(self, child: _Child, url: str) -> None:
        before, self._serving = self._serving, child
        self._is_wanted = False  # If there is something newer still, this child will ask.
        if before is None:
            self._announce(url)
            return
        logging.info("Process %d serves now, %d leaves.", child.process.pid, before.process.pid)
        before.is_leaving = True
        _tell(before, handover.LEAVE)

    def _start_successor(self) -> None:
        # Two releases in memory are enough: one that is still leaving goes first.
        if not self._is_wanted or len(self._children) > 1 or self._is_stopping:
            return
        self._is_wanted = False
        try:
            self._start()
        except OSError as error:  # No memory, or no process left.
            self._tell_of_failure(f"it cannot be started: {error}")

    def _tell_of_failure(self, reason: str) -> None:
        if self._serving is not None:
            _tell(self._serving, f"{handover.FAILED} the process that was to load it: {reason}")

    def _bury(self, child: _Child) -> None:
        self._selector.unregister(child.control)
        child.control.close()
        code = child.process.wait()
        self._children.remove(child)
        if child is self._serving or self._serving is None:
            self._end(child, code)
        elif not child.is_leaving:
            self._tell_of_failure(f"{child.process.pid} ended with {code}, see above")
        self._start_successor()

    def _end(self, child: _Child, code: int) -> None:
        """Ends as the child did that serves, or that was to be the first to serve."""
        # One that still loads ends by the signal that was passed on: that is a stop as wanted.
        if not (self._is_stopping and code == -signal.SIGTERM):
            self._code = code if code >= 0 else 128 - code
        if self._code:
            logging.error("Process %d, which was to serve, ended with %d.", child.process.pid, code)
        self._stop()

    def _stop(self) -> None:
        self._is_stopping = True
        for child in self._children:
            child.process.terminate()

    @contextlib.contextmanager
    def _passing_on_signals(self) -> Iterator[None]:
        def stop(number: int, frame: FrameType | None) -> None:
            del number, frame
            if self._is_stopping:  # The second one is for those who cannot wait.
                for child in self._children:
                    child.process.send_signal(signal.SIGINT)
            self._stop()

        before = {n: signal.signal(n, stop) for n in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _tell(child: _Child, line: str) -> None:
    with contextlib.suppress(OSError):  # It has just ended, which is heard next.
        child.control.sendall(f"{line}\n".encode())
