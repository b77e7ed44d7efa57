"""Guards the API, where it is restricted: callers know the token, and ask for this server."""

import hashlib
import hmac
import os
import pathlib
import re
from collections.abc import Callable, Collection

from fastapi import Request

from features import command
from features.durations import HOUR_S
from serving.process import listening
from serving.server import pages
from serving.server.config import ANY_HOST
from serving.server.request_limits import ASGIApp, Receive, Scope, Send

TOKEN_VARIABLE = "WATCHNEXT_TOKEN"
ADMIN_TOKEN_VARIABLE = "WATCHNEXT_ADMIN_TOKEN"
_ADMIN = "/v1/admin/"
# Nothing of anybody's is behind these, nor behind the files of the pages: whether it lives, the
# empty pages, what the API looks like.
_OPEN = frozenset({*pages.PAGES, "/docs", "/openapi.json", "/healthz", "/readyz"})
_MIN_LENGTH = 16
PASS_HOLDS_S = HOUR_S
_NO_PASS = "open"  # In addresses, where nobody is asked for a token.
_REPORT = re.compile(
    r"/v1/admin/releases/(?P<version>[1-9][0-9]{0,31})/reports/"
    r"(?P<until>[0-9]{1,12})-(?P<proof>[0-9a-f]{64})/[^/]+"
)


def read_token(path: str | None, *, variable: str = TOKEN_VARIABLE) -> str | None:
    """Returns the token of a file, else of an environment variable, else None.

    Raises:
        InputError: The file cannot be read, or the token is too short to be one.
    """
    source = path or f"the environment variable {variable}"
    try:
        text = pathlib.Path(path).read_text(encoding="utf-8") if path else os.environ.get(variable)
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


_HOST = re.compile(r"\[[0-9a-f:.]+\]|[a-z0-9._-]+")
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


def allowed_hosts(listening_on: str, named: Collection[str]) -> frozenset[str]:
    """Returns the names by which requests may call the server; ``*`` among them allows all.

    On loopback these are by default those of loopback: any page of the web may give its own name
    the address 127.0.0.1, and a browser then lets it talk to what listens there.

    Args:
        listening_on: Address that the server listens on, ``--host``.
        named: Names that the operator gave, ``--allowed_hosts``.

    Raises:
        InputError: A name has a port, or is none.
    """
    names = {name.strip().lower().rstrip(".") for name in named}
    for name in names - {ANY_HOST}:
        if not _HOST.fullmatch(name) and not pages.is_address(name):
            raise command.InputError(
                f"--allowed_hosts must be names or addresses without port, got {name!r}."
            )
    if listening.is_loopback(listening_on):
        return frozenset(name.strip("[]") for name in names) | _LOOPBACK | {listening_on.lower()}
    return frozenset(name.strip("[]") for name in names) or frozenset({ANY_HOST})


class HostGate:
    """ASGI middleware: lets through what asks for this server by one of its names.

    Who sends no Host at all is no browser, and is let through.
    """

    def __init__(
        self, app: ASGIApp, *, allowed: Collection[str], refuse: Callable[[Request, str], ASGIApp]
    ) -> None:
        """Wraps an application.

        Args:
            app: Application to wrap.
            allowed: Names by which requests may call the server, from :func:`allowed_hosts`.
            refuse: Function that makes the answer to a request for another, given what to say.
        """
        self._app = app
        self._allowed = frozenset(allowed)
        self._refuse = refuse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one connection event."""
        if scope["type"] == "http" and ANY_HOST not in self._allowed:
            for name, value in scope["headers"]:
                if name == b"host" and _without_port(value.decode("latin-1")) not in self._allowed:
                    told = value.decode("latin-1")[:100]
                    detail = f"This server is not {told!r}; see its flag --allowed_hosts."
                    await self._refuse(Request(scope), detail)(scope, receive, send)
                    return
        await self._app(scope, receive, send)


def _without_port(host: str) -> str:
    name = re.sub(r":[0-9]*\Z", "", host.strip().lower())
    return name.strip("[]") if name.startswith("[") else name.rstrip(".")


def _is_open(path: str) -> bool:
    return path in _OPEN or path.startswith(pages.ASSETS)


class BearerGate:
    """ASGI middleware: lets through what carries a token.

    The admin token, where there is one, opens everything, and the routes of the console open to
    nothing else. Without one they are behind the token of the other routes, or as open as those.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        token: str | None,
        admin_token: str | None = None,
        admits: Callable[[str], bool] = lambda _: False,
        refuse: Callable[[Request, str], ASGIApp],
    ) -> None:
        """Wraps an application.

        Args:
            app: Application to wrap.
            token: Token that ``Authorization: Bearer`` must carry; None lets everybody in.
            admin_token: Token for the routes of the console; None asks for ``token`` there, too.
            admits: Function of a path that returns whether it opens itself, without a token, see
                :class:`Passes`.
            refuse: Function that makes the answer to a request without it, given what to say.
        """
        self._app = app
        self._token, self._admin = token, admin_token
        self._admits, self._refuse = admits, refuse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one connection event."""
        if scope["type"] == "http" and not _is_open(scope["path"]):
            is_admin = self._admin is not None and scope["path"].startswith(_ADMIN)
            wanted = self._admin if is_admin else self._token
            is_let_in = wanted is None or self._is_given(scope, wanted)
            if not is_let_in and not self._admits(scope["path"]):
                kind = "admin token" if is_admin else "token"
                detail = f"Send the header `Authorization: Bearer TOKEN` with this server's {kind}."
                await self._refuse(Request(scope), detail)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _is_given(self, scope: Scope, wanted: str) -> bool:
        given = dict(scope["headers"]).get(b"authorization", b"")
        kind, _, token = given.partition(b" ")
        sent = kind.lower() + b" " + token.strip()
        # Takes as long for a wrong token as for the right one, whichever is tried.
        matches = [
            hmac.compare_digest(sent, b"bearer " + one.encode())
            for one in (wanted, self._admin or wanted)
        ]
        return any(matches)


class Passes:
    """Passes to the reports of one release, for links, which carry no token.

    A pass is part of the address: when it ends, and an HMAC-SHA256 of that and the release under
    the token of the console. It opens the reports of that release alone, for an hour, on every
    process that knows the token.
    """

    def __init__(self, token: str | None, *, clock: Callable[[], float]) -> None:
        """Keeps what they are made with.

        Args:
            token: Token of the console; None asks nobody.
            clock: Clock, Unix seconds.
        """
        self._key = None if token is None else token.encode()
        self._clock = clock

    def new(self, version: str) -> str:
        """Returns a pass to the reports of a release."""
        if self._key is None:
            return _NO_PASS
        until = str(int(self._clock()) + PASS_HOLDS_S)
        return f"{until}-{_proof(self._key, version, until)}"

    def admits(self, path: str) -> bool:
        """Returns whether an address holds a pass that opens it now."""
        match = _REPORT.fullmatch(path)
        if self._key is None or match is None:
            return False
        version, until, proof = match.group("version", "until", "proof")
        is_ours = hmac.compare_digest(proof, _proof(self._key, version, until))
        return is_ours and self._clock() < int(until) <= self._clock() + PASS_HOLDS_S


def _proof(key: bytes, version: str, until: str) -> str:
    return hmac.new(key, f"reports {version} {until}".encode(), hashlib.sha256).hexdigest()
