"""The pages that people look at: plain HTML, styles and modules, under a strict content policy.

The files lie in ``web/``, one subject each, and are served as they are: nothing is built. Their
addresses have a digest of them all, ``/assets/<digest>/<name>``, so a browser keeps them for good
and a new version is fetched at once; modules name each other by relative paths, which stay within
one digest. The pages themselves have an ETag and are asked for anew. A server that is asked for
another version's file, as happens while replicas are replaced one by one, gives its own and has
nobody keep it.

The policy allows scripts and styles from ``/assets`` alone, no inline ones, no text that becomes
markup (trusted types), and pictures from this server and the hosts that the operator names.
"""

import dataclasses
import gzip
import hashlib
import ipaddress
import pathlib
import re
import urllib.parse
from collections.abc import Collection, Mapping

import fastapi
from fastapi import Request
from fastapi.responses import Response

from features import command
from serving.server import docs as http_docs

ASSETS = "/assets/"
_DIRECTORY = pathlib.Path(__file__).with_name("web")
# Paths of the pages, and their files.
PAGES = {"/": "home.html", "/console": "console.html"}
_KINDS = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
# As one of the codings that a browser accepts, and not with a weight of 0.
_GZIP = re.compile(r"\bgzip\b(?!\s*;\s*q=0(\.0*)?\s*(,|$))")
_FOREVER = "public, max-age=31536000, immutable"
_HOST = re.compile(r"(\*\.)?([a-z0-9]([a-z0-9-]*[a-z0-9])?\.)+[a-z0-9-]*[a-z][a-z0-9-]*")


def image_hosts(named: Collection[str]) -> frozenset[str]:
    """Returns the hosts from which pages may load thumbnails.

    Args:
        named: Names that the operator gave; ``*.`` in front stands for all hosts below.

    Raises:
        InputError: One is no name of a host.
    """
    names = frozenset(name.strip().lower().rstrip(".") for name in named)
    for name in names:
        if not _HOST.fullmatch(name):
            raise command.InputError(
                f"--image_hosts must be names of hosts without scheme, port and path, such as "
                f"i.example.org or *.example.org, got {name!r}."
            )
    return names


def thumbnail(url: object, hosts: Collection[str]) -> str | None:
    """Returns the address of a thumbnail where pages may show it, else None.

    Args:
        url: Value of the column ``thumbnail_url`` of a video.
        hosts: Hosts from :func:`image_hosts`.
    """
    if not hosts or not isinstance(url, str) or not url.startswith("https://"):
        return None
    try:
        parts = urllib.parse.urlsplit(url)
        host, port = (parts.hostname or "").lower(), parts.port
    except ValueError:
        return None
    if parts.username is not None or port not in {None, 443}:
        return None
    above = host.partition(".")[2]
    while above:
        if f"*.{above}" in hosts:
            return url
        above = above.partition(".")[2]
    return url if host in hosts and not is_address(host) else None


def is_address(host: str) -> bool:
    """Says whether a host is an IP address."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def policy(hosts: Collection[str] = ()) -> str:
    """Returns the content security policy of the pages."""
    pictures = " ".join(["'self'", *(f"https://{host}" for host in sorted(hosts))])
    return (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        f"img-src {pictures}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    )


@dataclasses.dataclass(frozen=True)
class _File:
    """What is sent of a file.

    Attributes:
        content: Its bytes.
        packed: Them packed by gzip; None where that gains nothing.
        headers: Headers of every answer with it.
        tag: Its ETag, which is weak: packed or not, it is the same.
    """

    content: bytes
    packed: bytes | None
    headers: Mapping[str, str]
    tag: str

    @classmethod
    def of(cls, content: bytes, suffix: str, headers: Mapping[str, str]) -> "_File":
        packed = gzip.compress(content, mtime=0)
        return cls(
            content=content,
            packed=packed if len(packed) < 0.9 * len(content) else None,
            headers={"content-type": _KINDS[suffix], "vary": "accept-encoding", **headers},
            tag=f'W/"{hashlib.sha256(content).hexdigest()[:20]}"',
        )

    def answer(self, request: Request, *, caching: str) -> Response:
        headers = {**self.headers, "etag": self.tag, "cache-control": caching}
        known = (one.strip() for one in request.headers.get("if-none-match", "").split(","))
        if self.tag in known:
            return Response(status_code=304, headers=headers)
        accepted = request.headers.get("accept-encoding", "")
        if self.packed is not None and _GZIP.search(accepted):
            return Response(self.packed, headers={**headers, "content-encoding": "gzip"})
        return Response(self.content, headers=headers)


class Web:
    """The files of the pages in memory.

    Attributes:
        digest: Name of this version of all of them.
    """

    def __init__(self, *, api: str, hosts: Collection[str] = ()) -> None:
        """Reads them."""
        contents = {
            path.name: path.read_bytes()
            for path in sorted(_DIRECTORY.iterdir())
            if path.suffix in _KINDS
        }
        joined = b"\0".join(part for name in contents for part in (name.encode(), contents[name]))
        self.digest = hashlib.sha256(joined).hexdigest()[:16]
        secure = {"content-security-policy": policy(hosts), "referrer-policy": "no-referrer"}
        texts = {path: contents[name].decode() for path, name in PAGES.items()} | {"/docs": api}
        self._pages = {
            path: _File.of(self._addressed(text).encode(), ".html", secure)
            for path, text in texts.items()
        }
        self._assets = {
            name: _File.of(content, pathlib.Path(name).suffix, {})
            for name, content in contents.items()
            if not name.endswith(".html")
        }

    def _addressed(self, html: str) -> str:
        return html.replace(f'"{ASSETS}', f'"{ASSETS}{self.digest}/')

    def add_to(self, app: fastapi.FastAPI) -> None:
        """Adds the routes of pages and files."""

        async def page(request: Request) -> Response:
            return self._pages[request.scope["route"].path].answer(request, caching="no-cache")

        async def asset(request: Request, digest: str, name: str) -> Response:
            file = self._assets.get(name)
            if file is None:
                raise fastapi.HTTPException(404, f"There is no file {name[:100]!r}.")
            return file.answer(request, caching=_FOREVER if digest == self.digest else "no-store")

        for path in self._pages:
            app.add_api_route(path, page, include_in_schema=False)
        app.add_api_route(f"{ASSETS}{{digest}}/{{name}}", asset, include_in_schema=False)


def web(app: fastapi.FastAPI, *, hosts: Collection[str]) -> Web:
    """Returns the pages of an application whose other routes are all there."""
    return Web(api=http_docs.render(app.openapi()), hosts=hosts)
