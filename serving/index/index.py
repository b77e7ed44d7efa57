"""The searchable video embeddings of a release: exact for small corpora, ScaNN above.

    rows, scores = Index.load(directory).search(queries, k=200)

Scores are inner products, exact to float32, and the softmax bias is the last dimension: a query
ends in 1. See :mod:`serving.index.building` for how one is made, and :mod:`serving.index.files` for
what a directory holds.
"""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from absl import logging

from serving.index import exact_search
from serving.index import files as index_files
from serving.index import tuning as index_tuning
from serving.index.exact_search import Floats, Rows, RowsByNumber
from serving.index.files import IndexRefusedError

# Float sums differ a little between processors, so the self-test leaves room for near ties.
_SELF_TEST_SLACK = 0.05
_SCORE_TOLERANCE = 1e-3


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
            directory: Directory that :func:`serving.index.building.build` filled; it may have
                been moved.
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
            _searcher=searcher or functools.partial(exact_search.search, embeddings),
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
        warn_without_scann(str(error), len(content.embeddings))
        return None
    config = index_tuning.SearchConfig(**details["search"])
    return functools.partial(scann.search, settings=config)


def warn_without_scann(reason: str, count: int) -> None:
    """Says loudly that so many videos are searched exactly, and why."""
    logging.error(
        "ScaNN CANNOT BE USED (%s). %d videos are searched exactly: right, but slow. "
        "`python -m pipeline.doctor` names the remedy.",
        reason,
        count,
    )
