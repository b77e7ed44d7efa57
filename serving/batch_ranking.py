"""Offline ranking: every impression of a log scored as of its own moment, by the current release.

The log is replayed through :mod:`features.replay`, the code that made the training examples:
history is what the user did strictly before the impression, statistics of a video are those up
to the day before. Rows that training would reject (unknown ids, absurd watch times) are left out
of the history, as in training, but every impression is in the output.
"""

import dataclasses
import pathlib
import time
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import tensorflow as tf
from absl import logging

from features import (
    command,
    live_statistics,
    logs,
    pages,
    schema,
    spec,
    statistics,
    tensors,
)
from features.catalogue import Catalogue, combined
from features.examples import Users
from features.history import History
from features.live_statistics import LiveStatistics
from features.replay import ReplayConfig, Replayer
from features.spec import ResolvedSpec, Side
from serving import batch_output, query_files, signatures
from serving.release import Release

_EVENTS = ("watches", "searches", "impressions")
# Users are replayed in buckets of about so many events, which bounds memory.
EVENTS_PER_BUCKET = 2_000_000
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
) -> int:
    """Writes one row per impression with its expected watch time.

    Args:
        release: Whose ranker scores.
        logs_dir: Raw logs: the impressions, and all that happened before them.
        output: Parquet file to write; it appears when it is whole. Impressions without user,
            video or possible time cannot be scored: their expected watch time is null.
        from_s: Scores impressions from this time on, Unix seconds; None scores all.
        until_s: Reads nothing from this time on; None reads all.

    Returns:
        Rows written.

    Raises:
        command.InputError: The release has no ranker, or the logs cannot be used.
    """
    if release.ranker is None:
        raise command.InputError(
            f"release {release.version} has no ranker: it was built without --ranker_model."
        )
    log = _Log.open(logs_dir, release, until_s)
    scorer = _Scorer.load(release, log)
    return batch_output.write(output, _SCHEMA, scorer.results(log, from_s))


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Log:
    """Raw logs, read by buckets of whole users."""

    directory: pathlib.Path
    tables: tuple[str, ...]
    until_s: int | None
    now_s: int
    videos: pa.Table
    users: pa.Table | None

    @classmethod
    def open(cls, directory: pathlib.Path, release: Release, until_s: int | None) -> "_Log":
        present = logs.tables_in(directory)
        if "impressions" not in present:
            raise command.InputError(f"{directory} has no impressions to score.")
        now_s = int(time.time())
        videos = pq.read_table(release.videos / "videos.parquet")
        if "videos" in present:
            videos = _accepted(directory, "videos", now_s)
        users = _accepted(directory, "users", now_s) if "users" in present else None
        return cls(
            directory=directory,
            tables=tuple(name for name in _EVENTS if name in present),
            until_s=until_s,
            now_s=now_s,
            videos=videos.combine_chunks(),
            users=users,
        )

    def buckets(self) -> "_Buckets":
        """Returns the raw event tables, each bucket as name to rows."""
        found = [
            fragment
            for name in self.tables
            for fragment in logs.fragments(self.directory, name, until_s=self.until_s)
        ]
        events = sum(fragment.num_rows for fragment in found)
        return _Buckets(found, self.until_s, max(1, -(-events // EVENTS_PER_BUCKET)))

    def clean(self, tables: Mapping[str, pa.Table]) -> dict[str, pa.Table]:
        """Returns the rows that training would use."""
        result = {}
        for name, rows in tables.items():
            accepted, _ = schema.validate(
                name,
                rows,
                known_video_ids=combined(self.videos["video_id"]),
                known_user_ids=None if self.users is None else combined(self.users["user_id"]),
                now_s=self.now_s,
            )
            result[name] = schema.split_duplicates(accepted)[0]
        return result


class _Buckets:
    """All buckets, one after the other, as often as asked; a single one is read once."""

    def __init__(self, fragments: list[logs.Fragment], until_s: int | None, count: int) -> None:
        self._fragments = fragments
        self._until_s = until_s
        self._count = count
        self._only: dict[str, pa.Table] | None = None

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[dict[str, pa.Table]]:
        if self._count > 1:
            yield from (self._read(number) for number in range(self._count))
            return
        self._only = self._only or self._read(0)
        yield self._only

    def _read(self, number: int) -> dict[str, pa.Table]:
        parts: dict[str, list[pa.Table]] = {}
        for fragment in self._fragments:
            rows = logs.read_fragment(fragment, until_s=self._until_s)
            if self._count > 1:
                rows = rows.filter(pa.array(_bucket(rows["user_id"], self._count) == number))
            parts.setdefault(fragment.table, []).append(rows)
        return {
            name: pa.concat_tables(tables, promote_options="permissive")
            for name, tables in parts.items()
        }


def _accepted(directory: pathlib.Path, name: str, now_s: int) -> pa.Table:
    table = logs.read_table(directory, name)
    accepted, _ = schema.validate(
        name, table, known_video_ids=None, known_user_ids=None, now_s=now_s
    )
    return accepted.combine_chunks()


def _bucket(user_ids: pa.ChunkedArray, count: int) -> npt.NDArray[np.int64]:
    encoded = combined(user_ids.cast(pa.string()).fill_null("")).dictionary_encode()
    codes = [zlib.crc32(user.encode()) % count for user in encoded.dictionary.to_pylist()]
    return np.asarray(codes, np.int64)[np.asarray(encoded.indices)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Scorer:
    """Replays users and asks the ranker."""

    resolved: ResolvedSpec
    catalogue: Catalogue
    users: Users
    signature: Any

    @classmethod
    def load(cls, release: Release, log: _Log) -> "_Scorer":
        profiles = log.users
        if profiles is None:
            profiles = pq.read_table(release.videos / "users.parquet").combine_chunks()
        loaded = tf.saved_model.load(str(release.ranker))
        return cls(
            resolved=ResolvedSpec.load(release.videos),
            catalogue=Catalogue(log.videos),
            users=Users(profiles),
            signature=loaded.signatures[signatures.SCORE_PAIRS],
        )

    def results(self, log: _Log, from_s: int | None) -> Iterator[pa.Table]:
        """Yields the scored impressions of one bucket of users after the other."""
        buckets = log.buckets()
        daily = statistics.merge([])
        minutes: list[pa.Table] = []
        for tables in buckets:
            clean = log.clean(tables)
            # An empty table says that the log has impressions, though not of these users.
            shown = clean.get("impressions", schema.empty("impressions"))
            part = statistics.daily_counts(clean.get("watches"), shown)
            daily = statistics.merge([daily, part])
            events = clean.get("watches"), clean.get("impressions")
            minutes.append(live_statistics.minute_counts(self.catalogue, *events))
        by_day = statistics.VideoStatistics.of(daily, self.catalogue)
        live = LiveStatistics.of(live_statistics.merge(minutes))
        for number, tables in enumerate(buckets, 1):
            if "impressions" in tables:
                yield from self._bucket(log, tables, (by_day, live), from_s)
            logging.info("Bucket %d of %d users is scored.", number, len(buckets))

    def _bucket(
        self,
        log: _Log,
        tables: Mapping[str, pa.Table],
        counted: tuple[statistics.VideoStatistics, LiveStatistics],
        from_s: int | None,
    ) -> Iterator[pa.Table]:
        """Scores a bucket's impressions, ordered by user and time."""
        clean = log.clean(tables)
        order = [("user_id", "ascending"), ("time", "ascending")]
        impressions = tables["impressions"].sort_by(order)
        codes = {u: code for code, u in enumerate(pc.unique(impressions["user_id"]).to_pylist())}
        history = History.of(
            self.catalogue,
            codes,
            watches=clean.get("watches"),
            searches=clean.get("searches"),
            impressions=clean.get("impressions"),
        )
        asked = pc.fill_null(pc.greater_equal(impressions["time"], from_s or 0), True)
        whole = _whole(impressions)
        paged = pages.with_pages(impressions.filter(whole))
        yield from self._scored(paged.filter(asked.filter(whole)), codes, history, counted)
        broken = impressions.filter(pc.and_(asked, pc.invert(whole)))
        if broken.num_rows:
            logging.warning(
                "%d impressions lack a user, a video or a possible time: their score is null.",
                broken.num_rows,
            )
            yield _output(broken, pa.nulls(broken.num_rows, pa.float32()))

    def _scored(
        self,
        impressions: pa.Table,
        codes: Mapping[str, int],
        history: History,
        counted: tuple[statistics.VideoStatistics, LiveStatistics],
    ) -> Iterator[pa.Table]:
        replayer = Replayer(
            ReplayConfig(train_until_s=0),
            resolved=self.resolved,
            catalogue=self.catalogue,
            users=self.users,
        )
        for start in range(0, impressions.num_rows, _BATCH):
            rows = impressions.slice(start, _BATCH)
            raw = replayer.ranking_batch(rows, codes, history, counted[0], live=counted[1])
            inputs = {
                name: tf.constant(values)
                for side in Side
                for name, values in tensors.to_arrays(raw, self.resolved, spec.RANKER, side).items()
            }
            expected = self.signature(**inputs)["expected_watch_time_s"].numpy()
            yield _output(rows, pa.array(expected, pa.float32()))


def _whole(impressions: pa.Table) -> pa.ChunkedArray:
    """Says which rows have what a score needs, bool [n]."""
    time_s = impressions["time"]
    whole = pc.and_(pc.greater_equal(time_s, 0), pc.less(time_s, query_files.MAX_TIME_S))
    for name in ("user_id", "video_id"):
        whole = pc.and_(whole, pc.is_valid(impressions[name]))
    return pc.fill_null(whole, False)


def _output(impressions: pa.Table, expected: pa.Array) -> pa.Table:
    columns = {
        field.name: impressions[field.name]
        if field.name in impressions.column_names
        else pa.nulls(impressions.num_rows, field.type)
        for field in _SCHEMA
        if field.name != "expected_watch_time_s"
    }
    return pa.table({**columns, "expected_watch_time_s": expected})
