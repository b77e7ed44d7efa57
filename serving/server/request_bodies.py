"""Bodies of requests: what is wrong with one is found at a price that does not depend on it.

The schema bounds what may be looked at (:mod:`serving.server.schema`): lists stop at their first
fault, and a model refuses a flood of keys as one. Large bodies are parsed and checked on a thread
of their own, so that the event loop goes on answering.
"""

from collections.abc import Callable, Coroutine
from typing import Any

import fastapi
import fastapi.exceptions
import pydantic
import starlette.requests
from fastapi.routing import APIRoute

from serving.server.request_limits import WorkerPool

# Smaller ones are checked sooner than they are handed to another thread.
LARGE_BYTES = 16 << 10
_MAX_SHOWN_CHARACTERS = 300


def route_class(pool: WorkerPool) -> type[APIRoute]:
    """Returns the class of routes that check bodies as this module tells."""

    class BodyRoute(APIRoute):
        """A route whose handler is given a body that was checked already."""

        def get_route_handler(
            self,
        ) -> Callable[[fastapi.Request], Coroutine[Any, Any, fastapi.Response]]:
            handle = super().get_route_handler()
            if self.body_field is None:
                return handle
            model: Any = self.body_field.field_info.annotation  # All bodies here are models.

            async def checked(request: fastapi.Request) -> fastapi.Response:
                try:
                    content = await request.body()
                except starlette.requests.ClientDisconnect:
                    raise fastapi.HTTPException(400, "The body broke off.") from None
                _require_json(request)
                if len(content) < LARGE_BYTES:
                    body = parsed(content, model)
                else:
                    body = await pool.run(parsed, content, model)
                return await handle(_CheckedRequest(request, content, body))

            return checked

    return BodyRoute


class _CheckedRequest(fastapi.Request):
    """A request whose body is an instance of its model, which FastAPI takes as it is."""

    def __init__(self, request: fastapi.Request, content: bytes, body: pydantic.BaseModel) -> None:
        super().__init__(request.scope, request.receive)
        self._content = content
        self._checked = body

    async def body(self) -> bytes:
        return self._content

    async def json(self) -> pydantic.BaseModel:
        return self._checked


def _require_json(request: fastapi.Request) -> None:
    given = request.headers.get("content-type")
    kind = (given or "").partition(";")[0].strip().lower()
    if kind != "application/json" and not (
        kind.startswith("application/") and kind.endswith("+json")
    ):
        got = f"got {given[:100]!r}" if given else "which is missing"
        detail = f"Send the header `Content-Type: application/json`, {got}."
        raise fastapi.HTTPException(415, detail)


def parsed(content: bytes, model: type[pydantic.BaseModel]) -> pydantic.BaseModel:
    """Returns the body as its model.

    Raises:
        RequestValidationError: It is no JSON, or breaks a rule; with the first faults.
    """
    try:
        return model.model_validate_json(content)
    except pydantic.ValidationError as error:
        faults = error.errors(include_url=False, include_context=False, include_input=False)
        raise fastapi.exceptions.RequestValidationError(
            [{**fault, "loc": ("body", *fault["loc"])} for fault in faults]
        ) from None


def shown(text: str) -> str:
    """Returns the beginning of what a caller may have made as long as they like."""
    if len(text) <= _MAX_SHOWN_CHARACTERS:
        return text
    return text[:_MAX_SHOWN_CHARACTERS] + " ..."
