"""A serving process and the one that started it: what they tell each other, and how one gives way.

:mod:`serving.process.supervisor` owns the port and the process id that operators see; the process
that serves is its child. To load a large release beside requests would hold them up for seconds:
parts of loading keep the interpreter lock for as long as they run. So the child asks for a
successor instead, which loads the release in a process of its own, on one core, and only then
listens on the same socket. The old one leaves: it takes no new connections, answers what comes on
those it has with ``Connection: close``, and ends when all are gone.

Words, one per line, on a socket pair:

    ready URL        child: connections are accepted
    want VERSION     child: a successor should load the release that is published now
    failed REASON    to the child: the successor ended before it was ready
    leave            to the child: the successor has taken over
"""

import dataclasses
import json
import os
import socket
import threading

from serving import errors

READY, WANT, FAILED, LEAVE = "ready", "want", "failed", "leave"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Place:
    """What a serving process is given by the one that starts it.

    Attributes:
        listening: Descriptor of the socket to accept connections from.
        control: Descriptor of this process's end of the socket pair.
        started_s: Moment at which the first process started, Unix seconds: clocks that ``--now``
            shifts agree.
        is_successor: Whether another process serves meanwhile.
        seat: Number of the process among those that serve side by side, from 0; a successor has
            that of the one before.
        shared: Directory of what these keep together, see :mod:`serving.process.sharing`; "" where
            there is one of them.
    """

    listening: int
    control: int
    started_s: float
    is_successor: bool
    seat: int = 0
    shared: str = ""

    def to_text(self) -> str:
        """Returns the value of ``--worker``."""
        return json.dumps(dataclasses.asdict(self), separators=(",", ":"))

    @classmethod
    def from_text(cls, text: str) -> "Place":
        """Inverse of :meth:`to_text`."""
        return cls(**json.loads(text))


class Control:
    """The child's end; ends the process at once when its other end is gone.

    Without the process that owns the port nobody could stop this one, and its place is taken by
    the next start, which finds everything as after a crash.

    Attributes:
        leaving: Event that is set once a successor has taken over.
    """

    def __init__(self, descriptor: int) -> None:
        self.leaving = threading.Event()
        self._socket = socket.socket(fileno=descriptor)
        self._lock = threading.Lock()
        self._requested = ""
        self._failure = ""
        threading.Thread(target=self._listen, name="control", daemon=True).start()

    def ready(self, url: str) -> None:
        """Tells that connections are accepted."""
        self._say(f"{READY} {url}")

    def ask_for_successor(self, version: str) -> None:
        """Asks, once for each version, and returns at once.

        Raises:
            HandoverError: The successor that was asked for has failed; the next call asks again.
        """
        with self._lock:
            if self._requested != version:  # What became of another one is of no interest any more.
                self._requested, self._failure = version, ""
                self._say(f"{WANT} {version}")
            elif self._failure:
                reason, self._failure, self._requested = self._failure, "", ""
                raise errors.HandoverError(reason)

    def _say(self, line: str) -> None:
        self._socket.sendall(f"{line}\n".encode())

    def _listen(self) -> None:
        with self._socket.makefile() as lines:
            for line in lines:
                word, _, rest = line.rstrip("\n").partition(" ")
                if word == LEAVE:
                    self.leaving.set()
                elif word == FAILED:
                    with self._lock:
                        self._failure = rest
        os._exit(1)
