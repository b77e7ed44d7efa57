"""Vectors in files beside the tables of videos and users: what an embedding model wrote as it is.

    logs/video_vectors/content.npz             column ``content`` of the videos table
    logs/user_vectors/interests.parquet        column ``interests`` of the users table

The name of a file is that of the column. An NPZ file holds two arrays, ``video_id`` (or
``user_id``), numbers or text [n], and ``vector``, numbers [n, width]; a Parquet file the same as
columns. A row without a vector there keeps what the table says, and a vector of an id that the
table does not have waits for its row. Nothing in a file is pickled.
"""

import dataclasses
import os
import pathlib
import zipfile
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from features import command
from features.catalogue import combined
from features.tables import schema

DIRECTORIES: Mapping[str, str] = {"videos": "video_vectors", "users": "user_vectors"}
TYPE = pa.list_(pa.float32())
_VECTOR = "vector"
_NPZ, _PARQUET = ".npz", ".parquet"
_NAMED = 3


@dataclasses.dataclass(frozen=True)
class VectorFile:
    """One file of vectors.

    Attributes:
        table: Name of the table that it stands beside.
        path: Path of the file; its stem is the name of the column.
    """

    table: str
    path: pathlib.Path

    @property
    def column(self) -> str:
        """Name of the column that it is."""
        return self.path.stem

    def read(self) -> tuple[pa.Array, np.ndarray]:
        """Reads ids, string [n], and vectors, float32 [n, width].

        Raises:
            InputError: The file is not as it should be; names it, what is wrong and what to write.
        """
        key = str(schema.table_of(self.table).key)
        try:
            ids, vectors = self._arrays(key)
        except (OSError, ValueError, KeyError, zipfile.BadZipFile, pa.ArrowException) as error:
            raise self._refusal(f"cannot be read: {error}") from error
        if vectors.ndim != 2 or ids.ndim != 1 or len(ids) != len(vectors) or not vectors.shape[1]:
            raise self._refusal(
                f"holds {key} of the shape {ids.shape} and {_VECTOR} of {vectors.shape}"
            )
        if vectors.dtype.kind not in "fiu" or ids.dtype.kind not in "iuU":
            raise self._refusal(f"holds {key} of {ids.dtype} and {_VECTOR} of {vectors.dtype}")
        with np.errstate(over="ignore"):  # What float32 cannot hold is refused as infinite.
            numbers = np.ascontiguousarray(vectors, np.float32)
        names = pa.array(ids.astype("U"), pa.string())
        wrong = np.flatnonzero(~np.isfinite(numbers).all(axis=1))
        if len(wrong):
            named = names.take(pa.array(wrong[:_NAMED])).to_pylist()
            raise self._refusal(
                f"has {len(wrong):,} of {len(ids):,} vectors with a number that is null, NaN or "
                f"infinite (first: {named})"
            )
        if repeated := len(names) - pc.count_distinct(names).as_py():
            raise self._refusal(f"names {repeated:,} ids more than once")
        return names, numbers

    def _arrays(self, key: str) -> tuple[np.ndarray, np.ndarray]:
        if self.path.suffix == _NPZ:
            with self.path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
                return np.asarray(stored[key]), np.asarray(stored[_VECTOR])
        rows = pq.read_table(self.path, columns=[key, _VECTOR])
        return _ids(combined(rows[key])), _matrix(combined(rows[_VECTOR]))

    def _refusal(self, what: str) -> command.InputError:
        key = schema.table_of(self.table).key
        return command.InputError(
            f"{self.path} {what}. Write {key} (numbers or text, each once) [n] and {_VECTOR} "
            "(finite numbers) [n, width], as arrays of an NPZ file without pickled objects or as "
            "columns of a Parquet file."
        )


def files_of(logs_dir: str | os.PathLike[str], table: str) -> list[VectorFile]:
    """Returns the files of vectors beside a table, by name; none beside tables of events.

    Raises:
        InputError: Something else lies there, or two files are of one column.
    """
    directory = pathlib.Path(logs_dir) / DIRECTORIES.get(table, "")
    if table not in DIRECTORIES or not directory.is_dir():
        return []
    paths = [p for p in sorted(directory.iterdir()) if not p.name.startswith((".", "_"))]
    for path in paths:
        if path.suffix not in {_NPZ, _PARQUET} or not path.is_file():
            raise command.InputError(
                f"{path} is no file of vectors: {directory} holds NAME{_NPZ} and NAME{_PARQUET}, "
                "NAME being a column. Move it, or begin its name with a dot while it is written."
            )
    vector_files = [VectorFile(table, path) for path in paths]
    names = [file.column for file in vector_files]
    for name in names:
        if names.count(name) > 1:
            raise command.InputError(f"{directory} has two files of {name!r}: keep one of them.")
        if schema.table_of(table).column(name) is not None:
            raise command.InputError(
                f"{directory}/{name}.*: {name!r} is a column of the table {table} that is no "
                "vector. Give the file another name."
            )
    return vector_files


def types(logs_dir: str | os.PathLike[str], table: str) -> dict[str, pa.DataType]:
    """Returns the columns that files beside a table add to it, and their type."""
    return dict.fromkeys((file.column for file in files_of(logs_dir, table)), TYPE)


def stamps(logs_dir: str | os.PathLike[str], table: str) -> list[tuple[str, int, int]]:
    """Returns path, time and size of each file: what tells whether one has changed."""
    listed = []
    for file in files_of(logs_dir, table):
        status = file.path.stat()
        listed.append((str(file.path), status.st_mtime_ns, status.st_size))
    return listed


def joined(
    logs_dir: str | os.PathLike[str],
    table: str,
    rows: pa.Table,
    *,
    columns: Sequence[str] | None = None,
) -> pa.Table:
    """Returns rows of a table with the vectors that lie beside it.

    Args:
        logs_dir: Directory of the raw logs.
        table: Name of the table.
        rows: Rows of it, with its key.
        columns: Names of the columns that are wanted; None for all.

    Raises:
        InputError: A file cannot be used.
    """
    key = schema.table_of(table).key
    for file in files_of(logs_dir, table):
        if columns is not None and file.column not in columns:
            continue
        ids, vectors = file.read()
        places = pc.index_in(combined(rows[str(key)]).cast(pa.string()), value_set=ids)
        width = vectors.shape[1]
        offsets = pa.array(np.arange(len(ids) + 1, dtype=np.int32) * np.int32(width))
        column = pa.ListArray.from_arrays(offsets, pa.array(vectors.reshape(-1)), TYPE).take(places)
        if file.column in rows.column_names:
            column = pc.coalesce(column, _as_vectors(file, rows))
            rows = rows.drop_columns([file.column])
        rows = rows.append_column(pa.field(file.column, TYPE), column)
    return rows


def _as_vectors(file: VectorFile, rows: pa.Table) -> pa.Array:
    column = combined(rows[file.column])
    try:
        return column.cast(TYPE)
    except pa.ArrowException as error:
        raise command.InputError(
            f"{file.path} is the column {file.column!r} of the table {file.table}, which has one "
            f"that is {column.type}. Give the file another name, or drop the column."
        ) from error


def _ids(column: pa.Array) -> np.ndarray:
    if column.null_count:
        raise ValueError(f"{column.null_count:,} ids are null")
    if pa.types.is_integer(column.type):
        return np.asarray(column)
    return np.asarray(column.cast(pa.string()).to_pylist(), "U")


def _matrix(column: pa.Array) -> np.ndarray:
    lengths = pc.unique(pc.list_value_length(column)).to_pylist()
    if column.null_count or len(lengths) != 1:
        raise ValueError(f"vectors are {sorted(str(length) for length in lengths)} numbers long")
    flat = column.flatten().cast(pa.float32(), safe=False).fill_null(np.nan)
    return np.asarray(flat).reshape(len(column), -1)
