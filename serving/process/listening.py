"""Takes a port, or says why not; needs nothing heavy, so it can be asked before all else.

A port is bound first, and listened on when there is something to answer with: until then callers
are refused, not kept waiting.
"""

import ipaddress
import socket

from features import command

_BACKLOG = 512


def require_free_port(host: str, port: int) -> None:
    """Raises InputError where the port cannot be taken."""
    listen(host, port).close()


def listen(host: str, port: int) -> socket.socket:
    """Returns a listening socket; port 0 takes a free one.

    Raises:
        InputError: The port is in use, or is not ours to take.
    """
    bound = bind(host, port)
    try:
        start(bound)
    except command.InputError:
        bound.close()
        raise
    return bound


def bind(host: str, port: int) -> socket.socket:
    """Returns a socket that has the port and refuses callers still; port 0 takes a free one.

    Raises:
        InputError: The port is in use, or is not ours to take.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, protocol)
        try:
            # Else a restart would have to wait a minute for old connections to be forgotten.
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(address)
        except OSError:
            bound.close()
            raise
    except OSError as error:
        raise _refused(host, port, error) from None
    return bound


def start(bound: socket.socket) -> None:
    """Listens on what :func:`bind` returned.

    Raises:
        InputError: Somebody else, who had bound the port too, was first.
    """
    try:
        bound.listen(_BACKLOG)
    except OSError as error:
        host, port = bound.getsockname()[:2]
        raise _refused(host, port, error) from None


def _refused(host: str, port: int, error: OSError) -> command.InputError:
    return command.InputError(
        f"cannot listen on {host}:{port}: {error.strerror or error}. "
        "Give another --port (0 takes a free one) or stop what uses it."
    )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def url_of(listening: socket.socket) -> str:
    """Returns the base URL at which a listening socket is reached."""
    host, port = listening.getsockname()[:2]
    return (
        f"http://[{host}]:{port}"
        if listening.family == socket.AF_INET6
        else f"http://{host}:{port}"
    )
