"""A video's statistics of the last minutes and hours, over all users: what is hot just now.

Where content turns over fast, what everybody does at this moment says more than any model of the
night before. Counts are kept by whole minutes. A question at time ``now`` sees the minutes before
the one that ``now`` lies in, so

* nothing of the page itself, or at its very second, can leak into its features;
* training and serving agree although an event reaches a funnel seconds after it happened: only
  what takes longer than the rest of its minute is seen by replay and not by the funnel;
* a question is up to 59 seconds behind. (The live candidate sources are not.)

Watches and impressions are counted, each at its own time. Clicks are not: logs seldom say when one
happened (:mod:`features.clicks`). Watches tell the same, with their own time.

Counts add up, so that parts of a log can be counted anywhere and put together in any order. Beam
counts buckets of users, a funnel keeps one part of older events and one of the newest.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import pyarrow as pa

from features import spec
from features.catalogue import Catalogue, combined
from features.durations import MINUTE_S
from features.loops import compiled

COUNTED = ("watches", "impressions")
_MINUTE_BITS = 30  # minutes since 1970 until the year 4011
_SCHEMA = pa.schema({"key": pa.int64(), "watches": pa.int64(), "impressions": pa.int64()})


def minute_counts(
    catalogue: Catalogue, watches: pa.Table | None, impressions: pa.Table | None
) -> pa.Table:
    """Counts events by video and minute.

    Args:
        catalogue: Catalogue that numbers the videos; events on others are left out.
        watches: Watches with columns ``video_id`` and ``time``; None for none.
        impressions: Impressions with columns ``video_id`` and ``time``; None for none.

    Returns:
        ``key`` (see :func:`keys_of`), ``watches``, ``impressions``; sorted, each key once.
    """
    parts = []
    for kind, events in zip(COUNTED, (watches, impressions), strict=True):
        if events is not None and events.num_rows:
            rows = catalogue.rows(events["video_id"])
            times = np.asarray(combined(events["time"]), np.int64)
            parts.append(counts_of(kind, keys_of(rows[rows >= 0], times[rows >= 0])))
    return merge(parts)


def keys_of(rows: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Returns video row and minute in one sortable number, int64 [n]."""
    return _keys(rows, times // MINUTE_S)


def _keys(rows: np.ndarray, minutes: np.ndarray) -> np.ndarray:
    return (rows.astype(np.int64) << _MINUTE_BITS) | np.maximum(minutes, 0)


def counts_of(kind: str, keys: np.ndarray) -> pa.Table:
    """Returns a table of counts of one kind of event, ``watches`` or ``impressions``."""
    distinct, counts = np.unique(keys, return_counts=True)
    zeros = np.zeros(len(distinct), np.int64)
    columns = {"key": distinct} | {name: counts if name == kind else zeros for name in COUNTED}
    return pa.table(columns, _SCHEMA)


def merge(parts: Sequence[pa.Table]) -> pa.Table:
    """Adds up tables of counts."""
    if not parts:
        return _SCHEMA.empty_table()
    # Sorted runs, put in order and added up by position: a hash table of as many keys as a large
    # log has would take several times the memory.
    keys = np.concatenate([np.asarray(combined(part["key"]), np.int64) for part in parts])
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    first = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]])[: len(keys)])
    columns = {"key": keys[first]}
    for name in COUNTED:
        counts = np.concatenate([np.asarray(combined(p[name]), np.int64) for p in parts])[order]
        columns[name] = np.add.reduceat(counts, first) if len(first) else counts
    return pa.table(columns, _SCHEMA)


def since(counts: pa.Table, time_s: int) -> pa.Table:
    """Keeps the minutes from the one of ``time_s`` on."""
    minutes = minutes_of(np.asarray(combined(counts["key"]), np.int64))
    return counts.filter(pa.array(minutes >= max(time_s, 0) // MINUTE_S))


def rows_of(keys: np.ndarray) -> np.ndarray:
    """Returns the video row of each key, int64 [n]."""
    return keys >> _MINUTE_BITS


def minutes_of(keys: np.ndarray) -> np.ndarray:
    """Returns the minute since 1970 of each key, int64 [n]."""
    return keys & ((1 << _MINUTE_BITS) - 1)


def with_rows(counts: pa.Table, new_row: np.ndarray) -> pa.Table:
    """Returns the counts with the rows ``new_row[row]``; those that become -1 are left out."""
    keys = np.asarray(combined(counts["key"]), np.int64)
    rows = new_row[rows_of(keys)]
    renamed = counts.set_column(0, "key", pa.array(_keys(np.maximum(rows, 0), minutes_of(keys))))
    return merge([renamed.filter(pa.array(rows >= 0))])


@dataclasses.dataclass(frozen=True)
class _Part:
    """Running totals of one table of counts.

    Attributes:
        keys: Keys of the counts, int64 [n] sorted.
        sums: Running totals of :data:`COUNTED`, int64 [n + 1, 2].
        minutes: int64 [m] sorted, those in which anything happened. Their number is that of the
            events at most, however far apart these are.
        totals: int64 [m + 1], running, watches of all videos in these minutes.
    """

    keys: np.ndarray
    sums: np.ndarray
    minutes: np.ndarray
    totals: np.ndarray

    @classmethod
    def of(cls, counts: pa.Table) -> "_Part":
        keys = np.asarray(combined(counts["key"]), np.int64)
        values = np.stack([np.asarray(combined(counts[n]), np.int64) for n in COUNTED], axis=1)
        sums = np.zeros((len(keys) + 1, len(COUNTED)), np.int64)
        np.cumsum(values, axis=0, out=sums[1:])
        watched = pa.table({"minute": minutes_of(keys), "watches": values[:, 0]})
        by_minute = watched.group_by("minute", use_threads=False).aggregate([("watches", "sum")])
        by_minute = by_minute.sort_by("minute")
        totals = np.zeros(by_minute.num_rows + 1, np.int64)
        np.cumsum(combined(by_minute["watches_sum"]), out=totals[1:])
        return cls(keys, sums, np.asarray(combined(by_minute["minute"])), totals)

    def counts(self, rows: np.ndarray, starts: np.ndarray, end: np.ndarray) -> np.ndarray:
        """Returns int64 [2, W, n]: counts in minutes [start, end).

        Args:
            rows: Catalogue rows of the videos, int [n].
            starts: int64 [n, W], first minute of each of W windows.
            end: int64 [n], the minute at which the windows end, itself not counted.
        """
        loops = compiled.loops()
        if loops is not None and len(end) and (end == end[0]).all():
            totals = np.zeros((len(COUNTED), starts.shape[1], len(rows)), np.int64)
            bounds = np.append(starts[0], end[0])
            videos = np.ascontiguousarray(rows, np.int32)
            loops.add_window_counts(self.keys, self.sums, videos, bounds, _MINUTE_BITS, totals)
            return totals
        last = np.searchsorted(self.keys, _keys(rows, end))
        first = np.searchsorted(self.keys, _keys(rows[:, np.newaxis], starts))
        return (self.sums[last][:, np.newaxis] - self.sums[first]).transpose(2, 1, 0)

    def total_watches(self, starts: np.ndarray, end: np.ndarray) -> np.ndarray:
        """Returns watches of all videos in minutes [start, end), int64 [n, W]."""
        upto = self.totals[np.searchsorted(self.minutes, end)]
        return upto[:, np.newaxis] - self.totals[np.searchsorted(self.minutes, starts)]


class LiveColumns(Protocol):
    """What examples need of live statistics."""

    def columns(self, video_rows: np.ndarray, times: np.ndarray) -> Mapping[str, np.ndarray]:
        """See :meth:`LiveStatistics.columns`."""


@dataclasses.dataclass(frozen=True)
class LiveStatistics:
    """Answers :func:`features.spec.live_names` for videos at times."""

    parts: tuple[_Part, ...]

    @classmethod
    def of(cls, *counts: pa.Table) -> "LiveStatistics":
        """Indexes tables of :func:`minute_counts` of different events."""
        return cls(tuple(_Part.of(table) for table in counts if table.num_rows))

    def plus(self, counts: pa.Table) -> "LiveStatistics":
        """Returns these and further counts."""
        return LiveStatistics((*self.parts, *LiveStatistics.of(counts).parts))

    def columns(self, video_rows: np.ndarray, times: np.ndarray) -> dict[str, np.ndarray]:
        """Computes every live statistic.

        Args:
            video_rows: int [n], -1 for a video outside the catalogue.
            times: int64 [n], Unix seconds of the request.

        Returns:
            Name to float32 [n]. Counts are 0 without events; ratios are then NaN (missing).
        """
        windows = np.array(list(spec.LIVE_WINDOWS_S.values()), np.int64) // MINUTE_S
        # A page has hundreds of videos and one moment.
        end, moment = np.unique(times // MINUTE_S, return_inverse=True)
        starts = np.maximum(end[:, np.newaxis] - windows, 0)
        counts = np.zeros((len(COUNTED), len(windows), len(video_rows)))
        totals = np.zeros((len(end), len(windows)))
        known = np.maximum(video_rows, 0)
        for part in self.parts:
            counts += part.counts(known, starts[moment], end[moment])
            totals += part.total_watches(starts, end)
        counts[..., video_rows < 0] = 0
        totals[totals == 0] = np.nan
        watches, impressions = counts
        shown = np.where(impressions > 0, impressions, np.nan)
        values = np.stack([watches, impressions, watches / shown, watches / totals[moment].T])
        columns = values.astype(np.float32).reshape(-1, len(video_rows))
        return dict(zip(spec.live_names(), columns, strict=True))


NOTHING = LiveStatistics(())
