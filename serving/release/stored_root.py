"""Serving roots in an object store: published there, copied from there.

The store has what a local root has, under the same names. A build works on a copy and is then
written in this order, each step of which a reader may meet: ``releases/.building-<version>``, the
components, the manifest, ``CURRENT`` on condition that it is what the build began with, and the
marker goes. Until ``CURRENT`` names it, no reader takes the release for published; what a killed
publication left is told by its marker, or by components without a manifest, and the next one
removes it. One process at a time changes a root: a lease (:mod:`features.stores.leases`).

Readers have a copy of manifests and of the releases that serve or are pinned, each file proved by
the SHA-256 in the manifest; their ``CURRENT`` changes when all of the release it names is there.
"""

import concurrent.futures
import contextlib
import pathlib
import shutil
import threading
import time
from collections.abc import Collection, Iterator

from absl import logging

from features import command, files
from features.stores import cache, door, leases, locations, objects
from features.stores.clients import ConflictError, Meta
from features.stores.locations import Location
from serving.release import checksums, rollbacks, tf_serving_config
from serving.release import manifest as release

# Directories of small files.
_SMALL = (
    release.RELEASES,
    release.PINNED,
    release.PAGE_ORDER,
    rollbacks.DIRECTORY,
    tf_serving_config.DIRECTORY,
)
_LEASE = ".lease"
_THREADS = 8
_ATTEMPTS = 5
# How long a publication waits for a rollback or a pin, and the other way round.
_WAIT_S = 30.0
# Seconds between two looks at CURRENT, which cost next to nothing, and two at all small files.
POLL_S = 5.0
_WHOLE_S = 60.0


def mirror(url: str) -> pathlib.Path:
    """Returns where readers of this machine have their copy of a root."""
    return _place("roots", url)


def _place(kind: str, url: str) -> pathlib.Path:
    path = cache.place(f"mirrors/{kind}", locations.parse(url))
    door.stands_for(path, url.rstrip("/"))
    return path


@contextlib.contextmanager
def changed(url: str, *, also: str | None = None, what: str = "") -> Iterator[pathlib.Path]:
    """Gives a root to change: a local one as it is, of a store a copy, which is then written back.

    Args:
        url: Local directory, or place in a store.
        also: Version that is needed besides the current one and the one before it.
        what: What is done, for the refusal of those who come meanwhile.

    Raises:
        InputError: The store refuses, or another process changes the root.
    """
    if not locations.is_remote(url):
        yield pathlib.Path(url)
        return
    location = locations.parse(url)
    with leases.hold(location / _LEASE, what=what or url, wait_s=_WAIT_S) as lease:
        root = _place("changing", url)
        root.mkdir(parents=True, exist_ok=True)
        before = _State(location)
        before.remove_leftovers()
        _copy(before, root, also=also)
        yield root
        _Push(location, root, before, lease).carry_out()


def read(url: str, version: str | None = None) -> pathlib.Path:
    """Returns a root to read: a local one as it is, of a store a copy.

    Args:
        url: Local directory, or place in a store.
        version: Version that is needed besides those that serve or are pinned.

    Raises:
        InputError: Nothing was published there, or a release is not what its manifest says.
    """
    if not locations.is_remote(url):
        return pathlib.Path(url)
    root = mirror(url)
    with cache.alone(root, lambda: command.InputError(f"{url} is being copied; run it again.")):
        for attempt in range(_ATTEMPTS):
            try:
                _copy(_State(locations.parse(url)), root, also=version)
                break
            except ConflictError:  # Something went between the listing and the reading.
                if attempt == _ATTEMPTS - 1:
                    raise command.InputError(f"{url} changes all the time; try again.") from None
    return root


@contextlib.contextmanager
def followed(url: str, *, period_s: float = POLL_S) -> Iterator[pathlib.Path]:
    """Gives a root to read, and keeps the copy up to what the store has during the block.

    What cannot be copied, as the store is out of reach or a release is damaged, is tried again and
    named in the log each time; meanwhile the copy stays what it was.

    Raises:
        InputError: The first copy cannot be made.
    """
    root = read(url)
    if not locations.is_remote(url):
        yield root
        return
    stop = threading.Event()

    def follow() -> None:
        location = locations.parse(url)
        # Nothing yet: the first look copies what was published since the copy above.
        known: tuple[bytes, Meta] | None = None
        whole_at = time.monotonic()
        while not stop.wait(period_s):
            try:
                stored = objects.at(location).read(
                    (location / release.CURRENT).key, unless=known[1] if known else None
                )
                if stored is None and time.monotonic() < whole_at + _WHOLE_S:
                    continue
                read(url)
                known, whole_at = stored or known, time.monotonic()
            except (command.InputError, OSError) as error:
                logging.error("%s cannot be followed, and is tried again: %s", url, error)

    thread = threading.Thread(target=follow, name="root-follower", daemon=True)
    thread.start()
    try:
        yield root
    finally:
        stop.set()


class _State:
    """What lies in a root in a store, besides the files of its components."""

    def __init__(self, location: Location) -> None:
        self.location = location
        self.bucket = objects.at(location)
        stored = self.bucket.read(self.key(release.CURRENT))
        self.current = "" if stored is None else stored[0].decode(errors="replace").strip()
        self.token: Meta | None = None if stored is None else stored[1]
        self.small: dict[str, Meta] = {}
        for name in _SMALL:
            for meta in self.bucket.list(f"{self.key(name)}/"):
                self.small[meta.key.removeprefix(self.key(""))] = meta
        manifest = f"{release.RELEASES}/{self.current}.json"
        if release.is_version(self.current) and manifest not in self.small:
            # A listing that is late.
            named = self.bucket.head(self.key(manifest))
            self.small |= {manifest: named} if named else {}

    def key(self, name: str) -> str:
        """Returns the key of a file of the root."""
        return f"{self.location.key}/{name}" if self.location.key else name

    def manifests(self) -> set[str]:
        """Returns the versions that have a manifest."""
        names = {pathlib.PurePosixPath(name) for name in self.small}
        stems = {p.stem for p in names if p.parent.name == release.RELEASES and p.suffix == ".json"}
        return {version for version in stems if release.is_version(version)}

    def building(self) -> set[str]:
        """Returns the versions that have a marker of a build."""
        prefix = f"{release.RELEASES}/{release.BUILDING}"
        return {name.removeprefix(prefix) for name in self.small if name.startswith(prefix)}

    def remove_leftovers(self) -> None:
        """Removes what killed publications and removals left; needs the lease."""
        for version in sorted(self.building()):
            marker = f"{release.RELEASES}/{release.BUILDING}{version}"
            if version != self.current:
                logging.info("Removing what a killed publication of %s left.", version)
                self.remove_release(version)
            self.remove([marker])
        published = self.manifests() | {self.current}
        for component in release.COMPONENTS:
            prefix = f"{self.key(component)}/"
            strays = [
                meta.key
                for meta in self.bucket.list(prefix)
                if meta.key.removeprefix(prefix).partition("/")[0] not in published
            ]
            self.bucket.delete(strays)

    def remove_release(self, version: str) -> None:
        """Removes a release, its manifest first: what has none is no release."""
        self.remove([f"{d}/{version}.json" for d in (release.RELEASES, release.PAGE_ORDER)])
        for component in release.COMPONENTS:
            prefix = f"{self.key(component)}/{version}/"
            self.bucket.delete([meta.key for meta in self.bucket.list(prefix)])

    def remove(self, names: Collection[str]) -> None:
        """Removes small files."""
        self.bucket.delete([self.key(name) for name in names])
        for name in names:
            self.small.pop(name, None)


def _copy(state: _State, root: pathlib.Path, *, also: str | None = None) -> None:
    """Makes a copy what a root is: small files, then the releases that are needed, then CURRENT."""
    root.mkdir(parents=True, exist_ok=True)
    _copy_small(state, root)
    needed = {state.current, *(v for pinned in release.pins(root).values() for v in pinned)}
    with contextlib.suppress(command.InputError):
        needed.add(release.load_manifest(root, state.current or None).previous or "")
    for version in sorted({*needed, also or ""} & state.manifests(), key=int):
        try:
            _copy_release(state, root, release.load_manifest(root, version))
        except (ConflictError, release.ReleaseRefusedError) as error:
            if version == state.current:
                raise release.ReleaseRefusedError(
                    f"{state.location}: release {version} cannot be copied: {error}"
                ) from None
            logging.warning("Release %s of %s cannot be copied: %s", version, state.location, error)
    for component in release.COMPONENTS:
        for path in (root / component).glob("*"):
            if path.name not in state.manifests():
                shutil.rmtree(path, ignore_errors=True)
    if state.current:
        _write_changed(root / release.CURRENT, f"{state.current}\n".encode())
    else:
        (root / release.CURRENT).unlink(missing_ok=True)


def _copy_small(state: _State, root: pathlib.Path) -> None:
    for directory in _SMALL:
        for path in (root / directory).glob("*"):
            if path.relative_to(root).as_posix() not in state.small:
                path.unlink(missing_ok=True)
    for name, meta in state.small.items():
        content = _small(state, meta)
        if name.startswith(f"{tf_serving_config.DIRECTORY}/"):
            content = content.replace(str(state.location).encode(), str(root.resolve()).encode())
        _write_changed(root / name, content)


def _write_changed(path: pathlib.Path, content: bytes) -> None:
    """Writes a file where its content differs: who polls it reads what is new."""
    if not path.is_file() or path.read_bytes() != content:
        files.atomic_write(path, content)


def _small(state: _State, meta: Meta) -> bytes:
    """Returns a small file, of the cache where it was read before."""
    path = cache.blob(state.location, meta)
    cache.add(
        path,
        meta.size,
        lambda new: state.bucket.download(meta, new),
        modified_ns=int(meta.modified_s * 1e9),
    )
    return path.read_bytes()


def _copy_release(state: _State, root: pathlib.Path, manifest: release.Manifest) -> None:
    """Copies the components of a release that are not there, each of which appears whole."""
    for component, sums in manifest.components.items():
        target = release.component_directory(root, component, manifest.version)
        if sums is None or not checksums.difference(target, sums, hash_contents=False):
            continue
        shutil.rmtree(target, ignore_errors=True)

        def one(name: str, directory: pathlib.Path, component: str = component) -> None:
            recorded = manifest.components[component] or {}
            key = state.key(f"{component}/{manifest.version}/{name}")
            _copy_file(state, key, recorded[name], directory / name)

        with (
            files.atomic_directory(target) as directory,
            concurrent.futures.ThreadPoolExecutor(_THREADS) as pool,
        ):
            calls = [pool.submit(one, name, directory) for name in sums]
            for call in calls:
                call.result()


def _copy_file(state: _State, key: str, recorded: checksums.FileSum, target: pathlib.Path) -> None:
    # Found by what the manifest says of it: no listing is asked, which may come late.
    meta = Meta(
        key=key, size=int(recorded["bytes"]), tag=str(recorded["sha256"]), modified_s=0, token={}
    )

    def write(new: pathlib.Path) -> None:
        state.bucket.download(meta, new)
        if checksums.of_file(new)["sha256"] != recorded["sha256"]:
            raise ConflictError(f"{key} has other content (its SHA-256 differs)")

    blob = cache.blob(state.location, meta)
    cache.add(blob, meta.size, write, modified_ns=0)
    cache.link(blob, target)


class _Push:
    """Writes to the store how a copy was changed."""

    def __init__(
        self, location: Location, root: pathlib.Path, before: _State, lease: leases.Lease
    ) -> None:
        self._location = location
        self._root = root
        self._before = before
        self._lease = lease
        self._bucket = objects.at(location)

    def carry_out(self) -> None:
        """Writes, in the order that the module tells."""
        there = set(release.versions(self._root))
        added = sorted(there - self._before.manifests(), key=int)
        removed = sorted(self._before.manifests() - there, key=int)
        for version in added:
            self._put(f"{release.RELEASES}/{release.BUILDING}{version}", b"")
            self._put_small(release.PAGE_ORDER)
            self._put_release(version)
        self._put_small(release.PINNED)
        self._put_small(tf_serving_config.DIRECTORY)
        self._put_current()
        self._put_small(rollbacks.DIRECTORY)
        self._before.remove([f"{release.RELEASES}/{release.BUILDING}{v}" for v in added])
        for version in removed:
            self._before.remove_release(version)

    def _put(self, name: str, content: bytes | pathlib.Path) -> Meta:
        return self._bucket.write(self._before.key(name), content)

    def _put_release(self, version: str) -> None:
        manifest = release.load_manifest(self._root, version)
        names = [
            f"{component}/{version}/{name}"
            for component, sums in manifest.components.items()
            for name in sums or ()
        ]

        def put(name: str) -> None:
            self._lease.require()
            self._put(name, self._root / name)

        with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
            for call in [pool.submit(put, name) for name in names]:
                call.result()
        self._lease.require()
        self._put(f"{release.RELEASES}/{version}.json", manifest.to_json().encode())

    def _put_small(self, directory: str) -> None:
        """Writes the small files of a directory that changed, and removes what is gone."""
        local = {p.name: p for p in (self._root / directory).glob("[!.]*") if p.is_file()}
        for name, path in local.items():
            content = path.read_bytes()
            if directory == tf_serving_config.DIRECTORY:
                here = str(self._root.resolve()).encode()
                content = content.replace(here, str(self._location).encode())
            known = self._before.small.get(f"{directory}/{name}")
            if known is None or _small(self._before, known) != content:
                self._put(f"{directory}/{name}", content)
        old = [n for n in self._before.small if n.startswith(f"{directory}/")]
        self._before.remove([n for n in old if n.partition("/")[2] not in local])

    def _put_current(self) -> None:
        current = release.stated_current(self._root)
        if current is None or current == self._before.current:
            return
        self._lease.require()
        token = self._before.token
        try:
            self._bucket.write(
                self._before.key(release.CURRENT),
                f"{current}\n".encode(),
                mode="create" if token is None else token.token,
            )
        except ConflictError:
            raise command.InputError(
                f"{self._location}/{release.CURRENT} was changed by another process meanwhile, so "
                f"release {current} was not made current there. Look who publishes, and run it "
                "again."
            ) from None
