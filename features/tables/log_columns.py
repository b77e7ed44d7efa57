"""The columns of one file of a log: which there are, which are read, and as what."""

import contextlib
import pathlib
import urllib.parse
from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from features import command
from features.tables import log_writer, schema
from features.tables.log_files import TableFile


def file_types(file: TableFile, table: str) -> dict[str, pa.DataType]:
    """Returns name -> type of every column of one file that is read, after ``conform``.

    Raises:
        InputError: The file is not whole.
        ContractError: The file breaks the contract; the message does not name the file.
    """
    contract, path = schema.table_of(table), str(file.path)
    with explained(path, table), pq.ParquetFile(path) as opened:
        rows, footer = opened.schema_arrow.remove_metadata().empty_table(), opened.metadata
    here = rows.select(readable(rows.schema, contract))
    for index, name in enumerate(here.column_names):
        column = contract.column(name)
        is_other = column is not None and column.type != here.schema.types[index]
        if is_other and _is_without_values(footer, name):
            here = here.set_column(index, name, pa.nulls(0))
    here = with_partitions(here, file.partitions, contract)
    problems = missing(rows.column_names, file.partitions, contract)
    try:
        conformed = schema.conform(table, here, is_partial=True)
    except schema.ContractError as error:
        raise schema.ContractError(*problems, *error.problems) from error
    if problems:
        raise schema.ContractError(*problems)
    return dict(zip(conformed.column_names, conformed.schema.types, strict=True))


@contextlib.contextmanager
def explained(path: str, table: str) -> Iterator[None]:
    """Says of a file that cannot be read which it is, and what to do."""
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise command.InputError(
            f"{path} (table {table}) cannot be read as Parquet: {error}. It may be truncated or "
            "half copied: copy or write it again, or remove it."
        ) from error


def read_footer(path: pathlib.Path, table: str) -> pq.FileMetaData:
    """Returns what the end of a file says of it, or raises InputError."""
    with explained(str(path), table):
        return pq.read_metadata(path)


def readable(stored: pa.Schema, contract: schema.Table) -> list[str]:
    """Returns the names of the columns to read; ``date`` is named by the directories already."""
    return [
        field.name
        for field in stored
        if not (contract.partitioned and field.name == log_writer.PARTITION)
        and schema.is_readable(contract, field.name, field.type)
    ]


def with_partitions(
    rows: pa.Table, partitions: Sequence[tuple[str, str]], contract: schema.Table
) -> pa.Table:
    """Adds columns of the contract that a writer moved from the file into ``key=value`` names."""
    for key, value in partitions:
        if contract.column(key) is not None and key not in rows.column_names:
            text = None if value == log_writer.NO_DATE else urllib.parse.unquote(value)
            rows = rows.append_column(key, pa.repeat(pa.scalar(text, pa.string()), rows.num_rows))
    return rows


def missing(
    names: Sequence[str], partitions: Sequence[tuple[str, str]], contract: schema.Table
) -> list[str]:
    """Returns what to say of the columns that neither a file nor its directories have."""
    keys = [key for key, _ in partitions if contract.column(key) is not None]
    return schema.missing_columns(contract, [*names, *keys])


@contextlib.contextmanager
def named(path: str) -> Iterator[None]:
    """Says which file breaks the contract."""
    try:
        yield
    except schema.ContractError as error:
        raise schema.ContractError(*(f"{path}: {p}" for p in error.problems)) from error


def _is_without_values(footer: pq.FileMetaData, name: str) -> bool:
    """Says whether the footer tells that a column is null throughout, whatever its type then."""
    paths = [footer.schema.column(index).path for index in range(footer.num_columns)]
    if footer.num_rows == 0 or name not in paths:
        return footer.num_rows == 0
    groups = range(footer.num_row_groups)
    columns = [footer.row_group(group).column(paths.index(name)) for group in groups]
    counts = [(column.statistics, column.num_values) for column in columns]
    return all(known is not None and known.null_count == total for known, total in counts)
