"""The raw tables that everything is learned from: their columns, types, and which rows are bad.

``conform`` brings a table to the contract types or says which column cannot be brought there;
``validate`` sets aside the rows that cannot be used, each with one reason; ``split_duplicates``
sets aside exact copies. Columns that the contract does not name are kept throughout.
"""

import dataclasses
import types
from collections.abc import Mapping

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from features import command

# Longer than any sitting with one video; a watch beyond it is a stuck player or a wrong unit.
MAX_WATCH_TIME_S = 24 * 3600

# Our API takes no other ids, so nobody could ask for them; and a vocabulary file has one id a line.
MAX_ID_CHARACTERS = 256
_CONTROL_CHARACTERS = r"[\x00-\x1f\x7f]"

EXACT_DUPLICATE = "exact_duplicate"

# In the order in which they are looked for: a row with several faults gets the first.
REASONS = (
    "missing_key",  # A required value is null, or a required string is empty.
    "unusable_id",  # A user or video id with control characters, or longer than MAX_ID_CHARACTERS.
    "bad_time",  # Time zero or before 1970.
    "future_time",  # Later than the clock; also what milliseconds look like.
    "unknown_user",  # The user table does not have this user.
    "unknown_video",  # The video table does not have this video.
    "not_a_number",  # Watch time null, NaN or infinite.
    "negative_watch_time",
    "absurd_watch_time",  # Above MAX_WATCH_TIME_S.
    "repeated_key",  # videos, users: an earlier row has the same id.
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Column:
    """One column of the contract.

    Attributes:
        name: Column name; ends in its unit where it has one.
        type: Arrow type after ``conform``.
        required: Whether a table without it is refused.
    """

    name: str
    type: pa.DataType
    required: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
    """One raw table.

    Attributes:
        name: Directory under logs/.
        columns: Required columns first.
        time_column: Unix seconds of the event; None for tables that are not events.
        partitioned: Whether the files lie in ``date=YYYY-MM-DD`` directories (UTC).
        key: Column that must not repeat; None for events.
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
        """Names of the columns that must be there."""
        return tuple(column.name for column in self.columns if column.required)


def _columns(
    required: Mapping[str, pa.DataType], optional: Mapping[str, pa.DataType]
) -> tuple[Column, ...]:
    return (
        *(Column(name=name, type=kind, required=True) for name, kind in required.items()),
        *(Column(name=name, type=kind) for name, kind in optional.items()),
    )


def _events(
    name: str, required: Mapping[str, pa.DataType], optional: Mapping[str, pa.DataType]
) -> Table:
    columns = _columns(required, optional)
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
        ),
    }
)


def table_of(table_name: str) -> Table:
    """Returns the contract of a table.

    Raises:
        ValueError: There is no such table.
    """
    if table_name not in TABLES:
        raise ValueError(f"table must be one of {sorted(TABLES)}, got {table_name!r}.")
    return TABLES[table_name]


def empty(table_name: str) -> pa.Table:
    """Returns the table with all contract columns and no rows."""
    columns = table_of(table_name).columns
    return pa.schema([(column.name, column.type) for column in columns]).empty_table()


def conform(table_name: str, arrow_table: pa.Table, *, is_partial: bool = False) -> pa.Table:
    """Brings a table to the contract types; unknown columns are kept.

    Only casts that lose nothing are made: integers become ids, whole floats become integers,
    0 and 1 become booleans. Unknown columns get their plain Arrow form (dictionaries decoded,
    ``large_`` types narrowed), so that the files of one table can be put together.

    Args:
        table_name: A key of ``TABLES``.
        arrow_table: Any column order.
        is_partial: Whether required columns may be absent: a reader asked for some columns.

    Returns:
        The same rows and columns, in the same order.

    Raises:
        InputError: A required column is missing, a name repeats, or a column has a type or a
            value that the contract type cannot hold.
    """
    table = table_of(table_name)
    names = arrow_table.column_names
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise command.InputError(f"table {table_name} has column {repeated[0]!r} more than once.")
    for column in table.columns:
        if column.required and column.name not in names and not is_partial:
            raise command.InputError(
                f"table {table_name} lacks the required column {column.name!r} "
                f"({_describe(column.type)}). Found: {', '.join(names) or 'no columns'}."
            )
    for index, name in enumerate(names):
        values = arrow_table.column(index)
        contract = table.column(name)
        if contract is None:
            cast = values.cast(_plain(values.type))
        elif values.type.equals(contract.type):
            continue
        else:
            cast = _cast(values, contract, table_name)
        arrow_table = arrow_table.set_column(index, name, cast)
    return arrow_table


def _describe(kind: pa.DataType) -> str:
    return f"list<{kind.value_type}>" if _is_list(kind) else str(kind)


def _is_list(kind: pa.DataType) -> bool:
    return (
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    )


def _plain(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_dictionary(kind):
        return _plain(kind.value_type)
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_large_binary(kind):
        return pa.binary()
    if _is_list(kind):
        return pa.list_(_plain(kind.value_type))
    return kind


def _may_cast(found: pa.DataType, expected: pa.DataType) -> bool:
    if pa.types.is_null(found):
        return True
    if pa.types.is_list(expected):
        return _is_list(found) and _may_cast(found.value_type, expected.value_type)
    if pa.types.is_string(expected):
        return pa.types.is_string(found) or pa.types.is_integer(found)
    if pa.types.is_boolean(expected):
        return pa.types.is_boolean(found) or pa.types.is_integer(found)
    return pa.types.is_integer(found) or pa.types.is_floating(found)


def _cast(values: pa.ChunkedArray, column: Column, table_name: str) -> pa.ChunkedArray:
    what = f"table {table_name}, column {column.name!r}"
    expected = _describe(column.type)
    plain = _plain(values.type)
    if not _may_cast(plain, column.type):
        remedy = ""
        if pa.types.is_temporal(plain) and pa.types.is_integer(column.type):
            remedy = " Write times as whole Unix seconds, UTC."
        raise command.InputError(f"{what}: expected {expected}, found {_describe(plain)}.{remedy}")
    values = values.cast(plain)
    if pa.types.is_boolean(column.type) and pa.types.is_integer(plain):
        bounds = pc.min_max(values).as_py()
        if bounds["min"] is not None and (bounds["min"] < 0 or bounds["max"] > 1):
            raise command.InputError(
                f"{what}: expected {expected} (or 0 and 1), found {plain} "
                f"with values from {bounds['min']} to {bounds['max']}."
            )
    if pa.types.is_integer(column.type) and pa.types.is_floating(plain):
        # pandas turns an integer column with gaps into floats with NaN.
        values = pc.if_else(pc.is_nan(values), pa.scalar(None, plain), values)
    try:
        return values.cast(column.type)
    except pa.ArrowInvalid as error:
        raise command.InputError(
            f"{what}: expected {expected}, found {_describe(plain)} "
            f"with a value it cannot hold: {error}"
        ) from error


def validate(
    table_name: str,
    arrow_table: pa.Table,
    *,
    known_video_ids: pa.Array | None,
    known_user_ids: pa.Array | None,
    now_s: int,
) -> tuple[pa.Table, pa.Table]:
    """Sets aside the rows that cannot be used.

    Args:
        table_name: A key of ``TABLES``.
        arrow_table: As ``conform`` returns it.
        known_video_ids: string; ids of the video table. None skips that check.
        known_user_ids: string; ids of the user table. None skips that check.
        now_s: The clock, Unix seconds: what lies after it cannot have happened.

    Returns:
        (accepted, rejected). Both keep the order of the rows, and together they are all rows.
        ``rejected`` has one more column, ``reason``: the first of ``REASONS`` that applies.
    """
    faults = _faults(
        table_of(table_name),
        arrow_table,
        known={"user_id": known_user_ids, "video_id": known_video_ids},
        now_s=now_s,
    )
    reason = pa.chunked_array([pa.nulls(arrow_table.num_rows, pa.string())])
    # Backwards, so that the first reason is written last.
    for name in reversed(REASONS):
        if name in faults:
            reason = pc.if_else(pc.fill_null(faults[name], False), name, reason)
    is_accepted = pc.is_null(reason)
    rejected = arrow_table.append_column("reason", reason).filter(pc.invert(is_accepted))
    return arrow_table.filter(is_accepted), rejected


def _faults(
    table: Table, rows: pa.Table, *, known: Mapping[str, pa.Array | None], now_s: int
) -> dict[str, pa.ChunkedArray]:
    """Returns reason -> bool per row (null counts as no fault)."""
    faults = {"missing_key": _missing_key(table, rows), "unusable_id": _unusable_id(table, rows)}
    time = (
        rows["upload_time" if table.name == "videos" else table.time_column]
        if table.name != "users"
        else None
    )
    if time is not None:
        faults["bad_time"] = pc.less_equal(time, 0)
        faults["future_time"] = pc.greater(time, now_s)
    for column, reason in (("user_id", "unknown_user"), ("video_id", "unknown_video")):
        ids = known[column]
        if ids is not None and column != table.key and table.column(column) is not None:
            faults[reason] = pc.invert(pc.is_in(rows[column], value_set=ids.cast(pa.string())))
    if table.column("watch_time_s") is not None:
        seconds = rows["watch_time_s"]
        faults["not_a_number"] = pc.invert(pc.fill_null(pc.is_finite(seconds), False))
        faults["negative_watch_time"] = pc.less(seconds, 0)
        faults["absurd_watch_time"] = pc.greater(seconds, MAX_WATCH_TIME_S)
    if table.key is not None:
        is_first = pl.Series(pl.from_arrow(rows[table.key])).is_first_distinct()
        faults["repeated_key"] = pa.chunked_array([(~is_first).to_arrow()])
    return faults


def _missing_key(table: Table, rows: pa.Table) -> pa.ChunkedArray:
    missing = pa.chunked_array([pa.repeat(False, rows.num_rows)])
    for column in table.columns:
        if not column.required or column.name == "watch_time_s":
            continue
        values = rows[column.name]
        missing = pc.or_(missing, pc.is_null(values))
        if pa.types.is_string(column.type):
            missing = pc.or_(
                missing, pc.fill_null(pc.equal(pc.utf8_trim_whitespace(values), ""), False)
            )
    return missing


def _unusable_id(table: Table, rows: pa.Table) -> pa.ChunkedArray:
    unusable = pa.chunked_array([pa.repeat(False, rows.num_rows)])
    for name in ("user_id", "video_id"):
        if table.column(name) is not None:
            for fault in (
                pc.match_substring_regex(rows[name], _CONTROL_CHARACTERS),
                pc.greater(pc.utf8_length(rows[name]), MAX_ID_CHARACTERS),
            ):
                unusable = pc.or_(unusable, pc.fill_null(fault, False))
    return unusable


def split_duplicates(arrow_table: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Sets aside rows that equal an earlier row in every column.

    Returns:
        (unique, duplicates): the first of each set of equal rows, and the others with the column
        ``reason`` = ``EXACT_DUPLICATE``. Both keep the order of the rows. Nulls equal nulls, NaN
        equals NaN.
    """
    frame = pl.DataFrame(pl.from_arrow(arrow_table))
    is_first = frame.select(pl.struct(pl.all()).is_first_distinct()).to_series().to_arrow()
    duplicates = arrow_table.filter(pc.invert(is_first))
    reason = pa.repeat(EXACT_DUPLICATE, duplicates.num_rows)
    return arrow_table.filter(is_first), duplicates.append_column("reason", reason)
