"""Runs the HTTP application on a socket; drains on SIGTERM and SIGINT, leaves for a successor."""

import contextlib
import gc
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

import fastapi
import uvicorn
from absl import logging

from serving.process import memory
from serving.process.listening import start, url_of
from serving.server import connections
from serving.server.app import Service, create_app

_DRAIN_S = 20
_SWITCH_S = 0.0005
_GARBAGE = (50_000, 20, 100)


def run(
    service: Service,
    *,
    listening: socket.socket,
    on_ready: Callable[[str], None],
    leaving: threading.Event,
    limits: connections.Limits,
) -> None:
    """Serves until SIGTERM or SIGINT; then answers what is in flight and returns.

    Args:
        service: Parts to serve.
        listening: Bound socket; closed in the end.
        on_ready: Function called with the base URL once connections are accepted.
        leaving: Event that is set when another process accepts connections in this one's place.
            Those that are open are then served until each was answered or idle, and this returns.
        limits: Limits of connections; fewer where the process may not open so many files.

    Raises:
        InputError: The port is in use, or no file may be opened for a connection.
    """
    limits = connections.within_descriptors(limits)
    start(listening)
    server = _Server(
        configured(create_app(service), limits), lambda: on_ready(url_of(listening)), leaving
    )
    # A release is loaded beside requests: while its Python runs, a request waits this long for
    # its turn, several times over.
    sys.setswitchinterval(_SWITCH_S)
    # What is loaded stays: looking through it for garbage would stop every request for a while.
    gc.collect()
    gc.freeze()
    memory.give_back()
    # And a request makes thousands of objects that no cycle holds: to look for some after every
    # 700th, as usual, would be a part of every request.
    gc.set_threshold(*_GARBAGE)
    with listening:
        server.run(sockets=[listening])


def configured(app: fastapi.FastAPI, limits: connections.Limits) -> uvicorn.Config:
    """Returns how uvicorn serves an application."""
    return uvicorn.Config(
        app,
        http=connections.limited(limits),
        ws="none",  # A connection that was upgraded would keep to no limit.
        log_config=None,
        log_level="error",  # Else a line for each request that is no HTTP, for whoever likes lines.
        access_log=False,
        server_header=False,
        timeout_keep_alive=limits.keep_alive_s,
        timeout_graceful_shutdown=_DRAIN_S,
    )


class _Server(uvicorn.Server):
    """Uvicorn, except for how it ends.

    A signal ends in a normal return, so that the caller can tidy up. And it can leave: to close
    connections at once would fail the request that a client is just sending on one.
    """

    def __init__(
        self, config: uvicorn.Config, on_ready: Callable[[], None], leaving: threading.Event
    ) -> None:
        super().__init__(config)
        self._on_ready = on_ready
        self._leaving = leaving
        self._gone_at = float("inf")

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Tells when connections are accepted."""
        await super().startup(sockets)
        if self.started:
            self._on_ready()

    async def on_tick(self, counter: int) -> bool:
        """Looks, ten times a second, whether it is time to leave or to end."""
        if self._leaving.is_set() and self._gone_at == float("inf"):
            logging.info("A successor serves: leaving.")
            for accepting in self.servers:
                accepting.close()
            self.config.encoded_headers.append((b"connection", b"close"))
            # Headers are put together once a second; after one more, and the time that an idle
            # connection has, none is left.
            self._gone_at = time.monotonic() + 1 + self.config.timeout_keep_alive + 1
        return await super().on_tick(counter) or time.monotonic() >= self._gone_at

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Drains at the first signal, and drops what is in flight at a SIGINT after it."""

        def stop(number: int, frame: FrameType | None) -> None:
            del frame
            logging.info("Got %s: draining.", signal.Signals(number).name)
            # One stop may well be two SIGTERM: systemd tells all processes of a service.
            self.force_exit |= self.should_exit and number == signal.SIGINT
            self.should_exit = True

        before = {n: signal.signal(n, stop) for n in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
