"""Beam's side of replay: buckets of clean tables -> video statistics and raw examples.

The logic is in :mod:`features.as_of.replay` and :mod:`features.as_of.statistics`, shared with
serving.
"""

import dataclasses
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq

from features.as_of import leakage, live_statistics, statistics
from features.as_of import replay as replay_logic
from features.as_of.examples import Users
from features.as_of.live_statistics import LiveStatistics
from features.catalogue import Catalogue
from features.spec import ResolvedSpec
from features.tables import logs, schema
from pipeline.preprocessing import cleaning, leakage_audit, periods, table_files
from pipeline.preprocessing.table_files import StoredTable

_MERGED_AT_ONCE = 16  # Tables of minute counts that are held before they are added up.


class DailyCounts(beam.DoFn):
    """(bucket, clean tables) -> the bucket's video statistics by day.

    Args:
        has_impressions: Whether the log has impressions; a bucket may have none all the same.
    """

    def __init__(self, *, has_impressions: bool) -> None:
        self._has_impressions = has_impressions

    def process(self, bucket: tuple[int, cleaning.Stored]) -> Iterator[pa.Table]:
        """Counts one bucket."""
        tables = cleaning.tables_of(bucket)
        impressions = tables.get("impressions")
        if impressions is None and self._has_impressions:
            impressions = schema.empty("impressions")
        if "watches" in tables or impressions is not None:
            yield statistics.daily_counts(tables.get("watches"), impressions)


class MinuteCounts(beam.DoFn):
    """(bucket, clean tables) -> the bucket's live statistics: counts by video and minute, stored.

    They are not combined as other sums are: a runner would hold them several times over.

    Args:
        videos_dir: Directory of the catalogue.
        store_dir: Directory that gets the tables.
    """

    def __init__(self, videos_dir: str, store_dir: pathlib.Path) -> None:
        self._videos_dir = videos_dir
        self._store_dir = store_dir

    def setup(self) -> None:
        """Loads the ids once per worker."""
        ids = cleaning.read_ids(self._videos_dir, "video_id")
        self._catalogue = Catalogue(pa.table({"video_id": ids}))

    def process(self, bucket: tuple[int, cleaning.Stored]) -> Iterator[StoredTable]:
        """Counts one bucket."""
        tables = cleaning.tables_of(bucket)
        counts = live_statistics.minute_counts(
            self._catalogue, tables.get("watches"), tables.get("impressions")
        )
        yield from table_files.store([counts], self._store_dir / f"minutes-{bucket[0]}.arrow")


def _merged_minutes(parts: Sequence[StoredTable], store_dir: pathlib.Path) -> StoredTable:
    """Adds up tables of :class:`MinuteCounts`."""
    total = live_statistics.merge([])
    for start in range(0, len(parts), _MERGED_AT_ONCE):
        few = [part.read() for part in parts[start : start + _MERGED_AT_ONCE]]
        total = live_statistics.merge([total, *few])
    (stored,) = table_files.store([total], store_dir / "minutes.arrow")
    return stored


@dataclasses.dataclass(frozen=True)
class Cached:
    """What replay need not make again.

    Attributes:
        digests: Sums by which the log's periods are told apart.
        settings: Description of what else examples depend on.
        keys: Keys of the periods whose examples there are.
    """

    digests: periods.Digests
    settings: str
    keys: frozenset[str]

    def missing(self, digests: pa.Table) -> list[periods.Period]:
        """Returns the periods of a log to make examples of."""
        found = periods.periods_of(digests, self.settings)
        return [period for period in found if period.key not in self.keys]


class Replay(beam.DoFn):
    """(bucket, clean tables) -> raw examples, tagged ``<model>_<split>``."""

    def __init__(
        self,
        config: replay_logic.ReplayConfig,
        *,
        spec_json: str,
        videos_dir: str,
        users_dir: str | None,
        cached: Cached | None = None,
    ) -> None:
        self._config = config
        self._spec_json = spec_json
        self.cached = cached
        self.videos_dir = videos_dir
        self._users_dir = users_dir

    def setup(self) -> None:
        """Loads catalogue and profiles once per worker."""
        users = pq.read_table(self._users_dir) if self._users_dir else replay_logic.NO_USERS
        resolved = ResolvedSpec.from_json(self._spec_json)
        catalogue = Catalogue(pq.read_table(self.videos_dir).combine_chunks())
        self._audit = leakage.Audit(resolved, catalogue, train_until_s=self._config.train_until_s)
        self._replayer = replay_logic.Replayer(
            self._config,
            resolved=resolved,
            catalogue=catalogue,
            users=Users(users.combine_chunks()),
            audit=self._audit,
        )
        self._stored: StoredTable | None = None

    def process(
        self,
        bucket: tuple[int, cleaning.Stored],
        daily: pa.Table,
        minutes: StoredTable,
        digests: pa.Table | None = None,
    ) -> Iterator[Any]:
        """Replays one bucket; only the periods that are not cached where ``digests`` are given."""
        asked: Sequence[tuple[int, int]] = replay_logic.ALWAYS
        if self.cached is not None and digests is not None:
            asked = tuple((p.start, p.end) for p in self.cached.missing(digests))
        if minutes != self._stored:  # The same for all buckets of a worker.
            self._stored, self._minutes = minutes, minutes.read().combine_chunks()
            self._live = LiveStatistics.of(self._minutes)
        tables = cleaning.tables_of(bucket)
        self._audit.begin(tables, daily, self._minutes)
        made = self._replayer.examples(tables, daily, self._live, periods=asked)
        for model, split, batch in made:
            yield beam.pvalue.TaggedOutput(f"{model}_{split}", pa.Table.from_batches([batch]))
        yield beam.pvalue.TaggedOutput(leakage_audit.SEEN, self._audit.take())


def add_example_generation(
    pipeline: beam.Pipeline,
    fragments: Sequence[logs.Fragment],
    *,
    read: cleaning.ReadFragments,
    replay: Replay,
    outputs: Mapping[str, tuple[pathlib.Path, pa.Schema]],
    directory: pathlib.Path,
    has_impressions: bool,
) -> None:
    """Adds the pipeline from fragments of logs to raw examples.

    Args:
        pipeline: Pipeline to add to.
        fragments: Fragments of all event tables.
        read: Reader that validates and deals out.
        replay: Replay that makes examples.
        outputs: ``<model>_<split>`` to the directory and schema of its raw examples.
        has_impressions: Whether the log has that table.
        directory: Directory that gets ``video_statistics``, ``rejected`` and the counts.
    """
    pieces = (
        pipeline
        | "List fragments" >> beam.Create(list(fragments))
        | "Spread fragments" >> beam.Reshuffle()
        | "Read fragments"
        >> beam.ParDo(read).with_outputs(cleaning.REJECTED, cleaning.COUNTS, main="pieces")
    )
    clean = (
        pieces.pieces
        | "Gather buckets" >> beam.GroupByKey()
        | "Clean buckets"
        >> beam.ParDo(cleaning.CleanBuckets(read.store_dir)).with_outputs(
            cleaning.REJECTED, cleaning.COUNTS, main="bucket_to_tables"
        )
    )
    daily = (
        clean.bucket_to_tables
        | "Count days" >> beam.ParDo(DailyCounts(has_impressions=has_impressions))
        | "Merge days" >> beam.CombineGlobally(cleaning.AddTables(statistics.merge))
    )
    daily | "Write video statistics" >> beam.Map(
        lambda table: cleaning.write_part(directory / "video_statistics", table)
    )
    minutes = (
        clean.bucket_to_tables
        | "Count minutes" >> beam.ParDo(MinuteCounts(replay.videos_dir, read.store_dir))
        | "List minutes" >> beam.combiners.ToList()
        | "Merge minutes" >> beam.Map(_merged_minutes, read.store_dir)
    )
    beside = [daily, minutes]
    if replay.cached is not None:
        digests = (
            clean.bucket_to_tables
            | "Digest periods" >> beam.ParDo(replay.cached.digests)
            | "Merge digests" >> beam.CombineGlobally(cleaning.AddTables(periods.merge))
        )
        digests | "Write digests" >> beam.Map(periods.write_digests, directory)
        beside.append(digests)
    examples = clean.bucket_to_tables | "Replay" >> beam.ParDo(
        replay, *(beam.pvalue.AsSingleton(table) for table in beside)
    ).with_outputs(*outputs, leakage_audit.SEEN)
    (
        examples[leakage_audit.SEEN]
        | "Add up audit" >> beam.CombineGlobally(leakage.merged)
        | "Write audit" >> beam.Map(leakage_audit.write_seen, directory)
    )
    for tag, (path, example_schema) in outputs.items():
        examples[tag] | f"Write {tag}" >> beam.io.WriteToParquetBatched(
            str(path / "part"), schema=example_schema, codec="zstd", file_name_suffix=".parquet"
        )
    (
        (pieces[cleaning.REJECTED], clean[cleaning.REJECTED])
        | "All rejected" >> beam.Flatten()
        | "By table" >> beam.GroupByKey()
        | "Write rejected" >> beam.Map(cleaning.write_rejected, directory)
    )
    (
        (pieces[cleaning.COUNTS], clean[cleaning.COUNTS])
        | "All counts" >> beam.Flatten()
        | "Add counts" >> beam.CombineGlobally(cleaning.AddCounts())
        | "Write counts" >> beam.Map(cleaning.write_counts, directory)
    )
