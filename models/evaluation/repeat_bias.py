"""How much less (or more) likely a video is once it has been watched.

The towers cannot say "not this one again": a video is close to the queries that watched it, and
the bag has no way to push single videos away. One number can. With m the probability that the
softmax gives to the videos of a query's bag, all together, and a bias c on their logits,

    P(repeat) = e^c m / (1 - m + e^c m)

and c is fitted by maximum likelihood to how often a label was in its own bag. Where people do
watch again it comes out near or above 0, where they do not far below.

Source: ours. On KuaiRand .2 % of the labels are repeats, and a list without what was watched has
.02 more recall@100 than one with it.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
# No repeat in a thousand examples is no proof that there is none in a million.
_LOWEST, _HIGHEST = -15.0, 15.0
_PSEUDO_REPEATS = 0.5
_ITERATIONS = 60  # Halvings of the interval: beyond float precision.


def fit(bag_mass: npt.ArrayLike, repeated: npt.ArrayLike) -> float:
    """Returns c, in [-15, 15]; 0 where no query has a bag.

    Args:
        bag_mass: float [Q] in [0, 1], softmax probability of the query's bag at c = 0.
        repeated: bool [Q], whether the label is in the bag.
    """
    mass = np.clip(np.asarray(bag_mass, np.float64), 0.0, 1.0)
    known = mass > 0
    if not known.any():
        return 0.0
    repeats = float(np.count_nonzero(np.asarray(repeated)[known])) + _PSEUDO_REPEATS
    mass = mass[known]
    low, high = _LOWEST, _HIGHEST
    # The expected number of repeats rises with c, so the likelihood has one maximum.
    for _ in range(_ITERATIONS):
        middle = (low + high) / 2
        odds = np.exp(middle) * mass
        if float((odds / (1.0 - mass + odds)).sum()) < repeats:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def bag_mass(
    queries: npt.NDArray[np.float32],
    videos: npt.NDArray[np.float32],
    bags: npt.NDArray[np.int64],
    *,
    batch: int = 256,
) -> Floats:
    """Returns the softmax probability of each query's bag, float64 [Q].

    Args:
        queries: Query embeddings, float32 [Q, D + 1].
        videos: Video embeddings, float32 [N, D + 1].
        bags: int64 [Q, L], rows of ``videos`` watched before, in any order and more than once if
            so; -1 where there is none.
        batch: Queries scored at a time.
    """
    mass = np.zeros(len(queries))
    for start in range(0, len(queries), batch):
        part = slice(start, start + batch)
        logits = queries[part] @ videos.T
        logits -= logits.max(axis=1, keepdims=True)
        probabilities = np.exp(logits)
        bag = bags[part]
        owner = np.repeat(np.arange(len(bag)), bag.shape[1])
        cells = _cells(owner, bag.ravel(), len(videos))
        inside = np.bincount(cells // len(videos), probabilities.ravel()[cells], len(bag))
        mass[part] = inside / probabilities.sum(axis=1, dtype=np.float64)
    return mass


def add_to(
    scores: npt.NDArray[np.float32], owner: npt.ArrayLike, rows: npt.ArrayLike, *, bias: float
) -> None:
    """Adds the bias, in place, to the scores of what each query has watched.

    Args:
        scores: Scores of all videos, float32 [Q, N], contiguous; changed in place.
        owner: int64 [n], the query of each watch.
        rows: int64 [n], its video; -1 is ignored, and a video watched twice counts once.
        bias: c, bias that is added.
    """
    if bias:
        scores.reshape(-1)[_cells(np.asarray(owner), np.asarray(rows), scores.shape[1])] += bias


def _cells(owner: npt.NDArray[Any], rows: npt.NDArray[Any], num_videos: int) -> Ints:
    """Returns owner * num_videos + row of each pair once, -1 left out."""
    known = rows >= 0
    return np.unique(owner[known].astype(np.int64) * num_videos + rows[known])
