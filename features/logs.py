"""Reads and writes the raw logs: Parquet files of the tables in ``features.schema``.

    logs/watches/date=2022-05-01/part-00000.parquet      events, by the UTC date of their time
    logs/videos/part-00000.parquet                       tables that are not events
    logs/features.json                                   declarations of extra features, optional

A reader takes ``fragments`` (some row groups of one file) and reads each where it likes, so that
no table has to fit in memory. Names that begin with a dot or an underscore are not data.
"""

import contextlib
import dataclasses
import datetime
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from absl import logging

from features import command, log_writer, schema

# Written by the other half of this module, which has its own file.
FEATURES_FILE = log_writer.FEATURES_FILE
MAX_ROW_GROUP_ROWS = log_writer.MAX_ROW_GROUP_ROWS
NO_DATE = log_writer.NO_DATE
LogWriter = log_writer.LogWriter
append = log_writer.append


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fragment:
    """Some row groups of one file; small, and can be sent to another process.

    Attributes:
        table: Name of the table.
        path: Parquet file.
        row_groups: Which of its row groups, ascending.
        num_rows: Rows in them, before any filter by time.
    """

    table: str
    path: str
    row_groups: tuple[int, ...]
    num_rows: int


def tables_in(logs_dir: str | os.PathLike[str]) -> set[str]:
    """Returns the names of the tables that have at least one Parquet file.

    Raises:
        InputError: The directory does not exist, or holds none of the tables.
    """
    root = pathlib.Path(logs_dir)
    _require_directory(root)
    found = {name for name in schema.TABLES if next(_data_files(root / name), None) is not None}
    if not found:
        raise command.InputError(
            f"{root} holds no table: expected directories such as {root / 'watches'} with Parquet "
            f"files. Make logs with: python -m pipeline.simulate --logs={root}, or "
            f"python -m pipeline.import_dataset --logs={root}"
        )
    return found


def fragments(
    logs_dir: str | os.PathLike[str],
    table: str,
    *,
    from_s: int | None = None,
    until_s: int | None = None,
    max_rows: int = MAX_ROW_GROUP_ROWS,
) -> list[Fragment]:
    """Splits a table into pieces to read; opens footers only.

    Args:
        logs_dir: Directory of the logs.
        table: A key of ``schema.TABLES``.
        from_s: Keep events at or after this time. Unix seconds; None for no bound.
        until_s: Keep events before this time. Unix seconds; None for no bound.
        max_rows: Rows in a fragment; more only where one row group has more.

    Returns:
        In the order of dates, then of file names. Dates, and row groups by their statistics, that
        lie outside the window are left out, so the list is empty when nothing is inside.

    Raises:
        InputError: The table is absent or has no rows at all, or a file is not whole.
    """
    contract = schema.table_of(table)
    total, is_skipping = 0, False
    pieces: list[Fragment] = []
    for path in _require_files(logs_dir, table):
        if contract.time_column and not _overlaps(_bounds_of_date(path), from_s, until_s):
            is_skipping = True
            continue
        metadata = _read_footer(path, table)
        total += metadata.num_rows
        pieces.extend(
            _fragments_of(
                path, metadata, contract, from_s=from_s, until_s=until_s, max_rows=max_rows
            )
        )
    if total == 0 and not is_skipping:
        raise command.InputError(
            f"table {table} in {logs_dir} has no rows. Remove the directory "
            f"{pathlib.Path(logs_dir) / table} to run without this table, or fill it."
        )
    return pieces


def read_fragment(
    fragment: Fragment,
    *,
    columns: Sequence[str] | None = None,
    from_s: int | None = None,
    until_s: int | None = None,
) -> pa.Table:
    """Reads a fragment in the contract types.

    Args:
        fragment: From ``fragments``.
        columns: Which columns, in this order; None for all. A column that this file does not have
            comes as nulls, since another file of the table may have it (``column_types`` tells
            which columns a table has).
        from_s: Keep events at or after this time. Unix seconds; None for no bound.
        until_s: Keep events before this time. Unix seconds; None for no bound.

    Returns:
        Rows in the order of the file. Rows with a null time are kept for ``schema.validate`` to
        set aside.

    Raises:
        InputError: The file is damaged, or a column is missing or of a wrong type.
    """
    contract = schema.table_of(fragment.table)
    with _explained(fragment.path, fragment.table), pq.ParquetFile(fragment.path) as file:
        names = [name for name in file.schema_arrow.names if not _is_partition(contract, name)]
        _require_columns(names, contract, path=fragment.path)
        wanted = names if columns is None else _with_time(columns, contract)
        here = [name for name in wanted if name in names]
        rows = file.read_row_groups(list(fragment.row_groups), columns=here, use_threads=False)
    rows = _conformed(rows.select(here), contract, fragment.path)
    if contract.time_column and (from_s is not None or until_s is not None):
        rows = rows.filter(_inside(rows[contract.time_column], from_s, until_s))
    return rows if columns is None else _selected(rows, columns, contract)


def read_table(
    logs_dir: str | os.PathLike[str],
    table: str,
    *,
    columns: Sequence[str] | None = None,
    from_s: int | None = None,
    until_s: int | None = None,
) -> pa.Table:
    """Reads a whole table into memory; arguments and errors as for ``read_fragment``.

    Returns:
        In the order of dates, then of files. A column that some files lack is null in their rows.
        When nothing lies inside the window, the contract columns without rows.
    """
    pieces = [
        read_fragment(piece, columns=columns, from_s=from_s, until_s=until_s)
        for piece in fragments(logs_dir, table, from_s=from_s, until_s=until_s)
    ]
    if not pieces:
        nothing = schema.empty(table)
        return nothing if columns is None else _selected(nothing, columns, schema.table_of(table))
    return log_writer.concatenated(pieces)


def column_types(logs_dir: str | os.PathLike[str], table: str) -> dict[str, pa.DataType]:
    """Returns name -> type of every column that any file of a table has, after ``conform``.

    Raises:
        InputError: The table is absent, or a file is not whole or breaks the contract.
    """
    contract = schema.table_of(table)
    found = []
    for path in _require_files(logs_dir, table):
        with _explained(str(path), table):
            rows = pq.read_schema(path).remove_metadata().empty_table()
        names = [name for name in rows.column_names if not _is_partition(contract, name)]
        _require_columns(names, contract, path=str(path))
        found.append(_conformed(rows.select(names), contract, str(path)))
    try:
        together = log_writer.concatenated(found).schema
    except command.InputError as error:
        raise command.InputError(f"table {table} in {logs_dir}: {error}") from error
    return dict(zip(together.names, together.types, strict=True))


def _require_directory(root: pathlib.Path) -> None:
    if not root.is_dir():
        raise command.InputError(
            f"{root} should be a logs directory, but does not exist. Make logs with: "
            f"python -m pipeline.simulate --logs={root}, or "
            f"python -m pipeline.import_dataset --logs={root}"
        )


def _data_files(directory: pathlib.Path) -> Iterator[pathlib.Path]:
    for folder, subfolders, names in os.walk(directory):
        subfolders[:] = sorted(name for name in subfolders if _is_data(name))
        for name in sorted(names):
            if name.endswith(".parquet") and _is_data(name):
                yield pathlib.Path(folder) / name


def _is_data(name: str) -> bool:
    return not name.startswith((".", "_"))


def _require_files(logs_dir: str | os.PathLike[str], table: str) -> list[pathlib.Path]:
    root = pathlib.Path(logs_dir)
    _require_directory(root)
    found = list(_data_files(root / table))
    if not found:
        state = "has no Parquet files" if (root / table).is_dir() else "does not exist"
        others = (
            ", ".join(sorted(path.name for path in root.iterdir() if path.is_dir())) or "nothing"
        )
        raise command.InputError(
            f"table {table} is missing: {root / table} {state}. {root} holds: {others}."
        )
    return found


def _bounds_of_date(path: pathlib.Path) -> tuple[int, int] | None:
    """Returns [first, end) Unix seconds of the file's date=..., None where it names no day."""
    for part in reversed(path.parts):
        key, _, value = part.partition("=")
        if key == log_writer.PARTITION:
            with contextlib.suppress(ValueError):
                day = datetime.date.fromisoformat(value)
                first = (day.toordinal() - datetime.date(1970, 1, 1).toordinal()) * log_writer.DAY_S
                return first, first + log_writer.DAY_S
    return None


def _overlaps(bounds: tuple[int, int] | None, from_s: int | None, until_s: int | None) -> bool:
    if bounds is None:
        return True
    return (from_s is None or bounds[1] > from_s) and (until_s is None or bounds[0] < until_s)


def _inside(time: pa.ChunkedArray, from_s: int | None, until_s: int | None) -> pa.ChunkedArray:
    keep = pc.is_valid(time)
    if from_s is not None:
        keep = pc.and_(keep, pc.greater_equal(time, from_s))
    if until_s is not None:
        keep = pc.and_(keep, pc.less(time, until_s))
    return pc.or_(pc.fill_null(keep, False), pc.is_null(time))


@contextlib.contextmanager
def _explained(path: str, table: str) -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise command.InputError(
            f"{path} (table {table}) cannot be read as Parquet: {error}. It may be truncated or "
            "half copied: copy or write it again, or remove it."
        ) from error


def _read_footer(path: pathlib.Path, table: str) -> pq.FileMetaData:
    with _explained(str(path), table):
        return pq.read_metadata(path)


def _fragments_of(
    path: pathlib.Path,
    metadata: pq.FileMetaData,
    contract: schema.Table,
    *,
    from_s: int | None,
    until_s: int | None,
    max_rows: int,
) -> Iterator[Fragment]:
    bounds_of = _time_statistics(metadata, contract)
    groups: list[int] = []
    num_rows = 0

    def fragment() -> Fragment:
        return Fragment(
            table=contract.name, path=str(path), row_groups=tuple(groups), num_rows=num_rows
        )

    for group in range(metadata.num_row_groups):
        size = metadata.row_group(group).num_rows
        bounds = bounds_of(group)
        _warn_if_misplaced(path, bounds)
        if size == 0 or not _overlaps(bounds, from_s, until_s):
            continue
        if groups and num_rows + size > max_rows:
            yield fragment()
            groups, num_rows = [], 0
        groups.append(group)
        num_rows += size
    if groups:
        yield fragment()


def _time_statistics(
    metadata: pq.FileMetaData, contract: schema.Table
) -> Callable[[int], tuple[int, int] | None]:
    """Returns row group -> [first, end) of its times, or None where that is not certain."""
    names = [metadata.schema.column(index).path for index in range(metadata.num_columns)]
    index = names.index(contract.time_column) if contract.time_column in names else None

    def bounds_of(group: int) -> tuple[int, int] | None:
        statistics = None if index is None else metadata.row_group(group).column(index).statistics
        if statistics is None or not statistics.has_min_max or statistics.null_count != 0:
            return None
        if not isinstance(statistics.min, int):
            return None
        return statistics.min, statistics.max + 1

    return bounds_of


def _warn_if_misplaced(path: pathlib.Path, bounds: tuple[int, int] | None) -> None:
    date = _bounds_of_date(path)
    if date and bounds and (bounds[0] < date[0] or bounds[1] > date[1]):
        logging.warning(
            "%s holds times from %d to %d, outside its date (UTC): --from and --until miss them.",
            path,
            bounds[0],
            bounds[1] - 1,
        )


def _is_partition(contract: schema.Table, name: str) -> bool:
    return contract.partitioned and name == log_writer.PARTITION


def _with_time(columns: Sequence[str], contract: schema.Table) -> list[str]:
    time = [contract.time_column] if contract.time_column else []
    return list(dict.fromkeys([*columns, *time]))


def _require_columns(names: Sequence[str], contract: schema.Table, *, path: str) -> None:
    missing = [name for name in contract.required if name not in names]
    if missing:
        raise command.InputError(
            f"{path}: table {contract.name} lacks the required column {missing[0]!r}. "
            f"Found: {', '.join(names) or 'no columns'}."
        )


def _conformed(rows: pa.Table, contract: schema.Table, path: str) -> pa.Table:
    try:
        return schema.conform(contract.name, rows, is_partial=True)
    except command.InputError as error:
        raise command.InputError(f"{path}: {error}") from error


def _selected(rows: pa.Table, columns: Sequence[str], contract: schema.Table) -> pa.Table:
    for name in columns:
        if name not in rows.column_names:
            column = contract.column(name)
            kind = pa.null() if column is None else column.type
            rows = rows.append_column(pa.field(name, kind), pa.nulls(rows.num_rows, kind))
    return rows.select(list(columns))
