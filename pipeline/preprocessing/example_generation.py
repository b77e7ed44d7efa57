"""Beam's side of replay: fragments of logs -> clean tables of buckets of users -> raw examples.

The logic is in :mod:`features.as_of.replay`, shared with serving.
"""

import dataclasses
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq

from features.as_of import leakage
from features.as_of import replay as replay_logic
from features.as_of.examples import Users
from features.as_of.live_statistics import LiveStatistics
from features.catalogue import Catalogue
from features.screen import progress
from features.spec import ResolvedSpec
from features.tables import logs
from pipeline.preprocessing import cleaning, counting, leakage_audit, periods
from pipeline.preprocessing.table_files import StoredTable


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
        needed = periods.periods_of(digests, self.settings)
        return [period for period in needed if period.key not in self.keys]


class ReplayBuckets(beam.DoFn):
    """(bucket, clean tables) -> raw examples, tagged ``<model>_<split>``."""

    def __init__(
        self,
        config: replay_logic.ReplayConfig,
        *,
        spec_json: str,
        videos_dir: str,
        users_dir: str | None,
        num_buckets: int,
        cached: Cached | None = None,
        since_s: int | None = None,
    ) -> None:
        self._config = config
        self._since_s = since_s
        self._num_buckets = num_buckets
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
        progress.at("replaying the logs", total=self._num_buckets, unit="buckets of users")

    def process(
        self,
        bucket: tuple[int, cleaning.Stored],
        daily: pa.Table,
        minutes: StoredTable,
        digests: pa.Table | None = None,
    ) -> Iterator[Any]:
        """Replays one bucket; only the periods that are not cached where ``digests`` are given."""
        wanted: Sequence[tuple[int, int]] = replay_logic.ALWAYS
        if self._since_s is not None:
            wanted = ((self._since_s, self._config.train_until_s),)
        if self.cached is not None and digests is not None:
            wanted = tuple((p.start, p.end) for p in self.cached.missing(digests))
        if minutes != self._stored:  # The same for all buckets of a worker.
            self._stored, self._minutes = minutes, minutes.read().combine_chunks()
            self._live = LiveStatistics.of(self._minutes)
        tables = cleaning.tables_of(bucket)
        self._audit.begin(tables, daily, self._minutes)
        made = self._replayer.examples(tables, daily, self._live, periods=wanted)
        for model, split, batch in made:
            yield beam.pvalue.TaggedOutput(f"{model}_{split}", pa.Table.from_batches([batch]))
        yield beam.pvalue.TaggedOutput(leakage_audit.SEEN, self._audit.drain())
        progress.add()


class Clean(NamedTuple):
    """What :class:`CleanLogs` makes of fragments.

    Attributes:
        buckets: (bucket of users, its clean tables).
        rejected: (table name, rows set aside).
        counts: Counters of rows by table and reason.
    """

    buckets: beam.PCollection
    rejected: beam.PCollection
    counts: beam.PCollection


class CleanLogs(beam.PTransform):
    """Fragments of logs -> :class:`Clean`."""

    def __init__(self, read: cleaning.ReadFragments) -> None:
        super().__init__()
        self._read = read

    def expand(self, fragments: beam.PCollection) -> Clean:
        """Reads fragments, and puts together what belongs to the same users."""
        pieces = (
            fragments
            | "Spread fragments" >> beam.Reshuffle()
            | "Read fragments"
            >> beam.ParDo(self._read).with_outputs(
                cleaning.REJECTED, cleaning.COUNTS, main="pieces"
            )
        )
        clean = (
            pieces.pieces
            | "Gather buckets" >> beam.GroupByKey()
            | "Clean buckets"
            >> beam.ParDo(cleaning.CleanBuckets(self._read.store_dir)).with_outputs(
                cleaning.REJECTED, cleaning.COUNTS, main="bucket_to_tables"
            )
        )
        rejected, counts = (
            (pieces[tag], clean[tag]) | f"All {tag}" >> beam.Flatten()
            for tag in (cleaning.REJECTED, cleaning.COUNTS)
        )
        return Clean(clean.bucket_to_tables, rejected, counts)


class DigestPeriods(beam.PTransform):
    """(bucket, clean tables) -> the one table of digests of the log's periods, which is written."""

    def __init__(self, digests: periods.Digests, directory: pathlib.Path) -> None:
        super().__init__()
        self._digests = digests
        self._directory = directory

    def expand(self, buckets: beam.PCollection) -> beam.PCollection:
        """Digests bucket by bucket, and adds up."""
        digests = (
            buckets
            | "Digest buckets" >> beam.ParDo(self._digests)
            | "Merge digests" >> beam.CombineGlobally(cleaning.AddTables(periods.merge))
        )
        digests | "Write digests" >> beam.Map(periods.write_digests, self._directory)
        return digests


class ReplayUsers(beam.PTransform):
    """(bucket, clean tables), and what is known beside them -> files of raw examples.

    The input is a tuple: the buckets, then collections of one element each, which
    :meth:`ReplayBuckets.process` takes in this order.

    Args:
        replay: Makes examples.
        outputs: ``<model>_<split>`` to the directory and schema of its raw examples.
        directory: Gets what the audit has seen.
    """

    def __init__(
        self,
        replay: ReplayBuckets,
        outputs: Mapping[str, tuple[pathlib.Path, pa.Schema]],
        directory: pathlib.Path,
    ) -> None:
        super().__init__()
        self._replay = replay
        self._outputs = outputs
        self._directory = directory

    def expand(self, inputs: tuple[beam.PCollection, ...]) -> tuple[beam.PCollection, ...]:
        """Replays bucket by bucket; returns what the writing of each output tells."""
        buckets, *beside = inputs
        examples = buckets | "Replay" >> beam.ParDo(
            self._replay, *(beam.pvalue.AsSingleton(one) for one in beside)
        ).with_outputs(*self._outputs, leakage_audit.SEEN)
        audit = (
            examples[leakage_audit.SEEN]
            | "Add up audit" >> beam.CombineGlobally(leakage.merged)
            | "Write audit" >> beam.Map(leakage_audit.write_seen, self._directory)
        )
        return (
            audit,
            *(
                examples[tag]
                | f"Write {tag}"
                >> beam.io.WriteToParquetBatched(
                    str(path / "part"), schema=schema, codec="zstd", file_name_suffix=".parquet"
                )
                for tag, (path, schema) in self._outputs.items()
            ),
        )


class WriteCounts(beam.PTransform):
    """(table name, rows set aside) and Counters, as a tuple -> files of both.

    Args:
        directory: Gets ``rejected`` and the counts.
    """

    def __init__(self, directory: pathlib.Path) -> None:
        super().__init__()
        self._directory = directory

    def expand(
        self, inputs: tuple[beam.PCollection, beam.PCollection]
    ) -> tuple[beam.PCollection, beam.PCollection]:
        """Puts together what belongs to a table; returns what the writing of each tells."""
        rejected, counts = inputs
        return (
            rejected
            | "By table" >> beam.GroupByKey()
            | "Write rejected" >> beam.Map(cleaning.write_rejected, self._directory),
            counts
            | "Add counts" >> beam.CombineGlobally(cleaning.AddCounts())
            | "Write counts" >> beam.Map(cleaning.write_counts, self._directory),
        )


def add_example_generation(
    pipeline: beam.Pipeline,
    fragments: Sequence[logs.Fragment],
    *,
    read: cleaning.ReadFragments,
    replay: ReplayBuckets,
    outputs: Mapping[str, tuple[pathlib.Path, pa.Schema]],
    directory: pathlib.Path,
    has_impressions: bool,
) -> None:
    """Adds the pipeline from fragments of logs to raw examples.

    Args:
        pipeline: Pipeline to add to.
        fragments: Fragments of all event tables.
        read: Reader that validates and deals out.
        replay: ReplayBuckets that makes examples.
        outputs: ``<model>_<split>`` to the directory and schema of its raw examples.
        has_impressions: Whether the log has that table.
        directory: Directory that gets ``video_statistics``, ``rejected`` and the counts.
    """
    clean = (
        pipeline
        | "List fragments" >> beam.Create(list(fragments))
        | "Clean logs" >> CleanLogs(read)
    )
    counted = clean.buckets | "Count statistics" >> counting.CountStatistics(
        videos_dir=replay.videos_dir,
        store_dir=read.store_dir,
        directory=directory,
        has_impressions=has_impressions,
    )
    inputs = [clean.buckets, counted.daily, counted.minutes]
    if replay.cached is not None:
        digest = DigestPeriods(replay.cached.digests, directory)
        inputs.append(clean.buckets | "Digest periods" >> digest)
    tuple(inputs) | "Replay users" >> ReplayUsers(replay, outputs, directory)
    (clean.rejected, clean.counts) | "Write what was set aside" >> WriteCounts(directory)
