"""Tests that may be looked at any time: what they must never do, and what they must see."""

import math

import numpy as np
import pytest

from models.evaluation import sequential

USERS, DAYS, TESTS = 600, 14, 1000


def looks(seed, *, effect=0.0, tests=TESTS):
    """Returns verdicts [tests, days] at any time, and of an interval for one look.

    Users differ by a lognormal factor with which they come back and watch, as on a site; each day
    somebody looks at the totals since the start. The arithmetic is that of ``difference``, for many
    tests at once.
    """
    rng = np.random.default_rng(seed)
    taste = rng.lognormal(0, 1, (tests, USERS))
    treated = rng.random((tests, USERS)) < 0.5
    total, pages = np.zeros((tests, USERS)), np.zeros(tests)
    always, once = np.zeros((tests, DAYS), bool), np.zeros((tests, DAYS), bool)
    for day in range(DAYS):
        shown = rng.poisson(taste)
        total += shown * rng.lognormal(3, 1, (tests, USERS)) * (1 + effect * treated)
        pages += shown.sum(axis=1)
        n = np.stack([treated.sum(axis=1), (~treated).sum(axis=1)])
        sums = np.stack([(total * side).sum(axis=1) for side in (treated, ~treated)])
        squares = np.stack([(total**2 * side).sum(axis=1) for side in (treated, ~treated)])
        variance = (squares - sums**2 / n) / (n - 1) / n
        z = np.abs(sums[0] / n[0] - sums[1] / n[1]) / np.sqrt(variance.sum(axis=0))
        limits = [sequential.boundary(p / sequential.PLANNED_PAGES) for p in pages]
        always[:, day], once[:, day] = z > np.array(limits), z > 1.96
    return always, once


def test_of_a_thousand_equal_experiments_looked_at_daily_at_most_the_stated_part_rejects():
    always, once = looks(seed=1)
    # 5 % of 1,000, and three standard errors of a share of 1,000.
    assert always.any(axis=1).mean() <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / TESTS)
    assert once.any(axis=1).mean() > 0.12  # What an interval for one look makes of the same looks.
    assert once[:, 0].mean() < 0.08  # Although it is right at one.


def test_a_real_difference_is_seen_although_everybody_peeks():
    always, _ = looks(seed=2, effect=0.6, tests=100)
    assert always.any(axis=1).mean() > 0.8


def test_an_interval_is_that_of_the_formula():
    rng = np.random.default_rng(0)
    one, other = rng.exponential(size=200), rng.exponential(size=300)
    ones = [np.ones(200), np.ones(300)]
    found = sequential.difference((one, ones[0]), (other, ones[1]), pages=10_000)
    error = math.sqrt(one.var(ddof=1) / 200 + other.var(ddof=1) / 300)
    assert found.value == pytest.approx(one.mean() - other.mean())
    assert (found.high - found.low) / 2 == pytest.approx(sequential.boundary(1) * error)


def test_a_few_users_tell_nothing():
    few = (np.ones(sequential.MIN_USERS - 1), np.ones(sequential.MIN_USERS - 1))
    many = (np.zeros(500), np.ones(500))
    found = sequential.difference(few, many, pages=1e6)
    assert math.isnan(found.low) and not found.excludes_zero


def test_the_boundary_is_lowest_about_where_it_was_planned():
    at = [sequential.boundary(t) for t in (0.01, 0.5, 1.0, 2.0, 100.0)]
    assert at.index(min(at)) == 2
    assert sequential.boundary(0) == math.inf


def test_a_split_that_is_looked_at_all_the_time_is_refused_as_rarely_as_stated():
    rng = np.random.default_rng(3)
    refused = 0
    for _ in range(300):
        arrived = np.cumsum(rng.random(2000) < 0.5)
        counts = [(arrived[n], n + 1 - arrived[n]) for n in range(49, 2000, 50)]
        refused += any(sequential.split_p(pair, (1, 1)) < 0.05 for pair in counts)
    assert refused <= 0.05 * 300


def test_a_split_that_loses_users_is_refused():
    assert sequential.split_p((5000, 4500), (0.5, 0.5)) < 0.001
    assert sequential.split_p((5000, 5000), (0.5, 0.5)) == 1.0
    assert sequential.split_p((9000, 1000), (0.9, 0.1)) == 1.0


def test_a_rate_at_its_limit_is_accused_as_rarely_as_stated_however_long_one_looks():
    rng = np.random.default_rng(4)
    accused = 0
    for _ in range(1000):
        hits = np.cumsum(rng.random(1000) < 0.02)
        found = [sequential.log_evidence_above(hits[n], n + 1, 0.02) for n in range(0, 1000, 20)]
        accused += max(found) > math.log(1 / 0.05)
    assert accused <= 0.05 * 1000


def test_a_rate_far_above_its_limit_is_accused_within_a_few_trials():
    assert sequential.log_evidence_above(3, 3, 0.02) > math.log(1000)
    assert sequential.log_evidence_above(0, 1000, 0.02) < 0
    with pytest.raises(ValueError, match="limit must be in"):
        sequential.log_evidence_above(1, 1, 0.0)
