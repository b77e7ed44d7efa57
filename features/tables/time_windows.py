"""Windows of time [from, until), Unix seconds: what lies inside, and which files may."""

import dataclasses
import datetime
import json
from collections.abc import Callable
from typing import Annotated

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from features.config import Config, Time
from features.durations import DAY_S
from features.tables import log_files, raw_tables
from features.tables.log_files import TableFile


@dataclasses.dataclass(frozen=True, kw_only=True)
class Window(Config):
    """The events that count.

    Attributes:
        from_s: First moment of the events that count, an ISO 8601 time, UTC. Default: all.
        until_s: First moment of the events that count no more, an ISO 8601 time, UTC. Default: all
            count.
    """

    from_s: Annotated[int | None, Time()] = None
    until_s: Annotated[int | None, Time()] = None

    def kept(self, events: pl.DataFrame, time: str = "time", *, per_s: int = 1) -> pl.DataFrame:
        """Returns the events inside.

        Args:
            events: Rows with their times.
            time: Name of the column of times.
            per_s: Number of units of that column in a second.
        """
        if self.from_s is not None:
            events = events.filter(pl.col(time) >= self.from_s * per_s)
        if self.until_s is not None:
            events = events.filter(pl.col(time) < self.until_s * per_s)
        return events


def of_date(file: TableFile) -> tuple[int, int] | None:
    """Returns [first, end) Unix seconds of the file's date=..., None where it names no day."""
    for key, value in reversed(file.partitions):
        day = log_files.parse_day(value) if key == raw_tables.PARTITION else None
        if day is not None:
            first = (day - datetime.date(1970, 1, 1)).days * DAY_S
            return first, first + DAY_S
    return None


def overlaps(bounds: tuple[int, int] | None, from_s: int | None, until_s: int | None) -> bool:
    """Says whether [first, end) has a second in the window; None may have."""
    if bounds is None:
        return True
    return (from_s is None or bounds[1] > from_s) and (until_s is None or bounds[0] < until_s)


def inside(time: pa.ChunkedArray, from_s: int | None, until_s: int | None) -> pa.ChunkedArray:
    """Says which times lie in the window, bool [n]; a null, which is set aside later, does."""
    keep = pc.is_valid(time)
    if from_s is not None:
        keep = pc.and_(keep, pc.greater_equal(time, from_s))
    if until_s is not None:
        keep = pc.and_(keep, pc.less(time, until_s))
    return pc.or_(pc.fill_null(keep, False), pc.is_null(time))


def of_row_groups(
    metadata: pq.FileMetaData, contract: raw_tables.Table
) -> Callable[[int], tuple[int, int] | None]:
    """Returns row group -> [first, end) of its times, or None where that is not certain."""
    names = [metadata.schema.column(index).path for index in range(metadata.num_columns)]
    index = names.index(contract.time_column) if contract.time_column in names else None

    def bounds_of(group: int) -> tuple[int, int] | None:
        statistics = None if index is None else metadata.row_group(group).column(index).statistics
        if statistics is None or not statistics.has_min_max or statistics.null_count != 0:
            return None
        first, last = statistics.min_raw, statistics.max_raw
        per_s = _units_per_s(statistics.logical_type)
        if per_s is None or not isinstance(first, int):
            return None
        return first // per_s, last // per_s + 1

    return bounds_of


def _units_per_s(logical_type: pq.ParquetLogicalType) -> int | None:
    """Returns how many of a column's numbers are a second, None where they are no times."""
    if logical_type.type in {"NONE", "INT"}:
        return 1
    if logical_type.type != "TIMESTAMP":
        return None
    unit = json.loads(logical_type.to_json())["timeUnit"]
    return {"milliseconds": 1_000, "microseconds": 1_000_000, "nanoseconds": 1_000_000_000}[unit]
