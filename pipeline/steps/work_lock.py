"""One run at a time in a work directory; who comes second is told who holds it."""

import contextlib
import datetime
import fcntl
import json
import os
import pathlib
import socket
import sys
from collections.abc import Iterator

from features import command

_NAME = ".lock"


@contextlib.contextmanager
def held(work: pathlib.Path, *, flag: str = "--work") -> Iterator[int]:
    """Holds the lock of a work directory.

    The system frees the lock when the last process that has its descriptor ends, so a killed run
    leaves none behind. Steps are given the descriptor: while an orphaned step still writes, the
    directory is not free.

    Args:
        work: Directory; it is created.
        flag: Flag that names the directory, for the message.

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
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise command.InUseError(_refusal(work, flag)) from None
        _sign(descriptor)
        yield descriptor
    finally:
        os.close(descriptor)


def _sign(descriptor: int) -> None:
    holder = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "command": " ".join(sys.argv),
    }
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(holder).encode(), 0)


def _refusal(work: pathlib.Path, flag: str) -> str:
    try:
        holder = json.loads((work / _NAME).read_text())
        who = (
            f"process {holder['pid']} on {holder['host']} since {holder['since']} "
            f"({holder['command']})"
        )
        here = holder["host"] == socket.gethostname()
        if here and not pathlib.Path(f"/proc/{holder['pid']}").exists():
            who += "; it has ended, but a step that it started still runs"
    except (OSError, ValueError, KeyError):
        who = "another process"
    return f"{work} is in use by {who}. Wait until it has finished, or give another {flag}."
