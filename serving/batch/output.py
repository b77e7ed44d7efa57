"""Parquet files of the offline commands: read with clear errors, written atomically."""

import os
import pathlib
from collections.abc import Iterable

import pyarrow as pa
import pyarrow.parquet as pq

from features import command, files


def read_parquet(path: pathlib.Path, *, flag: str) -> pa.Table:
    """Reads a Parquet file, or a directory of them.

    Raises:
        command.InputError: It does not exist, is not Parquet, or has no rows.
    """
    if not path.exists():
        raise command.InputError(f"--{flag} {path} does not exist.")
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise command.InputError(f"--{flag} {path} cannot be read as Parquet: {error}.") from None
    if not table.num_rows:
        raise command.InputError(f"--{flag} {path} has no rows.")
    return table


def write(path: pathlib.Path, schema: pa.Schema, tables: Iterable[pa.Table]) -> int:
    """Writes tables to one Parquet file, which appears under its name when it is whole.

    Returns:
        Number of rows written.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    rows = 0
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
            for table in tables:
                writer.write_table(table.cast(schema))
                rows += table.num_rows
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise command.InputError(f"--output {path} cannot be written: {error}.") from None
    finally:
        temporary.unlink(missing_ok=True)
    files.fsync_directory(path.parent)
    return rows
