"""Starts item-to-item embeddings from how often one video follows another.

Gradient steps learn that one video leads to another only after they have met the two together
many times. The counts know it before the first step. With n_ij, how often video j was the label
of an example whose newest watches hold i,

    S_ij = log(1 + lift_ij n_ij / (n_ij + 2)),    lift_ij = n_ij n / (n_i n_j)
    S ~ U diag(s) V^T,    watched_i = sqrt(a s) U_i,    row_j = sqrt(a s) V_j

so that watched_i . row_j is a small share a of S_ij, for the training to correct.

Sources: Levy and Goldberg, "Neural word embedding as implicit matrix factorization", NIPS 2014;
Halko, Martinsson and Tropp, "Finding structure with randomness", SIAM Review 2011, for the
factors. The shrinkage of rare pairs and the share are ours.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

Floats = npt.NDArray[np.float32]
Ids = npt.NDArray[Any]
# Bounds time and memory; ids are in the order of frequency, so it is the rare ones that go without.
MAX_VIDEOS = 200_000
MAX_EXAMPLES = 1_000_000
_DEPTH = 20  # Newest watches of an example that count.
_SHRINKAGE = 2.0
# Of .12, .3 and .6 the smallest was the best on a simulated site: .713, .697 and .669 recall@100.
_SHARE = 0.12
_EXTRA, _POWER_STEPS = 16, 3
_RIDGE = 0.01  # Of the mean variance of a factor.


def counts(parts: Iterable[tuple[Ids, Ids]], num_videos: int) -> sparse.csr_array:
    """Counts which video was watched after which.

    Args:
        parts: Bags int [n, L], newest first, 0 for none, and labels int [n], of ids 1 to V;
            those beyond ``MAX_EXAMPLES`` or ``MAX_VIDEOS`` are left out.
        num_videos: V, number of videos of the vocabulary.

    Returns:
        [V + 1, V + 1], watched by label; nothing on the diagonal. V is at most ``MAX_VIDEOS``.
    """
    size = min(num_videos, MAX_VIDEOS) + 1
    total, seen = sparse.csr_array((size, size), dtype=np.float32), 0
    for bags, labels in parts:
        bags = np.asarray(bags, np.int64)[: MAX_EXAMPLES - seen, :_DEPTH]
        labels = np.broadcast_to(np.asarray(labels, np.int64)[: len(bags), np.newaxis], bags.shape)
        known = (bags > 0) & (labels > 0) & (bags < size) & (labels < size) & (bags != labels)
        pairs = (np.ones(int(known.sum()), np.float32), (bags[known], labels[known]))
        total = total + sparse.coo_array(pairs, shape=total.shape).tocsr()
        seen += len(bags)
        if seen >= MAX_EXAMPLES:
            break
    return total


def embeddings(follows: sparse.csr_array, dim: int, *, seed: int) -> tuple[Floats, Floats]:
    """Factorises counts.

    Args:
        follows: Counts [V + 1, V + 1], as :func:`counts` returns them.
        dim: D, greatest number of columns of the embeddings.
        seed: Seed of the random projection.

    Returns:
        Embeddings of watched videos and of labels, float32 [V + 1, k] each, zero where a video
        was not counted. k is D, or as many as the matrix has rows.
    """
    left, values, right = _svd(_similarity(follows), dim, seed)
    scale = np.sqrt(_SHARE * values)
    return left * scale, right * scale


def placed(start: Floats, learnt: Floats, *, known: Ids, new: Ids) -> Floats:
    """Returns the rows of new videos among those that a model has learnt, by what the counts say.

    The model has gone its own way since its start, so the factors of today's counts are led to its
    rows by the linear map that does so best, in least squares, for the videos that both have.

    Args:
        start: Embeddings of today's counts, float32 [V + 1, k], see :func:`embeddings`.
        learnt: Rows of the model, float32 [V + 1, D].
        known: Ids of videos whose rows it has learnt.
        new: Ids of videos whose rows are wanted.

    Returns:
        Rows, float32 [len(new), D]; 0 where a video was not counted.
    """
    known, counted = known[known < len(start)], new < len(start)
    shared = known[start[known].any(axis=1)]
    factors = start[shared].astype(np.float64)
    gram = factors.T @ factors
    gram[np.diag_indices_from(gram)] += _RIDGE * max(float(np.trace(gram)) / len(gram), 1e-9)
    leading = np.linalg.solve(gram, factors.T @ learnt[shared].astype(np.float64))
    rows = np.zeros((len(new), learnt.shape[1]), np.float32)
    rows[counted] = start[new[counted]] @ leading
    return rows


def _similarity(follows: sparse.csr_array) -> sparse.csr_array:
    pairs = follows.tocoo()
    n = pairs.data.astype(np.float64)
    by_watched, by_label = np.asarray(follows.sum(axis=1)), np.asarray(follows.sum(axis=0))
    lift = n * n.sum() / (by_watched[pairs.row].astype(np.float64) * by_label[pairs.col])
    value = np.log1p(lift * n / (n + _SHRINKAGE)).astype(np.float32)
    return sparse.coo_array((value, (pairs.row, pairs.col)), shape=follows.shape).tocsr()


def _svd(matrix: sparse.csr_array, dim: int, seed: int) -> tuple[Floats, Floats, Floats]:
    """Returns U [n, k], s [k] descending and V [n, k] of the largest k <= dim singular values."""
    width = min(dim + _EXTRA, matrix.shape[0])
    noise = np.random.default_rng(seed).standard_normal((matrix.shape[1], width), np.float32)
    basis, _ = np.linalg.qr(matrix @ noise)
    for _ in range(_POWER_STEPS):
        basis, _ = np.linalg.qr(matrix.T @ basis)
        basis, _ = np.linalg.qr(matrix @ basis)
    small, values, right = np.linalg.svd((matrix.T @ basis).T, full_matrices=False)
    kept = min(dim, len(values))
    return (basis @ small)[:, :kept], values[:kept], right[:kept].T
