"""Backtest: what the whole funnel would have shown before each watch of a log.

The log goes by in the order of its time. Before each watch the funnel is asked for its user with
what was known strictly before that second: the user's own past, what everybody watched until then,
and the videos uploaded by then. Then the watch happens. Models, index and daily statistics are
those of one release; only what a running funnel learns changes. Nothing that the funnel shows here
changes what users do: a watch of what it would not have shown counts against it.

Embeddings are computed for many watches at once, each from its own past; everything else is the
code that serves.
"""

import concurrent.futures
import dataclasses
import multiprocessing
import os
import pathlib
import tempfile
import time

import pyarrow as pa
import pyarrow.parquet as pq
from absl import logging

from features import command
from features.screen import progress
from serving.batch import output as batch_output
from serving.batch import past_funnel
from serving.batch.config import BacktestConfig
from serving.batch.page_scores import Tally
from serving.release.manifest import Release

_QUERIES_PER_WORKER = 1500  # A process takes some ten seconds to start.
_MOST_WORKERS = 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a backtest came to.

    Attributes:
        rows: Number of rows written.
        queries: Number of watches that were asked for.
        seconds: Wall time of the backtest itself, without loading, seconds.
        text: Hit rates beside those of live popularity.
    """

    rows: int
    queries: int
    seconds: float
    text: str


def run(
    release: Release,
    *,
    serving_root: pathlib.Path,
    logs_dir: pathlib.Path,
    output: pathlib.Path,
    settings: BacktestConfig,
) -> Outcome:
    """Writes ``query_id, user_id, time, watched_video_id, rank, video_id, sources``.

    Args:
        release: Release whose pages are judged.
        serving_root: Directory in which it was published.
        logs_dir: Raw logs, from before the release until after ``from_s``.
        output: Parquet file to write; it appears when it is whole.
        settings: Period, widths and sampling, see
            :class:`serving.batch.config.BacktestConfig`.

    Raises:
        command.InputError: The logs cannot be used, or have no watch to ask for.
    """
    from_s = settings.from_s or 0
    inside = _learnt_at(release, from_s)
    if inside and not settings.allow_learnt:
        raise command.InputError(
            f"{inside}, so its pages would be judged on what they know. Ask from then on, or build "
            f"a release with --until={command.format_time(from_s)}. --allow_learnt asks "
            "all the same; its figures are too good."
        )
    past = past_funnel.opened(release, serving_root, logs_dir, settings)
    if not len(past.labels):
        raise command.InputError(
            f"{logs_dir} has no watch at or after {command.format_time(from_s)} and "
            "before --until; check both."
        )
    start = time.monotonic()
    logging.info("Pages are in the order %s.", past.order_in_words)
    count = settings.workers or _workers_for(len(past.labels))
    shards = [
        _Shard(release, serving_root, logs_dir, settings, number, count) for number in range(count)
    ]
    output.parent.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(dir=output.parent, prefix=".pages") as temporary,
        concurrent.futures.ProcessPoolExecutor(
            max(count - 1, 1),
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_begin,
        ) as processes,
    ):
        paths = [pathlib.Path(temporary) / f"{shard.number}.parquet" for shard in shards]
        others = [
            processes.submit(_write_shard, *pair)
            for pair in zip(shards[1:], paths[1:], strict=True)
        ]
        past.keep_every(0, count)
        batch_output.write(paths[0], past_funnel.SCHEMA, past.pages())
        tally = sum((other.result() for other in others), past.scores.tally)
        together = pa.concat_tables([pq.read_table(path) for path in paths])
        rows = batch_output.write(
            output,
            past_funnel.SCHEMA,
            [together.sort_by([("query_id", "ascending"), ("rank", "ascending")])],
        )
    seconds = time.monotonic() - start
    text = tally.text(seconds)
    if inside:
        text += f"TOO GOOD TO BE TRUE: {inside}, and some of these watches lie before that.\n"
    return Outcome(rows=rows, queries=tally.queries, seconds=seconds, text=text)


def _learnt_at(release: Release, from_s: int) -> str:
    """Returns in words that a release has learnt what happened at a time; "" where it has not."""
    learnt_until_s = release.learnt_until_s
    if learnt_until_s is None or from_s >= learnt_until_s:
        return ""
    return (
        f"release {release.version} has learnt everything before "
        f"{command.format_time(learnt_until_s)}"
    )


@dataclasses.dataclass(frozen=True)
class _Shard:
    """What one process does of a backtest: every ``count``-th watch. All watches happen in each."""

    release: Release
    serving_root: pathlib.Path
    logs_dir: pathlib.Path
    settings: BacktestConfig
    number: int
    count: int


def _begin() -> None:
    """Begins a process that shares the watches; the first one shows how far it is itself."""
    command.show_progress()
    progress.silence()


def _write_shard(shard: _Shard, path: pathlib.Path) -> Tally:
    """Runs in a process of its own."""
    past = past_funnel.opened(shard.release, shard.serving_root, shard.logs_dir, shard.settings)
    past.keep_every(shard.number, shard.count)
    batch_output.write(path, past_funnel.SCHEMA, past.pages())
    return past.scores.tally


def _workers_for(queries: int) -> int:
    """Returns how many processes are worth their start."""
    return max(1, min(queries // _QUERIES_PER_WORKER, len(os.sched_getaffinity(0)), _MOST_WORKERS))
