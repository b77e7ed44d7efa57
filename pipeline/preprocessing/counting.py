"""Beam's side of counting: buckets of clean tables -> video statistics.

The logic is in :mod:`features.as_of.statistics` and :mod:`features.as_of.live_statistics`, shared
with serving.
"""

import pathlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import apache_beam as beam
import pyarrow as pa

from features.as_of import live_statistics, statistics
from features.catalogue import Catalogue
from features.tables import schema
from pipeline.preprocessing import cleaning, table_files
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


class Statistics(NamedTuple):
    """What :class:`CountStatistics` counts, of all buckets together.

    Attributes:
        daily: The one table of :func:`features.as_of.statistics.daily_counts`.
        minutes: The one stored table of :func:`features.as_of.live_statistics.minute_counts`.
    """

    daily: beam.PCollection
    minutes: beam.PCollection


class CountStatistics(beam.PTransform):
    """(bucket, clean tables) -> :class:`Statistics`; the daily ones are written, too.

    Args:
        videos_dir: The catalogue.
        store_dir: Gets the tables of minutes.
        directory: Gets ``video_statistics``.
        has_impressions: Whether the log has that table.
    """

    def __init__(
        self,
        *,
        videos_dir: str,
        store_dir: pathlib.Path,
        directory: pathlib.Path,
        has_impressions: bool,
    ) -> None:
        super().__init__()
        self._videos_dir = videos_dir
        self._store_dir = store_dir
        self._directory = directory
        self._has_impressions = has_impressions

    def expand(self, buckets: beam.PCollection) -> Statistics:
        """Counts bucket by bucket, and adds up."""
        daily = (
            buckets
            | "Count days" >> beam.ParDo(DailyCounts(has_impressions=self._has_impressions))
            | "Merge days" >> beam.CombineGlobally(cleaning.AddTables(statistics.merge))
        )
        path = self._directory / "video_statistics"
        daily | "Write days" >> beam.Map(lambda table: cleaning.write_part(path, table))
        minutes = (
            buckets
            | "Count minutes" >> beam.ParDo(MinuteCounts(self._videos_dir, self._store_dir))
            | "List minutes" >> beam.combiners.ToList()
            | "Merge minutes" >> beam.Map(_merged_minutes, self._store_dir)
        )
        return Statistics(daily, minutes)
