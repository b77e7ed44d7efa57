"""What stands between the network and the handlers: request ids, size limits, bounded work."""

import asyncio
import concurrent.futures
import functools
import re
import time
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, ParamSpec, TypeVar

from fastapi import HTTPException, Request

from serving import errors
from serving.server.metrics import Metrics

MAX_BODY_BYTES = 1 << 20
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

_Given = ParamSpec("_Given")
_Result = TypeVar("_Result")

# The ASGI interface.
Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]


class WorkerPool:
    """Runs handlers on a few threads, and turns away what would have to wait too long."""

    def __init__(self, *, threads: int, max_waiting: int, on_overload: Callable[[], None]) -> None:
        """Starts no thread yet.

        Args:
            threads: Number of requests worked on at a time.
            max_waiting: Number of requests that may wait for a thread.
            on_overload: Function called for each request that is turned away.
        """
        self._threads = concurrent.futures.ThreadPoolExecutor(threads, "request")
        self._limit = threads + max_waiting
        self._on_overload = on_overload
        self.in_flight = 0

    async def run(
        self, work: Callable[_Given, _Result], /, *args: _Given.args, **kwargs: _Given.kwargs
    ) -> _Result:
        """Returns what ``work`` returns of its arguments.

        Raises:
            OverloadedError: Too many are in flight.
        """
        if self.in_flight >= self._limit:
            self._on_overload()
            raise errors.OverloadedError(
                f"{self.in_flight} requests are in flight, which is the limit."
            )
        self.in_flight += 1
        future = asyncio.get_running_loop().run_in_executor(
            self._threads, functools.partial(work, *args, **kwargs)
        )
        # Not when the caller goes away: the thread is busy until the work is done.
        future.add_done_callback(self._done)
        return await asyncio.shield(future)

    def _done(self, future: "asyncio.Future[Any]") -> None:
        self.in_flight -= 1
        if not future.cancelled():
            future.exception()  # Seen, also where nobody waits any more.

    def close(self) -> None:
        """Waits for what runs."""
        self._threads.shutdown(wait=True)


class RequestGate:
    """ASGI middleware: names each request, counts it, and refuses bodies that are too large.

    A caller's ``X-Request-ID`` is kept where it is a plain word of at most 64 characters.
    """

    def __init__(
        self, app: ASGIApp, *, metrics: Metrics, on_bug: Callable[[Request, Exception], ASGIApp]
    ) -> None:
        """Wraps an application.

        Args:
            app: Application to wrap.
            metrics: Counters of answers.
            on_bug: Function that makes the answer to a request whose handler raised what it should
                not.
        """
        self._app = app
        self._metrics = metrics
        self._on_bug = on_bug

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one connection event."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _request_id(scope)
        scope.setdefault("state", {})["request_id"] = request_id
        start = time.perf_counter()
        status = 0

        async def named(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [
                    *message.get("headers", []),
                    (b"x-request-id", request_id.encode()),
                    (b"x-content-type-options", b"nosniff"),
                ]
            await send(message)

        try:
            await self._app(scope, _limited(receive), named)
        except Exception as error:
            if status:  # Too late for another answer.
                raise
            await self._on_bug(Request(scope), error)(scope, receive, named)
        finally:
            # The template of the route, never the path: ids must not become labels.
            route = getattr(scope.get("route"), "path", "unmatched")
            method = scope["method"] if scope["method"] in _METHODS else "other"
            self._metrics.observe_request(route=route, method=method, status=status, start=start)


def _request_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            text = value.decode("latin-1")
            if _REQUEST_ID.fullmatch(text):
                return text
    return uuid.uuid4().hex


def _limited(receive: Receive) -> Receive:
    size = 0

    async def counted() -> Message:
        nonlocal size
        message = await receive()
        if message["type"] == "http.request":
            size += len(message.get("body", b""))
            if size > MAX_BODY_BYTES:
                raise HTTPException(
                    413, f"The body must be at most {MAX_BODY_BYTES} bytes; send fewer at a time."
                )
        return message

    return counted
