"""Raw tables brought to their contract (:mod:`features.tables.raw_tables`); which rows are bad.

``conform`` brings a table to the contract types or says which columns cannot be brought there;
``validate`` sets aside the rows that cannot be used, each with one reason; ``split_duplicates``
sets aside exact copies. Columns that the contract does not name are kept throughout.
"""

import difflib
import functools
from collections.abc import Mapping, Sequence

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from absl import logging

from features import command, feedback
from features.durations import DAY_S
from features.tables import casts, raw_tables

Column = raw_tables.Column
Table = raw_tables.Table
TABLES = raw_tables.TABLES
table_of = raw_tables.table_of
empty = raw_tables.empty

# Longer than any sitting with one video; a watch beyond it is a stuck player or a wrong unit.
MAX_WATCH_TIME_S = DAY_S

# Our API takes no other ids, so nobody could ask for them; and a vocabulary file has one id a line.
MAX_ID_CHARACTERS = 256
_CONTROL_CHARACTERS = r"[\x00-\x1f\x7f]"

EXACT_DUPLICATE = "exact_duplicate"
OLDER_ROW = "older_row"
# Nothing is lost with these, so they are no fault of a log.
HARMLESS = frozenset({EXACT_DUPLICATE, OLDER_ROW})

# Why rows are set aside, and what to do, in the order in which it is looked for: a row with several
# faults gets the first.
REMEDIES: Mapping[str, str] = {
    "missing_key": "A required value is null, or a required text is empty: fill it in, or leave "
    "such rows out.",
    "unusable_id": "A user or video id has control characters, or more than "
    f"{MAX_ID_CHARACTERS} characters: take another id.",
    "bad_time": "The time is zero or before 1970: write Unix seconds.",
    "future_time": "The time is later than the clock. Milliseconds look like that too: divide by "
    "1000; pandas: df['time'] = df['time'] // 1000",
    "unknown_user": "The table users does not have this user: add the row, or leave out that "
    "table. Ids must be written alike: '7', '007' and '7.0' are three users.",
    "unknown_video": "The table videos does not have this video: add the row. Ids must be written "
    "alike: '7', '007' and '7.0' are three videos.",
    "unknown_kind": f"kind is none of {', '.join(feedback.KINDS)}: write one of these, or leave "
    "such rows out.",
    "no_target": "The row names neither a video nor, as "
    f"{' and '.join(sorted(feedback.OF_CHANNELS))} may, a channel alone: fill in video_id.",
    "not_a_number": "watch_time_s is null, NaN or infinite: write seconds, 0 where nothing was "
    "watched (in impressions, a null is 0 where clicked is false).",
    "negative_watch_time": "watch_time_s is below 0: write seconds.",
    "absurd_watch_time": f"watch_time_s is above {MAX_WATCH_TIME_S} s. Milliseconds look like "
    "that: divide by 1000; pandas: df['watch_time_s'] = df['watch_time_s'] / 1000",
    OLDER_ROW: "A newer row has the same id; that one is used.",
}
REASONS = tuple(REMEDIES)
LACKS = "lacks the required column"


class ContractError(command.InputError):
    """Columns of a table break the contract.

    Attributes:
        problems: Faults of the columns, one sentence each.
    """

    def __init__(self, *problems: str) -> None:
        super().__init__("\n  ".join(problems))
        self.problems = problems


def conform(table_name: str, arrow_table: pa.Table, *, is_partial: bool = False) -> pa.Table:
    """Brings a table to the contract types of :mod:`features.tables.casts`; keeps unknown columns.

    Where nothing was clicked, an impression without a watch time has one of 0 s. Unknown columns
    get a plain type, and those that have none are left out, loudly.

    Args:
        table_name: Name of the table, a key of ``TABLES``.
        arrow_table: Any column order.
        is_partial: Whether required columns may be absent: a reader asked for some columns.

    Returns:
        A table of the same rows and columns, in the same order.

    Raises:
        ContractError: Required columns are missing, a name repeats, or columns have a type or a
            value that the contract type cannot hold; it names all of them.
    """
    table = table_of(table_name)
    names = arrow_table.column_names
    repeated = sorted({name for name in names if names.count(name) > 1})
    problems = [f"table {table_name} has column {name!r} more than once." for name in repeated]
    if not is_partial:
        problems += missing_columns(table, names)
    columns = {}
    for name, values in zip(names, arrow_table.columns, strict=True):
        contract = table.column(name)
        if contract is not None:
            try:
                columns[name] = _cast(values, contract, table_name)
            except command.InputError as error:
                problems.append(str(error))
        elif is_readable(table, name, values.type):
            columns[name] = casts.to_plain(values, name)
    if problems:
        raise ContractError(*problems)
    conformed = pa.table(columns) if columns else arrow_table.select([])
    return _with_watch_time(conformed) if table_name == "impressions" else conformed


def missing_columns(table: Table, names: Sequence[str]) -> list[str]:
    """Says of each column that a file must have and does not what it is, and what is like it."""
    have = ", ".join(names) or "no columns"
    problems = []
    for column in table.columns:
        if column.required and not column.is_filled and column.name not in names:
            alike = difflib.get_close_matches(column.name, names, n=1, cutoff=0.7)
            hint = f" Is it {alike[0]!r}? Rename that." if alike else ""
            problems.append(
                f"table {table.name} {LACKS} {column.name!r} "
                f"({casts.describe(column.type)}).{hint} Found: {have}."
            )
    return problems


def is_readable(table: Table, name: str, kind: pa.DataType) -> bool:
    """Says whether a column is read; one that is left alone is warned of, once."""
    if table.column(name) is not None or casts.plain_type(kind, name) is not None:
        return True
    warn_once(
        f"Table {table.name}: column {name!r} is left alone: nothing here can use its type, "
        f"{casts.describe(kind)}."
    )
    return False


@functools.lru_cache(maxsize=1024)
def warn_once(message: str) -> None:
    """Warns, but not a second time of the same: a log is read many times in one process."""
    logging.warning("%s", message)


def _cast(values: pa.ChunkedArray, column: Column, table_name: str) -> pa.ChunkedArray:
    try:
        if not column.is_time:
            return casts.to_type(values, column.type)
        if not values.type.equals(column.type) and casts.has_no_zone(values):
            warn_once(
                f"Table {table_name}: times in column {column.name!r} do not name a zone: they are "
                "read as UTC."
            )
        if pa.types.is_date(values.type) and column.name == TABLES[table_name].time_column:
            warn_once(
                f"Table {table_name}: times are dates: events of one day have no order, and none "
                "of them knows of the others."
            )
        return casts.to_seconds(values)
    except casts.UnfitError as error:
        expected, given = casts.describe(column.type), casts.describe(values.type)
        raise command.InputError(
            f"table {table_name}, column {column.name!r}: expected {expected}, found {given}"
            f"{error}. {_remedy(column)}"
        ) from error


def _remedy(column: Column) -> str:
    """Says how to write a column, with a line of pandas."""
    name = column.name
    if column.is_time:
        return (
            "Write times as whole Unix seconds (UTC), as timestamps or as ISO 8601 text; pandas: "
            f"df[{name!r}] = pd.to_datetime(df[{name!r}], utc=True)"
        )
    if casts.is_list(column.type):
        line = f"df[{name!r}] = df[{name!r}].str.split(',')"
        return f"Write a list of strings; pandas, where commas separate them: {line}"
    if pa.types.is_string(column.type):
        return f"Write text; pandas: df[{name!r}] = df[{name!r}].astype('string')"
    if pa.types.is_boolean(column.type):
        line = f"df[{name!r}] = df[{name!r}].map({{'yes': True, 'no': False}})"
        return f"Write true and false, or 1 and 0; pandas: {line}"
    line = f"df[{name!r}] = pd.to_numeric(df[{name!r}], errors='coerce')"
    return f"Write numbers; pandas: {line}"


def _with_watch_time(impressions: pa.Table) -> pa.Table:
    """Writes 0 s where nothing was clicked and no watch time is known, as after a left join."""
    names = impressions.column_names
    if "clicked" not in names:
        return impressions
    nothing = pa.chunked_array([pa.nulls(impressions.num_rows, pa.float64())])
    seconds = impressions["watch_time_s"] if "watch_time_s" in names else nothing
    is_known = pc.fill_null(pc.invert(pc.is_nan(seconds)), False)
    is_unclicked = pc.fill_null(pc.invert(impressions["clicked"]), False)
    seconds = pc.if_else(pc.and_(is_unclicked, pc.invert(is_known)), 0.0, seconds)
    if "watch_time_s" not in names:
        return impressions.append_column("watch_time_s", seconds)
    return impressions.set_column(names.index("watch_time_s"), "watch_time_s", seconds)


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
        table_name: Name of the table, a key of ``TABLES``.
        arrow_table: Table in the contract types, as ``conform`` returns it.
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
    key = table_of(table_name).key
    if key is not None:
        # Of the usable rows: a newer one that is broken takes nothing from an older one.
        is_older = pa.chunked_array([_is_older(arrow_table, key, pc.is_null(reason))])
        reason = pc.if_else(pc.and_(pc.is_null(reason), is_older), OLDER_ROW, reason)
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
        if ids is None or column == table.key or table.column(column) is None:
            continue
        if column in rows.column_names:
            is_known = pc.is_in(rows[column], value_set=ids.cast(pa.string()))
            # A row that names nothing, where it need not, names nothing that is unknown.
            faults[reason] = pc.and_(_is_given(rows[column]), pc.invert(is_known))
    if table.name == "feedback":
        faults["unknown_kind"] = pc.invert(pc.is_in(rows["kind"], pa.array(feedback.KINDS)))
        faults["no_target"] = _no_target(rows)
    if table.column("watch_time_s") is not None:
        seconds = rows["watch_time_s"]
        faults["not_a_number"] = pc.invert(pc.fill_null(pc.is_finite(seconds), False))
        faults["negative_watch_time"] = pc.less(seconds, 0)
        faults["absurd_watch_time"] = pc.greater(seconds, MAX_WATCH_TIME_S)
    return faults


def _is_given(ids: pa.ChunkedArray) -> pa.ChunkedArray:
    """Says which ids are there, bool [n]."""
    return pc.fill_null(pc.not_equal(pc.utf8_trim_whitespace(ids), ""), False)


def _no_target(rows: pa.Table) -> pa.ChunkedArray:
    """Says which rows of feedback are about nothing, bool [n]."""
    nothing = pa.chunked_array([pa.nulls(rows.num_rows, pa.string())])
    is_given = {
        name: _is_given(rows[name] if name in rows.column_names else nothing)
        for name in ("video_id", "channel_id")
    }
    may_be_of_channel = pc.is_in(rows["kind"], pa.array(sorted(feedback.OF_CHANNELS)))
    of_channel = pc.and_(is_given["channel_id"], may_be_of_channel)
    return pc.invert(pc.or_(is_given["video_id"], of_channel))


def _is_older(rows: pa.Table, key: str, is_usable: pa.ChunkedArray) -> pa.Array:
    """Says of each row whether a usable one of the same key is newer, bool [n]."""
    columns = [key] + [name for name in ("updated_time",) if name in rows.column_names]
    frame = pl.DataFrame(pl.from_arrow(rows.select(columns))).with_row_index("row")
    usable = frame.filter(pl.Series(pl.from_arrow(is_usable)))
    if "updated_time" in columns:
        usable = usable.sort("updated_time", nulls_last=False, maintain_order=True)
    newest = usable.filter(pl.col(key).is_last_distinct())["row"]
    return (~frame["row"].is_in(newest.implode())).to_arrow()


def newest(table_name: str, rows: pa.Table) -> pa.Table:
    """Returns of each id the newest row, in the order of the rows; all rows of events.

    Args:
        table_name: Name of the table, a key of ``TABLES``.
        rows: Rows in the order in which they are read, newest last.
    """
    key = table_of(table_name).key
    if key is None:
        return rows
    every = pa.chunked_array([pa.repeat(True, rows.num_rows)])
    return rows.filter(pc.invert(_is_older(rows, key, every)))


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
        if table.column(name) is not None and name in rows.column_names:
            for fault in (
                pc.match_substring_regex(rows[name], _CONTROL_CHARACTERS),
                pc.greater(pc.utf8_length(rows[name]), MAX_ID_CHARACTERS),
            ):
                unusable = pc.or_(unusable, pc.fill_null(fault, False))
    return unusable


def row_hashes(rows: pa.Table) -> pa.Array:
    """Returns a number of each row, uint64 [n], which equals that of every exact copy."""
    if not rows.num_rows:
        return pa.array([], pa.uint64())
    return pl.DataFrame(pl.from_arrow(rows)).hash_rows().to_arrow()


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
