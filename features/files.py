"""Files that are either whole or not there: temporary name, fsync, rename."""

import contextlib
import json
import os
import pathlib
import shutil
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

from features import command

COMPLETE = "COMPLETE"


def atomic_write(path: str | os.PathLike[str], content: str | bytes) -> None:
    """Writes a file so that a reader sees the old content or the new, never a part.

    Args:
        path: File to create or replace; its directory is created.
        content: Text is written as UTF-8.
    """
    target = pathlib.Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
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

    What stood there before is replaced. When the block fails the new directory is removed and
    the old one stays. A killed process leaves only a hidden ``.<name>.*.tmp`` behind, which
    the next call for the same path removes.
    """
    target = pathlib.Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    for leftover in target.parent.glob(f".{target.name}.*.tmp"):
        if not _owner_is_alive(leftover):
            shutil.rmtree(leftover, ignore_errors=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}.tmp")
    temporary.mkdir()
    try:
        yield temporary
        fsync_tree(temporary)
        _swap(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    fsync_directory(target.parent)


def _owner_is_alive(leftover: pathlib.Path) -> bool:
    pid = leftover.name.split(".")[-2].partition("-")[0]
    return pid.isdigit() and pathlib.Path(f"/proc/{pid}").exists()


def _swap(temporary: pathlib.Path, target: pathlib.Path) -> None:
    if not target.exists():
        temporary.rename(target)
        return
    old = target.with_name(f".{target.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}.tmp")
    target.rename(old)
    temporary.rename(target)
    shutil.rmtree(old, ignore_errors=True)


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
    """Returns what :func:`mark_complete` wrote, or None where the directory is not complete."""
    marker = pathlib.Path(directory) / COMPLETE
    if not marker.is_file():
        return None
    return dict(json.loads(marker.read_text()))


def require_complete(
    directory: str | os.PathLike[str], *, what: str, made_by: str
) -> dict[str, Any]:
    """Returns the COMPLETE information of a directory that an earlier command wrote.

    Args:
        directory: Where it should be.
        what: What it should hold, for example ``examples``.
        made_by: The command that makes it, for example ``python -m pipeline.preprocess``.

    Raises:
        InputError: The directory is absent or was not finished.
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
        source: What is there; hidden files, which are being written or locks, are left out.
        target: What must not exist yet; its parent must.
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
