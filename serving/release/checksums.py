"""SHA-256 of every file of a directory, and the proof that a directory still holds just those."""

import concurrent.futures
import hashlib
import os
import pathlib
import stat
from collections.abc import Collection, Mapping

_BLOCK_BYTES = 1 << 20
# Hashing lets go of the interpreter lock, so a few threads keep disk and processor busy.
_THREADS = 4

FileSum = Mapping[str, str | int]


def of_file(path: str | os.PathLike[str]) -> dict[str, str | int]:
    """Returns ``{"sha256": hexadecimal, "bytes": size}`` of one file."""
    digest = hashlib.sha256()
    size = 0
    with open(path, "rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
            size += len(block)
    return {"sha256": digest.hexdigest(), "bytes": size}


def of_tree(
    directory: str | os.PathLike[str], *, leave_out: Collection[str] = ()
) -> dict[str, dict[str, str | int]]:
    """Returns the sum of every file below a directory, by its path relative to it."""
    names = _files_below(pathlib.Path(directory), leave_out)
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        sums = pool.map(lambda name: of_file(os.path.join(directory, name)), names)
        return dict(zip(names, sums, strict=True))


def difference(
    directory: str | os.PathLike[str],
    expected: Mapping[str, FileSum],
    *,
    leave_out: Collection[str] = (),
    hash_contents: bool = True,
) -> str:
    """Says in one phrase how a directory differs from what was recorded; "" where it does not.

    Args:
        directory: Directory to compare.
        expected: Relative path to sum, as :func:`of_tree` returned them.
        leave_out: Relative paths that may be there unrecorded.
        hash_contents: Whether contents are hashed; off compares names and sizes alone.
    """
    path = pathlib.Path(directory)
    if not path.is_dir():
        return "the directory does not exist"
    present = set(_files_below(path, leave_out))
    for problem, names in (
        ("is missing", set(expected) - present),
        ("was added", present - set(expected)),
    ):
        if names:
            return f"{min(names)} {problem}"
    try:
        problem = _other_size(path, expected)
        if hash_contents and not problem:
            sums = of_tree(path, leave_out=leave_out)
            changed = [n for n, actual in sums.items() if actual["sha256"] != expected[n]["sha256"]]
            problem = f"{changed[0]} has other content (its SHA-256 differs)" if changed else ""
    except OSError as error:  # A link to nothing, or to itself; or the disk.
        return f"a file cannot be read: {error}"
    return problem


def _other_size(path: pathlib.Path, expected: Mapping[str, FileSum]) -> str:
    for name, recorded in expected.items():
        status = (path / name).stat()
        if not stat.S_ISREG(status.st_mode):  # Reading a pipe would wait for ever.
            return f"{name} is no file"
        if status.st_size != recorded["bytes"]:
            return f"{name} has {status.st_size} bytes instead of {recorded['bytes']}"
    return ""


def problem_of(sums: object) -> str:
    """Says in one phrase why a value is not what :func:`of_tree` returns; "" where it may be."""
    if not isinstance(sums, Mapping):
        return "does not list its files"
    for name, recorded in sums.items():
        if pathlib.PurePosixPath(name).is_absolute() or ".." in pathlib.PurePosixPath(name).parts:
            return f"has a file outside of it, {name[:80]!r}"
        is_sum = isinstance(recorded, Mapping) and isinstance(recorded.get("sha256"), str)
        if not is_sum or type(recorded.get("bytes")) is not int or recorded["bytes"] < 0:
            return f"has no checksum and size of {name[:80]!r}"
    return ""


def _files_below(path: pathlib.Path, leave_out: Collection[str]) -> list[str]:
    files = (p for p in path.rglob("*") if not p.is_dir())
    return sorted(name for f in files if (name := f.relative_to(path).as_posix()) not in leave_out)
