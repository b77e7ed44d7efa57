"""Features of what users did, each computed by one entry of a table.

What happened lies in :class:`features.as_of.history.History`. To add a feature, declare it in
``features.spec.FEATURES`` with the source ``history.<column>``, and say here how that column is
computed: a number by an entry of :data:`NUMBERS`, a list of values by one of :data:`BAGS`. A vector
of videos is averaged over bags as it is declared (:func:`QueryHistory.mean_vectors`).
"""

import functools
from collections.abc import Callable, Mapping

import numpy as np
import pyarrow as pa

from features import spec, vectors
from features.as_of import ragged, table_values
from features.as_of.history import History
from features.catalogue import ragged_rows
from features.durations import DAY_S
from features.event_columns import Queries
from features.spec import Feature

# Lengths int64 [q], and the values, string [sum of lengths].
Bag = tuple[np.ndarray, pa.Array | ragged.Coded]


class QueryHistory:
    """What users did before some moments; what several features need is computed once.

    Args:
        history: Events of the users.
        queries: Users and moments, q of them.
    """

    def __init__(self, history: History, queries: Queries) -> None:
        self.history = history
        self.queries = queries
        self._bags: dict[str, Bag] = {}

    def bag(self, column: str) -> Bag:
        """Returns the values of a column of :data:`BAGS`, newest first."""
        if column not in self._bags:
            self._bags[column] = BAGS[column](self)
        return self._bags[column]

    @functools.cached_property
    def numbers(self) -> dict[str, np.ndarray]:
        """The columns of :data:`NUMBERS` and of the user's grid, float32 [q] each."""
        grid = self.history.user_grid(self.queries)
        return grid | {column: compute(self) for column, compute in NUMBERS.items()}

    def mean_vectors(self, feature: Feature) -> np.ndarray:
        """Returns a vector of videos averaged over the last watches, float32 [q, width].

        NaN where none of them has one. Which watches, :data:`features.vectors.WINDOWS` says.
        """
        bag = feature.column.partition(".")[0]
        lengths, rows = ragged.first(*self._watched, vectors.WINDOWS[bag])
        # Each video of the bags once: users of a bundle watch the same ones.
        distinct, which = np.unique(rows, return_inverse=True)
        table, width = self.history.catalogue.table, feature.width
        of_videos = table_values.dense(table, feature.of_watched, distinct, width=width)
        return vectors.means(of_videos[which.reshape(-1)], lengths)

    @functools.cached_property
    def _watched(self) -> tuple[np.ndarray, np.ndarray]:
        return self.history.watched_rows(self.queries, spec.WATCH_BAG)

    @functools.cached_property
    def searched(self) -> tuple[np.ndarray, np.ndarray]:
        """Lengths int64 [q], and rows of the searches, newest first."""
        return self.history.last_search_rows(self.queries, spec.SEARCH_BAG)

    @functools.cached_property
    def videos(self) -> Bag:
        """Watched videos."""
        lengths, rows = self._watched
        return lengths, ragged.Coded(rows, self.history.catalogue.video_ids)

    def ages(self) -> Bag:
        """How long ago each of the watched videos was watched, in powers of two."""
        lengths, ages = self.history.watched_ages(self.queries, spec.WATCH_BAG)
        return lengths, pa.array(ages).cast(pa.string())

    @functools.cached_property
    def channels(self) -> Bag:
        """Channels of the watched videos, where they have one."""
        lengths, rows = self._watched
        codes, names = self.history.catalogue.channels
        codes = codes[rows]
        owner = np.repeat(np.arange(len(lengths)), lengths)[codes >= 0]
        counts = np.bincount(owner, minlength=len(lengths)).astype(np.int64)
        return counts, ragged.Coded(codes[codes >= 0], names)

    @functools.cached_property
    def topics(self) -> Bag:
        """Topics of the watched videos, each as often as it comes."""
        lengths, rows = self._watched
        offsets, codes, names = self.history.catalogue.topics
        counts = offsets[rows + 1] - offsets[rows]
        flat = codes[ragged_rows(offsets[rows], counts)] if len(codes) else codes[:0]
        return ragged.sum_runs(counts, lengths), ragged.Coded(flat, names)

    def tokens(self, lengths: np.ndarray, rows: np.ndarray) -> Bag:
        """Returns the tokens of searches.

        Args:
            lengths: int64 [q], searches of each query.
            rows: Rows of the searches, int64 [sum of lengths].
        """
        offsets, values = self.history.searched_words
        counts = offsets[rows + 1] - offsets[rows]
        return ragged.sum_runs(counts, lengths), values.take(
            pa.array(ragged_rows(offsets[rows], counts))
        )


# Column -> how it is computed, float32 [q].
NUMBERS: Mapping[str, Callable[[QueryHistory], np.ndarray]] = {
    "user_searches_1d": lambda past: past.history.searches_within(past.queries, DAY_S),
}
# Column -> how it is computed.
BAGS: Mapping[str, Callable[[QueryHistory], Bag]] = {
    "watched_video_ids": lambda past: past.videos,
    "last_video_id": lambda past: past.videos,
    "watched_ages": lambda past: past.ages(),
    "watched_channel_ids": lambda past: past.channels,
    "last_channel_id": lambda past: past.channels,
    "watched_topics": lambda past: past.topics,
    "search_tokens": lambda past: past.tokens(*past.searched),
    "last_search_tokens": lambda past: past.tokens(*ragged.first(*past.searched, 1)),
}
