"""One run at a time in a work directory; who comes second is told who holds it."""

import contextlib
import datetime
import fcntl
import json
import os
import pathlib
import socket
import sys
import time
from collections.abc import Iterator
from typing import Any

from features import command

_NAME = ".lock"
_LOOK_S, _WAIT_S = 0.5, 1800.0


@contextlib.contextmanager
def held(work: pathlib.Path, *, flag: str = "--work", gives_way: bool = False) -> Iterator[int]:
    """Holds the lock of a work directory.

    The system frees the lock when the last process that has its descriptor ends, so a killed run
    leaves none behind. Steps are given the descriptor: while an orphaned step still writes, the
    directory is not free.

    Args:
        work: Directory; it is created.
        flag: Flag that names the directory, for the message.
        gives_way: Whether whoever comes meanwhile waits, since this is over in minutes, and is not
            refused; it does not wait for others itself.

    Yields:
        The descriptor, for ``subprocess.Popen(pass_fds=...)``.

    Raises:
        command.InputError: Another run holds it, or it is no directory to write in.
    """
    try:
        work.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(work / _NAME, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise command.InputError(f"{flag}={work} cannot be used: {error}.") from None
    try:
        until = time.monotonic() + _WAIT_S
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                waits = not gives_way and _holder(work).get("gives_way")
                if not waits or time.monotonic() > until:
                    raise command.InUseError(_refusal(work, flag)) from None
                time.sleep(_LOOK_S)
        _sign(descriptor, gives_way=gives_way)
        yield descriptor
    finally:
        os.close(descriptor)


def _sign(descriptor: int, *, gives_way: bool) -> None:
    holder = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "command": " ".join(sys.argv),
        "gives_way": gives_way,
    }
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(holder).encode(), 0)


def _holder(work: pathlib.Path) -> dict[str, Any]:
    """Returns how the holder has signed; nothing where that cannot be read."""
    with contextlib.suppress(OSError, ValueError, TypeError):
        return dict(json.loads((work / _NAME).read_text()))
    return {}


def _refusal(work: pathlib.Path, flag: str) -> str:
    holder = _holder(work)
    try:
        who = (
            f"process {holder['pid']} on {holder['host']} since {holder['since']} "
            f"({holder['command']})"
        )
        here = holder["host"] == socket.gethostname()
        if here and not pathlib.Path(f"/proc/{holder['pid']}").exists():
            who += "; it has ended, but a step that it started still runs"
    except KeyError:
        who = "another process"
    return f"{work} is in use by {who}. Wait until it has finished, or give another {flag}."
