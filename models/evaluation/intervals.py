"""Confidence intervals by a paired bootstrap over users.

A user's rows are alike, so users are drawn again, not rows. The draws depend on the seed and the
number of users alone: every metric, slice and model of one evaluation meets the SAME resamples,
and the interval of a difference is that of paired measurements.
"""

import dataclasses
import math
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from features.screen import progress
from models.evaluation import metrics

Floats = npt.NDArray[np.float64]
# Draw counts held at a time: 8M float64 are 64 MB.
_MAX_DRAWS = 8_000_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Interval:
    """A figure with its interval; NaN where nothing could be measured.

    Attributes:
        value: Figure on the users as they are.
        low: Lower end of the percentile interval.
        high: Upper end of the percentile interval.
    """

    value: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """True where the whole interval lies on one side of 0."""
        return self.low > 0 or self.high < 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bootstrap:
    """Draws users with replacement, the same way at each call.

    Attributes:
        num_users: U, users of the evaluation; a user is a code in [0, U).
        replicates: R, number of resamples, 1 or more.
        seed: Seed of the draws.
        level: Mass of the interval, in (0, 1).
    """

    num_users: int
    replicates: int = 1000
    seed: int = 0
    level: float = 0.95

    def __post_init__(self) -> None:
        if self.replicates < 1:
            raise ValueError(f"replicates must be at least 1, got {self.replicates}.")
        if not 0 < self.level < 1:
            raise ValueError(f"level must be in (0, 1), got {self.level}.")

    def draws(self) -> Iterator[Floats]:
        """Yields blocks [r, U] of how often each user was drawn; R rows in all, each adds to U."""
        rng = np.random.default_rng([self.seed, self.num_users])
        step = max(1, _MAX_DRAWS // max(1, self.num_users))
        for start in range(0, self.replicates, step):
            rows = min(step, self.replicates - start)
            block = np.empty((rows, self.num_users))
            for row in range(rows):
                drawn = rng.integers(0, self.num_users, self.num_users)
                block[row] = np.bincount(drawn, minlength=self.num_users)
            yield block

    def replicates_of(self, sums: Sequence[metrics.UserSums]) -> Floats:
        """Returns float64 [R, M], metric m under resample r; NaN where r has nothing to measure.

        A pairwise metric is a sum over pairs of users, w_u w_v c_uv with w the draws. It is
        resampled to first order around w = 1, that is 2 w_u - 1 times the user's own sum.
        """
        if not sums or not self.num_users:
            return np.full((self.replicates, len(sums)), np.nan)
        numerators = np.stack([one.numerator for one in sums], axis=1)
        denominators = np.stack([one.denominator for one in sums], axis=1)
        pairwise = np.array([one.pairwise for one in sums])
        blocks = []
        for draws in self.draws():
            top, bottom = draws @ numerators, draws @ denominators
            top = np.where(pairwise, 2 * top - numerators.sum(axis=0), top)
            bottom = np.where(pairwise, 2 * bottom - denominators.sum(axis=0), bottom)
            usable = bottom > 0
            blocks.append(np.where(usable, top / np.where(usable, bottom, 1.0), np.nan))
            progress.add(len(draws))
        return np.concatenate(blocks)

    def intervals(self, sums: Sequence[metrics.UserSums]) -> list[Interval]:
        """Returns the interval of each metric, in one pass over the draws.

        Example:
            >>> alike = metrics.UserSums(numerator=np.ones(2), denominator=np.full(2, 4.0))
            >>> Bootstrap(num_users=2).intervals([alike])  # 1 / 4, whoever is drawn
            [Interval(value=0.25, low=0.25, high=0.25)]
        """
        replicates = self.replicates_of(sums)
        return [self.summary(one.value, replicates[:, i]) for i, one in enumerate(sums)]

    def differences(
        self, pairs: Sequence[tuple[metrics.UserSums, metrics.UserSums]]
    ) -> list[Interval]:
        """Returns the interval of first minus second for each pair, on paired resamples."""
        first = self.replicates_of([one for one, _ in pairs])
        second = self.replicates_of([other for _, other in pairs])
        values = [one.value - other.value for one, other in pairs]
        return [self.summary(v, first[:, i] - second[:, i]) for i, v in enumerate(values)]

    def summary(self, value: float, replicates: Floats) -> Interval:
        """Returns ``value`` with the percentile interval of its replicates, NaN ones left out.

        Example:
            >>> quartiles = Bootstrap(num_users=1, level=0.5)
            >>> quartiles.summary(2.5, np.array([4.0, 3.0, math.nan, 2.0, 1.0, 0.0]))
            Interval(value=2.5, low=1.0, high=3.0)
        """
        usable = replicates[np.isfinite(replicates)]
        if not usable.size or not math.isfinite(value):
            return Interval(value=value, low=math.nan, high=math.nan)
        tail = (1 - self.level) / 2
        low, high = np.quantile(usable, [tail, 1 - tail])
        return Interval(value=value, low=float(low), high=float(high))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Figure(Interval):
    """One number of a report; NaN where it has no interval.

    Attributes:
        n: Rows (queries, impressions) behind it.
    """

    n: int

    def to_json(self) -> dict[str, float | int | None]:
        """Returns a JSON object; NaN becomes null.

        Example:
            >>> Figure(value=0.5, low=math.nan, high=math.nan, n=8).to_json()
            {'value': 0.5, 'low': None, 'high': None, 'n': 8}
        """
        numbers = {"value": self.value, "low": self.low, "high": self.high}
        finite = {k: v if math.isfinite(v) else None for k, v in numbers.items()}
        return {**finite, "n": self.n}


class Sheet:
    """Collects what is to be measured by key, so that all intervals come from one set of draws."""

    def __init__(self) -> None:
        self._sums: dict[str, tuple[metrics.UserSums, int]] = {}
        self._pairs: dict[str, tuple[str, str]] = {}
        self._plain: dict[str, Figure] = {}

    def add(self, key: str, sums: metrics.UserSums, *, n: int) -> None:
        """Adds a metric that gets an interval; ``n`` rows are behind it."""
        self._sums[key] = (sums, n)

    def compare(self, key: str, first: str, second: str) -> None:
        """Adds the paired difference of two metrics that were added: first minus second."""
        self._pairs[key] = (first, second)

    def state(self, key: str, value: float, *, n: int) -> None:
        """Adds a figure without an interval."""
        self._plain[key] = Figure(value=value, low=math.nan, high=math.nan, n=n)

    def figures(self, bootstrap: Bootstrap) -> dict[str, Figure]:
        """Returns every figure by key, sorted."""
        keys = list(self._sums)
        column = {key: i for i, key in enumerate(keys)}
        progress.at("resampling users", total=bootstrap.replicates, unit="samples")
        draws = bootstrap.replicates_of([self._sums[key][0] for key in keys])
        result = dict(self._plain)
        for key, (sums, n) in self._sums.items():
            interval = bootstrap.summary(sums.value, draws[:, column[key]])
            result[key] = Figure(**dataclasses.asdict(interval), n=n)
        for key, (first, second) in self._pairs.items():
            value = self._sums[first][0].value - self._sums[second][0].value
            change = draws[:, column[first]] - draws[:, column[second]]
            interval = bootstrap.summary(value, change)
            result[key] = Figure(**dataclasses.asdict(interval), n=self._sums[first][1])
        return dict(sorted(result.items()))
