"""What the last days of a log look like, hour by hour and day by day: ``days.json`` of examples.

So that a day on which something broke can be told from those before it, without the logs. Days are
counted back from the end of the log. Videos are looked at by the time of their upload.
"""

import collections
import pathlib
from collections.abc import Collection, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.catalogue import combined
from features.durations import DAY_S, HOUR_S
from features.tables import logs, schema

FILE = "days.json"
DAYS = 15
_TIME = {"videos": "upload_time"}
_WATCH_TIME = "watch_time_s"


def of_logs(
    logs_dir: pathlib.Path, tables: Collection[str], *, from_s: int | None, until_s: int
) -> dict[str, Any]:
    """Returns plain values: ``end_s``, ``start_s`` and ``tables``.

    A table has ``hours``, int [24 DAYS], its rows by hour, oldest first; ``days``, its rows by day;
    where it has watch times, ``watch_time_s``, their sum by day, and ``watched``, how many they
    are; and ``missing``, the number of rows by day that lack a column, by column.

    Args:
        logs_dir: Directory of the raw logs.
        tables: Names of the tables that it has.
        from_s: First moment of the events that are read, Unix seconds; None for all.
        until_s: End of the log, exclusive, Unix seconds.
    """
    start_s = until_s - DAYS * DAY_S
    if from_s is not None:
        start_s = max(start_s, from_s)
    looked_at = [n for n in schema.TABLES if n in tables and _time_of(n)]
    return {
        "start_s": start_s,
        "end_s": until_s,
        "tables": {name: _table(logs_dir, name, start_s, until_s) for name in looked_at},
    }


def _time_of(name: str) -> str | None:
    return schema.table_of(name).time_column or _TIME.get(name)


def _table(logs_dir: pathlib.Path, name: str, start_s: int, until_s: int) -> dict[str, Any]:
    hours = np.zeros(24 * DAYS, np.int64)
    watched, seconds = np.zeros(DAYS, np.int64), np.zeros(DAYS)
    missing: dict[str, np.ndarray] = collections.defaultdict(lambda: np.zeros(DAYS, np.int64))
    for rows, ago_s in _pieces(logs_dir, name, start_s, until_s):
        hours += np.bincount(24 * DAYS - 1 - ago_s // HOUR_S, minlength=24 * DAYS)
        day = DAYS - 1 - ago_s // DAY_S
        for column in rows.column_names:
            lacks = np.asarray(combined(rows[column].is_null()), bool)
            missing[column] += np.bincount(day[lacks], minlength=DAYS)
        if _WATCH_TIME in rows.column_names:
            values = np.asarray(combined(rows[_WATCH_TIME].cast(pa.float64())), np.float64)
            some = values > 0  # What was not clicked was not watched.
            watched += np.bincount(day[some], minlength=DAYS)
            seconds += np.bincount(day[some], values[some], DAYS)
    counts: dict[str, Any] = {"hours": hours.tolist()}
    counts["days"] = hours.reshape(DAYS, 24).sum(axis=1).tolist()
    if watched.any():
        counts |= {"watched": watched.tolist(), _WATCH_TIME: seconds.round(3).tolist()}
    return counts | {"missing": {column: counts_.tolist() for column, counts_ in missing.items()}}


def _pieces(
    logs_dir: pathlib.Path, name: str, start_s: int, until_s: int
) -> Iterator[tuple[pa.Table, np.ndarray]]:
    """Yields rows of the last days, and how long before the end of the log each is, seconds."""
    time = str(_time_of(name))
    is_event = schema.table_of(name).time_column is not None
    window: dict[str, Any] = {"from_s": start_s, "until_s": until_s} if is_event else {}
    # A column that a file does not have is missing in all of its rows.
    columns = [*logs.column_types(logs_dir, name)]
    for fragment in logs.fragments(logs_dir, name, **window):
        rows = logs.read_fragment(fragment, columns=columns, **window)
        if time not in rows.column_names:
            return
        rows = rows.filter(pc.is_valid(rows[time]))
        ago_s = until_s - 1 - np.asarray(combined(rows[time].cast(pa.int64())), np.int64)
        inside = (ago_s >= 0) & (ago_s < min(DAYS * DAY_S, until_s - start_s))
        yield rows.filter(pa.array(inside)), ago_s[inside]


def partitions(
    logs_dir: pathlib.Path, tables: Collection[str], *, from_s: int | None, until_s: int
) -> dict[str, list[str]]:
    """Returns what was read of each table: its partitions, each with its files and bytes, in words.

    Args:
        logs_dir: Directory of the raw logs.
        tables: Names of the tables that it has.
        from_s: First moment of the events that are read, Unix seconds; None for all.
        until_s: End of the log, exclusive, Unix seconds.
    """
    read: dict[str, list[str]] = {}
    for name in (n for n in schema.TABLES if n in tables):
        is_event = schema.table_of(name).time_column is not None
        window: dict[str, Any] = {"from_s": from_s, "until_s": until_s} if is_event else {}
        paths: dict[str, set[str]] = collections.defaultdict(set)
        for fragment in logs.fragments(logs_dir, name, **window):
            where = "/".join(f"{key}={value}" for key, value in fragment.partitions)
            paths[where or "all"].add(fragment.path)
        read[name] = [
            f"{where}: {len(files)} files, {sum(pathlib.Path(f).stat().st_size for f in files)} "
            "bytes"
            for where, files in sorted(paths.items())
        ]
    return read
