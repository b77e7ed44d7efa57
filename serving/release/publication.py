"""Publishing a release atomically, keeping some, and rolling back.

A build writes its components under ``.tmp-`` names, which no server looks at, then renames them,
then writes the manifest, and replaces CURRENT last. Releases that an experiment pinned are neither
removed nor unloaded by a model server. What a killed build left is marked by
``releases/.building-<version>``: nothing takes it for published, and the next build removes it.

    with publication.building(serving_root) as build:
        write_something(build.directory("index"))
        ...
        build.publish(metrics=metrics, gates=gates, lineage=lineage, keep=3)
"""

import contextlib
import datetime
import fcntl
import os
import pathlib
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from absl import logging

from features import command, files
from serving.release import checksums, rollbacks, tf_serving_config
from serving.release import manifest as release
from serving.release.manifest import Path

KEEP = 3
MIN_KEEP = 2  # The current release, and one to roll back to.
_SERVABLES = ("query_tower", "ranker")
_TEMPORARY = ".tmp-"
_BUILD_LOCK = ".build.lock"
_CURRENT_LOCK = ".current.lock"


class Build:
    """A release in the making; use :func:`building`."""

    def __init__(self, serving_root: pathlib.Path, version: str) -> None:
        self.serving_root = serving_root
        self.version = version
        self.published = False
        files.atomic_write(_marker(serving_root, version), f"{os.getpid()}\n")

    def directory(self, component: str) -> pathlib.Path:
        """Returns the directory to write a component into; created when first asked for."""
        if component not in release.COMPONENTS:
            raise ValueError(f"component must be out of {release.COMPONENTS}, got {component!r}.")
        path = self.serving_root / component / f"{_TEMPORARY}{self.version}"
        path.mkdir(parents=True, exist_ok=True)
        return path

    def has(self, component: str) -> bool:
        """Returns whether a component was begun."""
        return (self.serving_root / component / f"{_TEMPORARY}{self.version}").is_dir()

    def publish(
        self,
        *,
        metrics: Mapping[str, Any],
        gates: Sequence[Mapping[str, Any]],
        lineage: Mapping[str, Any],
        forced: str = "",
        keep: int = KEEP,
    ) -> release.Manifest:
        """Makes the components that were written the current release.

        Args:
            metrics: Figures of the models, from evaluation.
            gates: Checks, all of them passed, unless ``forced`` says why not.
            lineage: Origin of examples and models, plain values for JSON.
            forced: Reason to publish although a gate failed; "" for none.
            keep: Newest releases to keep, at least 2; the current, the one before and pinned ones
                always stay.
        """
        written = {
            n: self.serving_root / n / f"{_TEMPORARY}{self.version}" for n in release.COMPONENTS
        }
        missing = [n for n, p in written.items() if not p.is_dir() and n not in release.OPTIONAL]
        if missing:
            raise ValueError(f"a release needs {missing}, which were not written.")
        for path in written.values():
            if path.is_dir():
                files.fsync_tree(path)
        manifest = release.Manifest(
            version=self.version,
            created=_now().strftime("%Y-%m-%dT%H:%M:%SZ"),
            previous=_stated_version(self.serving_root),
            components={
                name: checksums.of_tree(path) if path.is_dir() else None
                for name, path in written.items()
            },
            metrics=metrics,
            gates=gates,
            lineage=lineage,
            forced=forced,
        )
        for name, path in written.items():
            if path.is_dir():
                path.rename(release.component_directory(self.serving_root, name, self.version))
                files.fsync_directory(path.parent)
        files.atomic_write(
            release.manifest_path(self.serving_root, self.version), manifest.to_json()
        )
        with _locked(self.serving_root, _CURRENT_LOCK):
            _set_current(self.serving_root, self.version)
            self.published = True
            self.finished(keep)
        return manifest

    def finished(self, keep: int) -> None:
        """Tidies up after the release became current."""
        _marker(self.serving_root, self.version).unlink()
        _retain(self.serving_root, keep)


@contextlib.contextmanager
def building(serving_root: Path) -> Iterator[Build]:
    """Yields a build; what was not published when the block ends is removed.

    Raises:
        command.InputError: Another build is running there, or the place cannot be written.
    """
    root = pathlib.Path(serving_root)
    with _locked(root, _BUILD_LOCK, wait=False):
        release.stated_current(root)  # One that could not be replaced is refused before the work.
        _remove_leftovers(root)
        build = Build(root, _next_version(root))
        try:
            yield build
        finally:
            if not build.published:
                _remove_leftovers(root)


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.timezone.utc)


def rollback(
    serving_root: Path,
    to: str | None = None,
    *,
    seen: str | None = None,
    by: str = rollbacks.OPERATOR,
    reason: str = "",
    evidence: Mapping[str, Any] | None = None,
) -> tuple[str, str]:
    """Makes an earlier release current again, after verifying it whole, and writes it down.

    Args:
        serving_root: Directory in which releases are published.
        to: The version; default: the one that served before the current one.
        seen: The version that served when this was decided; another one is refused. None for any.
        by: Who decided, see :class:`serving.release.rollbacks.Rollback`.
        reason: Reason, in words.
        evidence: Figures behind it, plain values for JSON.

    Returns:
        The version that served until now, and the one that serves from now on.

    Raises:
        command.InputError: There is none to go back to, or it is refused.
    """
    if not pathlib.Path(serving_root).is_dir():
        release.current(serving_root)  # Says so; the lock would make it.
    with _locked(serving_root, _CURRENT_LOCK):
        # A broken CURRENT is mended by naming the version.
        old = release.current(serving_root) if to is None else _stated(serving_root)
        if seen is not None and old != seen:
            raise command.InputError(
                f"release {old} serves by now, no longer {seen[:40]}: look again."
            )
        new = to or _before(serving_root, old)
        if new not in release.versions(serving_root):
            have = ", ".join(release.versions(serving_root))
            raise command.InputError(f"there is no release {new} to roll back to; have: {have}.")
        release.load(serving_root, new)
        _set_current(serving_root, new)
        # A build killed right after it published leaves this, which would now say "unfinished".
        if release.is_version(old):
            _marker(pathlib.Path(serving_root), old).unlink(missing_ok=True)
        if old != new:
            time = _now().strftime("%Y-%m-%dT%H:%M:%SZ")
            rollbacks.write(
                serving_root,
                rollbacks.Rollback(
                    old=old, new=new, time=time, by=by, reason=reason, evidence=evidence or {}
                ),
            )
    return old, new


def _stated_version(serving_root: Path) -> str | None:
    stated = release.stated_current(serving_root)
    return stated if stated is not None and release.is_version(stated) else None


def pin(serving_root: Path, name: str, versions: Collection[str]) -> None:
    """Keeps releases, and has the model server hold them, until they are unpinned.

    Args:
        serving_root: Directory in which they are published.
        name: Name of the experiment that wants them; what it pinned before is replaced.
        versions: Release ids; none unpins. Nothing is written where all is so already.

    Raises:
        command.InputError: The serving root cannot be written.
    """
    root = pathlib.Path(serving_root)
    wanted = sorted(set(versions), key=int)
    current = release.stated_current(root) or ""
    before = release.pins(root).get(name, [])
    if before == wanted and (
        not wanted or tf_serving_config.is_written(root, _held(root, current))
    ):
        return
    with _locked(root, _CURRENT_LOCK):
        path = root / release.PINNED / name
        if wanted:
            files.atomic_write(path, "".join(f"{version}\n" for version in wanted))
        else:
            path.unlink(missing_ok=True)
        tf_serving_config.write(root, _held(root, release.current(root)))


def _stated(serving_root: Path) -> str:
    return release.stated_current(serving_root) or "nothing"


def _before(serving_root: Path, version: str) -> str:
    """Returns the version that served before another one was published."""
    try:
        previous = release.load_manifest(serving_root, version).previous
    except release.ReleaseRefusedError as error:
        # A broken manifest must not keep an operator from going back.
        logging.warning("%s Going back by version number.", error)
        older = [v for v in release.versions(serving_root) if int(v) < int(version)]
        previous = older[-1] if older else None
    if previous is None:
        raise command.InputError(f"release {version} has none before it to roll back to.")
    return previous


def _marker(root: pathlib.Path, version: str) -> pathlib.Path:
    return root / release.RELEASES / f"{release.BUILDING}{version}"


def _set_current(serving_root: Path, version: str) -> None:
    """Replaces CURRENT, after the model server was told to hold both versions."""
    root = pathlib.Path(serving_root)
    tf_serving_config.write(root, _held(root, version))
    files.atomic_write(root / release.CURRENT, f"{version}\n")


def _held(root: pathlib.Path, version: str) -> dict[str, list[str]]:
    """Returns the versions of each servable that a model server holds while one serves."""
    manifest = release.load_manifest(root, version)
    held = [manifest]
    for other in (manifest.previous, release.stated_current(root), *_pinned(root)):
        # What is broken or gone is no reason not to leave it.
        with contextlib.suppress(release.ReleaseRefusedError):
            held += [release.load_manifest(root, other)] if other else []
    return {n: [m.version for m in held if m.components.get(n)] for n in _SERVABLES}


def _pinned(root: pathlib.Path) -> set[str]:
    """Returns the releases that are pinned and there."""
    there = set(release.versions(root))
    for name, versions in release.pins(root).items():
        for version in set(versions) - there:
            logging.warning("%s pins release %s, which is not there.", name, version)
    return there & {v for versions in release.pins(root).values() for v in versions}


def _next_version(root: pathlib.Path) -> str:
    """Returns the UTC time as a number, above every version that was ever there."""
    now = datetime.datetime.now(datetime.timezone.utc)
    taken = [int(path.name) for path in _component_versions(root)]
    taken += [int(version) for version in release.versions(root)]
    return str(max([int(now.strftime("%Y%m%d%H%M%S")), *(version + 1 for version in taken)]))


def _component_versions(root: pathlib.Path) -> list[pathlib.Path]:
    paths = (path for name in release.COMPONENTS for path in (root / name).glob("*"))
    return [path for path in paths if release.is_version(path.name)]


def _remove_leftovers(root: pathlib.Path) -> None:
    """Removes what killed builds and killed retentions left; needs the build lock."""
    with _locked(root, _CURRENT_LOCK):
        names = (".", release.RELEASES, release.PINNED, tf_serving_config.DIRECTORY)
        for directory in (root / name for name in names):
            for path in directory.glob(".*.tmp"):
                path.unlink()
    for name in release.COMPONENTS:
        for path in (root / name).glob(f"{_TEMPORARY}*"):
            shutil.rmtree(path)
    for marker in (root / release.RELEASES).glob(f"{release.BUILDING}*"):
        version = marker.name.removeprefix(release.BUILDING)
        if version != release.stated_current(root):
            logging.info("Removing the files of build %s, which was not published.", version)
            _remove_release(root, version)
        marker.unlink(missing_ok=True)
    # A manifest goes before its components, so components without one are leftovers as well.
    published = {p.stem for p in (root / release.RELEASES).glob("*.json")}
    for path in _component_versions(root):
        if path.name not in published:
            shutil.rmtree(path)


def _remove_release(root: pathlib.Path, version: str) -> None:
    release.manifest_path(root, version).unlink(missing_ok=True)
    for name in release.COMPONENTS:
        shutil.rmtree(release.component_directory(root, name, version), ignore_errors=True)


def _retain(root: pathlib.Path, keep: int) -> None:
    serving = release.current(root)
    kept = set(release.versions(root)[-max(keep, MIN_KEEP) :])
    kept |= {serving, release.load_manifest(root, serving).previous or serving}
    kept |= _pinned(root)
    for version in release.versions(root):
        if version not in kept:
            logging.info("Removing the old release %s.", version)
            _remove_release(root, version)


@contextlib.contextmanager
def _locked(serving_root: Path, name: str, *, wait: bool = True) -> Iterator[None]:
    """Holds a lock file; the system lets go of it when the process ends, however it ends."""
    root = pathlib.Path(serving_root)
    try:
        root.mkdir(parents=True, exist_ok=True)
        lock = (root / name).open("a+")
    except OSError as error:
        raise command.InputError(f"--serving_root {root} cannot be written: {error}.") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            lock.seek(0)
            raise command.InUseError(
                f"another build (process {lock.read().strip()}) is writing to {root}; "
                "wait until it ends."
            ) from None
        lock.seek(0)
        lock.truncate()
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        yield
