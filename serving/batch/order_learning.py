"""Learns the order of pages from watches that happened, and judges it on others.

The weights of the conditional logit (:mod:`serving.funnel.page_order`) are solution by Newton's
method, from watches that happened after the funnel could have been asked and that its models have
not learnt (:mod:`serving.batch.backtest`). Negatives are sampled evenly from the candidates,
which leaves the weights right (McFadden, 1978).

Where there is a ranker a watch counts for the time that it took, as what a page is for is watch
time: by counts alone short watches that happen anyway decide. On logs of watches alone each counts
once.

A blend that is worse than one of its parts is worth nothing. So the older two thirds of the watches
teach, and on the newest third the learned order stands beside each order by one part alone: by live
counts, by the retrieval score, by the place in one source, and so on. Where one of these is better,
it is the order of the page. What serves was then learned from all watches.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from features import spec
from models.evaluation import intervals, metrics
from serving.funnel.page_order import EXPECTED_WATCH_TIME, NAMES, PLACED, PageOrder

NEGATIVES = 200
MIN_SAMPLES = 200
LEARNED = "learned"
CUTOFFS = (10, 100)
_JUDGED = 1 / 3
# Puts what has a retrieval score before what has none.
_BEFORE_ALL = 1e4

Floats = npt.NDArray[np.float64]


def _singles() -> dict[str, dict[str, float]]:
    """Returns the orders by one part alone: name to the weights that are not 0."""
    live = [f"log_live_watches_{window}" for window in spec.LIVE_WINDOWS_S]
    by_column = (EXPECTED_WATCH_TIME, *live, "co_watch_score")
    return {
        **{name: {name: 1.0} for name in by_column},
        "retrieval_score": {"retrieval_score": 1.0, "has_retrieval_score": _BEFORE_ALL},
        "newest": {"log_age_h": -1.0},
        **{f"place_in_{name}": {f"log_place_in_{name}": -1.0} for name in PLACED},
    }


SINGLES: Mapping[str, Mapping[str, float]] = _singles()


@dataclasses.dataclass(frozen=True)
class Learned:
    """An order of pages and how it was chosen.

    Attributes:
        order: Order to serve; None where there are fewer than :data:`MIN_SAMPLES` watches to learn
            from.
        figures: Figures of the watches that it was judged on, JSON values: ``watches``, ``hits`` by
            order and cutoff (shares of what the watches count together), ``best_single``,
            ``chosen``, and ``difference`` by cutoff: the chosen order minus the best single one,
            ``value, low, high``.
    """

    order: PageOrder | None
    figures: dict[str, Any]

    def summary(self) -> str:
        """Returns a line for people."""
        figures = self.figures
        if self.order is None:
            return f"no order, from {figures['lessons']} watches"
        chosen, best = figures["chosen"], figures["best_single"]
        hits = " and ".join(
            f"{figures['hits'][chosen][str(k)]:.3f} in the first {k} "
            f"({best} {figures['hits'][best][str(k)]:.3f})"
            for k in CUTOFFS
        )
        count, judged = self.order.samples, figures["watches"]
        return f"the order '{chosen}', of {count} watches; judged on {judged}: {hits}"


class Lessons:
    """Watches to learn from, in the order of their times: the candidates of the moment before."""

    def __init__(self) -> None:
        self._candidates: list[npt.NDArray[np.float32]] = []
        self._watched: list[int] = []
        self._users: list[str] = []
        self._counts: list[float] = []

    def __len__(self) -> int:
        return len(self._candidates)

    def add(self, x: Floats, watched: int, *, user_id: str, count: float = 1.0) -> None:
        """Takes in a page.

        Args:
            x: float [n, F], its candidates.
            watched: Number of the one that was watched.
            user_id: User who watched it.
            count: What this watch counts, 0 or more: 1, or the time that it took.
        """
        self._counts.append(count)
        self._candidates.append(x.astype(np.float32))
        self._watched.append(watched)
        self._users.append(user_id)

    def learned(self) -> Learned:
        """Returns what there is to learn."""
        count = len(self)
        if count < MIN_SAMPLES:
            return Learned(None, {"watches": 0, "lessons": count, "needed": MIN_SAMPLES})
        split = count - round(_JUDGED * count)
        orders = {LEARNED: self._fitted(range(split))}
        for name, single in SINGLES.items():
            orders[name] = np.array([single.get(column, 0.0) for column in NAMES])
        hits = {name: self._hits(order, range(split, count)) for name, order in orders.items()}
        figures = _judged(hits, self._users[split:])
        chosen = figures["chosen"]
        weights = self._fitted(range(count)) if chosen == LEARNED else orders[chosen]
        return Learned(PageOrder(weights, count), figures | {"lessons": count})

    def _fitted(self, places: Sequence[int]) -> Floats:
        rng = np.random.default_rng(0)
        x = np.full((len(places), NEGATIVES + 1, len(NAMES)), np.nan)
        for row, place in enumerate(places):
            candidates, watched = self._candidates[place], self._watched[place]
            others = np.delete(np.arange(len(candidates)), watched)
            if len(others) > NEGATIVES:
                others = rng.choice(others, NEGATIVES, replace=False)
            x[row, : len(others) + 1] = candidates[np.concatenate([[watched], others])]
        return fit(x, np.zeros(len(x), np.int64), counts=self._relative(places))

    def _relative(self, places: Sequence[int]) -> Floats:
        """Returns what each watch counts, float64 [n], on average 1."""
        counts = np.array([self._counts[place] for place in places])
        return counts / counts.mean() if counts.any() else np.ones(len(places))

    def _hits(self, weights: Floats, places: Sequence[int]) -> Floats:
        """Returns float64 [n, cutoffs]: what counts of the watches that are among the first.

        Among equal scores a place is a matter of chance, so a hit counts as likely as it is.
        """
        hits = np.zeros((len(places), len(CUTOFFS)))
        relative = self._relative(places)
        for row, place in enumerate(places):
            scores = self._candidates[place] @ weights
            mine = scores[self._watched[place]]
            better, equal = (scores > mine).sum(), (scores == mine).sum()
            hits[row] = np.clip((np.array(CUTOFFS) - better) / equal, 0.0, 1.0) * relative[row]
        return hits


def _judged(hits: Mapping[str, Floats], users: Sequence[str]) -> dict[str, Any]:
    means = {name: by_lesson.mean(axis=0) for name, by_lesson in hits.items()}
    singles = [name for name in hits if name != LEARNED]
    best = max(singles, key=lambda name: float(means[name].sum()))
    chosen = LEARNED if means[LEARNED].sum() >= means[best].sum() else best
    _, codes = np.unique(np.array(users), return_inverse=True)
    number = int(codes.max()) + 1
    pairs = [
        tuple(metrics.sums_by_user(hits[name][:, at], codes, number) for name in (chosen, best))
        for at in range(len(CUTOFFS))
    ]
    changes = intervals.Bootstrap(num_users=number).differences([(a, b) for a, b in pairs])
    return {
        "watches": len(users),
        "hits": {
            name: dict(zip(map(str, CUTOFFS), np.round(mean, 6).tolist(), strict=True))
            for name, mean in means.items()
        },
        "best_single": best,
        "chosen": chosen,
        "difference": {
            str(k): dataclasses.asdict(change) for k, change in zip(CUTOFFS, changes, strict=True)
        },
    }


def fit(
    x: np.ndarray,
    target: np.ndarray,
    *,
    counts: np.ndarray | None = None,
    l2: float = 1.0,
    steps: int = 12,
) -> np.ndarray:
    """Returns the weights that maximise the likelihood of the targets, float64 [F].

    Args:
        x: float [S, M, F], the candidates of each sample; rows of NaN are no candidates.
        target: int [S], which of them was watched.
        counts: float64 [S], how often each sample counts, 0 or more; None for once.
        l2: Weight of the penalty on squared weights of standardised columns.
        steps: Number of Newton steps at most.
    """
    is_there = ~np.isnan(x[:, :, 0])
    real = x[is_there]
    mean, scale = real.mean(axis=0), real.std(axis=0)
    scale = np.where(scale > 1e-9, scale, np.inf)  # A column that says nothing gets weight 0.
    z = np.where(is_there[:, :, np.newaxis], (x - mean) / scale, 0.0)
    count = np.ones(len(z)) if counts is None else counts
    watched = count @ z[np.arange(len(z)), target]
    flat = z.reshape(-1, z.shape[2])
    solution = np.zeros(z.shape[2])
    for _ in range(steps):
        logits = np.where(is_there, z @ solution, -np.inf)
        p = np.exp(logits - logits.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        expected = np.einsum("sm,smf->sf", p, z)
        gradient = watched - count @ expected - l2 * solution
        p *= count[:, np.newaxis]
        hessian = flat.T @ (flat * p.reshape(-1, 1)) - (expected.T * count) @ expected
        step = np.linalg.solve(hessian + l2 * np.eye(len(solution)), gradient)
        step /= max(1.0, float(np.abs(step).max()))  # Far from the optimum, no wild leaps.
        solution += step
        if np.abs(step).max() < 1e-4:
            break
    return solution / scale
