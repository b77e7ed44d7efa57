"""Beam's side of replay: buckets of clean tables -> video statistics and raw examples.

The logic is in :mod:`features.replay` and :mod:`features.statistics`, shared with serving.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq

from features import replay, statistics
from features.catalogue import Catalogue
from features.examples import Users
from features.spec import ResolvedSpec
from pipeline import cleaning


class DailyCounts(beam.DoFn):
    """(bucket, clean tables) -> the bucket's video statistics by day."""

    def process(self, bucket: tuple[int, Mapping[str, bytes]]) -> Iterator[pa.Table]:
        """Counts one bucket."""
        tables = {name: cleaning.from_bytes(data) for name, data in bucket[1].items()}
        if "watches" in tables or "impressions" in tables:
            yield statistics.daily_counts(tables.get("watches"), tables.get("impressions"))


class MergeDailyCounts(beam.CombineFn):
    """Adds up tables of daily counts."""

    def create_accumulator(self) -> list[pa.Table]:
        """Starts empty."""
        return []

    def add_input(self, parts: list[pa.Table], part: pa.Table) -> list[pa.Table]:
        """Keeps one merged table."""
        return [statistics.merge([*parts, part])]

    def merge_accumulators(self, many: list[list[pa.Table]]) -> list[pa.Table]:
        """Merges all."""
        return [statistics.merge([part for parts in many for part in parts])]

    def extract_output(self, parts: list[pa.Table]) -> pa.Table:
        """Returns the one table."""
        return statistics.merge(parts)


class Replay(beam.DoFn):
    """(bucket, clean tables) -> raw examples, tagged ``<model>_<split>``."""

    def __init__(
        self, config: replay.ReplayConfig, *, spec_json: str, videos_dir: str, users_dir: str | None
    ) -> None:
        self._config = config
        self._spec_json = spec_json
        self._videos_dir = videos_dir
        self._users_dir = users_dir

    def setup(self) -> None:
        """Loads catalogue and profiles once per worker."""
        users = pq.read_table(self._users_dir) if self._users_dir else replay.NO_USERS
        self._replayer = replay.Replayer(
            self._config,
            resolved=ResolvedSpec.from_json(self._spec_json),
            catalogue=Catalogue(pq.read_table(self._videos_dir).combine_chunks()),
            users=Users(users.combine_chunks()),
        )

    def process(
        self, bucket: tuple[int, Mapping[str, bytes]], daily: pa.Table
    ) -> Iterator[Any]:
        """Replays one bucket."""
        tables = {name: cleaning.from_bytes(data) for name, data in bucket[1].items()}
        for model, split, batch in self._replayer.examples(tables, daily):
            yield beam.pvalue.TaggedOutput(f"{model}_{split}", pa.Table.from_batches([batch]))
