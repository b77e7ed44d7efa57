"""How many videos people are shown, and how much two of them are shown the same.

What is healthy depends on the site: where nearly everything watched today is a few hundred articles
of today, lists of nearly everybody hold these. So lists are compared with lists that are drawn from
what people watched on the same days, as many and as long.
"""

import itertools

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
_MAX_CELLS = 20_000_000


def effective_number(counts: npt.NDArray[np.generic]) -> float:
    """Returns exp(entropy) of a distribution: N for N equally frequent things, 1 for one alone.

    Args:
        counts: [N], 0 or more; 0.0 where all are 0.

    Example:
        >>> round(effective_number(np.array([5, 5, 0])), 6)
        2.0
    """
    positive = np.asarray(counts, np.float64)
    positive = positive[positive > 0]
    if not len(positive):
        return 0.0
    p = positive / positive.sum()
    return float(np.exp(-(p * np.log(p)).sum()))


def of_lists(lists: Ints) -> float:
    """Returns the effective number of videos in lists, int [Q, k]; below 0 is nothing."""
    return effective_number(np.unique(lists[lists >= 0], return_counts=True)[1])


def overlap(lists: Ints, *, pairs: int, seed: int) -> float:
    """Returns the mean share that two different lists of int [Q, k] have in common, Q at least 2.

    Args:
        lists: A video at most once in each.
        pairs: Greatest number of pairs that are looked at; all of them where there are no more.
        seed: Seed of the choice of pairs.

    Example:
        >>> overlap(np.array([[0, 1], [1, 2]]), pairs=1, seed=0)
        0.5
    """
    count, size = lists.shape
    if count * (count - 1) // 2 <= pairs:
        chosen = list(itertools.combinations(range(count), 2))
    else:
        rng = np.random.default_rng(seed)
        first = rng.integers(count, size=pairs)
        second = (first + rng.integers(1, count, size=pairs)) % count
        chosen = list(zip(first.tolist(), second.tolist(), strict=True))
    shared = [len(np.intersect1d(lists[a], lists[b])) for a, b in chosen]
    return float(np.mean(shared)) / size


def drawn(counts: Ints, *, lists: int, size: int, seed: int) -> Ints:
    """Returns lists of videos drawn one after the other by how often they were watched.

    A video is in a list once; the Gumbel trick draws a whole list at once.

    Args:
        counts: int [N], watches; at least ``size`` are above 0.
        lists: Q, number of lists.
        size: k, videos of a list.
        seed: Seed of the draws.

    Returns:
        Videos of each list, int64 [Q, k], in no order.

    Example:
        >>> lists = drawn(np.array([3, 0, 5]), lists=2, size=2, seed=0)
        >>> np.sort(lists, axis=1).tolist()
        [[0, 2], [0, 2]]
    """
    rows = np.flatnonzero(counts > 0)
    logs = np.log(counts[rows].astype(np.float64))
    rng = np.random.default_rng(seed)
    block = max(1, _MAX_CELLS // len(rows))
    parts = []
    for start in range(0, lists, block):
        keys = logs + rng.gumbel(size=(min(block, lists - start), len(rows)))
        parts.append(rows[np.argpartition(-keys, size - 1, axis=1)[:, :size]])
    return np.concatenate(parts).astype(np.int64)
