"""Reads and writes the raw logs: Parquet files of the tables in ``features.tables.schema``.

    logs/watches/date=2022-05-01/part-00000.parquet      events, by the UTC date of their time
    logs/videos/part-00000.parquet                       tables that are not events
    logs/video_vectors/content.npz                       vectors beside a table, optional
    logs/features.json                                   declarations of extra features, optional

A reader takes ``fragments`` (some row groups of one file) and reads each where it likes, so that
no table has to fit in memory. Which files are read is decided in :mod:`features.tables.log_files`,
what is read of each in :mod:`features.tables.log_columns`, and
:mod:`features.tables.vector_files` adds vectors to a table that is read whole.
"""

import dataclasses
import os
import pathlib
from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from absl import logging

from features import command
from features.tables import (
    log_columns,
    log_files,
    log_writer,
    schema,
    time_windows,
    vector_files,
)
from features.tables.log_files import TableFile

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
        path: Path of the Parquet file.
        row_groups: Numbers of the row groups in the file, ascending.
        num_rows: Rows in them, before any filter by time.
        partitions: ``key=value`` directories that the file lies in below its table's.
    """

    table: str
    path: str
    row_groups: tuple[int, ...]
    num_rows: int
    partitions: tuple[tuple[str, str], ...] = ()


def tables_in(logs_dir: str | os.PathLike[str]) -> set[str]:
    """Returns the names of the tables that have at least one Parquet file.

    Raises:
        InputError: The directory does not exist, holds none of the tables, or has something in
            a table that should hold rows and cannot be read.
    """
    root = pathlib.Path(logs_dir)
    _require_directory(root)
    tables = {name for name in schema.TABLES if log_files.files_of(root, name)}
    strays = log_files.strays(root)
    for stray in strays:
        schema.warn_once(stray)
    if not tables:
        raise command.InputError(
            f"{root} holds no table: expected directories such as {root / 'watches'} with Parquet "
            f"files.{_what_lies_in(root)}"
        )
    return tables


def _what_lies_in(root: pathlib.Path) -> str:
    """Says what a directory without tables holds instead, or how to fill it where that is safe."""
    said = log_files.strays(root)
    for name in schema.TABLES:
        notice = log_files.find(root, name).notice()
        said += [f"{root / name} has no Parquet files: {notice}."] if notice else []
    if said:
        return "\n  " + "\n  ".join(said)
    names = sorted(path.name for path in root.iterdir())
    if names:
        return f" It holds: {', '.join(names[:10])}."
    return (
        f" Make logs with: python -m pipeline.simulate --logs={root}, or "
        f"python -m pipeline.import_dataset --logs={root}"
    )


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
        table: Name of the table, a key of ``schema.TABLES``.
        from_s: Earliest time of events, Unix seconds; None for no bound.
        until_s: Time before which events lie, Unix seconds; None for no bound.
        max_rows: Rows in a fragment; more only where one row group has more.

    Returns:
        Fragments in the order of dates, then of file names. Dates, and row groups by their
        statistics, that lie outside the window are left out, so the list is empty when nothing is
        inside.

    Raises:
        InputError: The table is absent or has no rows at all, or a file is not whole.
    """
    contract = schema.table_of(table)
    total, is_skipping = 0, False
    pieces: list[Fragment] = []
    for file in _require_files(logs_dir, table):
        if contract.time_column and not time_windows.overlaps(
            time_windows.of_date(file), from_s, until_s
        ):
            is_skipping = True
            continue
        metadata = log_columns.read_footer(file.path, table)
        total += metadata.num_rows
        pieces.extend(
            _fragments_of(
                file, metadata, contract, from_s=from_s, until_s=until_s, max_rows=max_rows
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
        fragment: Fragment that ``fragments`` returned.
        columns: Names of the columns, in this order; None for all. A column that this file does not
            have comes as nulls, since another file of the table may have it (``column_types`` tells
            which columns a table has).
        from_s: Earliest time of events, Unix seconds; None for no bound.
        until_s: Time before which events lie, Unix seconds; None for no bound.

    Returns:
        Rows in the order of the file. Rows with a null time are kept for ``schema.validate`` to
        set aside.

    Raises:
        InputError: The file is damaged, or a column is missing or of a wrong type.
    """
    contract = schema.table_of(fragment.table)
    wanted = None if columns is None else _needed(columns, contract)
    with (
        log_columns.explained(fragment.path, fragment.table),
        # Nanoseconds, Arrow's choice for Spark's INT96, wrap around beyond the year 2262.
        pq.ParquetFile(fragment.path, coerce_int96_timestamp_unit="us") as file,
    ):
        stored = file.schema_arrow
        problems = log_columns.missing(stored.names, fragment.partitions, contract)
        if problems:
            raise schema.ContractError(*(f"{fragment.path}: {problem}" for problem in problems))
        here = [
            name
            for name in log_columns.readable(stored, contract)
            if wanted is None or name in wanted
        ]
        rows = file.read_row_groups(list(fragment.row_groups), columns=here, use_threads=False)
    rows = log_columns.with_partitions(rows.select(here), fragment.partitions, contract)
    with log_columns.named(fragment.path):
        rows = schema.conform(fragment.table, rows, is_partial=True)
    if contract.time_column and (from_s is not None or until_s is not None):
        rows = rows.filter(time_windows.inside(rows[contract.time_column], from_s, until_s))
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
        Rows in the order of dates, then of files; where ids repeat that should not, the oldest file
        comes first (:func:`features.tables.log_files.oldest_first`). A column that some files lack
        is null in their rows. When nothing lies inside the window, the contract columns without
        rows. Vectors that lie beside the table are further columns.
    """
    rows = _table(logs_dir, table, columns=columns, from_s=from_s, until_s=until_s)
    return vector_files.joined(logs_dir, table, rows, columns=columns)


def _table(
    logs_dir: str | os.PathLike[str],
    table: str,
    *,
    columns: Sequence[str] | None,
    from_s: int | None,
    until_s: int | None,
) -> pa.Table:
    contract = schema.table_of(table)
    pieces = fragments(logs_dir, table, from_s=from_s, until_s=until_s)
    parts = [read_fragment(p, columns=columns, from_s=from_s, until_s=until_s) for p in pieces]
    if not parts:
        nothing = schema.empty(table)
        return nothing if columns is None else _selected(nothing, columns, contract)
    rows = log_writer.concatenated(parts)
    if contract.key not in rows.column_names or _is_unique(rows[contract.key]):
        return rows  # In an order that does not depend on when files were copied.
    files = log_files.oldest_first(log_files.files_of(logs_dir, table))
    ages = {str(file.path): age for age, file in enumerate(files)}
    order = sorted(range(len(pieces)), key=lambda n: (ages.get(pieces[n].path, len(ages)), n))
    return log_writer.concatenated([parts[n] for n in order])


def column_types(logs_dir: str | os.PathLike[str], table: str) -> dict[str, pa.DataType]:
    """Returns name -> type of every column that any file of a table has, after ``conform``.

    Vectors that lie beside the table are among them.

    Raises:
        InputError: The table is absent, or a file is not whole or breaks the contract.
    """
    tables = []
    for file in _require_files(logs_dir, table):
        with log_columns.named(str(file.path)):
            tables.append(pa.schema(log_columns.file_types(file, table).items()).empty_table())
    try:
        together = log_writer.concatenated(tables).schema
    except command.InputError as error:
        raise command.InputError(f"table {table} in {logs_dir}: {error}") from error
    own = dict(zip(together.names, together.types, strict=True))
    return own | vector_files.types(logs_dir, table)


def _require_directory(root: pathlib.Path) -> None:
    if not root.is_dir():
        raise command.InputError(
            f"{root} should be a logs directory, but does not exist. Make logs with: "
            f"python -m pipeline.simulate --logs={root}, or "
            f"python -m pipeline.import_dataset --logs={root}"
        )


def _require_files(logs_dir: str | os.PathLike[str], table: str) -> tuple[TableFile, ...]:
    root = pathlib.Path(logs_dir)
    _require_directory(root)
    data_files = log_files.files_of(root, table)
    if not data_files:
        state = "has no Parquet files" if (root / table).is_dir() else "does not exist"
        notice = log_files.find(root, table).notice()
        others = (
            ", ".join(sorted(path.name for path in root.iterdir() if path.is_dir())) or "nothing"
        )
        raise command.InputError(
            f"table {table} is missing: {root / table} {state}"
            f"{f' ({notice})' if notice else ''}. {root} holds: {others}."
        )
    return data_files


def _fragments_of(
    file: TableFile,
    metadata: pq.FileMetaData,
    contract: schema.Table,
    *,
    from_s: int | None,
    until_s: int | None,
    max_rows: int,
) -> Iterator[Fragment]:
    bounds_of = time_windows.of_row_groups(metadata, contract)
    groups: list[int] = []
    num_rows = 0

    def fragment() -> Fragment:
        return Fragment(
            table=contract.name,
            path=str(file.path),
            row_groups=tuple(groups),
            num_rows=num_rows,
            partitions=file.partitions,
        )

    for group in range(metadata.num_row_groups):
        size = metadata.row_group(group).num_rows
        bounds = bounds_of(group)
        _warn_if_misplaced(file, bounds)
        if size == 0 or not time_windows.overlaps(bounds, from_s, until_s):
            continue
        if groups and num_rows + size > max_rows:
            yield fragment()
            groups, num_rows = [], 0
        groups.append(group)
        num_rows += size
    if groups:
        yield fragment()


def _warn_if_misplaced(file: TableFile, bounds: tuple[int, int] | None) -> None:
    date = time_windows.of_date(file)
    if date and bounds and (bounds[0] < date[0] or bounds[1] > date[1]):
        logging.warning(
            "%s holds times from %d to %d, outside its date (UTC): --from and --until miss them.",
            file.path,
            bounds[0],
            bounds[1] - 1,
        )


def _needed(columns: Sequence[str], contract: schema.Table) -> set[str]:
    """Returns which columns to read for some: time for the window, clicked for a missing 0 s."""
    also = {contract.time_column, *(("clicked",) if "watch_time_s" in columns else ())}
    return {*columns, *(name for name in also if name)}


def _is_unique(ids: pa.ChunkedArray) -> bool:
    return bool(pc.count_distinct(ids, mode="all").as_py() == len(ids))


def _selected(rows: pa.Table, columns: Sequence[str], contract: schema.Table) -> pa.Table:
    for name in columns:
        if name not in rows.column_names:
            column = contract.column(name)
            kind = pa.null() if column is None else column.type
            rows = rows.append_column(pa.field(name, kind), pa.nulls(rows.num_rows, kind))
    return rows.select(list(columns))
