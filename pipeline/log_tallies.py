"""What the check of a log keeps of the rows that pass by: times, copies, and those set aside."""

import contextlib
import dataclasses
import pathlib

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from features import files, schema


@dataclasses.dataclass
class Times:
    """When the usable events of a table happened, Unix seconds, and how many are positive.

    Positive are the watches that may be labels and the impressions that were clicked and watched.
    """

    newest: int = 0
    first_positive: int | None = None
    positives: int = 0

    def add(self, name: str, accepted: pa.Table) -> None:
        """Takes in rows that passed."""
        if not accepted.num_rows:
            return
        self.newest = max(self.newest, pc.max(accepted["time"]).as_py())
        if name == "watches" and "completed" in accepted.column_names:
            accepted = accepted.filter(pc.fill_null(accepted["completed"], True))
        if name == "impressions":
            is_watched = pc.greater(accepted["watch_time_s"], 0)
            accepted = accepted.filter(pc.and_(accepted["clicked"], is_watched))
        self.positives += accepted.num_rows
        if accepted.num_rows:
            first = pc.min(accepted["time"]).as_py()
            self.first_positive = min(first, self.first_positive or first)


class RejectedRows:
    """Writes rows that are set aside as they come; nothing is there where none are."""

    def __init__(self, directory: pathlib.Path | None) -> None:
        self._directory = directory
        self._stack = contextlib.ExitStack()
        self._open: pathlib.Path | None = None
        self._count = 0

    def add(self, name: str, rows: pa.Table) -> None:
        """Writes rows of a table."""
        if self._directory is None or not rows.num_rows:
            return
        if self._open is None:
            self._open = self._stack.enter_context(files.atomic_directory(self._directory))
        (self._open / name).mkdir(exist_ok=True)
        pq.write_table(rows, self._open / name / f"part-{self._count:05d}.parquet")
        self._count += 1

    def close(self) -> None:
        """Makes the directory appear."""
        self._stack.close()


class Copies:
    """Counts exact copies among any number of rows: a number of each is kept in a file."""

    def __init__(self, path: pathlib.Path) -> None:
        self._path = path
        self._path.touch()

    def add(self, rows: pa.Table) -> None:
        """Takes in rows."""
        with self._path.open("ab") as file:
            np.asarray(schema.row_hashes(rows), np.uint64).tofile(file)

    def count(self) -> int:
        """Returns how many rows equal an earlier one; sorts the file in place."""
        if not self._path.stat().st_size:
            return 0
        numbers = np.memmap(self._path, np.uint64, mode="r+")
        numbers.sort()
        return int((numbers[1:] == numbers[:-1]).sum())
