"""Fingerprints: what a step was made from, so that a resumed run knows what still holds."""

import hashlib
import json
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

# This checkout, or the directory that the packages are installed in.
_HOME = pathlib.Path(__file__).resolve().parent.parent


def of_value(value: Any) -> str:
    """Returns the SHA-256, in hex, of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def of_tree(directory: pathlib.Path) -> str:
    """Returns a fingerprint of the files below a directory: their names, sizes and times.

    Contents are not read, since logs are large. Hidden files do not count: they are locks and
    what is just being written.
    """
    rows = [
        (str(path.relative_to(directory)), status.st_size, status.st_mtime_ns)
        for path in _visible_files(directory)
        for status in [path.stat()]
    ]
    return of_value(sorted(rows))


def of_code(packages: Sequence[str]) -> str:
    """Returns a fingerprint of the source files of some of our packages.

    A step that a changed program would do otherwise is done again.
    """
    digest = hashlib.sha256()
    for package in sorted(packages):
        for path in sorted((_HOME / package).rglob("*.py")):
            digest.update(f"{path.relative_to(_HOME)}\0".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()


def _visible_files(directory: pathlib.Path) -> Iterator[pathlib.Path]:
    seen = set()
    for root, directories, names in os.walk(directory, followlinks=True):
        directories[:] = [name for name in directories if not name.startswith(".")]
        real = os.path.realpath(root)
        if real in seen:  # A link that leads back.
            directories.clear()
            continue
        seen.add(real)
        paths = (pathlib.Path(root, name) for name in names if not name.startswith("."))
        yield from (path for path in paths if path.exists())  # A link to nothing has no content.
