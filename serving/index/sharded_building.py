"""Building of an index in shards: each is built and tuned by itself, one at a time in memory.

    report = sharded_building.build(
        directory, ids, parts, shards=4, tuning_queries=queries, recall_target=0.95,
        exact_below=20_000,
    )

Recall is that of the merged search against the exact search of the whole corpus, on queries that
no shard was tuned on: both are made of what each shard says while it is in memory.
"""

import dataclasses
import os
import pathlib
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from absl import logging

from serving.index import building, exact_search
from serving.index import files as index_files
from serving.index import shards as index_shards
from serving.index.building import RECALL_K, IndexReport
from serving.index.exact_search import Floats, Rows
from serving.index.files import IndexFiles
from serving.index.index import Index
from serving.index.shards import ShardAnswer


def build(
    directory: str | os.PathLike[str],
    video_ids: pa.Array,
    parts: Iterable[Floats],
    *,
    shards: int,
    tuning_queries: Floats,
    query_slices: Mapping[str, npt.NDArray[np.bool_]] | None = None,
    recall_target: float,
    exact_below: int,
    k: int = RECALL_K,
    repeat_bias: float = 0.0,
) -> IndexReport:
    """Builds, tunes and writes an index in shards.

    Args:
        directory: Index directory, to create or fill; it should hold nothing yet.
        video_ids: string [N], unique; S at least.
        parts: Vectors of one shard after the other, float32 [n, D + 1], as ``embeddings[s::S]`` of
            the whole: the next is taken when the one before is written.
        shards: Number of shards S, at least 1; one is an index without shards.
        tuning_queries: As of :func:`serving.index.building.build`.
        query_slices: Name to bool [Q]: kinds of user whose recall is reported apart.
        recall_target: Mean recall@k that each shard and the whole are to reach, in (0, 1].
        exact_below: Number of videos below which a shard is searched exactly.
        k: Number of results per query that recall is about, of each shard as of the whole.
        repeat_bias: Addition to the score of a video watched before.

    Returns:
        The report of the whole. Times are those of the slowest shard, as they are asked side by
        side where each has a processor of its own.

    Raises:
        command.InputError: Ids repeat, vectors are not finite, or the counts differ.
    """
    start = time.monotonic()
    tuning: dict[str, Any] = {
        "tuning_queries": tuning_queries,
        "recall_target": recall_target,
        "exact_below": exact_below,
        "k": k,
    }
    path = pathlib.Path(directory)
    if shards == 1:
        (vectors,) = parts
        tuning |= {"query_slices": query_slices, "repeat_bias": repeat_bias}
        return building.build(path, video_ids, vectors, **tuning)
    held_out = building.is_held_out(len(tuning_queries))
    queries = tuning_queries[held_out]
    reports: list[IndexReport] = []
    truth: list[ShardAnswer] = []
    retrieved: list[ShardAnswer] = []
    for vectors in parts:
        shard = len(reports)
        logging.info("Shard %d of %d: %d videos.", shard + 1, shards, len(vectors))
        place = index_files.shard_directories(path, shards)[shard]
        ids = video_ids.take(pa.array(np.arange(shard, len(video_ids), shards)))
        reports.append(building.build(place, ids, vectors, **tuning))
        truth.append(exact_search.search(vectors, queries, k))
        retrieved.append(Index.load(place, hash_contents=False).search(queries, k))
        del vectors  # Before the next are made.
    true_rows, _ = index_shards.merged(truth, queries, k)
    rows, _ = index_shards.merged(retrieved, queries, k)
    slices = {name: mask[held_out] for name, mask in (query_slices or {}).items()}
    report = dataclasses.replace(
        _of_all(reports, k=true_rows.shape[1]),
        **building.recall_figures(exact_search.recall_per_query(rows, true_rows), slices),
        build_s=time.monotonic() - start,
    )
    tested = slice(building.SELF_TEST_QUERIES), slice(building.SELF_TEST_K)
    recalls = exact_search.recall_per_query(rows[tested], true_rows[tested])
    details: dict[str, Any] = {"repeat_bias": repeat_bias}
    details["self_test_recall"] = float(recalls.mean())
    details |= {"kind": index_files.SHARDED, "shards": shards, "report": dataclasses.asdict(report)}
    _write(path, details, queries[tested[0]], true_rows[tested])
    return report


def _write(path: pathlib.Path, details: dict[str, Any], queries: Floats, truth: Rows) -> None:
    """Writes what stands above the shards, which are there."""
    directories = index_files.shard_directories(path, details["shards"])
    ids, embeddings = index_files.read_shards(directories)
    content = IndexFiles(
        video_ids=ids,
        embeddings=embeddings,
        self_test_queries=queries,
        self_test_rows=truth,
        details=details,
    )
    index_files.write(path, content)


def _of_all(reports: Sequence[IndexReport], *, k: int) -> IndexReport:
    """Returns the report of the whole, but for what recall it comes to."""
    kinds = [report.kind for report in reports]
    counted = ", ".join(f"{kinds.count(kind)} {kind}" for kind in sorted(set(kinds)))
    slowest = max(reports, key=lambda report: report.mean_ms)
    return dataclasses.replace(
        slowest,
        kind=f"{len(reports)} shards ({counted})",
        count=sum(report.count for report in reports),
        k=k,
        exact_ms=max(report.exact_ms for report in reports),
        trials=tuple(f"shard {n}: {report.trials[-1]}" for n, report in enumerate(reports)),
    )
