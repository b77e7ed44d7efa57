"""Ranking baselines: a video's own averages and a linear model; trees: :mod:`.boosted_trees`.

The learned ones read exactly the ranker's transformed inputs and its loss: logistic regression in
which a click weighs its watch seconds, so that the odds are the expected watch time of an
impression. Here always in the exact form: each click also counts as a unit-weight negative,
which is one row with the soft label T / (T + 1) and the weight T + 1.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from features import spec
from features.spec import Kind, ResolvedSpec, Side

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]

# A video's average leans on the average of all until it was shown about this often.
_PRIOR_IMPRESSIONS = 20.0
# A small log takes more passes: the weights need about as many steps whatever its size.
_LINEAR_EPOCHS = 2
_LINEAR_STEPS = 1000
_LINEAR_BATCH = 1024
_LINEAR_RATE = 0.15


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scores:
    """What a baseline says about the holdout impressions.

    Attributes:
        name: Name of the baseline in tables and metric keys.
        scores: Scores that order impressions, float64 [n].
        expected_watch_time_s: float64 [n], seconds, None where the baseline makes no such claim.
    """

    name: str
    scores: Floats
    expected_watch_time_s: Floats | None = None


def chance(holdout: Mapping[str, Array]) -> Scores:
    """Scores everything alike: what a loss of one half looks like."""
    return Scores(name="chance", scores=np.zeros(len(holdout["clicked"])))


def video_averages(train: Mapping[str, Array], holdout: Mapping[str, Array]) -> list[Scores]:
    """Scores an impression by its video's past: watch time per impression, and click rate.

    Args:
        train: ``label_video_id`` [m], ``clicked`` [m], ``watch_time_s`` [m], seconds.
        holdout: Holdout impressions, n rows, with ``label_video_id``.
    """
    clicked = np.asarray(train["clicked"], np.float64)
    watch = np.where(clicked > 0, np.asarray(train["watch_time_s"], np.float64), 0.0)
    expected = _smoothed_mean(train["label_video_id"], watch, holdout["label_video_id"])
    rate = _smoothed_mean(train["label_video_id"], clicked, holdout["label_video_id"])
    return [
        Scores(name="video_mean_watch_time", scores=expected, expected_watch_time_s=expected),
        Scores(name="video_click_rate", scores=rate),
    ]


def _smoothed_mean(keys: Array, values: Floats, wanted_keys: Array) -> Floats:
    overall = float(values.mean()) if len(values) else 0.0
    if not len(values):
        return np.full(len(wanted_keys), overall)
    known, codes = np.unique(keys.astype(bytes), return_inverse=True)
    sums = np.bincount(codes, weights=values) + _PRIOR_IMPRESSIONS * overall
    means = sums / (np.bincount(codes) + _PRIOR_IMPRESSIONS)
    wanted = wanted_keys.astype(bytes)
    place = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
    return np.where(known[place] == wanted, means[place], overall)


def targets(examples: Mapping[str, Array]) -> tuple[Floats, Floats]:
    """Returns soft labels in [0, 1] and weights >= 1 of the exact weighted logistic loss."""
    clicked = np.asarray(examples["clicked"]) > 0
    seconds = np.where(clicked, np.asarray(examples["watch_time_s"], np.float64), 0.0)
    return seconds / (seconds + 1.0), seconds + 1.0


def linear(
    resolved: ResolvedSpec,
    train: Mapping[str, Array],
    holdout: Mapping[str, Array],
    *,
    seed: int = 0,
) -> Scores:
    """Fits logistic regression by Adagrad: x, x^2, sqrt(x) and one weight per id.

    The query's bags (watches, searches) are left out: without interactions they say the same about
    every video of a page.
    """
    model = _Linear(resolved, train)
    model.fit(train, seed=seed)
    return scored("linear", model.logits(holdout, np.arange(len(holdout["clicked"]))))


def scored(name: str, logits: Floats) -> Scores:
    """Returns logits as scores, and their odds, which are the expected watch seconds."""
    # Bounded, so that a wild logit stays finite.
    seconds = np.exp(np.minimum(logits, 30.0))
    return Scores(name=name, scores=logits, expected_watch_time_s=seconds)


class _Linear:
    """Weights of the linear baseline and their Adagrad accumulators."""

    def __init__(self, resolved: ResolvedSpec, train: Mapping[str, Array]) -> None:
        self._vectors = vector_columns(resolved)
        self._ids = [
            f.name
            for f in resolved.of(spec.RANKER)
            if f.kind is Kind.UNIVALENT or (f.kind is Kind.MULTIVALENT and f.side is Side.CANDIDATE)
        ]
        width = self._dense(train, np.arange(0)).shape[1]
        self._weights = np.zeros(width, np.float32)
        self._squares = np.full(width, 1e-6, np.float32)
        sizes = {name: int(train[name].max(initial=0)) + 1 for name in self._ids}
        self._tables = {name: np.zeros(size) for name, size in sizes.items()}
        self._table_squares = {name: np.full(size, 1e-6) for name, size in sizes.items()}

    def _dense(self, examples: Mapping[str, Array], rows: Array) -> npt.NDArray[np.float32]:
        columns = [np.ones((len(rows), 1), np.float32)]
        for name in self._vectors:
            values = examples[name][rows].astype(np.float32)
            columns.append(values)
            if name.endswith(Kind.CONTINUOUS.value):
                columns += [values**2, np.sqrt(np.maximum(values, 0.0))]
        return np.concatenate(columns, axis=1)

    def _looked_up(
        self, examples: Mapping[str, Array], rows: Array
    ) -> dict[str, tuple[Array, Array]]:
        """Returns by feature: ids int64 [rows, L], and 1 / how many are known, float64 [rows].

        Id 0, and ids that training did not have, weigh nothing.
        """
        result = {}
        for name in self._ids:
            ids = examples[name][rows].reshape(len(rows), -1)
            ids = np.where(ids < len(self._tables[name]), ids, 0)
            result[name] = (ids, 1.0 / np.maximum(1, np.count_nonzero(ids, axis=1)))
        return result

    def logits(self, examples: Mapping[str, Array], rows: Array) -> Floats:
        """Returns float64 [rows]."""
        return self._logits(self._dense(examples, rows), self._looked_up(examples, rows))

    def _logits(self, dense: Array, ids: Mapping[str, tuple[Array, Array]]) -> Floats:
        result: Floats = (dense @ self._weights).astype(np.float64)
        for name, (rows_of_table, share) in ids.items():
            result += self._tables[name][rows_of_table].sum(axis=1) * share
        return result

    def fit(self, train: Mapping[str, Array], *, seed: int) -> None:
        """Runs over the examples in shuffled batches, a fixed number of times."""
        labels, weights = targets(train)
        weights = weights / max(float(weights.mean()), 1e-9) if len(weights) else weights
        rng = np.random.default_rng(seed)
        steps_per_epoch = max(1, -(-len(labels) // _LINEAR_BATCH))
        for _ in range(max(_LINEAR_EPOCHS, -(-_LINEAR_STEPS // steps_per_epoch))):
            order = rng.permutation(len(labels))
            for start in range(0, len(order), _LINEAR_BATCH):
                rows = np.sort(order[start : start + _LINEAR_BATCH])
                dense, ids = self._dense(train, rows), self._looked_up(train, rows)
                odds = np.exp(-np.clip(self._logits(dense, ids), -30, 30))
                slope = weights[rows] * (1.0 / (1.0 + odds) - labels[rows]) / len(rows)
                self._step(dense, ids, slope)

    def _step(self, dense: Array, ids: Mapping[str, tuple[Array, Array]], slope: Floats) -> None:
        gradient = dense.T @ slope.astype(np.float32)
        self._squares += gradient**2
        self._weights -= _LINEAR_RATE * gradient / np.sqrt(self._squares)
        for name, (rows_of_table, share) in ids.items():
            table, squares = self._tables[name], self._table_squares[name]
            by_id = np.bincount(
                rows_of_table.ravel(),
                weights=np.repeat(slope * share, rows_of_table.shape[1]),
                minlength=len(table),
            )
            by_id[0] = 0.0
            squares += by_id**2
            table -= _LINEAR_RATE * by_id / np.sqrt(squares)


def vector_columns(resolved: ResolvedSpec) -> list[str]:
    """Returns the names of the ranker's vector inputs that exist."""
    return [
        spec.vector_column(side, kind)
        for side in Side
        for kind in (Kind.CONTINUOUS, Kind.BINARY)
        if resolved.of(spec.RANKER, side, kind)
    ]
