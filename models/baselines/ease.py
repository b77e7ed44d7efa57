"""EASE: a linear model of who watched what, in closed form, with no video explained by itself.

    B = I - P diag(1 / diag(P)),   P = (X' X + lambda I)^-1,   score = (the query's watches) B

Source: Steck, "Embarrassingly shallow autoencoders for sparse data", WWW 2019.
"""

import dataclasses
import time

import numpy as np
import numpy.typing as npt
from absl import logging

from models.baselines.implicit import watch_matrix
from models.baselines.retrieval import Floats, Queries, newest

# B has a number for each pair of videos: 3.6 GB of float64 at 15,000, and the time of its inverse
# grows with their third power.
MAX_VIDEOS = 15_000
_REGULARISATION = 500.0  # The paper's choice on its sparsest data.
_HISTORY = 50


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ease:
    """What each watched video says of each other one.

    Attributes:
        weights: B, float32 [N, N], by watched video and by scored video.
        tie_break: Popularity that breaks ties, float64 [N] in [0, 1).
        name: Name of the baseline in tables.
    """

    weights: npt.NDArray[np.float32]
    tie_break: Floats
    name: str = "ease"

    def score(self, queries: Queries) -> Floats:
        """Returns float64 [Q, N]: the sum over each query's newest watches, each counted once."""
        owner, _, watched = newest(queries, _HISTORY)
        pairs = np.unique(np.stack([owner, watched], axis=1), axis=0)
        scores = np.zeros((len(queries), len(self.tie_break)))
        starts = np.searchsorted(pairs[:, 0], np.arange(len(queries) + 1))
        for query in range(len(queries)):
            mine = pairs[starts[query] : starts[query + 1], 1]
            scores[query] = self.weights[mine].sum(axis=0)
        return scores + 1e-9 * self.tie_break


def fit(train: Queries, order: Floats, *, regularisation: float = _REGULARISATION) -> Ease | None:
    """Fits it; None, with a warning, where the catalogue is too large.

    Args:
        train: Training examples: labels and the watches before them.
        order: float64 [N] in [0, 1), from rarely to often watched.
        regularisation: lambda, above 0.
    """
    from scipy import linalg

    if len(order) > MAX_VIDEOS:
        logging.warning(
            "EASE IS LEFT OUT: it holds a number for each pair of the %s videos; %s are its most.",
            f"{len(order):,}",
            f"{MAX_VIDEOS:,}",
        )
        return None
    started = time.monotonic()
    matrix, _ = watch_matrix(train, len(order))
    gram = np.asarray((matrix.T @ matrix).toarray(), np.float64)
    gram[np.diag_indices_from(gram)] += regularisation
    inverse = linalg.inv(gram, overwrite_a=True, check_finite=False)
    weights = (-inverse / np.diag(inverse)).astype(np.float32)
    weights[np.diag_indices_from(weights)] = 0.0
    logging.info("fitted EASE in %.1f s", time.monotonic() - started)
    return Ease(weights=weights, tie_break=order)
