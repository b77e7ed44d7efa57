"""Releases: which query tower, ranker, index and videos belong together, published atomically.

    serving_root/
      query_tower/<version>/  ranker/<version>/  index/<version>/  videos/<version>/
      reports/<version>/          model card and reports, for people
      releases/<version>.json     manifest: components, SHA-256 of every file, metrics, gates
      CURRENT                     one line, the version that serves
      pinned/<experiment>         versions that its arms are kept on, one a line
      rollbacks/                  what was rolled back, by whom and why

Versions are UTC times such as 20261121034512, so a larger number is a newer release. This module
reads releases and refuses what was altered or mixed; :mod:`serving.release.publication` writes
them.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from absl import logging

from features import command
from features.tables.site_facts import SiteFacts
from serving.release import checksums

SERVED = ("query_tower", "ranker", "index", "videos")
COMPONENTS = (*SERVED, "reports")
# Logs without impressions cannot train a ranker; releases of older versions have no reports.
OPTIONAL = frozenset({"ranker", "reports"})
CURRENT = "CURRENT"
RELEASES = "releases"
PINNED = "pinned"
PAGE_ORDER = "page_order"  # page_order/<version>.json, where an order was learned for a release
BUILDING = ".building-"  # releases/.building-<version> marks a release that is being written
_MANIFEST_FORMAT = 1
_CURRENT_BYTES = 100

Path = str | os.PathLike[str]


class ReleaseRefusedError(command.InputError):
    """A release is incomplete, altered or mixed, and must not serve."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest:
    """One consistent set of components.

    Attributes:
        version: Release id, for example ``20261121034512``.
        created: ISO 8601, UTC.
        previous: The version that served until this one was published; None for the first.
        components: Name to the SHA-256 and size of each of its files; None where the release has
            no such component.
        metrics: Figures of the models, from evaluation.
        gates: Checks before publication, in order.
        lineage: Origin of examples and models, plain values for JSON.
        forced: Reason why it was published although a gate failed; "" otherwise.
    """

    version: str
    created: str
    previous: str | None
    components: Mapping[str, Mapping[str, checksums.FileSum] | None]
    metrics: Mapping[str, Any]
    gates: Sequence[Mapping[str, Any]]
    lineage: Mapping[str, Any]
    forced: str = ""

    def to_json(self) -> str:
        """Returns the JSON that :meth:`from_json` reads, with its own SHA-256 inside."""
        body = {"format": _MANIFEST_FORMAT, **dataclasses.asdict(self)}
        signed = {"sha256": _sha256(body), "release": body}
        return json.dumps(signed, indent=1, sort_keys=True, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Manifest":
        """Inverse of :meth:`to_json`.

        Raises:
            ValueError: The text is not such JSON, or was changed.
        """
        signed = json.loads(text)
        if not isinstance(signed, dict) or not isinstance(signed.get("release"), dict):
            raise ValueError("it does not describe a release")
        body = dict(signed["release"])
        if signed.get("sha256") != _sha256(body):
            raise ValueError("it has other content (its SHA-256 differs)")
        if body.pop("format", None) != _MANIFEST_FORMAT:
            raise ValueError("it was written in a format that this program does not read")
        manifest = cls(**body)
        manifest.require_types()
        return manifest

    @property
    def site(self) -> SiteFacts:
        """What the logs told of the site: its half-life, and whether people watch again."""
        examples = self.lineage.get("examples")
        info = examples.get("info") if isinstance(examples, Mapping) else None
        return SiteFacts.of_info(info if isinstance(info, Mapping) else {})

    def require_types(self) -> None:
        """Raises ValueError where a value is not of the type that is stated above."""
        for name, value, kind in (
            ("version", self.version, str),
            ("created", self.created, str),
            ("previous", self.previous, str | None),
            ("components", self.components, Mapping),
            ("metrics", self.metrics, Mapping),
            ("gates", self.gates, list | tuple),
            ("lineage", self.lineage, Mapping),
            ("forced", self.forced, str),
        ):
            if not isinstance(value, kind):
                raise ValueError(f"its {name} is {str(value)[:40]!r}, which is of another type")
        if not all(isinstance(gate, Mapping) for gate in self.gates):
            raise ValueError("one of its gates is no object")
        for name, sums in self.components.items():
            problem = "" if sums is None else checksums.problem_of(sums)
            if problem:
                raise ValueError(f"its component {name} {problem}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Release:
    """A verified release on disk.

    Attributes:
        manifest: Manifest of what belongs together.
        query_tower: SavedModel directory of the query tower.
        ranker: SavedModel directory, None where the release has no ranker.
        index: Index directory, see :mod:`serving.index.files`.
        videos: Catalogue, statistics, users and spec.
    """

    manifest: Manifest
    query_tower: pathlib.Path
    ranker: pathlib.Path | None
    index: pathlib.Path
    videos: pathlib.Path

    @property
    def version(self) -> str:
        """The release id."""
        return self.manifest.version

    def model(self, component: str) -> pathlib.Path:
        """Returns the SavedModel directory of ``query_tower`` or ``ranker``.

        Raises:
            ValueError: The release has no such model.
        """
        directory = {"query_tower": self.query_tower, "ranker": self.ranker}[component]
        if directory is None:
            raise ValueError(f"release {self.version} has no {component}.")
        return directory

    @property
    def learnt_until_s(self) -> int | None:
        """The end of what its models have seen, Unix seconds; None where that is unknown."""
        return self._time_of_examples("until_s")

    @property
    def ranker_learnt_until_s(self) -> int | None:
        """The end of what its ranker was trained on; that does not learn the holdout."""
        measured = self._time_of_examples("measured_until_s")
        return self._time_of_examples("train_until_s") if measured is None else measured

    @property
    def site(self) -> SiteFacts:
        """What the logs told of the site."""
        return self.manifest.site

    def _time_of_examples(self, name: str) -> int | None:
        value: Any = self.manifest.lineage
        for key in ("examples", "info", name):
            value = value.get(key) if isinstance(value, Mapping) else None
        return int(value) if isinstance(value, int | float) else None


def is_version(text: str) -> bool:
    """Returns whether a text has the form of a version, which is also a safe file name."""
    return re.fullmatch("[1-9][0-9]{0,31}", text) is not None


def current(serving_root: Path) -> str:
    """Returns the version that serves.

    Raises:
        command.InputError: Nothing was published there yet.
    """
    version = stated_current(serving_root)
    if version is None:
        raise command.InputError(
            f"{serving_root} has no release (no file {CURRENT}). "
            "Publish one with: python -m serving.build_release"
        )
    if not is_version(version):
        raise ReleaseRefusedError(
            f"{serving_root}/{CURRENT} must hold one version number, got {version[:40]!r}. "
            f"Set it with: python -m serving.rollback --serving_root={serving_root} --to=VERSION"
        )
    return version


def stated_current(serving_root: Path) -> str | None:
    """Returns what CURRENT says, unchecked; None where there is no such file.

    Raises:
        ReleaseRefusedError: It cannot be read.
    """
    path = pathlib.Path(serving_root) / CURRENT
    try:
        with path.open("rb") as file:
            return file.read(_CURRENT_BYTES).decode(errors="replace").strip()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ReleaseRefusedError(
            f"{path} must be a file with one version number, but cannot be read: {error}. "
            f"Remove it, then: python -m serving.rollback --serving_root={serving_root} "
            "--to=VERSION"
        ) from None


def load_manifest(serving_root: Path, version: str | None = None) -> Manifest:
    """Returns the manifest of a version, of the current one by default."""
    version = version or current(serving_root)
    path = manifest_path(serving_root, version)
    try:
        if not is_version(version):
            raise FileNotFoundError
        manifest = Manifest.from_json(path.read_text())
    except FileNotFoundError:
        have = ", ".join(versions(serving_root)) or "none"
        raise ReleaseRefusedError(
            f"there is no release {version[:40]}: {str(path)[:200]} does not exist. "
            f"There are: {have}."
        ) from None
    except RecursionError:
        raise ReleaseRefusedError(f"{path} cannot be used: it is nested too deeply.") from None
    except (OSError, ValueError, TypeError) as error:
        raise ReleaseRefusedError(f"{path} cannot be used: {error}.") from None
    if manifest.version != version:
        raise ReleaseRefusedError(f"{path} describes release {manifest.version}; it was renamed.")
    return manifest


def versions(serving_root: Path) -> list[str]:
    """Returns all published versions, oldest first."""
    directory = pathlib.Path(serving_root) / RELEASES
    names = {p.stem for p in directory.glob("*.json") if is_version(p.stem)}
    building = {p.name.removeprefix(BUILDING) for p in directory.glob(f"{BUILDING}*")}
    unfinished = building - {stated_current(serving_root)}
    return sorted(names - unfinished, key=int)


def pins(serving_root: Path) -> dict[str, list[str]]:
    """Returns the versions that each experiment has pinned, by its name."""
    pinned: dict[str, list[str]] = {}
    for path in sorted((pathlib.Path(serving_root) / PINNED).glob("[!.]*")):
        lines = path.read_text(encoding="utf-8", errors="replace").split()
        pinned[path.name] = [line for line in lines if is_version(line)]
        if len(pinned[path.name]) < len(lines):
            logging.warning("%s must hold versions, one a line; other lines pin nothing.", path)
    return pinned


def load(serving_root: Path, version: str | None = None, *, hash_contents: bool = True) -> Release:
    """Returns a release whose files were proved to be those that were published together.

    Reports are not looked at: what people read keeps nothing from serving. Whoever gives them out
    proves them, by :func:`report`.

    Args:
        serving_root: Directory in which releases are published.
        version: Release id; None for the current one.
        hash_contents: Whether contents are hashed; off compares names and sizes alone, for a
            release verified before.

    Raises:
        ReleaseRefusedError: A component is missing, was altered, or belongs to another release.
    """
    manifest = load_manifest(serving_root, version)
    for name in SERVED:
        recorded = manifest.components.get(name)
        if recorded is None and name in OPTIONAL:
            continue
        directory = component_directory(serving_root, name, manifest.version)
        difference = "the manifest does not have it"
        if recorded is not None:
            difference = checksums.difference(directory, recorded, hash_contents=hash_contents)
        if difference:
            raise ReleaseRefusedError(
                f"release {manifest.version} is refused: its {name} in {directory} is not what was "
                f"published: {difference}. Roll back with: python -m serving.rollback "
                f"--serving_root={serving_root}"
            )
    paths = {n: component_directory(serving_root, n, manifest.version) for n in SERVED}
    has_ranker = manifest.components.get("ranker") is not None
    return Release(
        manifest=manifest,
        query_tower=paths["query_tower"],
        ranker=paths["ranker"] if has_ranker else None,
        index=paths["index"],
        videos=paths["videos"],
    )


def report(serving_root: Path, version: str, name: str) -> bytes:
    """Returns a report of a release, which is what was published.

    Raises:
        ReleaseRefusedError: There is no such release or report, or it was altered.
    """
    recorded = (load_manifest(serving_root, version).components.get("reports") or {}).get(name)
    if recorded is None:
        raise ReleaseRefusedError(f"release {version} has no report {name[:100]!r}.")
    path = component_directory(serving_root, "reports", version) / name
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ReleaseRefusedError(f"report {name} of {version} cannot be read: {error}.") from None
    if hashlib.sha256(content).hexdigest() != recorded["sha256"]:
        raise ReleaseRefusedError(f"report {name} of release {version} is not what was published.")
    return content


def size_bytes(manifest: Manifest, components: Sequence[str] = COMPONENTS) -> int:
    """Returns how many bytes the files of these components have."""
    return sum(
        int(file["bytes"])
        for name in components
        for file in (manifest.components.get(name) or {}).values()
    )


def component_directory(serving_root: Path, name: str, version: str) -> pathlib.Path:
    """Returns where a component of a release is."""
    return pathlib.Path(serving_root) / name / version


def manifest_path(serving_root: Path, version: str) -> pathlib.Path:
    """Returns where the manifest of a release is."""
    return pathlib.Path(serving_root) / RELEASES / f"{version}.json"


def _sha256(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
