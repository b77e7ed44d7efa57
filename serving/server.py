"""Runs the HTTP application: takes the port, drains on SIGTERM and SIGINT."""

import contextlib
import gc
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from types import FrameType

import uvicorn
from absl import logging

from serving.http_server import Service, create_app
from serving.listening import listen, url_of

_DRAIN_S = 20
_SWITCH_S = 0.0005


def run(service: Service, *, host: str, port: int, on_ready: Callable[[str], None]) -> None:
    """Serves until SIGTERM or SIGINT; then answers what is in flight and returns.

    Args:
        service: What to serve.
        host: Address to listen on.
        port: 0 takes a free one.
        on_ready: Called with the base URL once connections are accepted.

    Raises:
        InputError: The port is in use, or is not ours to take.
    """
    listening = listen(host, port)
    config = uvicorn.Config(
        create_app(service),
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_DRAIN_S,
    )
    server = _Server(config, lambda: on_ready(url_of(listening)))
    # A release is loaded beside requests: while its Python runs, a request waits this long for
    # its turn, several times over.
    sys.setswitchinterval(_SWITCH_S)
    # What is loaded stays: looking through it for garbage would stop every request for a while.
    gc.collect()
    gc.freeze()
    with listening:
        server.run(sockets=[listening])


class _Server(uvicorn.Server):
    """Uvicorn, except that a signal ends in a normal return, so that the caller can tidy up."""

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Tells when connections are accepted."""
        await super().startup(sockets)
        if self.started:
            self._on_ready()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Drains at the first signal, and drops what is in flight at the second."""

        def stop(number: int, frame: FrameType | None) -> None:
            del frame
            logging.info("Got %s: draining.", signal.Signals(number).name)
            self.force_exit = self.should_exit
            self.should_exit = True

        before = {n: signal.signal(n, stop) for n in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
