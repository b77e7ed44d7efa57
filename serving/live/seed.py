"""Fills a :class:`serving.live.state.LiveState` from logs, so that a start is not a standstill."""

import os
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from absl import logging

from features import spec
from features.catalogue import combined
from features.durations import DAY_S, HOUR_S
from features.tables import logs, schema
from features.tables.clean_logs import Cleaner
from serving.events.event import Kind
from serving.live.state import MAX_WATCHES, Happened, LiveState

# Beyond it, not even the slowest count holds anything.
_TRENDING_S = 14 * DAY_S
_MINUTES_S = max(spec.LIVE_WINDOWS_S.values()) + HOUR_S
MAX_IMPRESSIONS = 3_000_000
_COLUMNS = ("user_id", "video_id", "time")


class Stream:
    """Events of one kind in the order of their times, taken piece by piece."""

    def __init__(self, kind: Kind, events: pa.Table | None) -> None:
        """Starts before the first.

        Args:
            kind: ``Kind.WATCH`` or ``Kind.IMPRESSION``.
            events: ``user_id, video_id, time``, sorted by time; None for no events.
        """
        self.kind = kind
        table = _NO_EVENTS if events is None else events
        self._users = table["user_id"].to_pylist()
        self._videos = table["video_id"].to_pylist()
        self._times = np.asarray(combined(table["time"]), np.int64)
        self._next = 0

    def skip_until(self, time_s: int) -> None:
        """Leaves out what happened before ``time_s``."""
        self._next = max(self._next, int(np.searchsorted(self._times, time_s)))

    def leave(self, count: int, *, before_s: int) -> None:
        """Leaves out all but the newest ``count`` of what happened before ``before_s``."""
        self._next = max(self._next, int(np.searchsorted(self._times, before_s)) - count)

    def until(self, time_s: int) -> Happened | None:
        """Returns what happened since the last call and before ``time_s``; None for nothing."""
        part = slice(self._next, int(np.searchsorted(self._times, time_s)))
        if part.stop <= part.start:
            return None
        self._next = part.stop
        return Happened(self.kind, self._users[part], self._videos[part], self._times[part])


_NO_EVENTS = pa.table(
    {
        "user_id": pa.array([], pa.string()),
        "video_id": pa.array([], pa.string()),
        "time": pa.array([], pa.int64()),
    }
)


def seed(state: LiveState, streams: Sequence[Stream], *, until_s: int) -> int:
    """Takes in what happened before ``until_s`` and still matters then; returns how many events."""
    taken = 0
    for stream in streams:
        if stream.kind is Kind.WATCH:
            stream.skip_until(until_s - _TRENDING_S)
            stream.leave(MAX_WATCHES, before_s=until_s)
        else:
            stream.skip_until(until_s - _MINUTES_S)
        events = stream.until(until_s)
        if events is not None:
            state.add(events)
            taken += len(events.times)
    return taken


def from_logs(state: LiveState, logs_dir: str | os.PathLike[str], *, until_s: int) -> int:
    """Seeds from raw logs: users' regions, watches and impressions before ``until_s``.

    Raises:
        InputError: A table cannot be read.
    """
    present = logs.tables_in(logs_dir)
    if "users" in present and "region" in logs.column_types(logs_dir, "users"):
        columns = ["user_id", "region", "updated_time"]
        users = schema.newest("users", logs.read_table(logs_dir, "users", columns=columns))
        for user, region in zip(
            users["user_id"].to_pylist(), users["region"].cast(pa.string()).to_pylist(), strict=True
        ):
            state.meet(user, region or "")
    cleaner = Cleaner.of_logs(logs_dir, now_s=until_s)
    streams = []
    for kind, name, back_s, most in (
        (Kind.WATCH, "watches", _TRENDING_S, MAX_WATCHES),
        (Kind.IMPRESSION, "impressions", _MINUTES_S, MAX_IMPRESSIONS),
    ):
        if name in present:
            rows = _newest(logs_dir, name, from_s=until_s - back_s, until_s=until_s, most=most)
            clean = cleaner.rows(name, rows)
            streams.append(Stream(kind, clean.select(_COLUMNS).sort_by("time")))
    taken = seed(state, streams, until_s=until_s)
    logging.info("Live state: %d events of the last days.", taken)
    return taken


def _newest(
    logs_dir: str | os.PathLike[str], name: str, *, from_s: int, until_s: int, most: int
) -> pa.Table:
    """Reads the newest rows of a table: of a large site not even a day would fit."""
    columns = list(schema.table_of(name).required)
    parts: list[pa.Table] = []
    rows = 0
    for fragment in reversed(logs.fragments(logs_dir, name, from_s=from_s, until_s=until_s)):
        if rows >= most:
            break
        part = logs.read_fragment(fragment, columns=columns, from_s=from_s, until_s=until_s)
        parts.append(part)
        rows += part.num_rows
    return pa.concat_tables(parts) if parts else schema.empty(name)
