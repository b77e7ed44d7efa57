"""Counting pairs of rows in O(n log n): who stands before whom, among rows of the other kind."""

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


def unclicked_rivals(
    scores: Floats, is_click: npt.NDArray[np.bool_], groups: Ints
) -> tuple[Ints, ...]:
    """Per row: unclicked rows of its group with a higher score, an equal score, and all.

    Example:
        >>> scores, clicked = np.array([1.0, 2.0, 3.0]), np.array([True, False, False])
        >>> [one.tolist() for one in unclicked_rivals(scores, clicked, np.zeros(3, np.int64))]
        [[2, 1, 0], [0, 1, 1], [2, 2, 2]]
    """
    if np.isnan(scores).any():
        raise ValueError(f"scores must not be NaN, got {int(np.isnan(scores).sum())} of them.")
    order = np.lexsort((scores, groups))
    group, score = groups[order], scores[order]
    before = np.concatenate([[0], np.cumsum(~is_click[order])])
    new_group = np.concatenate([[True], group[1:] != group[:-1]])[: len(group)]
    new_score = new_group | np.concatenate([[True], score[1:] != score[:-1]])[: len(group)]
    group_start, group_end = _runs(new_group)
    tie_start, tie_end = _runs(new_score)
    counts = (
        before[group_end] - before[tie_end],
        before[tie_end] - before[tie_start],
        before[group_end] - before[group_start],
    )
    back = np.empty_like(order)
    back[order] = np.arange(len(order))
    return tuple(one[back] for one in counts)


def _runs(is_first: npt.NDArray[np.bool_]) -> tuple[Ints, Ints]:
    """Per row the [start, end) of the run of rows that it belongs to."""
    starts = np.flatnonzero(is_first)
    ends = np.append(starts[1:], len(is_first)).astype(np.int64)
    run = np.cumsum(is_first) - 1
    return starts[run], ends[run]


def smaller_in_both(score: Floats, target: Floats) -> Ints:
    """Per row, over rows of smaller target: 2 x those of smaller score + those of equal score.

    Example:
        >>> smaller_in_both(np.array([3.0, 1.0, 3.0]), np.array([30.0, 10.0, 20.0])).tolist()
        [3, 0, 2]
    """
    rank = np.unique(score, return_inverse=True)[1].astype(np.int64)
    order = np.lexsort((rank, target))
    counts = _smaller_before(rank[order])
    # Rows of an equal target were counted too. They stand in rising score order, so all those
    # before a row have a smaller score, or the same one if in its run of equal pairs.
    new_target = np.concatenate([[True], np.diff(target[order]) != 0])[: len(order)]
    new_pair = new_target | np.concatenate([[True], np.diff(rank[order]) != 0])[: len(order)]
    target_start, _ = _runs(new_target)
    pair_start, _ = _runs(new_pair)
    counts -= 2 * (pair_start - target_start) + (np.arange(len(order)) - pair_start)
    result = np.empty_like(counts)
    result[order] = counts
    return result


def _smaller_before(rank: Ints) -> Ints:
    """Per position i: the sum over j < i of 2 [rank_j < rank_i] + [rank_j = rank_i].

    A merge sort from the bottom up, all blocks of a level at once: each odd block looks its
    values up in the sorted block to its left.
    """
    counts = np.zeros(len(rank), np.int64)
    span = int(rank.max(initial=0)) + 1
    width = 1
    while width < len(rank):
        block = np.arange(len(rank)) // width
        keys = np.sort(block * span + rank)  # Sorted within each block, blocks in order.
        odd = np.flatnonzero(block % 2 == 1)
        wanted = (block[odd] - 1) * span + rank[odd]
        start = (block[odd] - 1) * width
        counts[odd] += np.searchsorted(keys, wanted, "left") - start
        counts[odd] += np.searchsorted(keys, wanted, "right") - start
        width *= 2
    return counts
