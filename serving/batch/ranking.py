"""Offline ranking: every impression of a log scored as of its own moment, by the current release.

The log is replayed through :mod:`features.as_of.replay`, the code that made the training examples:
history is what the user did strictly before the impression, statistics of a video are those up
to the day before. Rows that training would reject (unknown ids, absurd watch times) are left out
of the history, as in training, but every impression is in the output.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import tensorflow as tf
from absl import logging

from features import command, spec, tensors
from features.as_of import live_statistics, statistics
from features.as_of.examples import Users
from features.as_of.live_statistics import LiveStatistics
from features.as_of.replay import ReplayConfig, Replayer
from features.catalogue import Catalogue
from features.screen import progress
from features.spec import ResolvedSpec, Side
from features.tables import schema
from serving.batch import output as batch_output
from serving.batch.bucketed_log import BucketedLog, Shown
from serving.release.manifest import Release
from serving.servables import signatures

_BATCH = 4096
_SCHEMA = pa.schema(
    {
        "user_id": pa.string(),
        "video_id": pa.string(),
        "time": pa.int64(),
        "page_id": pa.string(),
        "clicked": pa.bool_(),
        "watch_time_s": pa.float64(),
        "expected_watch_time_s": pa.float32(),
    }
)


def rank(
    release: Release,
    *,
    logs_dir: pathlib.Path,
    output: pathlib.Path,
    from_s: int | None = None,
    until_s: int | None = None,
    observe: Callable[[Mapping[str, np.ndarray]], None] = lambda _: None,
) -> int:
    """Writes one row per impression with its expected watch time.

    Args:
        release: Release whose ranker scores.
        logs_dir: Raw logs: the impressions, and all that happened before them.
        output: Parquet file to write; it appears when it is whole. Impressions without user,
            video or possible time cannot be scored: their expected watch time is null.
        from_s: First moment of the impressions to score, Unix seconds; None scores all.
        until_s: End of what is read, exclusive, Unix seconds; None for no bound.
        observe: Function that is given the raw features of some impressions after the others, as
            the ranker reads them.

    Returns:
        Number of rows written.

    Raises:
        command.InputError: The release has no ranker, or the logs cannot be used.
    """
    if release.ranker is None:
        raise command.InputError(
            f"release {release.version} has no ranker: it was built without --ranker_model."
        )
    learnt_until_s = release.ranker_learnt_until_s
    if learnt_until_s is not None and (from_s or 0) < learnt_until_s:
        logging.warning(
            "The ranker of release %s has learnt the impressions before %s: figures that are made "
            "of their scores are too good. Give --from to leave them out.",
            release.version,
            command.format_time(learnt_until_s),
        )
    log = BucketedLog.open(logs_dir, until_s, known_videos=release.videos / "videos.parquet")
    scorer = _Scorer.load(release, log, observe)
    return batch_output.write(output, _SCHEMA, scorer.results(log, from_s))


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Scorer:
    """Replays users and asks the ranker."""

    resolved: ResolvedSpec
    catalogue: Catalogue
    users: Users
    signature: Any
    observe: Callable[[Mapping[str, np.ndarray]], None]

    @classmethod
    def load(
        cls,
        release: Release,
        log: BucketedLog,
        observe: Callable[[Mapping[str, np.ndarray]], None],
    ) -> "_Scorer":
        profiles = log.users
        if profiles is None:
            profiles = pq.read_table(release.videos / "users.parquet").combine_chunks()
        loaded = tf.saved_model.load(str(release.ranker))
        return cls(
            resolved=ResolvedSpec.load(release.videos),
            catalogue=Catalogue(log.videos),
            users=Users(profiles),
            signature=loaded.signatures[signatures.SCORE_PAIRS],
            observe=observe,
        )

    def results(self, log: BucketedLog, from_s: int | None) -> Iterator[pa.Table]:
        """Yields the scored impressions of one bucket of users after the other."""
        buckets = log.buckets()
        daily = statistics.merge([])
        minutes: list[pa.Table] = []
        progress.at("counting", total=len(buckets), unit="parts of the users")
        for tables in buckets:
            since = self.resolved.history_from_s
            clean = {
                name: rows.filter(pc.greater_equal(rows["time"], since))
                for name, rows in log.clean(tables).items()
            }
            # An empty table says that the log has impressions, though not of these users.
            shown = clean.get("impressions", schema.empty("impressions"))
            part = statistics.daily_counts(clean.get("watches"), shown)
            daily = statistics.merge([daily, part])
            events = clean.get("watches"), clean.get("impressions")
            minutes.append(live_statistics.minute_counts(self.catalogue, *events))
            progress.add()
        by_day = statistics.VideoStatistics.of(daily, self.catalogue)
        live = LiveStatistics.of(live_statistics.merge(minutes))
        progress.at("ranking", total=len(buckets), unit="parts of the users")
        for tables in buckets:
            if "impressions" in tables:
                yield from self._bucket(log, tables, (by_day, live), from_s)
            progress.add()

    def _bucket(
        self,
        log: BucketedLog,
        tables: Mapping[str, pa.Table],
        counted: tuple[statistics.VideoStatistics, LiveStatistics],
        from_s: int | None,
    ) -> Iterator[pa.Table]:
        """Scores a bucket's impressions, ordered by user and time."""
        shown = Shown.of(log, tables, self.catalogue, from_s=self.resolved.history_from_s)
        paged = shown.paged.filter(pc.greater_equal(shown.paged["time"], from_s or 0))
        yield from self._scored(paged, shown, counted)
        in_time = pc.fill_null(pc.greater_equal(shown.broken["time"], from_s or 0), True)
        broken = shown.broken.filter(in_time)
        if broken.num_rows:
            logging.warning(
                "%d impressions lack a user, a video or a possible time: their score is null.",
                broken.num_rows,
            )
            yield _output(broken, pa.nulls(broken.num_rows, pa.float32()))

    def _scored(
        self,
        impressions: pa.Table,
        shown: Shown,
        counted: tuple[statistics.VideoStatistics, LiveStatistics],
    ) -> Iterator[pa.Table]:
        replayer = Replayer(
            ReplayConfig(train_until_s=0),
            resolved=self.resolved,
            catalogue=self.catalogue,
            users=self.users,
        )
        daily, live = counted
        for start in range(0, impressions.num_rows, _BATCH):
            rows = impressions.slice(start, _BATCH)
            raw = replayer.ranking_batch(rows, shown.codes, shown.history, daily, live=live)
            arrays: dict[str, np.ndarray] = {}
            for side in Side:
                arrays |= tensors.to_arrays(raw, self.resolved, spec.RANKER, side)
            self.observe(arrays)
            inputs = {name: tf.constant(values) for name, values in arrays.items()}
            expected = self.signature(**inputs)["expected_watch_time_s"].numpy()
            yield _output(rows, pa.array(expected, pa.float32()))


def _output(impressions: pa.Table, expected: pa.Array) -> pa.Table:
    columns = {
        field.name: impressions[field.name]
        if field.name in impressions.column_names
        else pa.nulls(impressions.num_rows, field.type)
        for field in _SCHEMA
        if field.name != "expected_watch_time_s"
    }
    return pa.table({**columns, "expected_watch_time_s": expected})
