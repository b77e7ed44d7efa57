"""As-of history: what users had done strictly before a moment.

ONE piece of code answers for training and for serving. It works on columns of events of any
number of users: Beam replays thousands of users' logs through it at once, the funnel holds the
same object for the one user who asks. An answer at time ``now`` uses events that happened and were
known before it, so that nothing of the page being scored can leak into its features. A click
happens at its own moment, see :mod:`features.clicks`.

What counts is the same for both, whatever else a log or a store has of a user:

* events on videos outside the catalogue do not count; training sets them aside;
* copies count once: the same user, second and video, and for a watch its watch time and whether it
  was completed, for a search its words;
* per kind of event, the last :data:`features.event_columns.MAX_EVENTS` before the question count.
  Clicks count as far back as both the impressions and the watches that count tell of all of them.

Source: Covington et al., RecSys 2016, section 4.1 ("the most important signals are those that
describe a user's previous interaction with the item itself and other similar items") and 3.4.
"""

import dataclasses
import functools
import types
from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from features import clicks, event_columns, feedback, spec, text
from features.as_of import event_tables, feedback_events, grids
from features.as_of.entity_lookup import EntityLookup
from features.as_of.event_tables import KeptColumns
from features.as_of.feedback_events import FeedbackEvents
from features.catalogue import Catalogue, ragged_rows
from features.event_columns import Events, Queries, user_time_key, visible
from features.loops import compiled


@dataclasses.dataclass(frozen=True, eq=False)
class History:
    """The events of one or many users, ready for as-of questions.

    Attributes:
        catalogue: Catalogue that names channels and topics of the videos.
        watches: Watches of the users, completed or not.
        completed: The watches that count for the bags: completed, or not known.
        completed_row: int64 [c] ascending, which of ``watches`` they are.
        impressions: Impressions of the users, clicked or not.
        clicks: The clicked ones of them, at the times of their clicks.
        clicked_shown: int64 [k], when each of ``clicks`` was shown.
        search_key: Keys of the searches, int64 [s] sorted, see :func:`user_time_key`.
        search_tokens: list<string> [s], tokens of each search, in the same order.
        from_s: Unix seconds; what happened earlier has no influence on an answer.
        feedback: What the users said of videos and channels.
    """

    catalogue: Catalogue
    watches: Events
    completed: Events
    completed_row: np.ndarray
    impressions: Events
    clicks: Events
    clicked_shown: np.ndarray
    search_key: np.ndarray
    search_tokens: pa.ListArray
    from_s: int
    feedback: FeedbackEvents

    @classmethod
    def of(
        cls,
        catalogue: Catalogue,
        users: Mapping[str, int] | None,
        *,
        watches: pa.Table | None,
        searches: pa.Table | None = None,
        impressions: pa.Table | None = None,
        feedback: pa.Table | None = None,
        from_s: int = 0,
        kept: KeptColumns | None = None,
    ) -> "History":
        """Builds a history from tables in the layout of the raw logs.

        Args:
            catalogue: Videos; events on others do not count.
            users: User id to code, 0 or above. Events of users that are not in it are left out.
                None: all events are of one user, whose code is 0, and tables need no ``user_id``.
            watches: Watches with columns ``user_id, video_id, time, watch_time_s``, optional
                ``completed``.
            searches: Searches with columns ``user_id, time, query``.
            impressions: ``user_id, video_id, time, clicked``; with the moments of the clicks, or
                they are found, see :func:`features.clicks.with_moments`.
            feedback: What users said, ``user_id, video_id, time, kind``, optional ``channel_id``
                and ``value``.
            from_s: Nothing before it counts, Unix seconds: training may read a part of a log, and
                serving then must not see more of it.
            kept: What was made of the same user's tables before, and is kept of these; only where
                ``users`` is None.
        """
        kept = kept or KeptColumns()
        of = (catalogue, users)
        watched, done = kept.of(event_tables.watch_events, *of, watches)
        shown, clicked, clicked_shown = event_tables.impression_events(
            *(*of, impressions, watches), from_s=from_s, kept=kept
        )
        search_key, tokens = kept.of(event_tables.search_events, users, searches)
        return cls(
            catalogue=catalogue,
            watches=watched,
            completed=watched.keep(done),
            completed_row=np.flatnonzero(done),
            impressions=shown,
            clicks=clicked,
            clicked_shown=clicked_shown,
            search_key=search_key,
            search_tokens=tokens,
            from_s=from_s,
            feedback=kept.of(event_tables.feedback, *of, feedback),
        )

    # ---- what a question sees -----------------------------------------------------------------

    def seen(self, kind: str, queries: Queries) -> tuple[np.ndarray, np.ndarray]:
        """Returns the slice [start, end) of a kind of event that each query sees, int64 [q] each.

        Args:
            kind: Kind of event, one of ``KINDS_OF_EVENT``.
            queries: Users and moments.
        """
        start, end = self._bounds(self._events[kind], queries)
        if kind == "click" and self._is_cut:
            told_from = [self._told_from(of, queries) for of in (self.impressions, self.watches)]
            reach = user_time_key(queries.user, np.maximum(*told_from))
            start = np.clip(np.searchsorted(self.clicks.key, reach), start, end)
        return start, end

    def seen_completed(self, queries: Queries) -> tuple[np.ndarray, np.ndarray]:
        """Returns the slice of :attr:`completed` that each query sees: those of its watches."""
        start, end = self.seen("watch", queries)
        first, last = np.searchsorted(self.completed_row, [start, end])
        return first, last

    def _bounds(self, events: Events, queries: Queries) -> tuple[np.ndarray, np.ndarray]:
        start, end = events.bounds(queries.user, queries.now)
        return self._since(events.key, queries, start, end), end

    def _seen_searches(self, queries: Queries) -> tuple[np.ndarray, np.ndarray]:
        start, end = visible(self.search_key, queries.user, queries.now)
        return self._since(self.search_key, queries, start, end), end

    def _since(
        self, key: np.ndarray, queries: Queries, start: np.ndarray, end: np.ndarray
    ) -> np.ndarray:
        """Returns starts int64 [q] that leave out what was before :attr:`from_s`."""
        if not self.from_s:
            return start
        since = user_time_key(queries.user, np.full_like(queries.now, self.from_s))
        return np.clip(np.searchsorted(key, since), start, end)

    @functools.cached_property
    def _is_cut(self) -> bool:
        """Whether any user has more impressions or watches than a question sees."""
        most = event_columns.MAX_EVENTS
        users = [e.user for e in (self.impressions, self.watches) if len(e.user) > most]
        return any(bool((user[most:] == user[:-most]).any()) for user in users)

    def _told_from(self, events: Events, queries: Queries) -> np.ndarray:
        """Returns from when on a query's events tell of every click, int64 [q].

        Where events were cut off, one of them may have been clicked, or have told of a click, until
        the window after it was over: what a store keeps of a user says no more than this.
        """
        if not len(events.key):
            return np.zeros_like(queries.now)
        start, end = self._bounds(events, queries)
        before = np.maximum(start - 1, 0)
        cut = (end - start == event_columns.MAX_EVENTS) & (start > 0)
        cut &= (events.user[before] == queries.user) & (events.time[before] >= self.from_s)
        oldest = events.time[np.minimum(start, len(events.time) - 1)]
        return np.where(cut, oldest + clicks.CLICK_WINDOW_S + 1, 0)

    @functools.cached_property
    def searched_words(self) -> tuple[np.ndarray, pa.Array]:
        """Where the tokens of each search begin, int64 [s + 1], and the tokens of all."""
        return text.flat_tokens(self.search_tokens)

    # ---- bags: the last L values, newest first ------------------------------------------------

    def watched_rows(self, queries: Queries, limit: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the last ``limit`` completed watches before each query, newest first.

        Returns:
            lengths int64 [q] and catalogue rows int32 [sum of lengths].
        """
        start, end = self.seen_completed(queries)
        return _newest_first(self.completed.video, start, end, limit)

    def watched_ages(self, queries: Queries, limit: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns how long ago the watches of :meth:`watched_rows` were, in the same order.

        In powers of two, since it matters less, the longer ago it was.

        Returns:
            lengths int64 [q] and the largest n with 2^n seconds or more, int64 [sum of lengths].
        """
        start, end = self.seen_completed(queries)
        lengths, times = _newest_first(self.completed.time, start, end, limit)
        seconds = np.repeat(queries.now, lengths) - times
        return lengths, np.log2(seconds).astype(np.int64)

    def last_search_rows(self, queries: Queries, limit: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns lengths int64 [q] and rows of :attr:`search_tokens`, newest first."""
        start, end = self._seen_searches(queries)
        return _newest_first(np.arange(len(self.search_key)), start, end, limit)

    def searches_within(self, queries: Queries, window_s: int) -> np.ndarray:
        """Returns how many searches fell into the window, float32 [q]."""
        start, end = self._seen_searches(queries)
        since = np.maximum(queries.now - window_s, 0)
        first = np.searchsorted(self.search_key, user_time_key(queries.user, since))
        return (end - np.clip(first, start, end)).astype(np.float32)

    # ---- the grid: user x entity x measure x window -------------------------------------------

    def user_grid(self, queries: Queries) -> dict[str, np.ndarray]:
        """Returns ``grid_names("any")``: what the user did at all, float32 [q] each."""
        loops = compiled.loops()
        if loops is not None and len(queries.now) == 1:
            grid = grids.of_user(loops, self._page_slices(queries), now=int(queries.now[0]))
        else:
            grid = grids.side_by_side(
                {
                    kind: lookup.answer(queries, None, functools.partial(self.seen, kind))
                    for kind, lookup in self._of_user.items()
                }
            )
        named = grids.named("any", grid)
        if len(self.feedback):
            said = feedback_events.counts(self.feedback.of_user, queries, None, self._seen_feedback)
            named |= dict(zip(feedback.names("any"), said.T, strict=True))
        return named

    def video_grid(self, queries: Queries, video_rows: np.ndarray) -> dict[str, np.ndarray]:
        """Returns the grids of a video, of its channel and of its topics, float32 [q] each.

        Args:
            queries: Users and moments, q of them, one per video.
            video_rows: int [q], catalogue rows; -1 gives zeros and NEVER_S.

        A video with several topics has the largest count and the shortest "seconds since" of
        them; one without any has zeros and NEVER_S.
        """
        loops = compiled.loops()
        named = None
        if loops is not None and _is_one_moment(queries):
            named = self._page_grid(loops, queries, video_rows)
        if named is not None and not len(self.feedback):
            return named
        count = len(video_rows)
        owner, entities = self._entities(video_rows)
        pairs, place = _distinct(queries.take(owner), entities)
        lengths = np.bincount(owner[2 * count :], minlength=count)
        if named is None:
            answers = {
                kind: lookup.answer(*pairs, functools.partial(self.seen, kind))
                for kind, lookup in self._of_entities.items()
            }
            grid = grids.side_by_side(answers)[place]
            named = (
                grids.named("video", grid[:count])
                | grids.named("channel", grid[count : 2 * count])
                | grids.named("topic", grids.per_video(grid[2 * count :], lengths))
            )
        if len(self.feedback):
            lookups = self._feedback_of_entities
            said = feedback_events.counts(lookups, *pairs, self._seen_feedback)[place]
            of_topics = grids.largest(said[2 * count :], lengths)
            parts = (said[:count], said[count : 2 * count], of_topics)
            for entity, part in zip(("video", "channel", "topic"), parts, strict=True):
                named |= dict(zip(feedback.names(entity), part.T, strict=True))
        return named

    def _page_grid(
        self, loops: types.ModuleType, queries: Queries, video_rows: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Returns the same as :meth:`video_grid`, without feedback, for one user and moment."""
        one = queries.take(np.zeros(1, np.int64))
        slices, now = self._page_slices(one), int(one.now[0])
        columns = grids.of_page(loops, self.catalogue, slices, now=now, rows=video_rows)
        entities = ("video", "channel", "topic")
        names = [name for entity in entities for name in spec.grid_names(entity)]
        return dict(zip(names, columns, strict=True))

    def _page_slices(self, one: Queries) -> dict[str, grids.Slice]:
        """Returns the events of each kind, and [start, end) of those that one question sees."""
        bounds = {kind: self.seen(kind, one) for kind in self._events}
        return {
            kind: (events, int(bounds[kind][0][0]), int(bounds[kind][1][0]))
            for kind, events in self._events.items()
        }

    def _entities(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the entities of videos as numbers that do not overlap, -1 for none.

        Args:
            rows: int [n], catalogue rows, -1 for none.

        Returns:
            The place in ``rows`` that each entity belongs to, in [0, n), and the entity's number,
            int64 [m] each: n videos, n channels, then the topics, those of one video together.
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

    def _seen_feedback(self, queries: Queries) -> tuple[np.ndarray, np.ndarray]:
        return self._bounds(self.feedback.events, queries)

    @functools.cached_property
    def _feedback_of_entities(self) -> Mapping[str, EntityLookup]:
        return self.feedback.lookups(self._entities, len(self.catalogue))

    @property
    def _events(self) -> dict[str, Events]:
        """The events by kind, in the order of the grid."""
        events = {"impression": self.impressions, "click": self.clicks, "watch": self.watches}
        return {kind: events[kind] for kind in spec.KINDS_OF_EVENT}

    @functools.cached_property
    def _of_user(self) -> dict[str, EntityLookup]:
        return {
            kind: EntityLookup.of(events, np.arange(len(events.key)), None)
            for kind, events in self._events.items()
        }

    @functools.cached_property
    def _of_entities(self) -> dict[str, EntityLookup]:
        return {
            kind: EntityLookup.of(events, *self._entities(events.video))
            for kind, events in self._events.items()
        }


def _is_one_moment(queries: Queries) -> bool:
    """Whether all questions are of one user at one moment, as those of a page are."""
    return bool(len(queries.now)) and not np.ptp(queries.now) and not np.ptp(queries.user)


def _distinct(
    queries: Queries, entities: np.ndarray
) -> tuple[tuple[Queries, np.ndarray], np.ndarray | slice]:
    """Returns questions without repetitions, and where the answer of each of the given ones is.

    The candidates of one page share channels and topics, and their moment. Questions at many
    moments seldom repeat, so they stay as they are.
    """
    if not _is_one_moment(queries):
        return (queries, entities), slice(None)
    distinct, first, place = np.unique(entities, return_index=True, return_inverse=True)
    return (queries.take(first), distinct), place.reshape(-1)


def _lookup(values: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Returns ``values[rows]``, -1 where the row is -1."""
    if not len(values):
        return np.full(len(rows), -1, np.int32)
    return np.where(rows < 0, -1, values[np.maximum(rows, 0)])


def _newest_first(
    values: np.ndarray, start: np.ndarray, end: np.ndarray, limit: int
) -> tuple[np.ndarray, np.ndarray]:
    lengths = np.minimum(end - start, limit)
    # Rows end-1, end-2, ...: the ascending ranges mirrored within each query.
    ascending = ragged_rows(end - lengths, lengths)
    mirrored = np.repeat(2 * end - lengths - 1, lengths) - ascending
    return lengths.astype(np.int64), values[mirrored]
