"""Building of an index: settings are tuned for the corpus, recall is measured, all is written.

    report = building.build(
        directory, ids, embeddings, tuning_queries=queries, recall_target=0.95, exact_below=20_000
    )

See :mod:`serving.index.tuning` for how settings are chosen.
"""

import dataclasses
import functools
import os
import pathlib
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from features import command
from models import environment
from serving.index import exact_search, index
from serving.index import files as index_files
from serving.index import tuning as index_tuning
from serving.index.exact_search import Floats

RECALL_K = 200
SELF_TEST_QUERIES = 20
SELF_TEST_K = 50


@dataclasses.dataclass(frozen=True, kw_only=True)
class IndexReport:
    """What a build chose, and how well it searches.

    Attributes:
        kind: ``exact`` or ``scann``; of an index in shards how many are of which.
        count: Number of videos, N.
        dimension: Dimension D + 1 of a row, the softmax bias last.
        k: Number of results per query that recall is about.
        num_queries: Number of user queries that recall was measured on; none of them was tuned on.
        recall: Mean recall@k, in [0, 1].
        worst_slice_recall: The smallest of ``slices`` and ``recall``.
        slices: Mean recall by kind of user.
        mean_ms: Mean time of one query, milliseconds.
        p99_ms: 99th percentile of the same, milliseconds.
        exact_ms: Mean time of exact search, milliseconds.
        build_s: Tuning included, seconds.
        trials: Trials in words, the chosen one last.
    """

    kind: str
    count: int
    dimension: int
    k: int
    num_queries: int
    recall: float
    worst_slice_recall: float
    slices: Mapping[str, float]
    mean_ms: float
    p99_ms: float
    exact_ms: float
    build_s: float
    trials: tuple[str, ...]


def build(
    directory: str | os.PathLike[str],
    video_ids: pa.Array,
    embeddings: Floats,
    *,
    tuning_queries: Floats,
    query_slices: Mapping[str, npt.NDArray[np.bool_]] | None = None,
    recall_target: float,
    exact_below: int,
    k: int = RECALL_K,
    repeat_bias: float = 0.0,
) -> IndexReport:
    """Builds, tunes and writes an index.

    Args:
        directory: Index directory, to create or fill; it should hold nothing yet.
        video_ids: string [N], unique.
        embeddings: float32 [N, D + 1], finite, the softmax bias last.
        tuning_queries: float32 [Q, D + 1], Q at least 1: held-out user queries, the last column
            1. Every other one is tuned on; recall is measured on the others.
        query_slices: Name to bool [Q]: kinds of user whose recall is reported apart.
        recall_target: Mean recall@k to reach, in (0, 1].
        exact_below: Number of videos below which a corpus is searched exactly.
        k: Number of results per query that recall is about.
        repeat_bias: Addition to the score of a video watched before.

    Raises:
        command.InputError: Ids repeat, vectors are not finite, or the counts differ.
    """
    start = time.monotonic()
    path = pathlib.Path(directory)
    path.mkdir(parents=True, exist_ok=True)
    embeddings = np.ascontiguousarray(embeddings, dtype=np.float32)
    problem = index_files.inconsistency(video_ids, embeddings)
    if problem:
        raise command.InputError(f"no index can be built: {problem}. Train the model again.")
    k = min(k, len(embeddings))
    scann, trials = _choose(
        embeddings, tuning_queries[::2], k=k, recall_target=recall_target, exact_below=exact_below
    )
    settings = trials[-1].search
    searcher = _searcher(embeddings, scann, settings)
    held_out = is_held_out(len(tuning_queries))
    report = _measure(
        searcher,
        embeddings,
        tuning_queries[held_out],
        slices={name: mask[held_out] for name, mask in (query_slices or {}).items()},
        trials=trials,
        k=k,
    )
    report = dataclasses.replace(report, build_s=time.monotonic() - start)
    if scann:
        (path / index_files.SCANN).mkdir()
        scann.serialize(str(path / index_files.SCANN))
    queries = tuning_queries[held_out][:SELF_TEST_QUERIES]
    truth, _ = exact_search.search(embeddings, queries, SELF_TEST_K)
    retrieved, _ = searcher(queries, truth.shape[1])
    index_files.write(
        path,
        index_files.IndexFiles(
            video_ids=video_ids,
            embeddings=embeddings,
            self_test_queries=queries,
            self_test_rows=truth,
            details={
                "kind": report.kind,
                "partitioning": dataclasses.asdict(scann.partitioning) if scann else None,
                "search": dataclasses.asdict(settings) if settings else None,
                "repeat_bias": repeat_bias,
                "self_test_recall": float(exact_search.recall_per_query(retrieved, truth).mean()),
                "report": dataclasses.asdict(report),
            },
        ),
    )
    return report


def is_held_out(count: int) -> npt.NDArray[np.bool_]:
    """Returns which of so many queries measure recall, bool [Q]; the others are tuned on."""
    return np.arange(count) % 2 == (1 if count > 1 else 0)


def recall_figures(
    recalls: npt.NDArray[np.float64], slices: Mapping[str, npt.NDArray[np.bool_]]
) -> dict[str, Any]:
    """Returns the fields of a report that tell of recall.

    Args:
        recalls: float64 [Q], of each query.
        slices: Name to bool [Q].
    """
    mean = float(recalls.mean())
    by_slice = {name: float(recalls[mask].mean()) for name, mask in slices.items() if mask.any()}
    worst = min([mean, *by_slice.values()])
    return {"recall": mean, "worst_slice_recall": worst, "slices": by_slice}


def _searcher(
    embeddings: Floats,
    scann: index_tuning.ScannSearcher | None,
    settings: index_tuning.SearchConfig | None,
) -> index_tuning.Searcher:
    if scann and settings:
        return functools.partial(scann.search, settings=settings)
    return functools.partial(exact_search.search, embeddings)


def _choose(
    embeddings: Floats, queries: Floats, *, k: int, recall_target: float, exact_below: int
) -> tuple[index_tuning.ScannSearcher | None, list[index_tuning.Trial]]:
    if len(embeddings) >= exact_below:
        if environment.scann is not None:
            return index_tuning.choose(embeddings, queries, k=k, recall_target=recall_target)
        index.warn_without_scann(environment.SCANN_ERROR, len(embeddings))
    return None, [index_tuning.exact_trial(embeddings, queries, k)]


def _measure(
    searcher: index_tuning.Searcher,
    embeddings: Floats,
    queries: Floats,
    *,
    slices: Mapping[str, npt.NDArray[np.bool_]],
    trials: list[index_tuning.Trial],
    k: int,
) -> IndexReport:
    truth, _ = exact_search.search(embeddings, queries, k)
    retrieved, _ = searcher(queries, k)
    recalls = exact_search.recall_per_query(retrieved, truth)
    times_ms = index_tuning.query_times_ms(searcher, queries, k)
    return IndexReport(
        kind="exact" if trials[-1].partitioning is None else "scann",
        count=len(embeddings),
        dimension=embeddings.shape[1],
        k=k,
        num_queries=len(queries),
        **recall_figures(recalls, slices),
        mean_ms=float(times_ms.mean()),
        p99_ms=float(np.percentile(times_ms, 99)),
        exact_ms=next(trial.mean_ms for trial in trials if trial.partitioning is None),
        build_s=0.0,
        trials=tuple(str(trial) for trial in trials),
    )
