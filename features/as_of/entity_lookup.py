"""Events of users by what they were about: a video, a channel, a topic, or anything at all."""

import dataclasses
from collections.abc import Callable

import numpy as np

from features import spec
from features.event_columns import Events, Queries, user_time_key

NEVER_S = 1e9  # "seconds since" of what never happened: about 32 years, above any real value


@dataclasses.dataclass(frozen=True)
class EntityLookup:
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
    def of(cls, events: Events, row: np.ndarray, entity: np.ndarray | None) -> "EntityLookup":
        """Groups the events at ``row`` int [m] by entity, int [m], -1 for none; None: by user."""
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
        self,
        queries: Queries,
        entity: np.ndarray | None,
        seen: Callable[[Queries], tuple[np.ndarray, np.ndarray]],
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Answers for users and entities.

        Args:
            queries: Users and moments.
            entity: int [q]; None for the user alone.
            seen: Function from queries to the slices [start, end) of the events that they see.

        Returns:
            Counts [q, W], watch milliseconds [q, W] and seconds since the last event [q].
        """
        count = len(queries.now)
        if not len(self.position):
            zeros = np.zeros((count, len(spec.WINDOWS_S)))
            return zeros, zeros, np.full(count, NEVER_S)
        code = np.zeros(count, np.int64) if entity is None else entity.astype(np.int64)
        wanted = _group(queries.user, np.maximum(code, 0))
        group = np.minimum(np.searchsorted(self.groups, wanted), len(self.groups) - 1)
        have_met = (self.groups[group] == wanted) & (code >= 0)
        # Most (user, entity) pairs never met: only the others are worth a search.
        hit = np.flatnonzero(have_met)
        asked_of_hit = queries.take(hit)
        first, end = self._ranges(asked_of_hit, group[hit], seen(asked_of_hit))
        windows = len(spec.WINDOWS_S)
        counts, sums = np.zeros((count, windows)), np.zeros((count, windows))
        counts[hit] = end[:, None] - first
        sums[hit] = self.watch_time_ms[end][:, None] - self.watch_time_ms[first]
        last = np.full(count, NEVER_S)
        some = end > first[:, -1]
        newest = self.events.time[self.row[end[some] - 1]]
        last[hit[some]] = queries.now[hit[some]] - newest
        return counts, sums, last

    def _ranges(
        self, queries: Queries, group: np.ndarray, seen: tuple[np.ndarray, np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns first [q, W] and end [q] into :attr:`position` for each window."""
        start, end = seen
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
        places = np.searchsorted(self.position, rows)
        return places[:, :-1], places[:, -1]


def _group(user: np.ndarray, entity: np.ndarray) -> np.ndarray:
    return (user.astype(np.int64) << 32) | entity.astype(np.int64)
