"""ALS and BPR through the library ``implicit``, an optional extra: `factorisation`.

Both factorise who watched what until the end of training. A query's user is folded into ALS from
what they had watched before the query, so that it knows as much as the model does; BPR has no
folding in and knows a user as of the end of training. Without ``implicit`` both are left out, and
:func:`fit_all` says so.
"""

import dataclasses
import importlib.util
import time
from typing import Any

import numpy as np
import numpy.typing as npt
from absl import logging

from models.baselines.retrieval import Baseline, Floats, Queries, newest

_FACTORS = 64
_ALS_ITERATIONS, _ALS_REGULARISATION, _ALS_ALPHA = 15, 0.05, 20.0
_BPR_ITERATIONS, _BPR_RATE, _BPR_REGULARISATION = 100, 0.05, 0.01
_HISTORY = 50

Factors = npt.NDArray[np.float32]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Als:
    """Alternating least squares over a binary matrix with confidence 1 + alpha.

    Attributes:
        videos: Factors of the videos, float32 [N, F].
        tie_break: Popularity that breaks ties, float64 [N] in [0, 1).
        name: Name of the baseline in tables.
    """

    videos: Factors
    tie_break: Floats
    name: str = "als"

    def score(self, queries: Queries) -> Floats:
        """Returns float64 [Q, N]: the user solved for, given the watches before each query."""
        owner, _, watched = newest(queries, _HISTORY)
        pairs = np.unique(np.stack([owner, watched], axis=1), axis=0)
        factors = self.videos.astype(np.float64)
        every = factors.T @ factors + _ALS_REGULARISATION * np.eye(factors.shape[1])
        users = np.zeros((len(queries), factors.shape[1]))
        starts = np.searchsorted(pairs[:, 0], np.arange(len(queries) + 1))
        for query in range(len(queries)):
            mine = factors[pairs[starts[query] : starts[query + 1], 1]]
            if len(mine):
                left = every + _ALS_ALPHA * mine.T @ mine
                users[query] = np.linalg.solve(left, (1 + _ALS_ALPHA) * mine.sum(axis=0))
        return np.asarray(users @ factors.T + 1e-9 * self.tie_break)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bpr:
    """Bayesian personalised ranking; an unknown user gets what is popular.

    Attributes:
        users: Factors of the users, float32 [U, F].
        row_of: Row in ``users`` by user id.
        videos: Factors of the videos, float32 [N, F].
        popularity: Scores for unknown users, which break ties for known ones too, float64 [N] in
            [0, 1).
        name: Name of the baseline in tables.
    """

    users: Factors
    row_of: dict[str, int]
    videos: Factors
    popularity: Floats
    name: str = "bpr"

    def score(self, queries: Queries) -> Floats:
        """Returns float64 [Q, N]."""
        rows = np.array([self.row_of.get(user, -1) for user in queries.user_ids], np.int64)
        scores = self.users[rows].astype(np.float64) @ self.videos.T.astype(np.float64)
        unknown = (rows < 0)[:, np.newaxis]
        return np.where(unknown, self.popularity, scores + 1e-9 * self.popularity)


def fit_all(train: Queries, order: Floats, *, seed: int) -> list[Baseline]:
    """Fits both; none, with a warning, where the library is absent.

    Args:
        train: Training examples: labels and the watches before them.
        order: float64 [N] in [0, 1), from rarely to often watched.
        seed: Seed of both fits.
    """
    if importlib.util.find_spec("implicit") is None:
        logging.warning(
            "ALS AND BPR ARE LEFT OUT: implicit is not installed. Install it with: "
            "pip install '.[factorisation]' in the checkout"
        )
        return []
    import threadpoolctl
    from implicit import als, bpr

    matrix, row_of = watch_matrix(train, len(order))
    # With as many factors as videos a factorisation only repeats what it has seen.
    factors = max(1, min(_FACTORS, len(order) // 5))
    shared = {"factors": factors, "random_state": seed, "use_gpu": False}
    # implicit starts its own threads and asks that BLAS start none.
    with threadpoolctl.threadpool_limits(1, "blas"):
        by_als = als.AlternatingLeastSquares(
            regularization=_ALS_REGULARISATION,
            alpha=_ALS_ALPHA,
            iterations=_ALS_ITERATIONS,
            **shared,
        )
        by_bpr = bpr.BayesianPersonalizedRanking(
            learning_rate=_BPR_RATE,
            regularization=_BPR_REGULARISATION,
            iterations=_BPR_ITERATIONS,
            **shared,
        )
        for name, one in (("ALS", by_als), ("BPR", by_bpr)):
            started = time.monotonic()
            one.fit(matrix, show_progress=False)
            logging.info("fitted %s in %.1f s", name, time.monotonic() - started)
    return [
        Als(videos=np.asarray(by_als.item_factors), tie_break=order),
        Bpr(
            users=np.asarray(by_bpr.user_factors),
            row_of=row_of,
            videos=np.asarray(by_bpr.item_factors),
            popularity=order,
        ),
    ]


def watch_matrix(train: Queries, num_videos: int) -> tuple[Any, dict[str, int]]:
    """Returns who watched what, CSR float32 [U, N] of ones, and the row of each user id.

    Args:
        train: Training examples: labels and the watches before them.
        num_videos: Number of videos N of the catalogue.
    """
    from scipy import sparse

    names, codes = np.unique(train.user_ids.astype(str), return_inverse=True)
    owner, _, watched = newest(train, _HISTORY)
    known = train.label_rows >= 0
    users = np.concatenate([codes[owner], codes[known]])
    videos = np.concatenate([watched, train.label_rows[known]])
    matrix = sparse.csr_matrix(
        (np.ones(len(users), np.float32), (users, videos)), shape=(len(names), num_videos)
    )
    matrix.sum_duplicates()
    matrix.data[:] = 1.0
    return matrix, {str(name): row for row, name in enumerate(names)}
