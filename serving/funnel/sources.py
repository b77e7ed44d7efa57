"""Candidate sources: each nominates videos for a viewer, best first, with a score of its own.

==============  ====================================================================================
retrieval       nearest to the query embedding in the index of the release
popular         most watched lately, in the viewer's region where that is known
trending        watched most in the last minutes, hours and day
fresh           newest uploads, those on topics of the viewer first
channels        newest uploads of the channels that the viewer watches
co_watch        what people watched after the viewer's last watches, or after a video
again           what the viewer has watched, often and lately; where pages do not leave that out
similar         nearest to the embedding of a video: of pages that stand beside one
==============  ====================================================================================

All but the first need no model and answer in well under a millisecond. They are made from the
release's own statistics when it is loaded; in a server, trending and co_watch follow every event
(:mod:`serving.live.state`).
"""

import dataclasses

import numpy as np
import pyarrow as pa

from features.catalogue import Catalogue, ragged_rows
from features.durations import DAY_S
from serving.funnel import popularity
from serving.funnel.nominations import (
    NOTHING,
    Built,
    Nominations,
    Question,
    Source,
)
from serving.index.index import VideoIndex, search_what_answers
from serving.live.view import LiveView
from serving.servables import signatures

RETRIEVAL, POPULAR, TRENDING, CO_WATCH = "retrieval", "popular", "trending", "co_watch"
SIMILAR, AGAIN = "similar", "again"
_NEWEST = 2000  # Uploads among which fresh ones are chosen by topic.
_SEEDS = 10  # Last watches of the viewer that co-watch starts from.


class Retrieval(Source):
    """Nearest to the query embedding."""

    name = RETRIEVAL
    limit = "retrieved"
    reads = ("index",)

    def __init__(self, index: VideoIndex) -> None:
        self._index = index

    def nominate(self, question: Question, limit: int) -> Nominations:
        """Returns what the index finds; searches deeper until enough of it is allowed."""
        if question.embedding is None or not len(self._index):
            return NOTHING
        # Of the excluded videos, many are exactly what a search finds first.
        k = min(limit + min(len(question.excluded), limit), len(self._index))
        while True:
            rows, scores, lacking = search_what_answers(self._index, question.embedding, k)
            # The rest has no embedding: it comes last, and only because nothing else is left.
            valid = (rows >= 0) & (scores > signatures.UNREACHABLE_BIAS / 2)
            rows, scores = rows[valid], scores[valid]
            keep = question.allowed(rows)
            if keep.sum() >= limit or k >= len(self._index) or not valid.all():
                return Nominations(rows[keep], scores[keep], lacking).head(limit)
            k = min(4 * k, len(self._index))


class Similar(Source):
    """Nearest to the embedding of the video that a page stands beside."""

    name = SIMILAR

    def __init__(self, index: VideoIndex) -> None:
        self._index = index
        self._nearest = Retrieval(index)

    @classmethod
    def of(cls, built: Built) -> Source:
        """Returns the source of an index."""
        return cls(built.index)

    def nominate(self, question: Question, limit: int) -> Nominations:
        """Returns the videos whose inner product with it is largest, without their biases."""
        if question.related_to is None:
            return NOTHING
        rows = np.array([question.related_to])
        embedding = np.array(self._index.embeddings[rows][0], np.float32)
        if embedding[-1] <= signatures.UNREACHABLE_BIAS / 2:
            return NOTHING  # It was never learnt.
        embedding[-1] = 0.0
        of_video = dataclasses.replace(question, embedding=embedding)
        return self._nearest.nominate(of_video, limit)


class Popular(Source):
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
        overall = popularity.decayed(daily, catalogue)
        newest = -catalogue.upload_times
        # Everything has its place, so that a page can always be filled.
        order = np.lexsort((newest, -overall)).astype(np.int32)
        self._everything = Nominations(order, overall[order].astype(np.float32))
        self._regions = popularity.by_region(regional, catalogue, overall)

    @classmethod
    def of(cls, built: Built) -> "Popular":
        """Returns the source of the statistics of a release."""
        return cls(built.daily, built.catalogue, built.regional)

    def nominate(self, question: Question, limit: int) -> Nominations:
        """Returns the most watched of the region of the viewer, or of all where it has no list."""
        listed = self._regions.get(question.viewer.region)
        if listed is None:
            listed = self._everything.head(popularity.TOP + len(question.excluded))
            listed = listed.head(int((listed.scores > 0).sum()))
        return question.first_allowed(listed, limit)

    def fill(self, question: Question, limit: int) -> Nominations:
        """Returns ``limit`` videos of the whole catalogue, popular or not, if there are as many."""
        return question.first_allowed(self._everything, limit)


class Trending(Source):
    """Most watched in the last minutes, hours and day, here and everywhere, in turn.

    Where nothing was watched lately: watched more on the release's last day than usual.
    """

    name = TRENDING
    limit = "trending"

    def __init__(self, listed: Nominations, live: LiveView | None = None) -> None:
        """Nominates.

        Args:
            listed: What trended before the release.
            live: View of what is watched now; None without one.
        """
        self._listed = listed
        self._live = live

    @classmethod
    def of(cls, built: Built) -> Source:
        """Returns the source; the score is how far the last day was above the usual one."""
        last = popularity.day_counts(built.daily, built.catalogue, ages=(0, 1))
        usual = popularity.day_counts(built.daily, built.catalogue, ages=(1, 8)) / 7
        # Standard deviations above a Poisson count of the usual size; +1 for new videos.
        surprise = (last - usual) / np.sqrt(usual + 1)
        order = np.argsort(-surprise, kind="stable")[: popularity.TOP].astype(np.int32)
        order = order[surprise[order] > 0]
        return cls(Nominations(order, surprise[order].astype(np.float32)))

    def over(self, catalogue: Catalogue, index: VideoIndex, live: LiveView | None) -> Source:
        """Returns what trends now, with the same list for where nothing does."""
        del catalogue, index
        return Trending(self._listed, live)

    def nominate(self, question: Question, limit: int) -> Nominations:
        """Returns what trends; the score of what does now is 1 / (place among all + 1)."""
        if self._live is None:
            return question.first_allowed(self._listed, limit)
        rows = self._live.trending_rows(question.viewer.region)
        if not len(rows):
            return question.first_allowed(self._listed, limit)
        scores = (1.0 / np.arange(1, len(rows) + 1)).astype(np.float32)
        return question.first_allowed(Nominations(rows, scores), limit)


class Fresh(Source):
    """Newest uploads, on topics of the viewer first."""

    name = "fresh"
    reads = ("catalogue",)

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        times = catalogue.upload_times
        self._order = np.argsort(-times, kind="stable").astype(np.int32)
        self._sorted_times = -times[self._order]
        offsets, codes, _ = catalogue.topics
        lengths = _lengths(offsets, self._order)
        self._topics = codes[ragged_rows(offsets[self._order], lengths)] if len(codes) else codes
        self._ends = np.concatenate([[0], np.cumsum(lengths)])

    def nominate(self, question: Question, limit: int) -> Nominations:
        """Returns new videos; the score is minus the age in days, plus 7 on a liked topic."""
        first = int(np.searchsorted(self._sorted_times, -question.viewer.now, side="right"))
        rows = self._order[first : first + _NEWEST]
        age_days = (question.viewer.now - self._catalogue.upload_times[rows]) / DAY_S
        is_liked = self._is_liked(first, len(rows), question.viewer.liked_rows)
        scores = -age_days + 7.0 * is_liked
        # Both parts are in order: of each, no more than the first ones are looked at.
        parts = [np.flatnonzero(is_liked), np.flatnonzero(~is_liked)]
        allowed = [question.places_of_allowed(rows[part], limit) for part in parts]
        places = np.sort(np.concatenate([part[a] for part, a in zip(parts, allowed, strict=True)]))
        best = places[np.argsort(-scores[places], kind="stable")[:limit]]
        return Nominations(rows[best], scores[best].astype(np.float32))

    def _is_liked(self, first: int, count: int, liked_rows: np.ndarray) -> np.ndarray:
        """Returns which uploads in places [first, first + count) have a topic of these, bool."""
        offsets, codes, names = self._catalogue.topics
        if not len(codes) or not len(liked_rows):
            return np.zeros(count, bool)
        is_mine = np.zeros(len(names), bool)
        is_mine[codes[ragged_rows(offsets[liked_rows], _lengths(offsets, liked_rows))]] = True
        ends = self._ends[first : first + count + 1]
        hits = np.cumsum(is_mine[self._topics[ends[0] : ends[-1]]])
        return np.diff(np.append(0, hits)[ends - ends[0]]) > 0


class Channels(Source):
    """Newest uploads of the channels that the viewer watches."""

    name = "channels"
    reads = ("catalogue",)
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


class CoWatch(Source):
    """What people watched after what the viewer watched last, or after the video beside."""

    name = CO_WATCH
    reads = ("live",)

    def __init__(self, live: LiveView | None = None) -> None:
        self._live = live

    def nominate(self, question: Question, limit: int) -> Nominations:
        """Returns what followed the last watches; the score sums shares of all followers."""
        seeds = question.viewer.liked_rows[:_SEEDS]
        if question.related_to is not None:
            seeds = np.array([question.related_to], np.int32)
        if self._live is None or not len(seeds):
            return NOTHING
        rows, scores = self._live.rows_after(seeds)
        return question.first_allowed(Nominations(rows, scores), limit)


class Again(Source):
    """What the viewer has watched before; nothing where pages leave that out.

    A video's score is the sum over its watches of (seconds since then) ^ -1/2: how likely something
    is needed again falls with time as a power, and rises with use (Anderson & Schooler,
    "Reflections of the environment in memory", 1991).
    """

    name = AGAIN

    def nominate(self, question: Question, limit: int) -> Nominations:
        """Returns what was watched, best first."""
        watches = question.viewer.history.watches
        known = watches.video >= 0
        if not known.any():
            return NOTHING
        rows, place = np.unique(watches.video[known], return_inverse=True)
        since = np.maximum(question.viewer.now - watches.time[known], 1).astype(np.float64)
        scores = np.bincount(place, weights=since**-0.5, minlength=len(rows))
        rows = rows.astype(np.int32)
        keep = question.allowed(rows)
        rows, scores = rows[keep], scores[keep]
        best = np.argsort(-scores, kind="stable")[:limit]
        return Nominations(rows[best], scores[best].astype(np.float32))


# Each is asked for each page, side by side; for a page beside a video, only SIMILAR and CO_WATCH.
SOURCES: tuple[type[Source], ...] = (
    *(Retrieval, Popular, Trending, Fresh, Channels, CoWatch),
    Again,
)
NAMES = tuple(source.name for source in SOURCES)
# What needs nothing but what everybody watches and what is new.
OF_EVERYBODY = frozenset({POPULAR, TRENDING, Fresh.name, CO_WATCH})


def _lengths(offsets: np.ndarray, rows: np.ndarray) -> np.ndarray:
    return offsets[rows + 1] - offsets[rows]
