"""Raw log fragments -> clean tables of whole users, and the rows that were set aside.

Rows lie in files (:mod:`pipeline.preprocessing.table_files`); what is shuffled is where a
fragment's rows of each bucket of users lie. A bucket has all events of its users, so exact
duplicates meet there.
"""

import collections
import hashlib
import json
import pathlib
import uuid
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from features import files
from features.catalogue import combined
from features.screen import progress
from features.tables import clean_logs, logs, schema
from features.tables.clean_logs import Cleaner
from pipeline.preprocessing import table_files
from pipeline.preprocessing.table_files import StoredTable

# What replay reads of each table; other columns only count when rows are compared.
COLUMNS: Mapping[str, Sequence[str]] = {
    "watches": ("user_id", "video_id", "time", "watch_time_s", "completed", "source", "device"),
    "searches": ("user_id", "time", "query"),
    "impressions": (
        *("user_id", "video_id", "time", "clicked", "click_time", "watch_time_s", "page_id"),
        *("position", "surface", "device", "candidate_sources", "retrieval_score", "release_id"),
    ),
    "feedback": ("user_id", "video_id", "time", "kind", "channel_id", "value", "page_id"),
}
_GIVEN_NAMES = ("page_id", "release_id")
EVENT_TABLES = tuple(COLUMNS)
ROW_HASH = "row_hash"
REJECTED = "rejected"
COUNTS = "counts"
_COUNTS_FILE = ".counts"
Counts = collections.Counter[tuple[str, str]]  # (table, reason) -> rows
Stored = dict[str, StoredTable]  # table name -> the clean rows of a bucket


def read_ids(directory: str, column: str) -> pa.Array:
    """Reads one column of a Parquet directory as one array."""
    return combined(pq.read_table(directory, columns=[column])[column])


def buckets_of(user_ids: pa.ChunkedArray, num_buckets: int) -> np.ndarray:
    """Returns each row's bucket, int64 [n]: the same in every process and run."""
    encoded = combined(user_ids).dictionary_encode()
    codes = [zlib.crc32(user.encode()) % num_buckets for user in encoded.dictionary.to_pylist()]
    return np.asarray(codes, np.int64)[np.asarray(encoded.indices)]


def narrowed(table: pa.Table, name: str) -> pa.Table:
    """Keeps what replay reads, and a hash of what else a row holds, to find exact copies by."""
    kept = [column for column in COLUMNS[name] if column in table.column_names]
    # Rows of one second stand in the order of the hash: with names that are given anew in every run
    # in it the same events would give examples in another order, and so another model.
    hashes = schema.row_hashes(table.drop_columns([c for c in kept if c in _GIVEN_NAMES]))
    return table.select(kept).append_column(ROW_HASH, hashes)


class ReadFragments(beam.DoFn):
    """Fragment -> (bucket, (table name, stored rows)); rejected rows and counts beside it."""

    def __init__(
        self,
        *,
        videos_dir: str,
        users_dir: str | None,
        num_events: int,
        num_buckets: int,
        now_s: int,
        window: tuple[int | None, int | None],
        store_dir: pathlib.Path,
    ) -> None:
        self._videos_dir = videos_dir
        self._users_dir = users_dir
        self._num_events = num_events
        self._num_buckets = num_buckets
        self._now_s = now_s
        self._from_s, self._until_s = window
        self.store_dir = store_dir

    def setup(self) -> None:
        """Loads the known ids once per worker."""
        self._cleaner = Cleaner(
            videos=read_ids(self._videos_dir, "video_id"),
            users=read_ids(self._users_dir, "user_id") if self._users_dir else None,
            now_s=self._now_s,
        )
        progress.at("reading the logs", total=self._num_events, unit="events")

    def process(self, fragment: logs.Fragment) -> Iterator[tuple[int, Any]]:
        """Reads, validates and deals out one fragment."""
        rows = logs.read_fragment(fragment, from_s=self._from_s, until_s=self._until_s)
        name = fragment.table
        progress.add(rows.num_rows)
        accepted, rejected = self._cleaner.split(name, rows)
        counts = collections.Counter({(name, "read"): rows.num_rows})
        yield from set_aside(name, rejected, counts)
        yield beam.pvalue.TaggedOutput(COUNTS, counts)
        accepted = narrowed(accepted, name)
        bucket = buckets_of(accepted["user_id"], self._num_buckets)
        numbers, starts = np.unique(np.sort(bucket), return_index=True)
        if len(numbers):
            dealt = accepted.take(pa.array(np.argsort(bucket, kind="stable")))
            ends = [*starts[1:], accepted.num_rows]
            parts = [dealt.slice(a, b - a) for a, b in zip(starts, ends, strict=True)]
            stored = table_files.store(parts, self.store_dir / _file_name(fragment))
            for number, part in zip(numbers, stored, strict=True):
                yield int(number), (name, part)


def tables_of(bucket: tuple[int, Stored]) -> dict[str, pa.Table]:
    """Reads the clean tables of a bucket."""
    return {name: stored.read() for name, stored in bucket[1].items()}


def set_aside(name: str, rejected: pa.Table, counts: Counts) -> Iterator[Any]:
    """Counts rejected rows by reason and yields them."""
    if not rejected.num_rows:
        return
    reasons, numbers = np.unique(rejected["reason"].to_pylist(), return_counts=True)
    for reason, number in zip(reasons, numbers, strict=True):
        counts[name, str(reason)] += int(number)
    yield beam.pvalue.TaggedOutput(REJECTED, (name, rejected))


def _file_name(fragment: logs.Fragment) -> str:
    """Returns a name of its own for a fragment, the same in every attempt."""
    key = f"{fragment.path} {fragment.row_groups}"
    return f"{fragment.table}-{hashlib.sha256(key.encode()).hexdigest()[:32]}.arrow"


class CleanBuckets(beam.DoFn):
    """(bucket, pieces) -> (bucket, {table name: stored rows}): no copies, clicks with moments."""

    def __init__(self, store_dir: pathlib.Path) -> None:
        self._store_dir = store_dir

    def process(
        self, bucket_and_pieces: tuple[int, Iterable[tuple[str, StoredTable]]]
    ) -> Iterator[tuple[int, Any]]:
        """Puts a bucket's pieces together, one table each."""
        bucket, pieces = bucket_and_pieces
        by_table: dict[str, list[pa.Table]] = {}
        for name, piece in pieces:
            by_table.setdefault(name, []).append(piece.read())
        clean: dict[str, pa.Table] = {}
        counts: Counts = collections.Counter()
        for name, parts in by_table.items():
            together = pa.concat_tables(parts, promote_options="permissive")
            # Pieces arrive in any order; sorted rows make the outcome the same in every run.
            order = [(c, "ascending") for c in ("user_id", "time", ROW_HASH)]
            unique, duplicates = schema.split_duplicates(together.sort_by(order))
            yield from set_aside(name, duplicates.drop_columns([ROW_HASH]), counts)
            counts[name, "accepted"] += unique.num_rows
            clean[name] = unique.drop_columns([ROW_HASH])
        stored: Stored = {}
        for name, table in clean_logs.with_clicks(clean).items():
            path = self._store_dir / f"bucket-{bucket}-{name}.arrow"
            (stored[name],) = table_files.store([table], path)
        yield beam.pvalue.TaggedOutput(COUNTS, counts)
        yield bucket, stored


class AddCounts(beam.CombineFn):
    """Adds up Counters."""

    def create_accumulator(self) -> Counts:
        """Starts empty."""
        return collections.Counter()

    def add_input(self, total: Counts, counts: Counts) -> Counts:
        """Adds one."""
        total.update(counts)
        return total

    def merge_accumulators(self, totals: Iterable[Counts]) -> Counts:
        """Adds all."""
        return sum(totals, collections.Counter())

    def extract_output(self, total: Counts) -> dict[tuple[str, str], int]:
        """Returns a plain dict."""
        return dict(total)


class AddTables(beam.CombineFn):
    """Adds up tables.

    Args:
        merge: Function of some tables, or none, that returns their sum.
    """

    def __init__(self, merge: Callable[[list[pa.Table]], pa.Table]) -> None:
        super().__init__()
        self._merge = merge

    def create_accumulator(self) -> list[pa.Table]:
        """Starts empty."""
        return []

    def add_input(self, parts: list[pa.Table], part: pa.Table) -> list[pa.Table]:
        """Keeps one merged table."""
        return [self._merge([*parts, part])]

    def merge_accumulators(self, many: Iterable[list[pa.Table]]) -> list[pa.Table]:
        """Merges all."""
        return [self._merge([part for parts in many for part in parts])]

    def extract_output(self, parts: list[pa.Table]) -> pa.Table:
        """Returns the one table."""
        return self._merge(parts)


def write_part(directory: pathlib.Path, table: pa.Table, *, row_group_size: int = 250_000) -> None:
    """Writes a table as the only Parquet file of a directory; a second attempt replaces it."""
    directory.mkdir(parents=True, exist_ok=True)
    temporary = directory / f".part-00000.{uuid.uuid4().hex}"
    try:
        pq.write_table(table, temporary, compression="zstd", row_group_size=row_group_size)
        temporary.replace(directory / "part-00000.parquet")
    finally:
        temporary.unlink(missing_ok=True)


def write_rejected(name_to_tables: tuple[str, Iterable[pa.Table]], directory: pathlib.Path) -> None:
    """Writes ``rejected/<table>``: the rows set aside, with their reasons."""
    name, tables = name_to_tables
    together = pa.concat_tables(list(tables), promote_options="permissive")
    write_part(directory / "rejected" / name, together)


def write_counts(counts: Mapping[tuple[str, str], int], directory: pathlib.Path) -> None:
    """Writes the counts for :func:`read_counts`."""
    rows = [[table, reason, number] for (table, reason), number in counts.items()]
    files.atomic_write(directory / _COUNTS_FILE, json.dumps(rows))


def read_counts(directory: pathlib.Path) -> Counts:
    """Returns (table, reason) -> rows, and removes the file that carried them."""
    path = directory / _COUNTS_FILE
    rows = json.loads(path.read_text())
    path.unlink()
    return collections.Counter({(table, reason): number for table, reason, number in rows})
