"""Who may use the API, where that is restricted: whoever knows the bearer token."""

import hmac
import os
import pathlib
from collections.abc import Callable

from fastapi import Request

from features import command
from serving.request_limits import ASGIApp, Receive, Scope, Send

TOKEN_VARIABLE = "WATCHNEXT_TOKEN"
# Nothing of anybody's is behind these: whether it lives, the empty page, what the API looks like.
_OPEN = frozenset({"/", "/docs", "/openapi.json", "/healthz", "/readyz"})
_MIN_LENGTH = 16


def read_token(path: str | None) -> str | None:
    """Returns the token of a file, else of the environment, else None.

    Raises:
        InputError: The file cannot be read, or the token is too short to be one.
    """
    source = path or f"the environment variable {TOKEN_VARIABLE}"
    try:
        text = (
            pathlib.Path(path).read_text(encoding="utf-8")
            if path
            else os.environ.get(TOKEN_VARIABLE)
        )
    except (OSError, UnicodeDecodeError) as error:
        raise command.InputError(f"the token in {path} cannot be read: {error}.") from error
    if text is None:
        return None
    token = text.strip()
    if len(token) < _MIN_LENGTH or not token.isascii() or not token.isprintable() or " " in token:
        raise command.InputError(
            f"the token in {source} must be {_MIN_LENGTH} or more printable ASCII characters "
            "without spaces, for example of: openssl rand -hex 32"
        )
    return token


class BearerGate:
    """ASGI middleware: lets through what carries the token."""

    def __init__(
        self, app: ASGIApp, *, token: str, refuse: Callable[[Request, str], ASGIApp]
    ) -> None:
        """Wraps an application.

        Args:
            app: What to wrap.
            token: Which ``Authorization: Bearer`` must carry.
            refuse: Returns the answer to a request without it, given what to say.
        """
        self._app = app
        self._expected = b"bearer " + token.encode()
        self._refuse = refuse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one connection event."""
        if scope["type"] == "http" and scope["path"] not in _OPEN:
            given = dict(scope["headers"]).get(b"authorization", b"")
            kind, _, token = given.partition(b" ")
            # Takes as long for a wrong token as for the right one.
            if not hmac.compare_digest(kind.lower() + b" " + token.strip(), self._expected):
                detail = "Send the header `Authorization: Bearer TOKEN` with this server's token."
                await self._refuse(Request(scope), detail)(scope, receive, send)
                return
        await self._app(scope, receive, send)
