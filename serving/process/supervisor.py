"""The process that owns the port and the process id, and lets others serve.

It loads nothing and answers nothing. Its children serve: one, or ``processes`` of them side by side
on the same socket. When one asks for a successor, that is started, and when it is ready, the first
is told to leave. A successor that fails changes nothing. Only one child loads at a time, and none
while another is leaving.

Of several, one that dies is started anew, and the others serve meanwhile. When the last one that
serves dies, so does this process, with its exit code: what restarts servers (systemd, Kubernetes)
sees what it would see of a single process. SIGTERM and SIGINT are passed on as SIGTERM, a second
one as SIGINT, and all children have ended before this process does. When it is killed itself, its
children end at once. See :mod:`serving.process.handover`.
"""

import contextlib
import dataclasses
import pathlib
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from types import FrameType

from absl import logging

from serving.process import cores, handover, memory, sharing

# One that dies within this time of its start is not started anew at once.
_SOON_S = 60.0
_LONGEST_PAUSE_S = 60.0


@dataclasses.dataclass(eq=False)
class _Child:
    """A process that serves, or will, or did, in a seat: its number among those side by side."""

    process: subprocess.Popen[bytes]
    control: socket.socket
    seat: int
    started: float
    heard: bytes = b""
    is_leaving: bool = False


class Supervisor:
    """The process that owns the port, as the module tells; runs in one thread."""

    def __init__(
        self,
        listening: socket.socket,
        *,
        announce: Callable[[str], None],
        processes: int = 1,
        shared: pathlib.Path | None = None,
    ) -> None:
        """Prepares; :meth:`run` starts the first child.

        Args:
            listening: Bound socket; children listen on it.
            announce: Function called with the URL once the first child accepts connections.
            processes: Number of children that serve side by side.
            shared: Directory in which they keep what they count, see
                :mod:`serving.process.sharing`; None where there is one.
        """
        self._listening = listening
        self._announce = announce
        self._shared = shared
        self._started_s = time.time()
        self._selector = selectors.DefaultSelector()
        self._children: list[_Child] = []
        self._serving: dict[int, _Child] = {}  # By seat.
        # Seats in which nobody serves, with the monotonic times from which on somebody may.
        self._vacant = dict.fromkeys(range(processes), 0.0)
        self._deaths: dict[int, int] = {}  # By seat, one soon after the other.
        self._wanted: list[int] = []  # Seats whose child asked for a successor, in turn.
        self._is_announced = False
        self._is_stopping = False
        self._code = 0

    def run(self) -> int:
        """Returns the exit code once all children have ended."""
        with self._passing_on_signals():
            self._start(0)
            while self._children:
                for key, _ in self._selector.select(self._pause_s()):
                    self._hear(key.data)
                self._start_next()
        return self._code

    def _pause_s(self) -> float | None:
        """Returns for how long there is nothing to do but to hear."""
        if not self._vacant or not self._may_start():
            return None
        return max(0.0, min(self._vacant.values()) - time.monotonic())

    def _may_start(self) -> bool:
        # Each child that serves is joined by one at most, loading or leaving, of all of them:
        # one release more in memory is enough.
        loads_or_leaves = len(self._children) > len(self._serving)
        return self._is_announced and not self._is_stopping and not loads_or_leaves

    def _start_next(self) -> None:
        """Starts the child that is due, if one may be started."""
        if not self._may_start():
            return
        due = [seat for seat, start in self._vacant.items() if start <= time.monotonic()]
        if not due and not self._wanted:
            return
        seat = due[0] if due else self._wanted.pop(0)
        try:
            self._start(seat)
        except OSError as error:  # No memory, or no process left.
            self._failed(seat, f"it cannot be started: {error}")

    def _start(self, seat: int) -> None:
        ours, theirs = socket.socketpair()
        place = handover.Place(
            listening=self._listening.fileno(),
            control=theirs.fileno(),
            started_s=self._started_s,
            is_successor=bool(self._serving),
            seat=seat,
            shared=str(self._shared or ""),
        )
        with theirs:
            process = subprocess.Popen(
                [sys.executable, *sys.orig_argv[1:], f"--worker={place.to_text()}"],
                pass_fds=(place.listening, place.control),
                # Else Ctrl-C would reach it twice, and the second one means: at once.
                start_new_session=True,
                env={
                    **memory.ENVIRONMENT,
                    **cores.environment(),
                    **sharing.environment(self._shared),
                },
            )
        child = _Child(process, ours, seat, time.monotonic())
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
            elif word == handover.WANT and child is self._serving.get(child.seat):
                logging.info("A new process is to load release %s.", rest)
                if child.seat not in self._wanted:
                    self._wanted.append(child.seat)

    def _let_serve(self, child: _Child, url: str) -> None:
        before = self._serving.get(child.seat)
        self._serving[child.seat] = child
        self._vacant.pop(child.seat, None)
        if child.seat in self._wanted:  # If there is something newer still, this child will ask.
            self._wanted.remove(child.seat)
        if not self._is_announced:
            self._is_announced = True
            self._announce(url)
        if before is not None:
            logging.info("Process %d serves now, %d leaves.", child.process.pid, before.process.pid)
            before.is_leaving = True
            _tell(before, handover.LEAVE)

    def _failed(self, seat: int, reason: str) -> None:
        """Tells the one that serves in a seat that nobody takes over, or tries again later."""
        if seat in self._serving:
            said = f"{handover.FAILED} the process that was to load it: {reason}"
            _tell(self._serving[seat], said)
            return
        deaths = self._deaths.get(seat, 0)
        self._deaths[seat] = deaths + 1
        pause_s = min(2.0 ** (deaths - 1), _LONGEST_PAUSE_S) if deaths else 0.0
        self._vacant[seat] = time.monotonic() + pause_s
        logging.error("Another process is to serve in %.0f s, since of one: %s.", pause_s, reason)

    def _bury(self, child: _Child) -> None:
        self._selector.unregister(child.control)
        child.control.close()
        code = child.process.wait()
        self._children.remove(child)
        sharing.forget(self._shared, child.process.pid)
        has_served = child is self._serving.get(child.seat)
        if has_served:
            del self._serving[child.seat]
        if has_served or not child.is_leaving:
            self._mourn(child, code, has_served=has_served)

    def _mourn(self, child: _Child, code: int, *, has_served: bool) -> None:
        """Does what follows from the end of a child that was not told to leave."""
        if self._is_stopping or not self._serving:
            self._end(child, code)
            return
        if has_served and child.seat in self._wanted:
            self._wanted.remove(child.seat)
        if has_served and time.monotonic() - child.started >= _SOON_S:
            self._deaths.pop(child.seat, None)
        self._failed(child.seat, f"{child.process.pid} ended with {code}, see above")

    def _end(self, child: _Child, code: int) -> None:
        """Ends as the child did that served last, or that was to be the first to serve."""
        # One that still loads ends by the signal that was passed on: that is a stop as wanted.
        if code and not (self._is_stopping and code == -signal.SIGTERM):
            self._code = code if code >= 0 else 128 - code
            logging.error("Process %d, which was to serve, ended with %d.", child.process.pid, code)
        if not self._is_stopping:
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
