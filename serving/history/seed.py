"""Fills an empty history store from the raw logs, so that the first request knows the users."""

import collections
import itertools
import json
import math
import os
import pathlib
import time
from collections.abc import Iterator, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from absl import logging

from features.catalogue import combined
from features.tables import logs, schema
from features.tables.clean_logs import Cleaner
from serving.events.event import Kind
from serving.history import tables
from serving.history.user_history import Filling, HistoryStore

# Rows sorted and inserted at once: bounds memory, and lets a user's rows lie together.
_ROWS_AT_ONCE = 2_000_000
_INSERT_ROWS = 50_000
# Of each table, newest first. 40 million rows are about 5 GB on disk.
MAX_ROWS = 40_000_000
_TABLES: Mapping[str, Kind] = {
    "watches": Kind.WATCH,
    "searches": Kind.SEARCH,
    "impressions": Kind.IMPRESSION,
    "feedback": Kind.FEEDBACK,
}


def seed(
    store: HistoryStore,
    logs_dir: str | os.PathLike[str],
    *,
    until_s: int,
    max_rows: int = MAX_ROWS,
) -> dict[str, int]:
    """Copies users and their newest events from the logs, all or nothing.

    Rows that training sets aside are left out (:mod:`features.tables.clean_logs`); of copies, also
    those that differ in columns alone which no history has. What was said of a video that neither
    stands in a table nor was watched is kept, as a server keeps it: a release looks past it.

    Args:
        store: Store to fill; nothing is done where it has users already.
        logs_dir: Raw logs; tables that are absent are left out.
        until_s: Moment before which the events lie, Unix seconds.
        max_rows: Number of newest rows to read of each table.

    Returns:
        Rows written by table; empty where the store was not empty.

    Raises:
        InputError: A table cannot be read.
        HistoryUnavailableError: The store cannot be written.
    """
    start = time.monotonic()
    present = logs.tables_in(logs_dir)
    written: dict[str, int] = {}
    with store.filling() as filling:
        if filling is None:
            return {}
        users = _Users(filling, store.max_events)
        if "users" in present:
            profiles = schema.newest("users", logs.read_table(logs_dir, "users"))
            written["users"] = users.add_profiles(profiles)
        cleaner = Cleaner.of_logs(logs_dir, now_s=until_s)
        for table, kind in _TABLES.items():
            if table in present:
                blocks = _newest_first(logs_dir, table, cleaner, until_s=until_s, max_rows=max_rows)
                written[table] = _insert(filling, users, kind, blocks)
        users.write_counts()
    seconds = time.monotonic() - start
    logging.info("Seeded the history store with %s in %.1f s.", written, seconds)
    return written


class _Users:
    """User ids to the numbers of the store, and how many events of each kind they have."""

    def __init__(self, filling: Filling, max_events: int) -> None:
        self._filling = filling
        self._max_events = max_events
        self._numbers: dict[str, int] = {}
        self._counts: dict[Kind, collections.Counter[int]] = {
            kind: collections.Counter() for kind in Kind
        }
        self._newest: collections.Counter[int] = collections.Counter()

    def add_profiles(self, table: pa.Table) -> int:
        """Adds users with all their columns but the id as profile."""
        for block in table.to_batches(max_chunksize=_INSERT_ROWS):
            self._add((row.pop("user_id"), row) for row in block.to_pylist() if row["user_id"])
        return len(self._numbers)

    def _add(self, profiles: Iterator[tuple[str, dict[str, object]]]) -> None:
        rows = []
        for user_id, profile in profiles:
            if user_id not in self._numbers:
                self._numbers[user_id] = len(self._numbers) + 1
                # NaN is not JSON, and missing is missing either way.
                known = {n: v for n, v in profile.items() if v is not None and not _is_nan(v)}
                rows.append((self._numbers[user_id], user_id, json.dumps(known, default=str)))
        self._filling.add_users(rows)

    def numbers(self, column: pa.ChunkedArray) -> np.ndarray:
        """Returns the number of each user, int64; new users are added without a profile."""
        encoded = combined(column).dictionary_encode()
        ids = encoded.dictionary.to_pylist()
        self._add((user_id, {}) for user_id in ids)
        known = np.array([self._numbers[user_id] for user_id in ids], np.int64)
        return known[np.asarray(encoded.indices, np.int64)]

    def room(self, kind: Kind, users: np.ndarray) -> np.ndarray:
        """Returns how many more events of each of these users may be kept, int64."""
        counts = self._counts[kind]
        return np.array([self._max_events - counts[user] for user in users.tolist()], np.int64)

    def count(self, kind: Kind, users: np.ndarray, counts: np.ndarray, newest: np.ndarray) -> None:
        """Notes events that were inserted."""
        for user, number, last in zip(
            users.tolist(), counts.tolist(), newest.tolist(), strict=True
        ):
            self._counts[kind][user] += number
            self._newest[user] = max(self._newest[user], last)

    def write_counts(self) -> None:
        """Writes what was noted."""
        self._filling.set_counts(self._newest, self._counts)


def _newest_first(
    logs_dir: str | os.PathLike[str],
    table: str,
    cleaner: Cleaner,
    *,
    until_s: int,
    max_rows: int,
) -> Iterator[pa.Table]:
    """Yields blocks of clean rows; each is of whole days, newer than those of the ones after it."""
    kind = tables.KINDS[_TABLES[table]]
    contract = schema.TABLES[table]
    columns = ["user_id", *(n for n in kind.names if contract.column(n) is not None)]
    block: list[pa.Table] = []
    rows = total = 0
    newest = reversed(logs.fragments(logs_dir, table, until_s=until_s))
    for _, of_a_day in itertools.groupby(newest, lambda piece: pathlib.Path(piece.path).parent):
        if rows >= _ROWS_AT_ONCE:
            yield cleaner.rows(table, pa.concat_tables(block))
            block, rows = [], 0
        for fragment in of_a_day:
            block.append(logs.read_fragment(fragment, columns=columns, until_s=until_s))
            rows += block[-1].num_rows
            total += block[-1].num_rows
            if total >= max_rows:
                logging.warning("The history store takes the newest %d rows of %s.", total, table)
                yield cleaner.rows(table, pa.concat_tables(block))
                return
    if block:
        yield cleaner.rows(table, pa.concat_tables(block))


def _insert(filling: Filling, users: _Users, kind: Kind, blocks: Iterator[pa.Table]) -> int:
    written = 0
    for block in blocks:
        rows, user = _kept(block, users, kind)
        written += rows.num_rows
        for start in range(0, rows.num_rows, _INSERT_ROWS):
            part = rows.slice(start, _INSERT_ROWS)
            numbers = user[start : start + _INSERT_ROWS].tolist()
            filling.add_events(kind, numbers, _values(part, kind))
        logging.info("History store: %d rows of %s.", written, tables.KINDS[kind].table)
    return written


def _kept(block: pa.Table, users: _Users, kind: Kind) -> tuple[pa.Table, np.ndarray]:
    """Sorts by user and time, and keeps the newest of each user that there is room for."""
    user = users.numbers(block["user_id"])
    times = np.asarray(combined(block["time"]), np.int64)
    order = np.lexsort((times, user))
    user, times = user[order], times[order]
    distinct, starts, counts = np.unique(user, return_index=True, return_counts=True)
    from_end = np.repeat(starts + counts, counts) - np.arange(len(user))
    room = np.repeat(users.room(kind, distinct), counts)
    keep = from_end <= room
    if len(starts):
        kept = np.add.reduceat(keep.astype(np.int64), starts)
        users.count(kind, distinct, kept, times[starts + counts - 1])
    return block.take(pa.array(order[keep])), user[keep]


def _values(part: pa.Table, kind: Kind) -> list[list[object]]:
    """Returns the columns of a kind of event; a column the logs lack has its default."""
    columns: list[list[object]] = []
    for column in tables.KINDS[kind].columns:
        if column.name == "is_open":  # The logs know how it ended.
            columns.append([False] * part.num_rows)
        elif column.name not in part.column_names:
            columns.append([""] * part.num_rows)  # The page of a watch.
        else:
            values = part[column.name]
            if "NOT NULL" in column.sql:
                values = pc.fill_null(values, _zero(column.arrow))
            columns.append(values.to_pylist())
    return columns


def _is_nan(value: object) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _zero(kind: pa.DataType) -> object:
    if pa.types.is_string(kind):
        return ""
    return False if pa.types.is_boolean(kind) else 0
