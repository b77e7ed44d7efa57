"""Periods: days of a log, counted back from its end, and what their examples depend on.

The raw examples of a day depend on the events up to the end of that day, on the videos and users
of those events, and on settings. A digest says what they depend on, so that a later run can tell
which days it need not replay again. Digests are of clean rows, not of files: it does not matter
how a log is cut into files, nor in which order its rows lie.
"""

import dataclasses
import hashlib
import pathlib
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence

import apache_beam as beam
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from features import feedback
from features.catalogue import combined
from features.durations import DAY_S
from features.tables import schema
from pipeline.preprocessing import cleaning

_SCHEMA = pa.schema({"start": pa.int64(), "rows": pa.int64(), "digest": pa.uint64()})


_DIGESTS = ".digests"


@dataclasses.dataclass(frozen=True)
class Period:
    """One day of a log.

    Attributes:
        start: First second, Unix.
        key: Digest of what its examples depend on: equal keys, equal examples.
    """

    start: int
    key: str

    @property
    def end(self) -> int:
        """First second after it."""
        return self.start + DAY_S


def row_hashes(table: pa.Table, key: str, columns: Iterable[str]) -> pa.Table:
    """Returns ``key`` and ``<key>_hash``, uint64: a hash of each row's ``columns``."""
    kept = [name for name in dict.fromkeys([key, *columns]) if name in table.column_names]
    hashes = pl.DataFrame(pl.from_arrow(table.select(kept))).hash_rows().to_arrow()
    return pa.table({key: combined(table[key]), f"{key}_hash": hashes})


def digests(
    tables: Mapping[str, pa.Table], entities: Mapping[str, pa.Table], *, until_s: int
) -> pa.Table:
    """Sums up the clean events of some users by period.

    Args:
        tables: Name to clean event table.
        entities: ``video_id`` and ``user_id`` to :func:`row_hashes`; an event's digest is also
            that of its video and user.
        until_s: End of the log, exclusive, Unix seconds; periods are whole days before it.

    Returns:
        ``start`` (ascending, each once), ``rows`` and ``digest``: a sum of hashes, so that parts
        of a log add up in any order.
    """
    parts = []
    for seed, (name, table) in enumerate(sorted(tables.items())):
        if not table.num_rows:
            continue
        rows = pl.DataFrame(pl.from_arrow(_with_all_columns(name, table)))
        for key, hashes in entities.items():
            if key in rows.columns:
                rows = rows.join(pl.DataFrame(pl.from_arrow(hashes)), on=key, how="left")
        digest = rows.with_columns(table=pl.lit(name)).hash_rows(seed=seed)
        rows = rows.select("user_id", pl.col("time").cast(pl.Int64), digest=digest)
        for told_of in (rows, _outcomes_told_of(name, rows, tables)):
            start = until_s + (told_of["time"] - until_s) // DAY_S * DAY_S
            ones = pa.array(np.ones(len(told_of), np.int64))
            columns = [start.to_arrow(), ones, told_of["digest"].to_arrow()]
            parts.append(pa.table(columns, schema=_SCHEMA))
    return merge(parts)


def _outcomes_told_of(
    name: str, rows: pl.DataFrame, tables: Mapping[str, pa.Table]
) -> pl.DataFrame:
    """Returns events that tell also of an earlier period, at the time of it.

    Feedback may be an outcome of what came before it; whether it is depends on watches, too.
    """
    said = tables.get("feedback")
    if name not in {"feedback", "watches"} or said is None:
        return rows.clear()
    users = pl.DataFrame(pl.from_arrow(said.select(["user_id"])))
    rows = rows.join(users, on="user_id", how="semi")
    return rows.with_columns(pl.col("time") - feedback.WINDOW_S)


def _with_all_columns(name: str, table: pa.Table) -> pa.Table:
    """Adds nulls for what no file of these users has: it must not matter who shares a bucket."""
    types = {column.name: column.type for column in schema.TABLES[name].columns}
    for column in cleaning.COLUMNS[name]:
        if column not in table.column_names:
            table = table.append_column(column, pa.nulls(table.num_rows, types[column]))
    return table.select(cleaning.COLUMNS[name])


def merge(parts: Sequence[pa.Table]) -> pa.Table:
    """Adds up tables of :func:`digests`; digests wrap around."""
    together = pa.concat_tables(parts) if parts else _SCHEMA.empty_table()
    starts, place = np.unique(np.asarray(combined(together["start"])), return_inverse=True)
    rows, digest = np.zeros(len(starts), np.int64), np.zeros(len(starts), np.uint64)
    np.add.at(rows, place, np.asarray(combined(together["rows"])))
    np.add.at(digest, place, np.asarray(combined(together["digest"])))
    return pa.table([starts, rows, digest], schema=_SCHEMA)


def periods_of(digests_of_log: pa.Table, settings: str) -> list[Period]:
    """Returns the periods of a log that have events, oldest first.

    Args:
        digests_of_log: :func:`digests` of ALL users.
        settings: Description of what else the examples depend on.
    """
    running = hashlib.sha256(settings.encode())
    periods = []
    for row in digests_of_log.to_pylist():
        running.update(f"{row['start']} {row['rows']} {row['digest']};".encode())
        periods.append(Period(row["start"], running.hexdigest()[:32]))
    return periods


def write_digests(digests_of_log: pa.Table, directory: pathlib.Path) -> None:
    """Writes the digests for :func:`read_digests`."""
    cleaning.write_part(directory / _DIGESTS, digests_of_log)


def read_digests(directory: pathlib.Path) -> pa.Table:
    """Returns what :func:`write_digests` wrote, and removes it."""
    table = pq.read_table(directory / _DIGESTS)
    shutil.rmtree(directory / _DIGESTS)
    return table


class Digests(beam.DoFn):
    """(bucket, clean tables) -> its :func:`digests`.

    Args:
        entities: ``video_id`` and ``user_id`` to directory and columns that examples read.
        until_s: End of the log, exclusive, Unix seconds.
    """

    def __init__(self, entities: Mapping[str, tuple[str, Sequence[str]]], *, until_s: int) -> None:
        self._entities = entities
        self._until_s = until_s

    def setup(self) -> None:
        """Hashes videos and users once per worker."""
        self._hashes = {
            key: row_hashes(pq.read_table(directory), key, columns)
            for key, (directory, columns) in self._entities.items()
        }

    def process(self, bucket: tuple[int, cleaning.Stored]) -> Iterator[pa.Table]:
        """Sums up one bucket."""
        tables = cleaning.tables_of(bucket)
        yield digests(tables, self._hashes, until_s=self._until_s)
