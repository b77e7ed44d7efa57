"""Exact search by inner product: the whole answer for small corpora, the truth for all others."""

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int32]


class RowsByNumber(Protocol):
    """An array that is only asked for some of its rows: one of NumPy's, or several as one."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of its numbers."""

    @property
    def shape(self) -> tuple[int, ...]:
        """N, then that of a row."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: npt.NDArray[np.integer[Any]], /) -> np.ndarray:
        """Returns the rows at ``rows``, int [n]."""


# Scores of one block of queries: 32M float32 are 128 MB, whatever the corpus size.
_MAX_SCORES = 32_000_000


def search(embeddings: Floats, queries: Floats, k: int) -> tuple[Rows, Floats]:
    """Returns the k videos of largest inner product for each query, best first.

    Args:
        embeddings: float32 [N, D + 1]; may be memory-mapped.
        queries: float32 [Q, D + 1], query embeddings.
        k: Number of results per query; at most N are returned.

    Returns:
        Rows of ``embeddings`` int32 [Q, min(k, N)], and scores float32 of the same shape. Equal
        scores come in the order of their rows.
    """
    count = len(embeddings)
    k = min(k, count)
    rows = np.empty((len(queries), k), np.int32)
    scores = np.empty((len(queries), k), np.float32)
    step = max(1, _MAX_SCORES // max(1, count))
    for start in range(0, len(queries), step):
        block = slice(start, start + step)
        rows[block], scores[block] = top_k(queries[block] @ embeddings.T, k)
    return rows, scores


def top_k(scores: Floats, k: int) -> tuple[Rows, Floats]:
    """Returns columns int32 [Q, k] and values float32 [Q, k] of the k largest, largest first.

    Args:
        scores: float32 [Q, N], N at least k. Equal values come in the order of their columns, also
            where only some of them are among the k.
        k: Number of values per row, in [0, N].
    """
    count = scores.shape[1]
    if k < count:
        retrieved = np.argpartition(scores, count - k, axis=1)[:, count - k :]
        _take_first_of_equals(scores, retrieved)
        retrieved.sort(axis=1)
    else:
        retrieved = np.broadcast_to(np.arange(count), scores.shape)
    values = np.take_along_axis(scores, retrieved, axis=1)
    order = np.argsort(-values, axis=1, kind="stable")
    columns = np.take_along_axis(retrieved, order, axis=1).astype(np.int32)
    return columns, np.take_along_axis(values, order, axis=1)


def _take_first_of_equals(scores: Floats, retrieved: npt.NDArray[np.int64]) -> None:
    """Where more columns equal the k-th value than are retrieved, those are made the first."""
    k = retrieved.shape[1]
    if not k:
        return
    least = np.take_along_axis(scores, retrieved, axis=1).min(axis=1)
    for row in np.flatnonzero((scores >= least[:, np.newaxis]).sum(axis=1) > k):
        larger = np.flatnonzero(scores[row] > least[row])
        equal = np.flatnonzero(scores[row] == least[row])
        retrieved[row] = np.concatenate([larger, equal[: k - len(larger)]])


def recall_per_query(retrieved: Rows, truth: Rows) -> npt.NDArray[np.float64]:
    """Returns the share of each true list that was found, float64 [Q] in [0, 1].

    Args:
        retrieved: int32 [Q, any]; rows below 0 count as nothing.
        truth: int32 [Q, k], no repeats within a list.
    """
    hits = [np.isin(true, row).sum() for row, true in zip(retrieved, truth, strict=True)]
    return np.asarray(hits, np.float64) / max(1, truth.shape[1])
