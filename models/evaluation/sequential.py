r"""Tests that may be looked at any time: peeking costs no error.

An interval of 95 % is right at one look that was planned. Whoever looks every day, and stops at
the first difference that "excludes 0", finds one between equal arms in every second experiment or
so. Here the probability that ANY look at an experiment without a difference rejects is at most
``alpha``, however often one looks and whenever one stops.

**Means.** The boundary is that of the normal mixture (Robbins, 1970), which mixture SPRTs and
asymptotic confidence sequences share: with z the difference over its standard error, rejected
where

    |z| > c(t) = sqrt((1 + 1/(k t)) log((1 + k t) / alpha^2)),

at the information time t = pages shown / pages planned; k is chosen so that c is lowest at t = 1,
and it is nearly flat: 3.0 there, 3.3 at ten times the plan (alpha = 5 %).

**Totals of users** are no sums of independent rows: a user comes back. Of equal arms, the sum S of
totals under random signs (who is in which arm) has Cov(S_t, S_u) = sum x_t x_u >= sum x_t^2 for
t < u, as totals only grow. So looks are at least as alike as those of a Brownian motion, and by
Slepian's inequality its boundary holds. That S is normal is a limit theorem's word: below
:data:`MIN_USERS` users in an arm nothing is told. ``tests/models/evaluation/test_sequential.py``
has 1,000 simulated experiments without a difference, of users with heavy tails.

**Splits.** Counts of users by arm against their planned shares: the Bayes factor of the
Dirichlet-multinomial against the plan is a martingale under the plan, and one over its greatest
value is a p-value at any time.

**Rates** (failed requests, empty pages) against a limit: a test of Bernoulli trials that holds from
the first trial on, without any limit theorem (:func:`log_evidence_above`).

Sources: Robbins, Ann. Math. Stat. 1970; Johari, Koomen, Pekelis & Walsh, Operations Research 2022,
"Always Valid Inference"; Waudby-Smith, Arbour, Sinha, Kennedy & Ramdas, Ann. Stat. 2024,
"Time-uniform central limit theory and asymptotic confidence sequences"; Lindon & Malek, NeurIPS
2022, "Anytime-Valid Inference for Multinomial Count Data". The argument for totals is ours.
"""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from models.evaluation.intervals import Interval

Floats = npt.NDArray[np.float64]

ALPHA = 0.05
# Totals of users have heavy tails; their mean is not yet normal in fewer.
MIN_USERS = 100
# Where the boundary is lowest. A tenth or ten times of it costs a tenth to a quarter in width.
PLANNED_PAGES = 10_000
# Weight of the planned shares in the test of a split, in users.
_PRIOR_USERS = 100.0


def boundary(t: float, alpha: float = ALPHA) -> float:
    """Returns c(t), the number of standard errors that a difference must exceed.

    Args:
        t: Information so far over that planned, above 0; infinite where it is 0.
        alpha: Probability that any look rejects where there is nothing, in (0, 1).

    Example:
        >>> [round(boundary(t), 2) for t in (0.1, 1, 10)]
        [3.76, 3.04, 3.26]
    """
    if t <= 0:
        return math.inf
    tail = -2 * math.log(alpha)
    k = tail + math.log(tail) + 1
    return math.sqrt((1 + 1 / (k * t)) * (math.log1p(k * t) + tail))


def difference(
    one: tuple[Floats, Floats],
    other: tuple[Floats, Floats],
    *,
    pages: float,
    planned_pages: float = PLANNED_PAGES,
    alpha: float = ALPHA,
) -> Interval:
    """Returns the difference of two ratios of users' totals, in an interval for any time.

    The ratio of a group is the sum of numerators over the sum of denominators, its variance that of
    its linear part over users (the delta method). With denominators of 1 it is a mean.

    Args:
        one: Numerators and denominators of the users of the first group, float64 [U] each.
        other: Numerators and denominators of the users of the second, float64 [V] each.
        pages: Pages that both were shown so far.
        planned_pages: Pages at which the interval is narrowest, chosen before the experiment.
        alpha: Probability that any look excludes 0 where there is no difference, in (0, 1).

    Returns:
        First minus second; NaN bounds below :data:`MIN_USERS` users in a group.
    """
    (value, variance), (base, base_variance) = _ratio(*one), _ratio(*other)
    change = value - base
    width = boundary(pages / planned_pages, alpha) * math.sqrt(variance + base_variance)
    if min(len(one[0]), len(other[0])) < MIN_USERS or not math.isfinite(width):
        return Interval(value=change, low=math.nan, high=math.nan)
    return Interval(value=change, low=change - width, high=change + width)


def _ratio(numerators: Floats, denominators: Floats) -> tuple[float, float]:
    """Returns the ratio of two sums and its variance over users; NaN without any."""
    total = float(denominators.sum())
    if not total or len(numerators) < 2:
        return math.nan, math.nan
    ratio = float(numerators.sum()) / total
    parts = numerators - ratio * denominators
    return ratio, float(parts @ parts) / total**2 * len(parts) / (len(parts) - 1)


def split_p(counts: Sequence[float], shares: Sequence[float]) -> float:
    """Returns a p-value, valid at any time, of counts under planned shares, in (0, 1].

    It is that of the look at hand; a look before may have had a smaller one, which stays valid.

    Args:
        counts: Users of each arm, 0 or more.
        shares: Their planned shares, above 0, of any sum.

    Example:
        >>> split_p([500, 500], [1, 1])
        1.0
        >>> split_p([5_000, 4_000], [1, 1]) < 1e-9
        True
    """
    n = np.asarray(counts, np.float64)
    p = np.asarray(shares, np.float64) / np.sum(shares)
    prior = _PRIOR_USERS * p
    log_factor = _log_beta(prior + n) - _log_beta(prior) - float(n @ np.log(p))
    return math.exp(-max(log_factor, 0.0))


def _log_beta(weights: Floats) -> float:
    from scipy import special

    return float(special.gammaln(weights).sum() - special.gammaln(weights.sum()))


def log_evidence_above(hits: float, trials: float, limit: float) -> float:
    """Returns the log of the evidence that a rate lies above a limit; above -log(alpha): rejected.

    Its exponential is the likelihood under a uniform mixture of the rates above the limit over that
    at the limit: a supermartingale for every rate up to the limit, so that it ever exceeds
    1 / alpha with a probability of at most alpha (Ville).

    Args:
        hits: Trials that count, 0 or more.
        trials: Trials, ``hits`` or more.
        limit: Rate that is allowed, in (0, 1).

    Example:
        >>> log_evidence_above(3, 3, 0.02) > math.log(1000)  # three of three, where 2 % may
        True
        >>> log_evidence_above(2, 100, 0.02) < 0
        True
    """
    if not 0 < limit < 1:
        raise ValueError(f"limit must be in (0, 1), got {limit}.")
    from scipy import special, stats

    a, b = hits + 1.0, trials - hits + 1.0
    log_mixture = float(special.betaln(a, b)) + float(stats.beta.logsf(limit, a, b))
    at_limit = hits * math.log(limit) + (trials - hits) * math.log1p(-limit)
    return log_mixture - math.log1p(-limit) - at_limit
