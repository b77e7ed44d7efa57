"""Files that are either whole or not there: temporary name, fsync, rename."""

import contextlib
import ctypes
import errno
import fcntl
import glob
import json
import os
import pathlib
import shutil
import stat
import time
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

from absl import logging

from features import command
from features.durations import HOUR_S

COMPLETE = "COMPLETE"
_LOCK, _FINISHED = ".lock", ".new"
_PARTS = frozenset({".tmp", _LOCK, _FINISHED})
# From linux/fs.h and fcntl.h.
_RENAME_EXCHANGE, _AT_FDCWD = 2, -100
_CANNOT_EXCHANGE = frozenset({errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM})
_WRITTEN_WITHIN_S = HOUR_S


def atomic_write(path: str | os.PathLike[str], content: str | bytes) -> None:
    """Writes a file so that a reader sees the old content or the new, never a part.

    Args:
        path: File to create or replace; its directory is created.
        content: Content of the file; text is written as UTF-8.
    """
    target = pathlib.Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    for leftover in target.parent.glob(f".{glob.escape(target.name)}.*.tmp"):
        with contextlib.suppress(FileNotFoundError):
            status = leftover.lstat()
            # Of a killed process: to write a file takes no hour.
            if stat.S_ISREG(status.st_mode) and status.st_mtime < time.time() - _WRITTEN_WITHIN_S:
                leftover.unlink()
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    fsync_directory(target.parent)


@contextlib.contextmanager
def atomic_directory(path: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
    """Yields a new directory beside ``path`` that becomes ``path`` when the block succeeds.

    What stood there before is exchanged for it in one step (``renameat2``), so that whoever looks,
    and whatever is killed, there is the old one or the new one. File systems that cannot exchange
    (some of networks) get renames instead: a kill between them leaves nothing under the name until
    the next call for the same path, which first puts the complete new one there.

    When the block fails the new directory is removed and the old one stays. What a killed process
    leaves, ``.<name>.<id>.tmp`` and its like, the next call for the same path removes. It is told
    from what is being written by a lock (``flock``) on ``.<name>.<id>.lock``, which ends with its
    process, in containers too. NFS version 4 tells other hosts of it; where a file system does not
    (NFS mounted with ``nolock`` or ``local_lock``, some that live in user space), two hosts must
    not write to one path. Where it has no locks at all leftovers stay, and a warning names them.
    """
    target = pathlib.Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(target)
    with _claimed(target) as temporary:
        temporary.mkdir()
        try:
            yield temporary
            fsync_tree(temporary)
            _replace_directory(temporary, target)
            fsync_directory(target.parent)
        finally:
            _remove(temporary)


@contextlib.contextmanager
def _claimed(target: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields a new name beside ``target`` that nobody takes for a leftover during the block."""
    while True:
        temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:12]}.tmp")
        lock = temporary.with_suffix(_LOCK)
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        with contextlib.suppress(OSError):  # A file system without locks.
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if lock.exists():
            break
        os.close(descriptor)  # It was taken for a leftover before it was locked.
    try:
        yield temporary
    finally:
        lock.unlink(missing_ok=True)
        os.close(descriptor)


def _remove_leftovers(target: pathlib.Path) -> None:
    """Removes what killed processes left, after putting what they had finished in its place."""
    paths = sorted(target.parent.glob(f".{glob.escape(target.name)}.*"))
    for leftover in sorted({path.with_suffix(".tmp") for path in paths if path.suffix in _PARTS}):
        with _abandoned(leftover.with_suffix(_LOCK)) as is_abandoned:
            if not is_abandoned:
                continue
            finished = leftover.with_suffix(_FINISHED)
            if finished.is_dir() and not os.path.lexists(target):
                finished.rename(target)
                fsync_directory(target.parent)
            for suffix in (_FINISHED, ".tmp", _LOCK):
                _remove(leftover.with_suffix(suffix))


@contextlib.contextmanager
def _abandoned(lock: pathlib.Path) -> Iterator[bool]:
    """Yields whether nobody holds a lock, and holds it meanwhile; one that is gone nobody holds."""
    try:
        descriptor = os.open(lock, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        yield True
        return
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_abandoned = True
        except BlockingIOError:
            is_abandoned = False
        except OSError as error:
            logging.warning("%s: whether it is a leftover cannot be told: %s", lock, error)
            is_abandoned = False
        yield is_abandoned
    finally:
        os.close(descriptor)


def _replace_directory(new: pathlib.Path, target: pathlib.Path) -> None:
    """Gives a directory the name of another, which afterwards has the other's."""
    if not os.path.lexists(target):
        new.rename(target)
        return
    try:
        _exchange(new, target)
    except OSError as error:
        if error.errno not in _CANNOT_EXCHANGE:
            raise
        finished = new.with_suffix(_FINISHED)
        new.rename(finished)
        target.rename(new)
        finished.rename(target)


def _exchange(first: pathlib.Path, second: pathlib.Path) -> None:
    """Exchanges two names in one step, which Python's ``os`` cannot."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        raise OSError(errno.ENOSYS, "the C library has no renameat2")
    names = os.fsencode(first), os.fsencode(second)
    if renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), str(first), None, str(second))


def _remove(path: pathlib.Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def fsync_directory(path: pathlib.Path) -> None:
    """Makes renames inside ``path`` durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_tree(path: pathlib.Path) -> None:
    """Makes every file and directory below ``path`` durable."""
    for directory, _, names in os.walk(path):
        for name in names:
            descriptor = os.open(os.path.join(directory, name), os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        fsync_directory(pathlib.Path(directory))


def mark_complete(directory: str | os.PathLike[str], info: Mapping[str, Any]) -> None:
    """Writes the COMPLETE marker, a JSON object that says how the directory was made."""
    text = json.dumps(info, indent=1, sort_keys=True, allow_nan=False)
    atomic_write(pathlib.Path(directory) / COMPLETE, text + "\n")


def read_complete(directory: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Returns what :func:`mark_complete` wrote, or None where the directory is not complete.

    Raises:
        InputError: The marker is damaged.
    """
    marker = pathlib.Path(directory) / COMPLETE
    if not marker.is_file():
        return None
    try:
        return dict(json.loads(marker.read_text()))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise command.InputError(
            f"{marker} should be a JSON object that says how {directory} was made, but is not "
            f"({error}). Remove {directory} and make it again."
        ) from None


def require_complete(
    directory: str | os.PathLike[str], *, what: str, made_by: str
) -> dict[str, Any]:
    """Returns the COMPLETE information of a directory that an earlier command wrote.

    Args:
        directory: Directory that should be there.
        what: Content that the directory should hold, for example ``examples``.
        made_by: The command that makes it, for example ``python -m pipeline.preprocess``.

    Raises:
        InputError: The directory is absent, or was not finished, or its marker is damaged.
    """
    info = read_complete(directory)
    if info is None:
        state = "is not complete" if pathlib.Path(directory).exists() else "does not exist"
        raise command.InputError(
            f"{directory} should hold {what}, but {state} (no {COMPLETE} file). "
            f"Make it with: {made_by}"
        )
    return info


def link_tree(source: pathlib.Path, target: pathlib.Path) -> None:
    """Makes a file or directory appear a second time, without a second copy of its content.

    Files become hard links, or copies where the file system has no room for links to them. For
    files that are never changed in place, which is how this project writes.

    Args:
        source: File or directory that is there; hidden files, which are being written or locks, are
            left out.
        target: Path that must not exist yet; its parent must.
    """
    if source.is_dir():
        target.mkdir()
        for path in source.iterdir():
            if not path.name.startswith("."):
                link_tree(path, target / path.name)
        return
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copy2(source, target)
