"""How a recommender does, told from what it showed on some days: figures, a page, metrics.

* coverage: share of the videos of the release that were shown at all;
* gini: how unequally impressions fall on its videos, 0 for evenly, 1 for all on one;
* fresh: share of impressions of videos uploaded within a day before;
* repetition: share of a page's videos that stood on the page that its user saw before;
* calibration: seconds watched over seconds that the ranker expected, of impressions that it has not
  learnt from;
* rungs: share of the pages on each rung of the funnel, by what servers have counted;
* drift of each number that the ranker reads: the distance of ``statistics.html``
  (:mod:`features.tables.drift`) between what was served and what it was trained on.
"""

import collections
import dataclasses
import json
import math
import pathlib
import tempfile
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from prometheus_client import parser

from features import command, reports, spec
from features.catalogue import combined
from features.durations import DAY_S
from features.reports import Cell, Table
from features.spec import Kind, ResolvedSpec, Side
from features.tables import drift
from models.evaluation.intervals import Bootstrap
from models.evaluation.metrics import UserSums, sums_by_user
from serving.batch import ranking
from serving.funnel.rungs import RUNGS
from serving.release.manifest import Release

# Metric to what it means. A number of a feature has the label ``feature`` besides.
METRICS: Mapping[str, str] = {
    "watchnext_health_coverage": "Share of the videos that were shown.",
    "watchnext_health_gini": "How unequally impressions fall on videos, 0 to 1.",
    "watchnext_health_fresh": "Share of impressions of videos of the last day.",
    "watchnext_health_repetition": "Share of a page that stood on its user's page before.",
    "watchnext_health_calibration": "Seconds watched over seconds expected.",
    "watchnext_health_impressions": "Impressions that this was told from.",
    "watchnext_health_time_seconds": "End of the days that this was told from, Unix.",
}
DRIFT = "watchnext_feature_drift"
_TENTHS = 10
_PAGES = "watchnext_pages_total"
_ANSWER_WITHIN_S = 10
# A few pages fall while a release is loaded; more say that a part is too slow or not there.
_WARN_FALLEN = 0.05


@dataclasses.dataclass(frozen=True, kw_only=True)
class Health:
    """What was measured.

    Attributes:
        figures: Name of a metric without its prefix to its value; NaN where nothing tells it.
        intervals: Name of a metric to the ends of its interval over users, where it has one.
        tenths: Expected and watched seconds per impression, and impressions, by tenths.
        drift: Feature to its distance and the noise of that, largest first.
        facts: Release, begin and end (Unix seconds), pages and users.
        rungs: Rung to the share of the pages that stood on it; empty where no server was asked.
    """

    figures: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]]
    tenths: list[tuple[float, float, int]]
    drift: Mapping[str, tuple[float, float]]
    facts: Mapping[str, Any]
    rungs: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Returns plain values; NaN becomes null."""
        finite = {n: v if math.isfinite(v) else None for n, v in self.figures.items()}
        return {**dataclasses.asdict(self), "figures": finite}


def measure(release: Release, logs_dir: pathlib.Path, *, from_s: int, until_s: int) -> Health:
    """Measures what was shown in some days.

    Args:
        release: Release whose ranker is asked what it expected.
        logs_dir: Raw logs.
        from_s: First moment of the impressions, Unix seconds.
        until_s: End of them, exclusive, Unix seconds.

    Raises:
        command.InputError: There is no ranker, or nothing was shown then.
    """
    served = _Served(release)
    with tempfile.TemporaryDirectory() as scratch:
        path = pathlib.Path(scratch) / "ranked.parquet"
        ranking.rank(
            release,
            logs_dir=logs_dir,
            output=path,
            from_s=from_s,
            until_s=until_s,
            observe=served.add,
        )
        rows = pq.read_table(path)
    rows = rows.filter(pc.is_valid(rows["expected_watch_time_s"]))
    if not rows.num_rows:
        raise command.InputError(
            f"{logs_dir} has no impressions from {command.format_time(from_s)} to "
            f"{command.format_time(until_s)} that could be scored; give --until and --days that "
            "hold some."
        )
    videos = pq.read_table(release.videos / "videos.parquet", columns=["video_id", "upload_time"])
    figures = _of_videos(rows, videos) | {"repetition": repetition(rows)}
    calibration, interval = _calibration(rows)
    figures |= {"calibration": calibration, "impressions": float(rows.num_rows)}
    return Health(
        figures={**figures, "time_seconds": float(until_s)},
        intervals={"calibration": interval},
        tenths=_tenths(rows),
        drift=served.distances(),
        facts={
            "release": release.version,
            "begin": from_s,
            "end": until_s,
            "pages": len(pc.unique(rows["page_id"])),
            "users": len(pc.unique(rows["user_id"])),
        },
    )


def rungs(servers: Sequence[str]) -> dict[str, float]:
    """Returns the share of the pages on each rung since the servers started, the most first.

    Args:
        servers: ``http://HOST:PORT`` of each server; their pages are summed.

    Raises:
        command.InputError: One does not tell.
    """
    counts: collections.Counter[str] = collections.Counter()
    for server in servers:
        try:
            with urllib.request.urlopen(
                f"{server.rstrip('/')}/metrics", timeout=_ANSWER_WITHIN_S
            ) as answer:
                families = list(parser.text_string_to_metric_families(answer.read().decode()))
        except (OSError, ValueError) as error:
            raise command.InputError(
                f"--servers: {server}/metrics tells nothing: {error}. Name servers that run, as "
                "http://HOST:PORT."
            ) from None
        samples = [sample for family in families for sample in family.samples]
        for sample in samples:
            if sample.name == _PAGES:
                counts[sample.labels["rung"]] += int(sample.value)
    total = counts.total()
    return {rung: count / total for rung, count in counts.most_common() if count}


def gini(counts: np.ndarray) -> float:
    """Returns the Gini coefficient of counts, [N]; NaN where all are 0.

    Example:
        >>> gini(np.array([1, 1, 1, 1])), gini(np.array([0, 0, 0, 4]))
        (0.0, 0.75)
    """
    total, n = counts.sum(), len(counts)
    if not total:
        return math.nan
    ranks = np.arange(1, n + 1)
    return float(2 * (ranks * np.sort(counts)).sum() / (n * total) - (n + 1) / n)


def _of_videos(rows: pa.Table, videos: pa.Table) -> dict[str, float]:
    place = pc.index_in(combined(rows["video_id"]), value_set=combined(videos["video_id"]))
    known = np.asarray(pc.is_valid(place), bool)
    index = np.asarray(pc.fill_null(place, 0), np.int64)
    counts = np.bincount(index[known], minlength=videos.num_rows)
    uploads = np.asarray(combined(videos["upload_time"].cast(pa.float64())), np.float64)
    age_s = np.asarray(combined(rows["time"]), np.float64) - uploads[index]
    # What the release does not have is newer than it.
    is_fresh = ~known | (age_s <= DAY_S)
    return {
        "coverage": float((counts > 0).mean()),
        "gini": gini(counts),
        "fresh": float(is_fresh.mean()),
    }


def repetition(rows: pa.Table) -> float:
    """Returns the share of the videos of pages that stood on their users' pages before.

    Args:
        rows: ``user_id, page_id, time, video_id``; pages without a name tell nothing.
    """
    paged = rows.filter(pc.fill_null(pc.not_equal(rows["page_id"], ""), False))
    grouped = paged.group_by(["user_id", "page_id"]).aggregate(
        [("time", "min"), ("video_id", "list")]
    )
    before: dict[str, set[str]] = {}
    repeated = shown = 0
    for page in grouped.sort_by([("user_id", "ascending"), ("time_min", "ascending")]).to_pylist():
        videos = set(page["video_id_list"])
        earlier = before.get(page["user_id"])
        if earlier is not None:
            repeated, shown = repeated + len(videos & earlier), shown + len(videos)
        before[page["user_id"]] = videos
    return repeated / shown if shown else math.nan


def _seconds(rows: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    watched = np.asarray(combined(pc.fill_null(rows["watch_time_s"], 0.0)), np.float64)
    return watched, np.asarray(combined(rows["expected_watch_time_s"]), np.float64)


def _calibration(rows: pa.Table) -> tuple[float, tuple[float, float]]:
    """Returns seconds watched over seconds expected, and its interval over users."""
    watched, expected = _seconds(rows)
    users = combined(rows["user_id"]).dictionary_encode()
    codes, number = np.asarray(users.indices, np.int64), len(users.dictionary)
    sums = UserSums(
        numerator=sums_by_user(watched, codes, number).numerator,
        denominator=sums_by_user(expected, codes, number).numerator,
    )
    (interval,) = Bootstrap(num_users=number).intervals([sums])
    return interval.value, (interval.low, interval.high)


def _tenths(rows: pa.Table) -> list[tuple[float, float, int]]:
    watched, expected = _seconds(rows)
    parts = np.array_split(np.argsort(expected, kind="stable"), _TENTHS)
    return [
        (float(expected[part].mean()), float(watched[part].mean()), len(part))
        for part in parts
        if len(part)
    ]


class _Served:
    """Counts the numbers that the ranker read, in the bins of its training."""

    def __init__(self, release: Release) -> None:
        self._resolved = ResolvedSpec.load(release.videos)
        path = release.videos / drift.FILE
        bins = json.loads(path.read_text()) if path.is_file() else []
        self._train = {b["feature"]: b for b in bins if b["model"] == spec.RANKER}
        self._counts: dict[str, np.ndarray] = {}

    def add(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Takes in the raw features of some impressions."""
        for name, values in self._numbers(arrays):
            bins = self._train.get(name)
            if bins is not None:
                counts = drift.counted(values, np.array(bins["edges"]))
                self._counts[name] = self._counts.get(name, 0) + counts

    def _numbers(self, arrays: Mapping[str, np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
        for side in Side:
            for kind in (Kind.CONTINUOUS, Kind.BINARY):
                names = self._resolved.vector_names(spec.RANKER, side, kind)
                if names:
                    matrix = arrays[spec.vector_column(side, kind)]
                    yield from zip(names, matrix.T, strict=True)

    def distances(self) -> dict[str, tuple[float, float]]:
        """Returns the distance of each feature and its noise, largest first."""
        distances = {}
        for name, counts in self._counts.items():
            both = drift.Bins((), np.array(self._train[name]["train"]), counts)
            if both.distance is not None and both.noise is not None:
                distances[name] = (both.distance, both.noise)
        return dict(sorted(distances.items(), key=lambda item: -item[1][0]))


# ---- told ----------------------------------------------------------------------------------------


def prometheus(health: Health) -> str:
    """Returns the figures in Prometheus' text format, for a textfile collector or a gateway."""
    lines = []
    for metric, text in METRICS.items():
        value = health.figures[metric.removeprefix("watchnext_health_")]
        lines += [f"# HELP {metric} {text}", f"# TYPE {metric} gauge", f"{metric} {value:.9g}"]
    lines += [f"# HELP {DRIFT} Distance from training, in bits.", f"# TYPE {DRIFT} gauge"]
    lines += [f'{DRIFT}{{feature="{name}"}} {d:.6g}' for name, (d, _) in health.drift.items()]
    return "\n".join(lines) + "\n"


def warnings(health: Health) -> list[str]:
    """Returns what is not as it should be, in words."""
    drifted = [
        name
        for name, (distance, noise) in health.drift.items()
        if distance > max(drift.WARN_ABOVE, drift.WARN_ABOVE_NOISE * noise)
    ]
    said = []
    if drifted:
        said.append(f"{len(drifted)} features are served otherwise: {', '.join(drifted[:8])}.")
    if not health.drift:
        said.append("This release does not say what its features looked like: no drift.")
    low, high = health.intervals["calibration"]
    if low > 1 or high < 1:
        side = "less" if high < 1 else "more"
        said.append(f"People watch {side} than the ranker expects.")
    fallen = 1 - health.rungs.get(RUNGS[0], 0.0) if health.rungs else 0.0
    if fallen > _WARN_FALLEN:
        said.append(f"{fallen:.1%} of the pages stand on a lower rung than {RUNGS[0]}.")
    return said


def page(health: Health) -> str:
    """Returns the page."""
    rows = []
    for metric, text in METRICS.items():
        name = metric.removeprefix("watchnext_health_")
        value = health.figures[name]
        if name in {"impressions", "time_seconds"}:
            continue
        ends = health.intervals.get(name)
        below = f"[{ends[0]:.3f}, {ends[1]:.3f}]" if ends else ""
        shown = f"{value:.3f}" if math.isfinite(value) else "not known"
        rows.append([Cell(name), Cell(shown, below=below), Cell(text, style="words")])
    facts = health.facts
    return reports.render(
        "serving.batch",
        "health.html",
        title="Health of the recommender",
        impressions=f"{health.figures['impressions']:,.0f}",
        pages=f"{facts['pages']:,}",
        users=f"{facts['users']:,}",
        begin=command.format_time(facts["begin"]),
        end=command.format_time(facts["end"]),
        release=facts["release"],
        warnings=warnings(health),
        figures=Table(["figure", "value", "what"], rows),
        calibration=Table(
            ["expected, s", "watched, s", "impressions"],
            [[Cell(f"{e:.2f}"), Cell(f"{w:.2f}"), Cell(f"{n:,}")] for e, w, n in health.tenths],
        ),
        rungs=health.rungs
        and Table(
            ["rung", "share of pages"],
            [[Cell(r), Cell(f"{s:.2%}")] for r, s in health.rungs.items()],
        ),
        formula=drift.FORMULA,
        drift=Table(
            ["feature", "distance", "noise"],
            [
                [Cell(name), Cell(f"{d:.4f}"), Cell(f"{noise:.4f}")]
                for name, (d, noise) in health.drift.items()
            ],
        ),
    )
