"""Writes the raw logs: a whole directory that appears at once, or single files added to it.

See ``features.tables.logs`` for the layout; ``features.tables.logs`` offers ``LogWriter`` and
``append`` too.
"""

import contextlib
import json
import os
import pathlib
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from features import command, files
from features.durations import DAY_S
from features.tables import raw_tables, schema

MAX_ROW_GROUP_ROWS = 250_000
# What LogWriter holds back so that a date gets few files, not one per call.
MAX_PENDING_BYTES = 512 << 20
FEATURES_FILE = "features.json"
PARTITION = raw_tables.PARTITION
# Hive's name for rows whose partition value is missing: here a null time, or one beyond year 9999.
NO_DATE = "__HIVE_DEFAULT_PARTITION__"

_MAX_DAY = 2_932_896  # 9999-12-31, the last day that has a date=YYYY-MM-DD name.
_MIN_DAY = -719_162  # 0001-01-01.


def concatenated(tables: Sequence[pa.Table]) -> pa.Table:
    """Returns the rows of all tables; a column that a table lacks is null there.

    Raises:
        InputError: A column has types in two tables that do not go together.
    """
    try:
        return pa.concat_tables(tables, promote_options="permissive")
    except (pa.ArrowTypeError, pa.ArrowInvalid) as error:
        raise command.InputError(
            f"files of one table disagree about a column: {error}. Write it with one type."
        ) from error


def append(
    logs_dir: str | os.PathLike[str], table_name: str, arrow_table: pa.Table
) -> list[pathlib.Path]:
    """Adds rows to a table, durably: one new file per date, each of which appears whole.

    Args:
        logs_dir: Directory of the logs; created where it does not exist.
        table_name: Name of the table, a key of ``schema.TABLES``.
        arrow_table: Rows to add; conformed first.

    Returns:
        The files written. A crash between two dates leaves the first date written.

    Raises:
        InputError: A column is missing or of a wrong type.
    """
    written = []
    conformed = schema.conform(table_name, arrow_table)
    for directory, rows in _by_directory(schema.table_of(table_name), conformed):
        # Tables are read in the order of names: rows come in the order in which they were added.
        name = f"part-{time.time_ns():020d}-{uuid.uuid4().hex[:12]}.parquet"
        target = pathlib.Path(logs_dir) / directory / name
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.tmp")
        try:
            _write_parquet(rows, temporary)
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
        files.fsync_directory(target.parent)
        written.append(target)
    return written


class LogWriter:
    """Writes a whole logs directory, which appears at once when the block ends.

    with LogWriter(logs_dir) as writer:
        writer.write("videos", videos)
        writer.write("watches", watches)

    When the block fails, or the process is killed, nothing appears under ``logs_dir``.

    Attributes:
        rows: Rows written so far, by table.
    """

    def __init__(
        self,
        logs_dir: str | os.PathLike[str],
        *,
        overwrite: bool = False,
        max_pending_bytes: int = MAX_PENDING_BYTES,
    ) -> None:
        """Checks that the directory may be written.

        Args:
            logs_dir: Directory to create.
            overwrite: Whether to replace what stands there, once the new logs are whole.
            max_pending_bytes: Greatest number of bytes of rows held in memory before files are
                written.

        Raises:
            InputError: The directory has content and ``overwrite`` is not given.
        """
        self.rows: dict[str, int] = {}
        self._target = pathlib.Path(logs_dir)
        if self._target.exists() and not self._target.is_dir():
            raise command.InputError(f"{self._target} should be a directory, but is a file.")
        if not overwrite and self._target.exists() and any(self._target.iterdir()):
            raise command.InputError(
                f"{self._target} is not empty. "
                "Give another directory, or --overwrite to replace it."
            )
        self._max_pending_bytes = max_pending_bytes
        self._pending: dict[str, list[pa.Table]] = {}
        self._pending_bytes = 0
        self._num_files: dict[str, int] = {}
        self._stack = contextlib.ExitStack()
        self._temporary: pathlib.Path | None = None

    def __enter__(self) -> "LogWriter":
        self._temporary = self._stack.enter_context(files.atomic_directory(self._target))
        return self

    def __exit__(self, *error: Any) -> None:
        try:
            if error[0] is None:
                self._flush()
        except BaseException as failure:
            self._stack.__exit__(type(failure), failure, failure.__traceback__)
            raise
        self._stack.__exit__(*error)

    def write(self, table_name: str, arrow_table: pa.Table) -> None:
        """Adds rows; any number of calls per table, in any order of time.

        Raises:
            InputError: A column is missing or of a wrong type.
        """
        conformed = schema.conform(table_name, arrow_table)
        for directory, rows in _by_directory(schema.table_of(table_name), conformed):
            self._pending.setdefault(directory, []).append(rows)
        self._pending_bytes += conformed.nbytes
        self.rows[table_name] = self.rows.get(table_name, 0) + conformed.num_rows
        if self._pending_bytes > self._max_pending_bytes:
            self._flush()

    def write_beside(self, name: str, rows: pa.Table) -> None:
        """Adds rows to ``<name>/*.parquet``, which is no table of the contract."""
        if name in schema.TABLES:
            raise ValueError(f"{name} is a table of the contract: use write.")
        if rows.num_rows:
            self._pending.setdefault(name, []).append(rows)
            self._pending_bytes += rows.nbytes
            self.rows[name] = self.rows.get(name, 0) + rows.num_rows
            if self._pending_bytes > self._max_pending_bytes:
                self._flush()

    @contextlib.contextmanager
    def scratch(self) -> Iterator[pathlib.Path]:
        """Yields a directory for temporary files, which is gone before the logs appear."""
        directory = self._require_open() / "_scratch"
        directory.mkdir()
        try:
            yield directory
        finally:
            shutil.rmtree(directory, ignore_errors=True)

    def write_features(self, declarations: Sequence[Mapping[str, Any]]) -> None:
        """Writes ``features.json``, the declarations of extra features."""
        text = json.dumps([dict(declaration) for declaration in declarations], indent=1)
        (self._require_open() / FEATURES_FILE).write_text(text + "\n")

    def write_truth(self, name: str, arrow_table: pa.Table) -> None:
        """Writes a Parquet file of what the logs do not say, below ``truth``."""
        directory = self._require_open() / "truth"
        directory.mkdir(exist_ok=True)
        _write_parquet(arrow_table, directory / name)

    def link(self, path: pathlib.Path) -> None:
        """Takes over a file or directory of other logs as it is, without a copy of its content."""
        files.link_tree(path, self._require_open() / path.name)

    def _require_open(self) -> pathlib.Path:
        if self._temporary is None:
            raise ValueError("LogWriter must be entered with `with` before it is written to.")
        return self._temporary

    def _flush(self) -> None:
        root = self._require_open()
        for directory in sorted(self._pending):
            number = self._num_files.get(directory, 0)
            self._num_files[directory] = number + 1
            target = root / directory / f"part-{number:05d}.parquet"
            target.parent.mkdir(parents=True, exist_ok=True)
            _write_parquet(concatenated(self._pending.pop(directory)), target)
        self._pending_bytes = 0


def _write_parquet(rows: pa.Table, path: pathlib.Path) -> None:
    pq.write_table(rows, path, compression="zstd", row_group_size=MAX_ROW_GROUP_ROWS)


def _by_directory(contract: schema.Table, rows: pa.Table) -> Iterator[tuple[str, pa.Table]]:
    """Yields (directory below logs/, its rows in their order)."""
    if rows.num_rows == 0:
        return
    if not contract.partitioned:
        yield contract.name, rows
        return
    if PARTITION in rows.column_names:
        raise ValueError(f"column {PARTITION!r} must not be written: it names the partitions.")
    missing = _MAX_DAY + 1
    time = rows[contract.time_column].to_numpy(zero_copy_only=False)
    is_time = np.isfinite(time)
    day = np.floor_divide(np.where(is_time, time, 0), DAY_S).astype(np.int64)
    day = np.where(is_time & (day >= _MIN_DAY) & (day <= _MAX_DAY), day, missing)
    if (day[:-1] > day[1:]).any():
        order = np.argsort(day, kind="stable")
        rows, day = rows.take(pa.array(order)), day[order]
    starts = np.flatnonzero(np.diff(day, prepend=day[0] - 1))
    for start, end in zip(starts, [*starts[1:], len(day)], strict=True):
        number = int(day[start])
        date = NO_DATE if number == missing else str(np.datetime64(number, "D"))
        yield f"{contract.name}/{PARTITION}={date}", rows.slice(start, end - start)
