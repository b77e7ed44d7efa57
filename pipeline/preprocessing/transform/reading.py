"""Raw examples as row groups of Parquet files, and runs of them that come to one file."""

import dataclasses
import pathlib
from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from features.screen import progress

# Rows of one file of transformed examples at most, so that many workers share the work evenly.
ROWS_PER_FILE = 65_536
# Rows that are in memory at once. A look-up costs as much as its vocabulary is long whatever it
# looks up, so there should be many.
ROWS_AT_ONCE = 16_384


@dataclasses.dataclass(frozen=True)
class RowGroup:
    """Some row groups of one Parquet file.

    Attributes:
        path: File.
        number: Number of the row group there.
        num_rows: Number of its rows.
    """

    path: str
    number: int
    num_rows: int

    def read(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Reads columns of it, all by default, and counts its rows as progress."""
        progress.add(self.num_rows)
        with pq.ParquetFile(self.path) as file:
            wanted = None if columns is None else list(columns)
            return file.read_row_group(self.number, columns=wanted, use_threads=False)


def row_groups(directory: pathlib.Path) -> list[RowGroup]:
    """Lists the row groups of a Parquet directory that have rows, by file name."""
    groups = []
    for path in sorted(directory.glob("*.parquet")):
        footer = pq.read_metadata(path)
        sizes = [footer.row_group(number).num_rows for number in range(footer.num_row_groups)]
        groups += [RowGroup(str(path), n, size) for n, size in enumerate(sizes) if size]
    return groups


def runs(groups: Sequence[RowGroup], most: int) -> list[tuple[RowGroup, ...]]:
    """Cuts row groups into runs of at most ``most`` rows, or of one larger row group."""
    cut: list[list[RowGroup]] = []
    rows = 0
    for group in groups:
        if not cut or rows + group.num_rows > most:
            cut.append([])
            rows = 0
        cut[-1].append(group)
        rows += group.num_rows
    return [tuple(run) for run in cut]


def tables(groups: Sequence[RowGroup], columns: Sequence[str]) -> Iterator[pa.Table]:
    """Reads row groups, about :data:`ROWS_AT_ONCE` rows at a time, each column in one chunk."""
    for run in runs(groups, ROWS_AT_ONCE):
        yield pa.concat_tables([group.read(columns) for group in run]).combine_chunks()
