"""The numbers that a server counts for Prometheus, and how far its site has drifted, for people.

They are of one server, since it started; whoever looks twice has what happened in between.
"""

import dataclasses
import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from prometheus_client import CollectorRegistry

from features.catalogue import ragged_rows
from serving.funnel.loaded_release import LoadedRelease

_PREFIX = "watchnext_"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Histogram:
    """Durations, counted by length.

    Attributes:
        count: Number of them.
        sum_s: Their sum, seconds.
        bounds_s: Upper bounds of the buckets, seconds; longer ones are in none.
        counts: Number of durations up to each bound.
    """

    count: int
    sum_s: float
    bounds_s: list[float]
    counts: list[int]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Drift:
    """How much what is watched now differs from what the release was built from.

    The divergence is that of Jensen and Shannon in bits, between the shares of watches of the last
    day and of all days that the release knows: 0 for equal shares, 1 where nothing is shared.

    Attributes:
        topics: Divergence of the shares of topics; None where nothing was watched.
        channels: Divergence of the shares of channels; None where nothing was watched.
        watches: Number of watches of the last day.
        new_videos: Share of those of videos that the release was built without.
    """

    topics: float | None
    channels: float | None
    watches: int
    new_videos: float | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Vitals:
    """What one server has counted.

    Attributes:
        now: Moment, Unix seconds.
        release_id: The release that serves.
        index: Kind of its index.
        videos: Number of videos, new ones on the shelf included.
        models: Where models run, in words.
        gauges: Name to value; None where it has none.
        counters: Name to label to count since the start.
        histograms: Name to label to durations since the start.
        drift: How far the site has drifted; None without live state.
    """

    now: float
    release_id: str
    index: str
    videos: int
    models: str
    gauges: dict[str, float | None]
    counters: dict[str, dict[str, float]]
    histograms: dict[str, dict[str, Histogram]]
    drift: Drift | None


def of(registry: CollectorRegistry, release: LoadedRelease, *, now: float, models: str) -> Vitals:
    """Returns the vitals of a server.

    Args:
        registry: Registry of its metrics.
        release: The release that serves.
        now: Moment, Unix seconds.
        models: Where models run, in words.
    """
    gauges: dict[str, float | None] = {}
    counters: dict[str, dict[str, float]] = {}
    histograms: dict[str, dict[str, Histogram]] = {}
    for metric in registry.collect():
        name = metric.name.removeprefix(_PREFIX)
        if metric.type == "gauge":
            for sample in metric.samples:
                gauges[name] = sample.value if math.isfinite(sample.value) else None
        elif metric.type == "counter":
            counters[name] = {
                " ".join(sample.labels.values()): sample.value
                for sample in metric.samples
                if sample.name.endswith("_total")
            }
        elif metric.type == "histogram":
            histograms[name] = _histograms(metric.samples)
    return Vitals(
        now=now,
        release_id=release.version,
        index=release.index.kind,
        videos=len(release.catalogue),
        models=models,
        gauges=gauges,
        counters=counters,
        histograms=histograms,
        drift=drift(release, now=int(now)),
    )


def _histograms(samples: Iterable[Any]) -> dict[str, Histogram]:
    by_label: dict[str, dict[str, Any]] = {}
    for sample in samples:
        label = " ".join(value for key, value in sample.labels.items() if key != "le")
        mine = by_label.setdefault(label, {"bounds": [], "counts": [], "count": 0, "sum": 0.0})
        if sample.name.endswith("_bucket") and sample.labels["le"] != "+Inf":
            mine["bounds"].append(float(sample.labels["le"]))
            mine["counts"].append(int(sample.value))
        elif sample.name.endswith("_count"):
            mine["count"] = int(sample.value)
        elif sample.name.endswith("_sum"):
            mine["sum"] = float(sample.value)
    return {
        label: Histogram(
            count=one["count"], sum_s=one["sum"], bounds_s=one["bounds"], counts=one["counts"]
        )
        for label, one in by_label.items()
    }


def drift(release: LoadedRelease, *, now: int) -> Drift | None:
    """Returns how far what is watched now is from what a release knows; None without live state."""
    if release.live is None:
        return None
    catalogue = release.catalogue
    rows = np.arange(len(catalogue))
    times = np.full(len(rows), now, np.int64)
    lately = np.asarray(release.live.columns(rows, times)["video_live_watches_1d"], np.float64)
    known = release.statistics.columns(rows, times)["video_watches_all"]
    before = np.nan_to_num(np.asarray(known, np.float64))
    offsets, topic_codes, _ = catalogue.topics
    owner = np.repeat(rows, np.diff(offsets))
    codes = topic_codes[ragged_rows(offsets[:-1], np.diff(offsets))]
    channels, _ = catalogue.channels
    total = float(lately.sum())
    lineage = release.manifest.lineage if release.manifest else {}
    built = int(lineage.get("index", {}).get("count", len(rows)))  # New videos come after these.
    return Drift(
        topics=_divergence(codes, lately[owner], before[owner]),
        channels=_divergence(channels, lately, before),
        watches=int(total),
        new_videos=float(lately[built:].sum() / total) if total else None,
    )


def _divergence(codes: np.ndarray, one: np.ndarray, other: np.ndarray) -> float | None:
    from scipy.spatial import distance

    named = codes >= 0
    size = int(codes.max(initial=-1)) + 1
    sums = [np.bincount(codes[named], weights=w[named], minlength=size) for w in (one, other)]
    if not all(each.sum() > 0 for each in sums):
        return None
    return float(distance.jensenshannon(*sums, base=2) ** 2)
