"""The releases of a serving root, for people: figures, gates, origin; two of them compared."""

import dataclasses
import json
import math
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from serving.release import manifest as release
from serving.release.manifest import Manifest

_MAX_ORIGINS = 300
_CARD = "card.json"
_TITLES = {
    "retraining.html": "Retraining",
    "evaluation.html": "Evaluation",
    "statistics.html": "Statistics of the examples",
    "card.md": "Model card",
    "card.json": "Model card, JSON",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Summary:
    """A release in a list.

    Attributes:
        release_id: Id of the release.
        created: Time of the build, ISO 8601, UTC.
        is_current: Whether ``CURRENT`` names it.
        previous: The release that served until it was published.
        pinned_by: Experiments that keep it.
        forced: Reason why it was published although a gate failed; "" otherwise.
        gates_passed: Number of gates that it passed.
        gates: Number of gates.
        size_bytes: Size of its files.
        fault: What is wrong with its manifest; "" where it can be read.
    """

    release_id: str
    created: str = ""
    is_current: bool = False
    previous: str | None = None
    pinned_by: list[str] = dataclasses.field(default_factory=list)
    forced: str = ""
    gates_passed: int = 0
    gates: int = 0
    size_bytes: int = 0
    fault: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Figure:
    """A measured figure.

    Attributes:
        name: Name, as in the evaluation.
        value: Value; None where it could not be measured.
        low: Lower end of the 95 % interval, where there is one.
        high: Upper end.
        n: Number of what it was measured on, where that is known.
    """

    name: str
    value: float | None
    low: float | None = None
    high: float | None = None
    n: int | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gate:
    """A gate before publication: rule, value, threshold and verdict, in words."""

    rule: str
    value: str
    threshold: str
    verdict: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """A report that a release holds.

    Attributes:
        name: Name of its file.
        title: What it is, in words.
        size_bytes: Its size.
        address: Address at which it can be read for an hour.
    """

    name: str
    title: str
    size_bytes: int
    address: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Detail:
    """A release and all that its manifest tells.

    Attributes:
        summary: The release in a list.
        figures: Figures of the models that were measured for it.
        gates: Gates, in their order.
        origin: Where it comes from, ``part.of.it`` to value.
        reports: Reports that it holds, the first to be read first.
        has_card: Whether it has a model card.
    """

    summary: Summary
    figures: list[Figure]
    gates: list[Gate]
    origin: dict[str, str]
    reports: list[Report]
    has_card: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pair:
    """A figure of two releases.

    Attributes:
        name: Name of the figure.
        one: Value of the first release; None where it has none.
        other: Value of the second; None where it has none.
        difference: Other minus one.
        apart: Whether their intervals do not overlap; None where one has no interval.
    """

    name: str
    one: Figure | None
    other: Figure | None
    difference: float | None
    apart: bool | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Difference:
    """Something of the origin that two releases do not share."""

    name: str
    one: str | None
    other: str | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two releases side by side.

    Attributes:
        one: The first.
        other: The second.
        pairs: Figures that either has.
        origins: What they do not share of their origins.
    """

    one: Summary
    other: Summary
    pairs: list[Pair]
    origins: list[Difference]


def listed(serving_root: pathlib.Path) -> list[Summary]:
    """Returns all releases of a serving root, newest first; broken ones say what is wrong."""
    summaries = []
    for version in reversed(release.versions(serving_root)):
        try:
            summaries.append(_summary(serving_root, release.load_manifest(serving_root, version)))
        except release.ReleaseRefusedError as error:
            summaries.append(Summary(release_id=version, fault=str(error)))
    return summaries


def detail(serving_root: pathlib.Path, version: str) -> Detail:
    """Returns all that a manifest tells.

    Raises:
        ReleaseRefusedError: There is no such release, or its manifest is broken.
    """
    manifest = release.load_manifest(serving_root, version)
    return Detail(
        summary=_summary(serving_root, manifest),
        figures=list(_figures(manifest).values()),
        gates=[
            Gate(**{k: str(gate.get(k, "")) for k in ("rule", "value", "threshold", "verdict")})
            for gate in manifest.gates
        ],
        origin=_origin(manifest),
        reports=_reports(manifest),
        has_card=_CARD in (manifest.components.get("reports") or {}),
    )


def card(serving_root: pathlib.Path, version: str) -> dict[str, Any]:
    """Returns the model card of a release.

    Raises:
        ReleaseRefusedError: There is no such release, it has no card, or its card was altered.
    """
    return dict(json.loads(release.report(serving_root, version, _CARD)))


def compared(serving_root: pathlib.Path, one: str, other: str) -> Comparison:
    """Returns two releases side by side.

    Raises:
        ReleaseRefusedError: There is no such release, or its manifest is broken.
    """
    first, second = (release.load_manifest(serving_root, v) for v in (one, other))
    figures = _figures(first), _figures(second)
    origins = _origin(first), _origin(second)
    names = dict.fromkeys([*origins[0], *origins[1]])
    return Comparison(
        one=_summary(serving_root, first),
        other=_summary(serving_root, second),
        pairs=[
            _pair(name, *(of_release.get(name) for of_release in figures))
            for name in dict.fromkeys([*figures[0], *figures[1]])
        ],
        origins=[
            Difference(name=name, one=origins[0].get(name), other=origins[1].get(name))
            for name in names
            if origins[0].get(name) != origins[1].get(name)
        ],
    )


def _reports(manifest: Manifest) -> list[Report]:
    sums = manifest.components.get("reports") or {}
    names = [*(name for name in _TITLES if name in sums), *(n for n in sums if n not in _TITLES)]
    return [
        Report(name=name, title=_TITLES.get(name, name), size_bytes=int(sums[name]["bytes"]))
        for name in names
    ]


def _summary(serving_root: pathlib.Path, manifest: Manifest) -> Summary:
    pins = release.pins(serving_root)
    return Summary(
        release_id=manifest.version,
        created=manifest.created,
        is_current=manifest.version == release.stated_current(serving_root),
        previous=manifest.previous,
        pinned_by=[name for name, versions in pins.items() if manifest.version in versions],
        forced=manifest.forced,
        gates_passed=sum(gate.get("verdict") == "pass" for gate in manifest.gates),
        gates=len(manifest.gates),
        size_bytes=release.size_bytes(manifest),
    )


def _figures(manifest: Manifest) -> dict[str, Figure]:
    figures = {}
    for name, measured in sorted(manifest.metrics.items()):
        values = measured if isinstance(measured, Mapping) else {"value": measured}
        n = _number(values.get("n"))
        figures[name] = Figure(
            name=name,
            value=_number(values.get("value")),
            low=_number(values.get("low")),
            high=_number(values.get("high")),
            n=None if n is None else int(n),
        )
    return figures


def _number(value: Any) -> float | None:
    is_one = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_one and math.isfinite(value) else None


def _pair(name: str, one: Figure | None, other: Figure | None) -> Pair:
    difference = apart = None
    if one is not None and other is not None:
        if one.value is not None and other.value is not None:
            difference = other.value - one.value
        if None not in {one.low, one.high, other.low, other.high}:
            apart = bool(one.high < other.low or other.high < one.low)  # type: ignore[operator]
    return Pair(name=name, one=one, other=other, difference=difference, apart=apart)


def _origin(manifest: Manifest) -> dict[str, str]:
    return dict(list(_flat("", manifest.lineage))[:_MAX_ORIGINS])


def _flat(name: str, value: Any) -> Iterator[tuple[str, str]]:
    """Yields ``a.b.c`` and the value there, as text."""
    if isinstance(value, Mapping):
        for key, inner in sorted(value.items()):
            yield from _flat(f"{name}.{key}" if name else str(key), inner)
    else:
        yield name, str(value)[:200]
