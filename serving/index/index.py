"""The searchable video embeddings of a release: exact for small corpora, ScaNN above.

    report = index.build(
        directory, ids, embeddings, tuning_queries=queries, recall_target=0.95, exact_below=20_000
    )
    rows, scores = index.Index.load(directory).search(queries, k=200)

Scores are inner products, exact to float32, and the softmax bias is the last dimension: a query
ends in 1. See :mod:`serving.index.tuning` for how settings are chosen, and
:mod:`serving.index.files` for what a directory holds.
"""

import dataclasses
import os
import pathlib
import time
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from absl import logging

from features import command
from models import environment
from serving.index import exact_search
from serving.index import files as index_files
from serving.index import tuning as index_tuning
from serving.index.exact_search import Floats, Rows, RowsByNumber
from serving.index.files import IndexRefusedError

RECALL_K = 200
_SELF_TEST_QUERIES = 20
_SELF_TEST_K = 50
# Float sums differ a little between processors, so the self-test leaves room for near ties.
_SELF_TEST_SLACK = 0.05
_SCORE_TOLERANCE = 1e-3


@dataclasses.dataclass(frozen=True, kw_only=True)
class IndexReport:
    """What a build chose, and how well it searches.

    Attributes:
        kind: ``exact`` or ``scann``.
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


class VideoIndex(Protocol):
    """What a release asks of its index; safe for threads."""

    @property
    def kind(self) -> str:
        """Kind of search, as in :class:`Index`."""

    @property
    def dimension(self) -> int:
        """D + 1."""

    @property
    def embeddings(self) -> RowsByNumber:
        """float32 [N, D + 1]."""

    def __len__(self) -> int: ...

    def search(self, queries: Floats, k: int) -> tuple[Rows, Floats]:
        """Returns rows and scores, best first, as :meth:`Index.search` does."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Index:
    """A loaded index. Searching is safe from several threads at once.

    Attributes:
        video_ids: string [N]; row i is row i of the embeddings.
        embeddings: float32 [N, D + 1], read-only.
        kind: ``exact``, ``scann``, or ``exact_fallback`` where ScaNN could not load.
        details: The content of ``index.json``.
    """

    video_ids: pa.Array
    embeddings: Floats
    kind: str
    details: Mapping[str, Any]
    _searcher: index_tuning.Searcher = dataclasses.field(repr=False)

    def __len__(self) -> int:
        return len(self.embeddings)

    @property
    def dimension(self) -> int:
        """D + 1."""
        return int(self.embeddings.shape[1])

    def search(self, queries: Floats, k: int) -> tuple[Rows, Floats]:
        """Returns the videos of largest inner product, best first.

        Args:
            queries: float32 [Q, D + 1], finite, the last column 1. Many at once are searched in
                parallel.
            k: Number of results per query, above 0; at most N are returned.

        Returns:
            Rows int32 [Q, min(k, N)], and exact scores float32 of the same shape.
        """
        self._require_queries(queries, k)
        return self._searcher(queries, k)

    @property
    def repeat_bias(self) -> float:
        """What the model adds to the score of a video that the user has watched before."""
        return float(self.details.get("repeat_bias", 0.0))

    def search_among(self, queries: Floats, k: int, *, rows: Rows) -> tuple[Rows, Floats]:
        """Returns the same among some videos only, by exact search.

        Args:
            queries: float32 [Q, D + 1], query embeddings.
            k: Number of results per query; at most M are returned.
            rows: int32 [M], the videos that may be returned, each once.
        """
        self._require_queries(queries, k)
        retrieved, scores = exact_search.search(self.embeddings[rows], queries, k)
        return rows[retrieved].astype(np.int32), scores

    def _require_queries(self, queries: Floats, k: int) -> None:
        if queries.ndim != 2 or queries.shape[1] != self.dimension or queries.dtype != np.float32:
            raise ValueError(
                f"queries must be float32 [Q, {self.dimension}], got {queries.dtype} "
                f"{list(queries.shape)}."
            )
        if k < 1:
            raise ValueError(f"k must be above 0, got {k}.")
        if not np.isfinite(queries).all():
            raise ValueError("queries must be finite, got NaN or infinity.")

    @classmethod
    def load(cls, directory: str | os.PathLike[str], *, hash_contents: bool = True) -> "Index":
        """Loads an index and proves that it is the one that was built.

        Args:
            directory: Index directory of :func:`build`; it may have been moved.
            hash_contents: Whether contents are hashed; off only where the caller has just verified
                every file.

        Raises:
            IndexRefusedError: A file is missing, was changed or added, ids and vectors do not
                fit together, or the self-test queries do not find what they must.
        """
        content = index_files.read(directory, hash_contents=hash_contents)
        kind, embeddings = content.details["kind"], content.embeddings
        searcher = None
        if kind == "scann":
            searcher = _load_scann(pathlib.Path(directory) / index_files.SCANN, content)
            kind = "scann" if searcher else "exact_fallback"
        embeddings.setflags(write=False)
        loaded = cls(
            video_ids=content.video_ids,
            embeddings=embeddings,
            kind=kind,
            details=content.details,
            _searcher=searcher or _exact(embeddings),
        )
        loaded.self_test(content.self_test_queries, content.self_test_rows)
        return loaded

    def self_test(self, queries: Floats, truth: Rows) -> None:
        """Asks queries whose answers are known.

        A ScaNN built for other processor features can load and answer wrongly, which no
        checksum shows.

        Args:
            queries: float32 [S, D + 1], query embeddings.
            truth: int32 [S, K], rows that exact search found when the index was built.

        Raises:
            IndexRefusedError: Too few are found, or a score is not the inner product.
        """
        retrieved, scores = self.search(queries, truth.shape[1])
        recall = float(exact_search.recall_per_query(retrieved, truth).mean())
        needed = self.details["self_test_recall"] - _SELF_TEST_SLACK
        products = np.einsum("qkd,qd->qk", self.embeddings[retrieved], queries)
        if recall < needed or not np.allclose(
            scores, products, rtol=_SCORE_TOLERANCE, atol=_SCORE_TOLERANCE
        ):
            raise IndexRefusedError(
                f"the index of {len(self)} videos fails its self-test here: it finds {recall:.3f} "
                f"of the right videos, {needed:.3f} are needed, with scores that are inner "
                "products. Build the release again on this machine."
            )


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
        repeat_bias: Addition to the score of a video watched before, see :attr:`Index.repeat_bias`.

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
    searcher = _approximate(scann, settings) if scann and settings else _exact(embeddings)
    held_out = np.arange(len(tuning_queries)) % 2 == (1 if len(tuning_queries) > 1 else 0)
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
    queries = tuning_queries[held_out][:_SELF_TEST_QUERIES]
    truth, _ = exact_search.search(embeddings, queries, _SELF_TEST_K)
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


def _choose(
    embeddings: Floats, queries: Floats, *, k: int, recall_target: float, exact_below: int
) -> tuple[index_tuning.ScannSearcher | None, list[index_tuning.Trial]]:
    if len(embeddings) >= exact_below:
        if environment.scann is not None:
            return index_tuning.choose(embeddings, queries, k=k, recall_target=recall_target)
        _warn_without_scann(environment.SCANN_ERROR, len(embeddings))
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
    by_slice = {name: float(recalls[mask].mean()) for name, mask in slices.items() if mask.any()}
    times_ms = index_tuning.query_times_ms(searcher, queries, k)
    return IndexReport(
        kind="exact" if trials[-1].partitioning is None else "scann",
        count=len(embeddings),
        dimension=embeddings.shape[1],
        k=k,
        num_queries=len(queries),
        recall=float(recalls.mean()),
        worst_slice_recall=min([float(recalls.mean()), *by_slice.values()]),
        slices=by_slice,
        mean_ms=float(times_ms.mean()),
        p99_ms=float(np.percentile(times_ms, 99)),
        exact_ms=next(trial.mean_ms for trial in trials if trial.partitioning is None),
        build_s=0.0,
        trials=tuple(str(trial) for trial in trials),
    )


def _load_scann(
    directory: pathlib.Path, content: index_files.IndexFiles
) -> index_tuning.Searcher | None:
    """Returns ScaNN's searcher, or None, said loudly, where it cannot be used."""
    details = content.details
    try:
        scann = index_tuning.load_searcher(
            directory, index_tuning.Partitioning(**details["partitioning"]), content.embeddings
        )
    except (ImportError, RuntimeError, ValueError, OSError) as error:
        _warn_without_scann(str(error), len(content.embeddings))
        return None
    return _approximate(scann, index_tuning.SearchConfig(**details["search"]))


def _warn_without_scann(reason: str, count: int) -> None:
    logging.error(
        "ScaNN CANNOT BE USED (%s). %d videos are searched exactly: right, but slow. "
        "`python -m pipeline.doctor` names the remedy.",
        reason,
        count,
    )


def _exact(embeddings: Floats) -> index_tuning.Searcher:
    return lambda queries, k: exact_search.search(embeddings, queries, k)


def _approximate(
    scann: index_tuning.ScannSearcher, settings: index_tuning.SearchConfig
) -> index_tuning.Searcher:
    return lambda queries, k: scann.search(queries, k, settings=settings)


__all__ = ["Index", "IndexRefusedError", "IndexReport", "build"]
