"""As-of history: what users had done strictly before a moment.

ONE piece of code answers for training and for serving. It works on columns of events of any
number of users: Beam replays thousands of users' logs through it at once, the funnel holds the
same object for the one user who asks. An answer at time ``now`` uses events with
``time < now`` only, so that nothing of the page being scored can leak into its features.

How far an answer looks back is bounded, see :mod:`features.event_columns`.

Source: Covington et al., RecSys 2016, section 4.1 ("the most important signals are those that
describe a user's previous interaction with the item itself and other similar items") and 3.4.
"""

import dataclasses
import functools
from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from features import spec, text
from features.catalogue import Catalogue, combined, filled, ragged_rows
from features.event_columns import Events, Queries, user_time_key, visible

NEVER_S = 1e9  # "seconds since" of what never happened: about 32 years, above any real value


@dataclasses.dataclass(frozen=True, eq=False)
class History:
    """The events of one or many users, ready for as-of questions.

    Attributes:
        catalogue: Names channels and topics of the videos.
        watches: All watches.
        completed: The watches that count for the bags: completed, or not known.
        impressions: Shown videos.
        clicks: The clicked ones of them.
        search_key: int64 [s] sorted, see :func:`user_time_key`.
        search_tokens: list<string> [s], tokens of each search, in the same order.
    """

    catalogue: Catalogue
    watches: Events
    completed: Events
    impressions: Events
    clicks: Events
    search_key: np.ndarray
    search_tokens: pa.ListArray

    @classmethod
    def of(
        cls,
        catalogue: Catalogue,
        users: Mapping[str, int] | None,
        *,
        watches: pa.Table | None,
        searches: pa.Table | None = None,
        impressions: pa.Table | None = None,
    ) -> "History":
        """Builds a history from tables in the layout of the raw logs.

        Args:
            catalogue: Videos; events on others still count for the user's own totals.
            users: User id to code, 0 or above. Events of users that are not in it are left out.
                None: all events are of one user, whose code is 0, and tables need no ``user_id``.
            watches: ``user_id, video_id, time, watch_time_s``, optional ``completed``.
            searches: ``user_id, time, query``.
            impressions: ``user_id, video_id, time, clicked, watch_time_s``.
        """
        watched, done = _video_events(catalogue, users, watches, "completed")
        shown, clicked = _video_events(catalogue, users, impressions, "clicked")
        search_key, tokens = _search_events(users, searches)
        return cls(
            catalogue=catalogue,
            watches=watched,
            completed=watched.keep(done),
            impressions=shown,
            clicks=shown.keep(clicked),
            search_key=search_key,
            search_tokens=tokens,
        )

    # ---- bags: the last L values, newest first ------------------------------------------------

    def watched_rows(self, queries: Queries, limit: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the last ``limit`` completed watches before each query, newest first.

        Returns:
            lengths int64 [q] and catalogue rows int32 [sum of lengths]; watches of videos that
            the catalogue does not have are left out.
        """
        start, end = self.completed.bounds(queries.user, queries.now)
        return _newest_first(self.completed.video, start, end, limit)

    def last_search_rows(self, queries: Queries, limit: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns lengths int64 [q] and rows of :attr:`search_tokens`, newest first."""
        start, end = visible(self.search_key, queries.user, queries.now)
        return _newest_first(np.arange(len(self.search_key)), start, end, limit)

    def searches_within(self, queries: Queries, window_s: int) -> np.ndarray:
        """Returns how many searches fell into the window, float32 [q]."""
        start, end = visible(self.search_key, queries.user, queries.now)
        since = np.maximum(queries.now - window_s, 0)
        first = np.searchsorted(self.search_key, user_time_key(queries.user, since))
        return (end - np.clip(first, start, end)).astype(np.float32)

    # ---- the grid: user x entity x measure x window -------------------------------------------

    def user_grid(self, queries: Queries) -> dict[str, np.ndarray]:
        """Returns ``grid_names("any")``: what the user did at all, float32 [q] each."""
        grid = _grid({k: events.answer(queries, None) for k, events in self._of_user.items()})
        return _named("any", grid)

    def video_grid(self, queries: Queries, video_rows: np.ndarray) -> dict[str, np.ndarray]:
        """Returns the grids of a video, of its channel and of its topics, float32 [q] each.

        Args:
            queries: One per video.
            video_rows: int [q], catalogue rows; -1 gives zeros and NEVER_S.

        A video with several topics has the largest count and the shortest "seconds since" of
        them; one without any has zeros and NEVER_S.
        """
        count = len(video_rows)
        owner, entities = self._entities(video_rows)
        asked, place = _distinct(queries.take(owner), entities)
        answers = {k: events.answer(*asked) for k, events in self._of_entities.items()}
        grid = _grid(answers)[place]
        lengths = np.bincount(owner[2 * count :], minlength=count)
        return (
            _named("video", grid[:count])
            | _named("channel", grid[count : 2 * count])
            | _named("topic", _per_video(grid[2 * count :], lengths))
        )

    def _entities(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the entities of videos as numbers that do not overlap, -1 for none.

        Args:
            rows: int [n], catalogue rows, -1 for none.

        Returns:
            Which of ``rows`` each entity belongs to, and its number, int64 [m] each: n videos, n
            channels, then the topics, those of one video together.
        """
        count = len(rows)
        channels, names = self.catalogue.channels
        channel = _lookup(channels, rows).astype(np.int64)
        offsets, codes, _ = self.catalogue.topics
        known = np.maximum(rows, 0)
        lengths = np.where(rows < 0, 0, offsets[known + 1] - offsets[known])
        topics = codes[ragged_rows(offsets[known], lengths)] if len(codes) else codes[:0]
        first_channel = len(self.catalogue)
        first_topic = first_channel + len(names)
        numbers = (
            rows.astype(np.int64),
            np.where(channel < 0, -1, channel + first_channel),
            topics.astype(np.int64) + first_topic,
        )
        everyone = np.arange(count)
        owner = np.concatenate([everyone, everyone, np.repeat(everyone, lengths)])
        return owner, np.concatenate(numbers)

    @property
    def _events(self) -> dict[str, Events]:
        """The events by kind, in the order of the grid."""
        events = {"impression": self.impressions, "click": self.clicks, "watch": self.watches}
        return {kind: events[kind] for kind in spec.KINDS_OF_EVENT}

    @functools.cached_property
    def _of_user(self) -> dict[str, "_EntityLookup"]:
        return {
            kind: _EntityLookup.of(events, np.arange(len(events.key)), None)
            for kind, events in self._events.items()
        }

    @functools.cached_property
    def _of_entities(self) -> dict[str, "_EntityLookup"]:
        return {
            kind: _EntityLookup.of(events, *self._entities(events.video))
            for kind, events in self._events.items()
        }


@dataclasses.dataclass(frozen=True)
class _EntityLookup:
    """Events grouped by (user, entity), in time order within each group.

    Event rows are row numbers of ``events``: because those are sorted by user and time, a
    window of time is a range of rows, and (group, row) is one sortable number.
    """

    events: Events
    groups: np.ndarray  # int64 [g] sorted, user and entity in one number
    position: np.ndarray  # int64 [m] sorted, group * stride + event row
    row: np.ndarray  # int64 [m], event row
    watch_time_ms: np.ndarray  # int64 [m + 1], running total
    stride: int

    @classmethod
    def of(cls, events: Events, row: np.ndarray, entity: np.ndarray | None) -> "_EntityLookup":
        known = np.full(len(row), True) if entity is None else entity >= 0
        row = row[known]
        code = np.zeros(len(row), np.int64) if entity is None else entity[known]
        groups, group = np.unique(_group(events.user[row], code), return_inverse=True)
        stride = len(events.key) + 1
        position = group.astype(np.int64) * stride + row
        order = np.argsort(position, kind="stable")
        totals = np.zeros(len(row) + 1, np.int64)
        np.cumsum(events.watch_time_ms[row[order]], out=totals[1:])
        return cls(events, groups, position[order], row[order], totals, stride)

    def answer(
        self, queries: Queries, entity: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns counts [q, W], watch milliseconds [q, W] and seconds since the last event [q]."""
        count = len(queries.now)
        if not len(self.position):
            zeros = np.zeros((count, len(spec.WINDOWS_S)))
            return zeros, zeros, np.full(count, NEVER_S)
        code = np.zeros(count, np.int64) if entity is None else entity.astype(np.int64)
        asked = _group(queries.user, np.maximum(code, 0))
        group = np.minimum(np.searchsorted(self.groups, asked), len(self.groups) - 1)
        found = (self.groups[group] == asked) & (code >= 0)
        # Most (user, entity) pairs never met: only the others are worth a search.
        hit = np.flatnonzero(found)
        first, end = self._ranges(queries.take(hit), group[hit])
        windows = len(spec.WINDOWS_S)
        counts, sums = np.zeros((count, windows)), np.zeros((count, windows))
        counts[hit] = end[:, None] - first
        sums[hit] = self.watch_time_ms[end][:, None] - self.watch_time_ms[first]
        last = np.full(count, NEVER_S)
        seen = end > first[:, -1]
        newest = self.events.time[self.row[end[seen] - 1]]
        last[hit[seen]] = queries.now[hit[seen]] - newest
        return counts, sums, last

    def _ranges(self, queries: Queries, group: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns first [q, W] and end [q] into :attr:`position` for each window."""
        start, end = self.events.bounds(queries.user, queries.now)
        firsts = []
        for window in spec.WINDOWS_S.values():
            if window is None:
                firsts.append(start)
                continue
            since = np.maximum(queries.now - window, 0)
            first = np.searchsorted(self.events.key, user_time_key(queries.user, since))
            firsts.append(np.clip(first, start, end))
        base = group * self.stride
        rows = np.stack([*firsts, end], axis=1) + base[:, None]
        found = np.searchsorted(self.position, rows)
        return found[:, :-1], found[:, -1]


def _distinct(
    queries: Queries, entities: np.ndarray
) -> tuple[tuple[Queries, np.ndarray], np.ndarray | slice]:
    """Returns questions without repetitions, and where the answer of each of the given ones is.

    The candidates of one page share channels and topics, and their moment. Questions at many
    moments seldom repeat, so they stay as they are.
    """
    if not len(entities) or np.ptp(queries.now) or np.ptp(queries.user):
        return (queries, entities), slice(None)
    distinct, first, place = np.unique(entities, return_index=True, return_inverse=True)
    return (queries.take(first), distinct), place.reshape(-1)


def _grid(answers: Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray]]) -> np.ndarray:
    """Returns answers by kind of event side by side, float32 [q, F], as ``grid_names`` has them."""
    return np.concatenate(
        [
            *(counts for counts, _, _ in answers.values()),
            answers["watch"][1] / 1000,
            *(last[:, np.newaxis] for _, _, last in answers.values()),
        ],
        axis=1,
    ).astype(np.float32)


def _named(entity: str, grid: np.ndarray) -> dict[str, np.ndarray]:
    return dict(zip(spec.grid_names(entity), grid.T, strict=True))


def _group(user: np.ndarray, entity: np.ndarray) -> np.ndarray:
    return (user.astype(np.int64) << 32) | entity.astype(np.int64)


def _lookup(values: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Returns ``values[rows]``, -1 where the row is -1."""
    if not len(values):
        return np.full(len(rows), -1, np.int32)
    return np.where(rows < 0, -1, values[np.maximum(rows, 0)])


def _per_video(pairs: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Reduces the grid of (query, topic) pairs to one row per query."""
    since = len(spec.KINDS_OF_EVENT)  # Columns at the end: the others are counts.
    result = np.zeros((len(lengths), pairs.shape[1]), np.float32)
    result[:, -since:] = NEVER_S
    if len(pairs):
        some = lengths > 0
        starts = (np.cumsum(lengths) - lengths)[some]
        result[some, :-since] = np.maximum.reduceat(pairs[:, :-since], starts)
        result[some, -since:] = np.minimum.reduceat(pairs[:, -since:], starts)
    return result


def _newest_first(
    values: np.ndarray, start: np.ndarray, end: np.ndarray, limit: int
) -> tuple[np.ndarray, np.ndarray]:
    lengths = np.minimum(end - start, limit)
    # Rows end-1, end-2, ...: the ascending ranges mirrored within each query.
    ascending = ragged_rows(end - lengths, lengths)
    mirrored = np.repeat(2 * end - lengths - 1, lengths) - ascending
    picked = values[mirrored]
    known = picked >= 0
    owner = np.repeat(np.arange(len(lengths)), lengths)
    return np.bincount(owner[known], minlength=len(lengths)).astype(np.int64), picked[known]


def _user_codes(users: Mapping[str, int] | None, table: pa.Table) -> np.ndarray:
    if users is None:
        return np.zeros(table.num_rows, np.int64)
    encoded = combined(table["user_id"]).dictionary_encode()
    codes = np.array([users.get(u, -1) for u in encoded.dictionary.to_pylist()], np.int64)
    indices = np.asarray(encoded.indices.fill_null(-1), np.int64)
    return _lookup(codes, indices).astype(np.int64)


def _video_events(
    catalogue: Catalogue, users: Mapping[str, int] | None, table: pa.Table | None, flag: str
) -> tuple[Events, np.ndarray]:
    """Returns the events and, in their order, whether ``flag`` holds (missing counts as true)."""
    if table is None or not table.num_rows:
        empty = np.zeros(0, np.int64)
        return Events.of_sorted(empty, empty, empty, np.zeros(0)), np.zeros(0, bool)
    user = _user_codes(users, table)
    video = catalogue.rows(table["video_id"])
    time = np.asarray(combined(table["time"]), np.int64)
    seconds = np.asarray(filled(combined(table["watch_time_s"]), pa.float64(), 0.0))
    flags = np.full(table.num_rows, True)
    if flag in table.column_names:
        flags = np.asarray(filled(combined(table[flag]), pa.bool_(), True))
    order = np.lexsort((video, time, user))
    order = order[user[order] >= 0]
    events = Events.of_sorted(user[order], time[order], video[order], seconds[order])
    return events, flags[order]


def _search_events(
    users: Mapping[str, int] | None, table: pa.Table | None
) -> tuple[np.ndarray, pa.ListArray]:
    if table is None or not table.num_rows:
        return np.zeros(0, np.int64), pa.array([], pa.list_(pa.string()))
    user = _user_codes(users, table)
    queries = combined(table["query"])
    key = user_time_key(user, np.asarray(combined(table["time"]), np.int64))
    # The query itself breaks ties, so that the order does not depend on how rows arrived.
    encoded = filled(queries, pa.string(), "").dictionary_encode()
    rank = np.argsort(np.argsort(np.asarray(encoded.dictionary.to_pylist(), dtype=object)))
    order = np.lexsort((rank[np.asarray(encoded.indices)], key))
    order = order[user[order] >= 0]
    return key[order], text.tokenise(queries.take(pa.array(order)))
