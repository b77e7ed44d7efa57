"""The raw tables that everything is learned from: their columns and types.

Other columns than these are welcome in every table; see :mod:`features.tables.schema` for how
tables are brought to these types and which rows are set aside.
"""

import dataclasses
import types
from collections.abc import Mapping, Sequence

import pyarrow as pa

PARTITION = "date"  # Events lie in directories date=YYYY-MM-DD, UTC.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Column:
    """One column of the contract.

    Attributes:
        name: Column name; ends in its unit where it has one.
        type: Arrow type after ``conform``.
        required: Whether a table always has it after ``conform``.
        is_filled: Whether ``conform`` fills it in where a file does not have it.
        is_time: Whether it is a moment, Unix seconds.
    """

    name: str
    type: pa.DataType
    required: bool = False
    is_filled: bool = False
    is_time: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
    """One raw table.

    Attributes:
        name: Directory under logs/.
        columns: Required columns first.
        time_column: Unix seconds of the event; None for tables that are not events.
        partitioned: Whether the files lie in ``date=YYYY-MM-DD`` directories (UTC).
        key: Column of which the newest row counts; None for events. That is the row with the
            latest ``updated_time``; among equals, or without that column, the last.
    """

    name: str
    columns: tuple[Column, ...]
    time_column: str | None = None
    partitioned: bool = False
    key: str | None = None

    def column(self, name: str) -> Column | None:
        """Returns the contract of a column, or None where the contract does not name it."""
        return next((column for column in self.columns if column.name == name), None)

    @property
    def required(self) -> tuple[str, ...]:
        """Names of the columns that are there after ``conform``."""
        return tuple(column.name for column in self.columns if column.required)


def _columns(
    required: Mapping[str, pa.DataType],
    optional: Mapping[str, pa.DataType],
    filled: Sequence[str] = (),
) -> tuple[Column, ...]:
    return tuple(
        Column(
            name=name,
            type=kind,
            required=name in required,
            is_filled=name in filled,
            is_time=name == "time" or name.endswith("_time"),
        )
        for name, kind in {**required, **optional}.items()
    )


def _events(
    name: str,
    required: Mapping[str, pa.DataType],
    optional: Mapping[str, pa.DataType],
    filled: Sequence[str] = (),
) -> Table:
    columns = _columns(required, optional, filled)
    return Table(name=name, columns=columns, time_column="time", partitioned=True)


_ID, _TIME, _STRINGS = pa.string(), pa.int64(), pa.list_(pa.string())

TABLES: Mapping[str, Table] = types.MappingProxyType(
    {
        "videos": Table(
            name="videos",
            key="video_id",
            columns=_columns(
                {"video_id": _ID, "upload_time": _TIME},
                {
                    "channel_id": _ID,
                    "topics": _STRINGS,
                    "language": pa.string(),
                    "duration_s": pa.float64(),
                    "title": pa.string(),
                    "regions": _STRINGS,
                    "blocked_regions": _STRINGS,
                    "min_age": pa.float64(),
                    "withdrawn": pa.bool_(),
                    "updated_time": _TIME,
                },
            ),
        ),
        "users": Table(
            name="users",
            key="user_id",
            columns=_columns(
                {"user_id": _ID},
                {
                    "region": pa.string(),
                    "gender": pa.string(),
                    "age": pa.float64(),
                    "signed_in": pa.bool_(),
                    "updated_time": _TIME,
                },
            ),
        ),
        "watches": _events(
            "watches",
            {"user_id": _ID, "video_id": _ID, "time": _TIME, "watch_time_s": pa.float64()},
            {"completed": pa.bool_(), "source": pa.string(), "device": pa.string()},
        ),
        "searches": _events(
            "searches",
            {"user_id": _ID, "time": _TIME, "query": pa.string()},
            {"device": pa.string()},
        ),
        # Of a video or, as some kinds may be, of a channel; see features.feedback.
        "feedback": _events(
            "feedback",
            {"user_id": _ID, "time": _TIME, "kind": pa.string()},
            {
                "video_id": _ID,
                "channel_id": _ID,
                "value": pa.float64(),
                "page_id": _ID,
                "surface": pa.string(),
            },
        ),
        "impressions": _events(
            "impressions",
            {
                "user_id": _ID,
                "video_id": _ID,
                "time": _TIME,
                "clicked": pa.bool_(),
                "watch_time_s": pa.float64(),
            },
            {
                "click_time": _TIME,
                "page_id": _ID,
                "position": pa.int64(),
                "surface": pa.string(),
                "device": pa.string(),
                "candidate_sources": _STRINGS,
                "retrieval_score": pa.float64(),
                "release_id": pa.string(),
                "exposures": _STRINGS,
            },
            filled=["watch_time_s"],
        ),
    }
)


def table_of(table_name: str) -> Table:
    """Returns the contract of a table.

    Raises:
        ValueError: No table has this name.
    """
    if table_name not in TABLES:
        raise ValueError(f"table must be one of {sorted(TABLES)}, got {table_name!r}.")
    return TABLES[table_name]


def empty(table_name: str) -> pa.Table:
    """Returns the table with all contract columns and no rows."""
    columns = table_of(table_name).columns
    return pa.schema([(column.name, column.type) for column in columns]).empty_table()
