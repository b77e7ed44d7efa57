"""Directories in object stores that are whole or not there, although nothing can be renamed there.

Written: under a lease (``.writing``) the marker of what stood there goes first; then the files;
then what was there before and is no more is removed; then ``.checksums.json``, which lists every
file with its SHA-256; and ``COMPLETE`` is the last object. What a killed publication left has no
``COMPLETE``: no reader takes it, and the next publication goes over it.

Read: the list says what belongs together, so a listing that comes late hides nothing; each file
must be the version that was listed and have its checksum, else everything is looked at again, as
somebody replaced it meanwhile. A directory without ``COMPLETE`` of its own (raw logs, which others
write too and servers add to) is what a listing finds, before and after it was read, and not while
it has a ``.writing``.

Hidden files, which are locks and what is being written, are not part of a directory.
"""

import concurrent.futures
import hashlib
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from absl import logging

from features import command, files
from features.stores import cache, leases, objects
from features.stores.clients import ConflictError, Meta
from features.stores.locations import Location

CHECKSUMS = ".checksums.json"
WRITING = ".writing"
_THREADS = 8
_ATTEMPTS = 3
_BLOCK_BYTES = 1 << 20

Sums = Mapping[str, Mapping[str, Any]]


def publish(source: pathlib.Path, location: Location) -> None:
    """Makes a directory of a store what a local one is; or an object what a file is.

    Raises:
        InputError: The store refuses it, or another process writes there.
    """
    if source.is_file():
        if not location.key:
            raise command.InputError(f"{location} is a bucket; a file needs a name in it.")
        _remember(location, source, objects.at(location).write(location.key, source))
        return
    with leases.hold(location / WRITING, what=str(location), stays_after_failure=True) as lease:
        _Publication(files_of(source), location, lease).carry_out()


class _Publication:
    """What is to be done so that a directory of a store becomes what a local one is."""

    def __init__(
        self, paths: Mapping[str, pathlib.Path], location: Location, lease: leases.Lease
    ) -> None:
        self._paths = paths
        self._location = location
        self._lease = lease
        self._bucket = objects.at(location)
        prefix = f"{location.key}/" if location.key else ""
        self._there = {meta.key.removeprefix(prefix): meta for meta in self._bucket.list(prefix)}
        self._known = _read_sums(location) or {}
        self._sums = {name: dict(_sum_of(path)) for name, path in paths.items()}

    def carry_out(self) -> None:
        """Writes and removes, in the order that the module tells."""
        paths, ours = self._paths, {WRITING, CHECKSUMS, files.COMPLETE}
        old = [name for name in self._there if name not in paths and name not in ours]
        same = {name for name in paths if self._is_there(name)}
        if self._known and same == set(paths) and not old:
            return
        self._remove([name for name in (files.COMPLETE, CHECKSUMS) if name in self._there])
        for name in same:
            self._sums[name].update(
                tag=self._known[name].get("tag"), token=self._known[name].get("token")
            )
        changed = [name for name in paths if name not in same and name != files.COMPLETE]
        _side_by_side(self._write, changed, f"Writing {self._location}")
        self._remove(old)
        if files.COMPLETE in paths:
            self._lease.require()
            text = json.dumps({"format": 1, "files": self._sums}, indent=1, sort_keys=True)
            self._bucket.write((self._location / CHECKSUMS).key, text.encode())
            marker = paths[files.COMPLETE].read_bytes()
            self._bucket.write((self._location / files.COMPLETE).key, marker)

    def _is_there(self, name: str) -> bool:
        """Returns whether the store has this very content already."""
        recorded, there = self._known.get(name), self._there.get(name)
        if recorded is None or there is None or recorded["sha256"] != self._sums[name]["sha256"]:
            return False
        return name == files.COMPLETE or recorded["tag"] == there.tag

    def _write(self, name: str) -> None:
        self._lease.require()
        meta = self._bucket.write((self._location / name).key, self._paths[name])
        _remember(self._location, self._paths[name], meta)
        self._sums[name].update(tag=meta.tag, token=meta.token)

    def _remove(self, names: Sequence[str]) -> None:
        self._lease.require()
        self._bucket.delete([self._there[name].key for name in names])


def fetch(location: Location) -> pathlib.Path:
    """Returns a local copy of a directory or an object, as it stood at one moment.

    Raises:
        InputError: There is nothing, or it is not whole.
    """
    bucket = objects.at(location)
    if location.key and (meta := bucket.head(location.key)) is not None and meta.size:
        return _fetch_file(location, meta)
    for _ in range(_ATTEMPTS):
        try:
            listed, sums = _state(location)
            made = _fetch_tree(location, listed, sums)
            # What was added meanwhile belongs to the next state.
            if sums or listed.items() <= _state(location)[0].items():
                return made
        except ConflictError as error:
            logging.warning("%s changed while it was read (%s); reading it again.", location, error)
    raise command.InputError(
        f"{location} does not hold what its {CHECKSUMS} lists, or is replaced all the time: files "
        "of two states lie there. Write it again, by one command."
    )


def is_complete(location: Location) -> bool:
    """Returns whether a directory of a store has a ``COMPLETE``."""
    return objects.at(location).head((location / files.COMPLETE).key) is not None


def files_of(directory: pathlib.Path) -> dict[str, pathlib.Path]:
    """Returns the files below a directory by relative path, without hidden ones."""
    paths = {}
    for path in sorted(directory.rglob("*")):
        name = path.relative_to(directory)
        if path.is_file() and not any(part.startswith(".") for part in name.parts):
            paths[name.as_posix()] = path
    return paths


def _state(location: Location) -> tuple[dict[str, Meta], Sums | None]:
    """Returns the files that belong together now, and their sums where they are listed."""
    bucket = objects.at(location)
    sums = _read_sums(location)
    marker = bucket.read((location / files.COMPLETE).key)
    if sums is not None and marker is not None:
        if hashlib.sha256(marker[0]).hexdigest() != sums[files.COMPLETE]["sha256"]:
            raise ConflictError(f"{files.COMPLETE} is of another state")
        listed = {
            name: Meta(
                key=(location / name).key,
                size=recorded["bytes"],
                tag=recorded["tag"],
                modified_s=recorded["mtime_ns"] / 1e9,
                token=recorded["token"],
            )
            for name, recorded in sums.items()
            if name != files.COMPLETE
        }
        return {**listed, files.COMPLETE: marker[1]}, sums
    writing = leases.holder_of(location / WRITING)
    if writing is not None:
        raise command.InputError(f"{location} is being written by {writing}. Wait until it is.")
    prefix = f"{location.key}/" if location.key else ""
    there = {meta.key.removeprefix(prefix): meta for meta in bucket.list(prefix)}
    if not there:
        raise command.InputError(f"{location} does not exist: nothing lies below it.")
    if sums is not None or WRITING in there:
        raise command.InputError(
            f"{location} is not complete: what wrote it was killed. Make it again."
        )
    # What ends at a slash makes a console of the store show a directory.
    hidden = {n for n in there if n.endswith("/") or any(p[:1] in {"", "."} for p in n.split("/"))}
    return {name: meta for name, meta in there.items() if name not in hidden}, None


def _fetch_tree(location: Location, listed: Mapping[str, Meta], sums: Sums | None) -> pathlib.Path:
    def build(target: pathlib.Path) -> None:
        target.mkdir(parents=True)

        def one(name: str) -> None:
            recorded = (sums or {}).get(name, {})
            path = _to_cache(location, listed[name], recorded)
            cache.link(path, target / name)

        _side_by_side(one, list(listed), f"Reading {location}")

    version = json.dumps(sorted((name, meta.tag, meta.size) for name, meta in listed.items()))
    return cache.tree(location, version, build)


def _fetch_file(location: Location, meta: Meta) -> pathlib.Path:
    def build(target: pathlib.Path) -> None:
        cache.link(_to_cache(location, meta, {}), target)

    try:
        return cache.tree(location, json.dumps([meta.tag, meta.size]), build)
    except ConflictError as error:
        raise command.InputError(f"{error}, while it was read. Run it again.") from None


def _to_cache(location: Location, meta: Meta, recorded: Mapping[str, Any]) -> pathlib.Path:
    """Returns a blob with an object's content, whose checksum is what was recorded."""
    bucket = objects.at(location)

    def write(temporary: pathlib.Path) -> None:
        bucket.download(meta, temporary)
        if recorded and _sha256(temporary) != recorded["sha256"]:
            raise ConflictError(f"{meta.key} has other content (its SHA-256 differs)")

    path = cache.blob(location, meta)
    modified_ns = int(recorded.get("mtime_ns") or meta.modified_s * 1e9)
    cache.add(path, meta.size, write, modified_ns=modified_ns)
    return path


def _read_sums(location: Location) -> Sums | None:
    stored = objects.at(location).read((location / CHECKSUMS).key)
    if stored is None:
        return None
    try:
        sums: Sums = json.loads(stored[0])["files"]
        names = {"sha256", "bytes", "mtime_ns"}
        if files.COMPLETE not in sums or not all(names <= set(one) for one in sums.values()):
            raise ValueError("it does not list what it should")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise command.InputError(
            f"{location / CHECKSUMS} is damaged ({error}). Remove {location} and make it again."
        ) from None
    return sums


def _remember(location: Location, path: pathlib.Path, meta: Meta) -> None:
    cache.keep(path, cache.blob(location, meta))


def _side_by_side(function: Any, names: Sequence[str], title: str) -> None:
    """Calls a function for each name, some at a time; the first failure ends it."""
    if not names:
        return
    logging.info("%s: %d files.", title, len(names))
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        calls = [pool.submit(function, name) for name in names]
        try:
            for call in concurrent.futures.as_completed(calls):
                call.result()
        except BaseException:
            for call in calls:
                call.cancel()
            raise


def _sum_of(path: pathlib.Path) -> Mapping[str, Any]:
    status = path.stat()
    return {"sha256": _sha256(path), "bytes": status.st_size, "mtime_ns": status.st_mtime_ns}


def _sha256(path: pathlib.Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()
