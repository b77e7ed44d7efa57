"""Replays a log through the whole funnel: what it would have shown before each watch.

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

from features import command
from serving import batch_output, past_funnel
from serving.page_order import PageOrder
from serving.page_scores import Tally
from serving.past_funnel import ReplaySettings
from serving.release import Release

_QUERIES_PER_WORKER = 1500  # A process takes some ten seconds to start.
_MOST_WORKERS = 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a replay found.

    Attributes:
        rows: Rows written.
        queries: Watches that were asked for.
        seconds: Wall time of the replay itself, without loading.
        text: Hit rates beside those of live popularity.
    """

    rows: int
    queries: int
    seconds: float
    text: str


def replay(
    found: Release,
    *,
    serving_root: pathlib.Path,
    logs_dir: pathlib.Path,
    output: pathlib.Path,
    settings: ReplaySettings,
) -> Outcome:
    """Writes ``query_id, user_id, time, watched_video_id, rank, video_id, sources``.

    Args:
        found: The release.
        serving_root: Where it was published.
        logs_dir: Raw logs, from before the release until after ``from_s``.
        output: Parquet file to write; it appears when it is whole.
        settings: See there.

    Raises:
        command.InputError: The logs cannot be used, or have no watch to ask for.
    """
    run = past_funnel.opened(found, serving_root, logs_dir, settings)
    if not len(run.asked):
        raise command.InputError(
            f"{logs_dir} has no watch at or after {command.format_time(settings.from_s)} and "
            "before --until; check both."
        )
    start = time.monotonic()
    order = run.ordered()
    count = settings.workers or _workers_for(len(run.asked))
    shards = [
        _Shard(found, serving_root, logs_dir, settings, order, number, count)
        for number in range(count)
    ]
    output.parent.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(dir=output.parent, prefix=".pages") as temporary,
        concurrent.futures.ProcessPoolExecutor(
            max(count - 1, 1), mp_context=multiprocessing.get_context("spawn")
        ) as processes,
    ):
        paths = [pathlib.Path(temporary) / f"{shard.number}.parquet" for shard in shards]
        others = [
            processes.submit(_write_shard, *pair)
            for pair in zip(shards[1:], paths[1:], strict=True)
        ]
        run.take(0, count, order)
        batch_output.write(paths[0], past_funnel.SCHEMA, run.pages())
        tally = sum((other.result() for other in others), run.scores.tally)
        together = pa.concat_tables([pq.read_table(path) for path in paths])
        rows = batch_output.write(
            output,
            past_funnel.SCHEMA,
            [together.sort_by([("query_id", "ascending"), ("rank", "ascending")])],
        )
    seconds = time.monotonic() - start
    return Outcome(rows=rows, queries=tally.queries, seconds=seconds, text=tally.text(seconds))


@dataclasses.dataclass(frozen=True)
class _Shard:
    """What one process does of a replay: every ``count``-th watch. All watches happen in each."""

    found: Release
    serving_root: pathlib.Path
    logs_dir: pathlib.Path
    settings: ReplaySettings
    order: PageOrder | None
    number: int
    count: int


def _write_shard(shard: _Shard, path: pathlib.Path) -> Tally:
    """Runs in a process of its own."""
    settings = dataclasses.replace(shard.settings, lessons=0)
    run = past_funnel.opened(shard.found, shard.serving_root, shard.logs_dir, settings)
    run.take(shard.number, shard.count, shard.order)
    batch_output.write(path, past_funnel.SCHEMA, run.pages())
    return run.scores.tally


def _workers_for(queries: int) -> int:
    """Returns how many processes are worth their start."""
    return max(1, min(queries // _QUERIES_PER_WORKER, len(os.sched_getaffinity(0)), _MOST_WORKERS))


def learn(
    found: Release, *, serving_root: pathlib.Path, logs_dir: pathlib.Path, settings: ReplaySettings
) -> PageOrder | None:
    """Returns the order of pages that the watches before ``settings.from_s`` teach.

    None where the release has no ranker, or where there are too few watches.
    """
    if found.ranker is None:
        return None
    return past_funnel.opened(found, serving_root, logs_dir, settings, is_new=True).learn()
