"""Copies of objects on this machine, for libraries that read local files.

    $WATCHNEXT_CACHE/              default: ~/.cache/watchnext/stores
      blobs/<digest>               content of one version of one object, whole, never changed
      trees/<place>-<version>/     a directory as it stood in a store, of links to blobs
      outputs/<place>/             what a command is writing that goes to a store
      mirrors/<place>/             directories that go back and forth

A tree is for ever what it was when it was fetched, so whoever reads one never sees two states
mixed. Trees of an older state go when nobody reads them, and blobs with the last tree.
"""

import contextlib
import fcntl
import hashlib
import os
import pathlib
import shutil
import time
import uuid
from collections.abc import Callable, Iterator

from features import files
from features.durations import HOUR_S
from features.stores.clients import Meta
from features.stores.locations import Location

DIRECTORY = "WATCHNEXT_CACHE"
# Locks that say that this process reads a tree; they end with the process.
_READ: dict[pathlib.Path, int] = {}


def root() -> pathlib.Path:
    """Returns the directory of all copies."""
    given = os.environ.get(DIRECTORY)
    return pathlib.Path(given) if given else pathlib.Path.home() / ".cache/watchnext/stores"


def place(kind: str, location: Location) -> pathlib.Path:
    """Returns where something of a location is kept; its last part is the location's."""
    return root() / kind / _digest(str(location)) / location.name


def blob(location: Location, meta: Meta) -> pathlib.Path:
    """Returns where the content of an object of a bucket is kept, whether it is there or not."""
    said = (location.scheme, location.bucket, meta.key, meta.tag, str(meta.size))
    return root() / "blobs" / _digest("\0".join(said))


def add(
    path: pathlib.Path, size: int, write: Callable[[pathlib.Path], None], *, modified_ns: int
) -> None:
    """Puts a blob there that is not there yet, whole.

    Args:
        path: Path that :func:`blob` returned.
        size: Bytes that it has.
        write: Function that writes the content to a new file, durably.
        modified_ns: Time of the content, nanoseconds of Unix.
    """
    with contextlib.suppress(FileNotFoundError):
        if path.stat().st_size == size:
            return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        write(temporary)
        os.utime(temporary, ns=(modified_ns, modified_ns))
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def link(blob_path: pathlib.Path, target: pathlib.Path) -> None:
    """Makes a blob appear under a name; a copy where the file system has no links."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(blob_path, target)
    except FileExistsError:
        raise
    except OSError:
        shutil.copy2(blob_path, target)


def put_in_place(blob_path: pathlib.Path, target: pathlib.Path) -> None:
    """Makes a blob appear under a name that may be in use, at once."""
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
    try:
        link(blob_path, temporary)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def keep(path: pathlib.Path, blob_path: pathlib.Path) -> None:
    """Keeps a file that was just written to a store as its blob, where that costs no copy."""
    blob_path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(OSError):
        os.link(path, blob_path)


def tree(location: Location, version: str, build: Callable[[pathlib.Path], None]) -> pathlib.Path:
    """Returns the tree of a location in one state, which stays while this process lives.

    Args:
        location: What the tree is a copy of.
        version: What tells its states apart.
        build: Function that fills a new directory, or writes a new file.
    """
    prefix = _digest(str(location))
    directory = root() / "trees" / f"{prefix}-{_digest(version)}"
    directory.parent.mkdir(parents=True, exist_ok=True)
    if directory not in _READ:
        lock = os.open(f"{directory}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        fcntl.flock(lock, fcntl.LOCK_SH)
        _READ[directory] = lock
    if not directory.is_dir():
        with files.atomic_directory(directory) as temporary:
            build(temporary / location.name)
    _prune(prefix, but=directory)
    return directory / location.name


@contextlib.contextmanager
def alone(path: pathlib.Path, refusal: Callable[[], Exception]) -> Iterator[None]:
    """Lets no other process of this machine use a place meanwhile.

    Args:
        path: Path that :func:`place` returned.
        refusal: Function that returns what is raised where another process does.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with (path.parent / ".lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise refusal() from None
        yield


def _prune(prefix: str, *, but: pathlib.Path) -> None:
    """Removes trees of older states that nobody reads, and blobs that no tree has."""
    for old in (root() / "trees").glob(f"{prefix}-*"):
        if old in {but, *_READ} or old.suffix == ".lock" or old.name.startswith("."):
            continue
        with (old.parent / f"{old.name}.lock").open("a") as lock, contextlib.suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(old, ignore_errors=True)
    for path in (root() / "blobs").glob("*"):
        with contextlib.suppress(FileNotFoundError):
            status = path.stat()
            if status.st_nlink == 1 and status.st_ctime < time.time() - HOUR_S:
                path.unlink()


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:24]
