"""Candidate sources: each nominates videos for a viewer, best first, with a score of its own.

==============  ====================================================================================
retrieval       nearest to the query embedding in the index of the release
popular         most watched lately, in the viewer's region where that is known
trending        watched more on the last day than the week before makes one expect
fresh           newest uploads, those on topics of the viewer first
channels        newest uploads of the channels that the viewer watches
co_watch        what people watched after the viewer's last watches
again           what the viewer has watched, often and lately; where people watch again
==============  ====================================================================================

All but the first and last are made from the release's own statistics when it is loaded, so they
need no model and answer in well under a millisecond. In a server, trending and co_watch are those
of :mod:`serving.funnel.live_sources`, which every event changes.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np
import pyarrow as pa

from features.catalogue import Catalogue, combined, ragged_rows
from features.durations import DAY_S
from serving.funnel.viewer import Viewer
from serving.servables import signatures

RETRIEVAL, POPULAR, TRENDING, FRESH, CHANNELS = NAMES = (
    "retrieval",
    "popular",
    "trending",
    "fresh",
    "channels",
)
CO_WATCH = "co_watch"
AGAIN = "again"
_HALF_LIFE_DAYS = 7.0
# Watches in a region before its own ranking is worth more than everybody's.
_REGION_MIN_WATCHES = 50
_MAX_REGIONS = 500
_TOP = 2000  # Popular and trending videos that are kept per list.
_NEWEST = 2000  # Uploads among which fresh ones are chosen by topic.


@dataclasses.dataclass(frozen=True)
class Nominations:
    """What one source proposes.

    Attributes:
        rows: int32 [n], rows of the catalogue, each once, best first.
        scores: float32 [n], descending; comparable within the source only.
    """

    rows: np.ndarray
    scores: np.ndarray

    def head(self, limit: int) -> "Nominations":
        """Returns the best ones."""
        return Nominations(self.rows[:limit], self.scores[:limit])


@dataclasses.dataclass(frozen=True)
class Question:
    """What a source is asked.

    Attributes:
        viewer: User who asks, and the moment.
        excluded: int32 sorted, rows that must not be nominated.
        upload_times: int64 [N], of the catalogue.
        embedding: float32 [D + 1] of the viewer, None where there is none.
        permits: Function of rows that returns bool [n]: what filters allow; None allows all.
    """

    viewer: Viewer
    excluded: np.ndarray
    upload_times: np.ndarray
    embedding: np.ndarray | None = None
    permits: Callable[[np.ndarray], np.ndarray] | None = None

    def allowed(self, rows: np.ndarray) -> np.ndarray:
        """Returns bool [n]: uploaded before now, not excluded, and permitted."""
        # Strictly before now, as all that is known: a video may be known from its first watch.
        kept = self.upload_times[rows] < self.viewer.now
        if len(self.excluded):
            # np.isin would sort both; what is excluded is sorted already.
            place = np.searchsorted(self.excluded, rows)
            kept &= self.excluded[np.minimum(place, len(self.excluded) - 1)] != rows
        if self.permits is not None:
            kept[kept] = self.permits(rows[kept])
        return kept

    def first_allowed(self, ordered: Nominations, limit: int) -> Nominations:
        """Returns the first ``limit`` that are allowed, looking no further than it must."""
        look = limit + len(self.excluded)
        while True:
            rows = ordered.rows[:look]
            keep = np.flatnonzero(self.allowed(rows))[:limit]
            if len(keep) == limit or look >= len(ordered.rows):
                return Nominations(rows[keep], ordered.scores[:look][keep])
            look *= 4


class Source(Protocol):
    """A way to find candidates. Safe for threads."""

    name: str

    def nominate(self, question: Question, limit: int) -> Nominations:
        """Returns at most ``limit`` allowed videos."""


class Searchable(Protocol):
    """What :class:`Retrieval` needs of :class:`serving.index.index.Index`."""

    def __len__(self) -> int: ...

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns rows int32 [Q, k] and scores float32 [Q, k], best first."""


class Retrieval:
    """Nearest to the query embedding."""

    name = RETRIEVAL

    def __init__(self, index: Searchable) -> None:
        self._index = index

    def nominate(self, question: Question, limit: int) -> Nominations:
        """Returns what the index finds; searches deeper until enough of it is allowed."""
        if question.embedding is None or not len(self._index):
            return NOTHING
        # Of the excluded videos, many are exactly what a search finds first.
        k = min(limit + min(len(question.excluded), limit), len(self._index))
        while True:
            rows, scores = self._index.search(question.embedding[np.newaxis], k)
            # The rest has no embedding: it comes last, and only because nothing else is left.
            valid = (rows[0] >= 0) & (scores[0] > signatures.UNREACHABLE_BIAS / 2)
            found = Nominations(rows[0][valid], scores[0][valid])
            keep = question.allowed(found.rows)
            if keep.sum() >= limit or k >= len(self._index) or not valid.all():
                return Nominations(found.rows[keep], found.scores[keep]).head(limit)
            k = min(4 * k, len(self._index))


class Popular:
    """Most watched lately, by region."""

    name = POPULAR

    def __init__(
        self, daily: pa.Table, catalogue: Catalogue, regional: pa.Table | None = None
    ) -> None:
        """Orders the videos.

        Args:
            daily: ``video_id, day, impressions, clicks, watches, watch_time_s``.
            catalogue: Catalogue of all videos.
            regional: ``region, video_id, watches`` of the last days, where it is known.
        """
        self._overall = _decayed(daily, catalogue)
        newest = -catalogue.upload_times
        # Everything has its place, so that a page can always be filled.
        order = np.lexsort((newest, -self._overall)).astype(np.int32)
        self._everything = Nominations(order, self._overall[order].astype(np.float32))
        self._regions = self._by_region(regional, catalogue)

    def nominate(self, question: Question, limit: int) -> Nominations:
        """Returns the most watched of the region of the viewer, or of all where it has no list."""
        listed = self._regions.get(question.viewer.region)
        if listed is None:
            listed = self._everything.head(_TOP + len(question.excluded))
            listed = listed.head(int((listed.scores > 0).sum()))
        return question.first_allowed(listed, limit)

    def fill(self, question: Question, limit: int) -> Nominations:
        """Returns ``limit`` videos of the whole catalogue, popular or not, if there are as many."""
        return question.first_allowed(self._everything, limit)

    def _by_region(
        self, regional: pa.Table | None, catalogue: Catalogue
    ) -> Mapping[str, Nominations]:
        if regional is None or not regional.num_rows:
            return {}
        region = combined(regional["region"]).dictionary_encode()
        code = np.asarray(region.indices, np.int64)
        rows = catalogue.rows(regional["video_id"])
        watches = np.where(rows < 0, 0, np.asarray(combined(regional["watches"]), np.float64))
        total = np.bincount(code, weights=watches, minlength=len(region.dictionary))
        # Callers choose the names of regions: of any number, the most watched ones are real.
        most = np.argsort(-total, kind="stable")[:_MAX_REGIONS]
        most = np.sort(most[total[most] >= _REGION_MIN_WATCHES])
        kept = np.flatnonzero((rows >= 0) & np.isin(code, most))
        kept = kept[np.argsort(code[kept], kind="stable")]
        bounds = np.searchsorted(code[kept], np.stack([most, most + 1]))
        # A little of everybody's taste breaks the many ties of a small region.
        everybody = 0.1 * self._overall / max(self._overall.sum(), 1.0)
        lists = {}
        for number, start, end in zip(most.tolist(), *bounds.tolist(), strict=True):
            name, mine = region.dictionary[number].as_py(), kept[start:end]
            if name:
                scores = watches[mine] / total[number] + everybody[rows[mine]]
                best = np.argsort(-scores, kind="stable")[:_TOP]
                lists[name] = Nominations(rows[mine][best], scores[best].astype(np.float32))
        return lists


class Trending:
    """Watched more on the last day than usual."""

    name = TRENDING

    def __init__(self, daily: pa.Table, catalogue: Catalogue) -> None:
        last = _day_counts(daily, catalogue, ages=(0, 1))
        usual = _day_counts(daily, catalogue, ages=(1, 8)) / 7
        # Standard deviations above a Poisson count of the usual size; +1 for new videos.
        surprise = (last - usual) / np.sqrt(usual + 1)
        order = np.argsort(-surprise, kind="stable")[:_TOP].astype(np.int32)
        order = order[surprise[order] > 0]
        self._listed = Nominations(order, surprise[order].astype(np.float32))

    def nominate(self, question: Question, limit: int) -> Nominations:
        """Returns the listed videos; the score is how far the last day was above the usual one."""
        return question.first_allowed(self._listed, limit)


class Fresh:
    """Newest uploads, on topics of the viewer first."""

    name = FRESH

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        times = catalogue.upload_times
        self._order = np.argsort(-times, kind="stable").astype(np.int32)
        self._sorted_times = -times[self._order]

    def nominate(self, question: Question, limit: int) -> Nominations:
        """Returns new videos; the score is minus the age in days, plus 7 on a liked topic."""
        first = int(np.searchsorted(self._sorted_times, -question.viewer.now, side="right"))
        rows = self._order[first : first + _NEWEST]
        rows = rows[question.allowed(rows)]
        age_days = (question.viewer.now - self._catalogue.upload_times[rows]) / DAY_S
        scores = -age_days + 7.0 * self._is_liked(rows, question.viewer.liked_rows)
        best = np.argsort(-scores, kind="stable")[:limit]
        return Nominations(rows[best], scores[best].astype(np.float32))

    def _is_liked(self, rows: np.ndarray, liked_rows: np.ndarray) -> np.ndarray:
        offsets, codes, names = self._catalogue.topics
        if not len(codes) or not len(liked_rows):
            return np.zeros(len(rows))
        is_mine = np.zeros(len(names), bool)
        is_mine[codes[ragged_rows(offsets[liked_rows], _lengths(offsets, liked_rows))]] = True
        lengths = _lengths(offsets, rows)
        hits = is_mine[codes[ragged_rows(offsets[rows], lengths)]]
        owner = np.repeat(np.arange(len(rows)), lengths)
        return (np.bincount(owner[hits], minlength=len(rows)) > 0).astype(np.float64)


class Channels:
    """Newest uploads of the channels that the viewer watches."""

    name = CHANNELS
    _PER_CHANNEL = 10

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        codes, names = catalogue.channels
        order = np.lexsort((-catalogue.upload_times, codes))
        self._order = order[codes[order] >= 0].astype(np.int32)
        self._starts = np.searchsorted(codes[self._order], np.arange(len(names) + 1))

    def nominate(self, question: Question, limit: int) -> Nominations:
        """Returns videos of watched channels; the score counts watches of the channel."""
        codes, _ = self._catalogue.channels
        watched = codes[question.viewer.liked_rows]
        channels, counts = np.unique(watched[watched >= 0], return_counts=True)
        if not len(channels):
            return NOTHING
        lengths = np.minimum(
            self._starts[channels + 1] - self._starts[channels],
            self._PER_CHANNEL + len(question.excluded),
        )
        rows = self._order[ragged_rows(self._starts[channels], lengths)]
        scores = np.repeat(counts, lengths).astype(np.float64)
        keep = question.allowed(rows)
        rows, scores = rows[keep], scores[keep]
        # Ties between channels of equal habit: the newest upload first.
        best = np.lexsort((-self._catalogue.upload_times[rows], -scores))[:limit]
        return Nominations(rows[best], scores[best].astype(np.float32))


class Again:
    """What the viewer has watched before, for sites where people watch again.

    A video's score is the sum over its watches of (seconds since then) ^ -1/2: how likely something
    is needed again falls with time as a power, and rises with use (Anderson & Schooler,
    "Reflections of the environment in memory", 1991).
    """

    name = AGAIN

    def nominate(self, question: Question, limit: int) -> Nominations:
        """Returns what was watched, best first."""
        watches = question.viewer.history.watches
        known = watches.video >= 0
        rows, place = np.unique(watches.video[known], return_inverse=True)
        since = np.maximum(question.viewer.now - watches.time[known], 1).astype(np.float64)
        scores = np.bincount(place, weights=since**-0.5, minlength=len(rows))
        rows = rows.astype(np.int32)
        keep = question.allowed(rows)
        rows, scores = rows[keep], scores[keep]
        best = np.argsort(-scores, kind="stable")[:limit]
        return Nominations(rows[best], scores[best].astype(np.float32))


NOTHING = Nominations(np.zeros(0, np.int32), np.zeros(0, np.float32))


def _lengths(offsets: np.ndarray, rows: np.ndarray) -> np.ndarray:
    return offsets[rows + 1] - offsets[rows]


def _activity(daily: pa.Table) -> np.ndarray:
    """Returns what counts as popularity, float64 [n]: watches; where nobody logs them, clicks."""
    watches = np.asarray(combined(daily["watches"]), np.float64)
    return watches if watches.any() else np.asarray(combined(daily["clicks"]), np.float64)


def _decayed(daily: pa.Table, catalogue: Catalogue) -> np.ndarray:
    """Returns watches with a half-life of a week, counted back from the last day: float64 [N]."""
    if not daily.num_rows:
        return np.zeros(len(catalogue))
    rows = catalogue.rows(daily["video_id"])
    day = np.asarray(combined(daily["day"]), np.int64)
    weight = _activity(daily) * 0.5 ** ((day.max() - day) / _HALF_LIFE_DAYS)
    return np.bincount(rows[rows >= 0], weights=weight[rows >= 0], minlength=len(catalogue))


def _day_counts(daily: pa.Table, catalogue: Catalogue, *, ages: tuple[int, int]) -> np.ndarray:
    """Returns watches on the days that are ``[first, end)`` days before the last: float64 [N]."""
    if not daily.num_rows:
        return np.zeros(len(catalogue))
    rows = catalogue.rows(daily["video_id"])
    day = np.asarray(combined(daily["day"]), np.int64)
    age = day.max() - day
    mine = (rows >= 0) & (age >= ages[0]) & (age < ages[1])
    return np.bincount(rows[mine], weights=_activity(daily)[mine], minlength=len(catalogue))
