"""Connections to the Redis server of the history, and what is never said of them: the password.

A password comes from a file or from the environment. In an address it would stand in the list of
processes, and in whatever repeats the command line.
"""

import os
import pathlib
import re
import unicodedata
from typing import Any

from absl import logging

from features import command

PASSWORD_VARIABLE = "WATCHNEXT_REDIS_PASSWORD"
_FORM = "redis://HOST:PORT/DATABASE (rediss:// with TLS)"
# Stricter than any library: what does not fit may be a password with a slash in it, parts of which
# would else be taken for a host or a port, and be named in errors.
_ADDRESS = re.compile(
    r"(?P<scheme>rediss?)://(?:(?P<username>[^:@/?#\s]*)(?::(?P<password>[^@/?#\s]*))?@)?"
    r"(?P<host>[^:@/?#\[\]\s]+|\[[0-9A-Fa-f:.]+\])(?::(?P<port>\d{1,5}))?(?:/(?P<database>\d{1,4}))?/?"
)
# Of Sentinels, which say which server it is.
_SENTINEL_FORM = "redis+sentinel://HOST:PORT,HOST:PORT/SERVICE/DATABASE"
_PLACE = r"(?:[^:@,/?#\[\]\s]+|\[[0-9A-Fa-f:.]+\]):\d{1,5}"
_SENTINELS = re.compile(
    rf"redis\+sentinel://(?:(?P<username>[^:@,/?#\s]*)@)?(?P<places>{_PLACE}(?:,{_PLACE})*)"
    r"/(?P<service>[A-Za-z0-9._-]+)(?:/(?P<database>\d{1,4}))?/?"
)
_KEEPS_WHAT_HAS_NO_END = ("noeviction", "volatile-")


def is_address(text: str) -> bool:
    """Returns whether a history store is meant to be on a server, and not a file."""
    return "://" in text or (text.lower().startswith("redis") and ":" in text)


def require_no_password(address: str) -> None:
    """Refuses an address of the command line that holds a password, without repeating it.

    Raises:
        InputError: It holds one, or is no address.
    """
    if is_address(address) and not _SENTINELS.fullmatch(address) and _parts(address)["password"]:
        raise command.InputError(
            "--history holds a password, which everybody on this machine can read in the list of "
            f"processes. Give {_FORM}, and the password by --history_password_file=FILE or the "
            f"environment variable {PASSWORD_VARIABLE}; and choose another one."
        )


def read_password(path: str | None) -> str | None:
    """Returns the password of a file, else of the environment, else None.

    Raises:
        InputError: The file cannot be read, or holds no password.
    """
    source = path or f"the environment variable {PASSWORD_VARIABLE}"
    try:
        text = (
            pathlib.Path(path).read_text(encoding="utf-8")
            if path
            else os.environ.get(PASSWORD_VARIABLE)
        )
    except UnicodeDecodeError:  # Its text names a byte of the password, and so would a chain.
        raise command.InputError(f"the password in {path} must be UTF-8 text.") from None
    except OSError as error:
        raise command.InputError(f"the password in {path} cannot be read: {error}.") from error
    if text is None:
        return None
    password = text.strip("\r\n")
    if not password or any(unicodedata.category(letter)[0] == "C" for letter in password):
        raise command.InputError(f"{source} must hold one line, the password of Redis.")
    return password


def shown(address: str) -> str:
    """Returns an address as it may be shown: without user and password.

    Raises:
        InputError: It is no address of a Redis server.
    """
    if named := _SENTINELS.fullmatch(address):
        places = ",".join(sorted(named["places"].split(",")))
        return f"redis+sentinel://{places}/{named['service']}/{named['database'] or '0'}"
    parts = _parts(address)
    return f"{parts['scheme']}://{parts['host']}:{parts['port']}/{parts['database']}"


def connect(
    address: str, password: str | None, *, timeout_s: float, connect_timeout_s: float
) -> Any:
    """Returns a client; it connects at its first command.

    Args:
        address: Address of the server, ``redis://[USER@]HOST[:PORT][/DATABASE]``, or of Sentinels
            that say which server it is, ``redis+sentinel://HOST:PORT[,HOST:PORT]/SERVICE``.
        password: Password of the server, and of the Sentinels; None for that of the address, or
            none at all.
        timeout_s: Time for an answer, seconds.
        connect_timeout_s: Time for a connection, seconds.

    Raises:
        InputError: It is no address of a Redis server.
    """
    import redis
    from redis import backoff, retry, sentinel

    times: dict[str, Any] = {
        "socket_timeout": timeout_s,
        "socket_connect_timeout": connect_timeout_s,
    }
    # A pooled connection may be to a server that was restarted: once more, at once. Scripts
    # that were run already find that their events are known.
    again = retry.Retry(backoff.NoBackoff(), 1, supported_errors=(redis.ConnectionError,))
    if named := _SENTINELS.fullmatch(address):
        sentinels = sentinel.Sentinel(
            [_place(place) for place in named["places"].split(",")],
            sentinel_kwargs={**times, "password": password},
        )
        return sentinels.master_for(
            named["service"],
            db=int(named["database"] or 0),
            username=named["username"] or None,
            password=password,
            retry=again,
            **times,
        )
    parts = _parts(address)
    return redis.Redis(
        host=parts["host"].strip("[]"),
        port=int(parts["port"]),
        db=int(parts["database"]),
        username=parts["username"] or None,
        password=password or parts["password"] or None,
        ssl=parts["scheme"] == "rediss",
        retry=again,
        **times,
    )


def _place(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)


def _parts(address: str) -> dict[str, str]:
    match = _ADDRESS.fullmatch(address)
    if match is None or int(match["port"] or 0) > 65535:
        # Neither the address nor a part of it: nobody knows where its password begins.
        raise command.InputError(
            f"the history store must be {_FORM}, {_SENTINEL_FORM} or a SQLite file; the address "
            f"that was given is none of them. Its password comes from --history_password_file or "
            f"{PASSWORD_VARIABLE}."
        )
    parts = {name: value or "" for name, value in match.groupdict().items()}
    return parts | {"port": parts["port"] or "6379", "database": parts["database"] or "0"}


def warn_of_eviction(client: Any, address: str) -> None:
    """Says so where the server may drop what it acknowledged when its memory is full."""
    policy = client.info("memory").get("maxmemory_policy", "noeviction")
    if not policy.startswith(_KEEPS_WHAT_HAS_NO_END):
        logging.warning(
            "%s has maxmemory-policy %s: when its memory is full it drops the histories of users "
            "without a word. Set it to noeviction (or volatile-lru), and give it memory enough.",
            *(address, policy),
        )
