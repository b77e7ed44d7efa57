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
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from absl import logging

from serving import errors
from serving.index import exact_search, shards
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

    @property
    def answering(self) -> float:
        """Share of the videos that the last search looked at, in [0, 1]."""

    def __len__(self) -> int: ...

    def search(self, queries: Floats, k: int) -> tuple[Rows, Floats]:
        """Returns rows and scores, best first, as :meth:`Index.search` does."""


def search_what_answers(index: VideoIndex, query: Floats, k: int) -> tuple[Rows, Floats, str]:
    """Returns rows and scores of one query, and what is missing from them: "" for nothing.

    Args:
        index: Index that may have lost some of its shards.
        query: float32 [D + 1].
        k: Number of results.

    Raises:
        IndexPartialError: All of them are lost.
    """
    try:
        rows, scores = index.search(query[np.newaxis], k)
    except errors.IndexPartialError as partial:
        if not partial.answered:
            raise
        return partial.rows[0], partial.scores[0], str(partial)
    return rows[0], scores[0], ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Index:
    """A loaded index. Searching is safe from several threads at once.

    Attributes:
        video_ids: string [N]; row i is row i of the embeddings.
        embeddings: float32 [N, D + 1], read-only.
        kind: ``exact``, ``scann``, ``exact_fallback`` where ScaNN could not load, or ``sharded``.
        details: The content of ``index.json``.
    """

    video_ids: pa.Array
    embeddings: RowsByNumber
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

        Raises:
            IndexPartialError: Some shards of the index did not answer.
        """
        self._require_queries(queries, k)
        return self._searcher(queries, k)

    @property
    def answering(self) -> float:
        """Share of the videos that the last search looked at; below 1 where shards are lost."""
        searcher = self._searcher
        return searcher.answering if isinstance(searcher, shards.Sharded) else 1.0

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
    def load(
        cls,
        directory: str | os.PathLike[str],
        *,
        hash_contents: bool = True,
        open_shards: shards.Opener | None = None,
    ) -> "Index":
        """Loads an index and proves that it is the one that was built.

        Args:
            directory: Directory that :func:`serving.index.building.build` filled; it may have
                been moved.
            hash_contents: Whether contents are hashed; off only where the caller has just verified
                every file.
            open_shards: Opener of the shards of an index in shards; None loads all of them here.

        Raises:
            IndexRefusedError: A file is missing, was changed or added, ids and vectors do not
                fit together, or the self-test queries do not find what they must.
        """
        content = index_files.read(directory, hash_contents=hash_contents)
        kind, searcher = _searcher(pathlib.Path(directory), content, open_shards or ShardsInTurn)
        loaded = cls(
            video_ids=content.video_ids,
            embeddings=content.embeddings,
            kind=kind,
            details=content.details,
            _searcher=searcher,
        )
        try:
            loaded.self_test(content.self_test_queries, content.self_test_rows)
        except errors.IndexPartialError as partial:  # Each shard passes its own, where it loads.
            logging.error("The index serves in part: %s", partial)
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


class ShardsInTurn(shards.Sharded):
    """Shards in this process, one asked after the other: an :data:`shards.Opener`."""

    def __init__(
        self, directories: Sequence[pathlib.Path], sizes: Sequence[int], *, kept: bool = True
    ) -> None:
        """Loads the shards.

        Args:
            directories: Directories of the shards.
            sizes: Number of videos of each.
            kept: Whether all stay in memory; else each is loaded for a search and let go, so that
                one at a time is there.
        """
        super().__init__(sizes)
        self._directories = directories
        self._kept = [_load_shard(directory) for directory in directories] if kept else None

    def ask(self, queries: Floats, k: int) -> list[shards.ShardAnswer]:
        """Asks one after the other."""
        loaded = self._kept or map(_load_shard, self._directories)
        return [shard.search(queries, k) for shard in loaded]


def _load_shard(directory: pathlib.Path) -> Index:
    return Index.load(directory, hash_contents=False)


def _searcher(
    directory: pathlib.Path, content: index_files.IndexFiles, open_shards: shards.Opener
) -> tuple[str, index_tuning.Searcher]:
    """Returns the kind of search, and what does it."""
    details = content.details
    if details["kind"] == index_files.SHARDED:
        directories = index_files.shard_directories(directory, details["shards"])
        sizes = shards.sizes_of(len(content.embeddings), len(directories))
        return index_files.SHARDED, open_shards(directories, sizes)
    embeddings = np.asarray(content.embeddings)
    embeddings.setflags(write=False)
    if details["kind"] == "scann":
        scann = _load_scann(directory / index_files.SCANN, details, embeddings)
        if scann is not None:
            return "scann", scann
        return "exact_fallback", functools.partial(exact_search.search, embeddings)
    return "exact", functools.partial(exact_search.search, embeddings)


def _load_scann(
    directory: pathlib.Path, details: Mapping[str, Any], embeddings: Floats
) -> index_tuning.Searcher | None:
    """Returns ScaNN's searcher, or None, said loudly, where it cannot be used."""
    try:
        scann = index_tuning.load_searcher(
            directory, index_tuning.Partitioning(**details["partitioning"]), embeddings
        )
    except (ImportError, RuntimeError, ValueError, OSError) as error:
        warn_without_scann(str(error), len(embeddings))
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
