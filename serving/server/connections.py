"""Open connections: how many there may be, and how long one may keep the server waiting.

Uvicorn closes a connection that is idle between two requests, and nothing else: one that sends
nothing, half a header or half a body, or that does not read its answer, it keeps for ever. Each
takes a descriptor, which the server needs for its own files too.
"""

import asyncio
import dataclasses
import heapq
import http
import json
import resource
from typing import Any

from absl import logging
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from features import command

# For everything that is no connection: files of releases and logs, stores, model servers.
RESERVED_DESCRIPTORS = 256
_WANTED_DESCRIPTORS = 65_536
# Of one request: its first line, its headers, what frames the chunks of its body.
MAX_FRAMING_BYTES = 128 << 10
# Requests of one connection that wait for the one before them.
MAX_PIPELINED = 16
_LOOKS = 8  # In the time of the patience.
_FEW = 50  # One of so many.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """What connections may ask of the server.

    Attributes:
        connections: Number of open ones. Those that have kept the server waiting longest make room
            for one more; where all are being answered, a further one is refused.
        patience_s: Seconds after which a connection is closed that has sent no whole request since
            it was opened, or last answered, or that leaves an answer unread.
        keep_alive_s: Seconds after an answer that a connection may send nothing at all.
    """

    connections: int = 1000
    patience_s: float = 20.0
    keep_alive_s: int = 5


def within_descriptors(limits: Limits) -> Limits:
    """Lets this process open as many files as it may; returns limits that leave it some.

    Raises:
        InputError: There is no room for connections.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # No limit is -1, or as a whole number without a sign: the largest.
    soft, hard = soft % (1 << 64), hard % (1 << 64)
    most = min(max(soft, _WANTED_DESCRIPTORS), hard)
    if most != soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    room = most - RESERVED_DESCRIPTORS
    if room >= limits.connections:
        return limits
    told = (
        f"{limits.connections} connections and {RESERVED_DESCRIPTORS} files of the server's own "
        f"need more than the {most} descriptors that this process may have"
    )
    if room < 1:
        raise command.InputError(f"{told}. Raise the limit (ulimit -n, LimitNOFILE=).")
    logging.warning("%s: there will be at most %d connections.", told, room)
    return dataclasses.replace(limits, connections=room)


class Connection(HttpToolsProtocol):
    """Uvicorn's connection, which may not keep the server waiting.

    Attributes:
        limits: Limits of all connections of a class, see :func:`limited`.
    """

    limits = Limits()

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self._owes_since = self._unread_since = self.loop.time()
        self._framing_bytes = 0
        self._has_begun = False
        self._look: asyncio.TimerHandle | None = None

    @property
    def owes(self) -> bool:
        """Whether it is the other side's turn: no whole request waits for its answer."""
        return self.cycle is None or self.cycle.response_complete or self.cycle.more_body

    # ---- what asyncio and the parser tell ---------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Makes room for itself, or is refused."""
        is_full = len(self.connections) >= self.limits.connections
        super().connection_made(transport)
        self._keep_looking()
        if is_full and not self._make_room():
            self._refuse(503, "As many connections as allowed are being answered.")

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends what it started."""
        if self._look is not None:
            self._look.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Refuses what frames a request without an end."""
        self._framing_bytes += len(data)
        super().data_received(data)
        if self._framing_bytes > MAX_FRAMING_BYTES:
            self._refuse(431, f"Headers must be at most {MAX_FRAMING_BYTES} bytes.")

    def on_message_begin(self) -> None:
        """Refuses requests that pile up; the parser answers what is raised with a 400."""
        if len(self.pipeline) >= MAX_PIPELINED:
            raise ValueError("too many requests wait for the one before them")
        self._has_begun = True
        super().on_message_begin()

    def on_body(self, body: bytes) -> None:
        """Tells the body from what frames it; its size is for the application to limit."""
        self._framing_bytes -= len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Starts to count anew."""
        self._framing_bytes = 0
        self._has_begun = False
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Gives the other side its time for the next request."""
        self._owes_since = self.loop.time()
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        """Answers what is no HTTP in the form of all refusals."""
        self._refuse(400, msg)

    # ---- what becomes of it -----------------------------------------------------------------

    def _keep_looking(self) -> None:
        now = self.loop.time()
        if not self.transport.get_write_buffer_size():
            self._unread_since = now
        if now - self._unread_since >= self.limits.patience_s:
            self.transport.abort()  # To close it would wait for the rest to be read.
        elif self.owes and now - self._owes_since >= self.limits.patience_s:
            self._give_up()
        self._look = self.loop.call_later(self.limits.patience_s / _LOOKS, self._keep_looking)

    def _give_up(self) -> None:
        if self._has_begun:
            allowed = f"{self.limits.patience_s:g} s"
            self._refuse(408, f"A request must be whole within {allowed}.")
        else:
            self.transport.close()

    def _make_room(self) -> bool:
        """Ends those that have kept the server waiting longest; returns whether there was one.

        A few at a time: to look through all for each of a flood would be a part of the flood.
        """
        waiting = [
            one
            for one in self.connections
            if isinstance(one, Connection) and one is not self and one.owes
        ]
        few = max(1, self.limits.connections // _FEW)
        for longest in heapq.nsmallest(few, waiting, key=lambda one: one._owes_since):
            self.connections.discard(longest)  # Now, not when the loop comes to telling it.
            longest.transport.abort()
        return bool(waiting)

    def _refuse(self, status: int, detail: str) -> None:
        """Tells why, where that cannot be taken for the answer to something else, and closes."""
        if self.transport.is_closing():
            return
        if not self.owes or (self.cycle is not None and self.cycle.response_started
                             and not self.cycle.response_complete):  # fmt: skip
            self.transport.abort()
            return
        title = http.HTTPStatus(status).phrase
        problem = {"type": "about:blank", "title": title, "status": status, "detail": detail}
        content = json.dumps(problem).encode()
        self.transport.write(
            b"HTTP/1.1 %d %s\r\ncontent-type: application/problem+json\r\n"
            b"content-length: %d\r\nconnection: close\r\n\r\n%s"
            % (status, title.encode(), len(content), content)
        )
        self.transport.close()


def limited(limits: Limits) -> type[Connection]:
    """Returns the class of connections that keep to limits."""
    return type("LimitedConnection", (Connection,), {"limits": limits})
