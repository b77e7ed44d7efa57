"""Tables that pass from one stage of a pipeline to a later one as files.

A runner holds what passes between stages in memory (the embedded one) or sends it over the
network. Of a log that is gigabytes. So stages write Arrow files below the examples directory,
which every worker must see in any case, and pass on where the tables lie.
"""

import dataclasses
import os
import pathlib
import uuid
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq


@dataclasses.dataclass(frozen=True)
class StoredTable:
    """Where a table lies.

    Attributes:
        path: Arrow IPC file.
        first: Number of its first record batch there.
        batches: Number of its record batches.
    """

    path: str
    first: int
    batches: int

    def read(self) -> pa.Table:
        """Reads the table, and nothing else of the file."""
        with pa.memory_map(self.path) as source:
            file = pa.ipc.open_file(source)
            numbers = range(self.first, self.first + self.batches)
            return pa.Table.from_batches([file.get_batch(n) for n in numbers], file.schema)


def store(tables: Sequence[pa.Table], path: pathlib.Path) -> list[StoredTable]:
    """Writes tables of one schema, not none of them, to one file, compressed.

    A stage that is tried again writes the same file again; a reader sees a whole one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    stored, written = [], 0
    try:
        with pa.ipc.new_file(str(temporary), tables[0].schema, options=options) as writer:
            for table in tables:
                batches = table.combine_chunks().to_batches()
                for batch in batches:
                    writer.write_batch(batch)
                stored.append(StoredTable(str(path), written, len(batches)))
                written += len(batches)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return stored


def num_rows(directory: pathlib.Path) -> int:
    """Returns the number of rows of the Parquet files of a directory."""
    return sum(pq.read_metadata(path).num_rows for path in directory.glob("*.parquet"))
