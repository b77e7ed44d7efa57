import dataclasses
import math

import numpy as np
import pytest

from models.evaluation import intervals, metrics


def sums(numerator, denominator):
    return metrics.UserSums(
        numerator=np.asarray(numerator, float), denominator=np.asarray(denominator, float)
    )


def test_each_resample_draws_as_many_users_as_there_are():
    blocks = list(intervals.Bootstrap(num_users=7, replicates=5).draws())
    np.testing.assert_array_equal(np.concatenate(blocks).sum(axis=1), np.full(5, 7))


def test_the_seed_decides_the_interval():
    rng = np.random.default_rng(0)
    metric = sums(rng.random(50), np.ones(50))
    first, again, other = (
        intervals.Bootstrap(num_users=50, replicates=200, seed=seed).intervals([metric])[0]
        for seed in (1, 1, 2)
    )
    assert first == again != other


def test_interval_does_not_depend_on_what_else_is_measured():
    rng = np.random.default_rng(0)
    bootstrap = intervals.Bootstrap(num_users=50, replicates=200)
    metric, other = sums(rng.random(50), np.ones(50)), sums(rng.random(50), np.ones(50))
    alone = bootstrap.intervals([metric])[0]
    beside = bootstrap.intervals([other, metric])[1]
    assert dataclasses.astuple(alone) == pytest.approx(dataclasses.astuple(beside), rel=1e-12)


def test_users_who_are_all_alike_leave_no_doubt():
    # 3 hits of 4 queries for everybody: .75 whoever is drawn.
    bootstrap = intervals.Bootstrap(num_users=30, replicates=100)
    interval = bootstrap.intervals([sums(np.full(30, 3), np.full(30, 4))])[0]
    assert (interval.value, interval.low, interval.high) == (0.75, 0.75, 0.75)


def test_ratio_weighs_users_by_their_denominator():
    assert sums([1, 0], [1, 3]).value == 0.25


def test_difference_is_paired():
    # The second metric is the first plus .1 for every user, however much users differ.
    values = np.random.default_rng(3).random(200)
    pair = (sums(values + 0.1, np.ones(200)), sums(values, np.ones(200)))
    bootstrap = intervals.Bootstrap(num_users=200, replicates=200)
    difference = bootstrap.differences([pair])[0]
    assert (difference.low, difference.high) == pytest.approx((0.1, 0.1))
    assert difference.excludes_zero
    alone = bootstrap.intervals([pair[0]])[0]
    assert alone.high - alone.low > 0.05


def test_nothing_to_measure_gives_no_interval():
    for users in (0, 3):
        bootstrap = intervals.Bootstrap(num_users=users, replicates=10)
        interval = bootstrap.intervals([sums(np.zeros(users), np.zeros(users))])[0]
        assert math.isnan(interval.value)
        assert math.isnan(interval.low)
        assert not interval.excludes_zero


def test_95_percent_intervals_hold_the_truth_about_95_times_in_100():
    rng = np.random.default_rng(11)
    worlds, users, held = 300, 60, 0
    bootstrap = intervals.Bootstrap(num_users=users, replicates=400)
    for _ in range(worlds):
        # Users differ in how much they ask and in how well they are served; the mean of a hit
        # is .4 for a query, since both are drawn independently.
        queries = rng.integers(1, 6, users)
        hits = rng.binomial(queries, rng.beta(2, 3, users))
        interval = bootstrap.intervals([sums(hits, queries)])[0]
        held += interval.low <= 0.4 <= interval.high
    # 95% of 300 is 285, its standard deviation 3.8; percentile intervals run a little narrow.
    assert 270 <= held <= 297


def test_interval_of_a_pairwise_metric_is_as_wide_as_its_spread_over_worlds():
    rng = np.random.default_rng(2)
    users, rows = 80, 5
    codes = np.repeat(np.arange(users), rows)
    values, widths = [], []
    for _ in range(150):
        clicked = rng.random(users * rows) < 0.4
        taste = np.repeat(rng.normal(size=users), rows)
        scores = clicked + taste + rng.normal(size=users * rows)
        one = metrics.auc_by_user(scores, clicked, user_codes=codes, num_users=users)
        values.append(one.value)
        interval = intervals.Bootstrap(num_users=users, replicates=200).intervals([one])[0]
        widths.append(interval.high - interval.low)
    # A 95% interval of a normal figure is 2 x 1.96 standard deviations wide.
    assert np.mean(widths) == pytest.approx(3.92 * np.std(values), rel=0.2)


@pytest.mark.parametrize("wrong", [{"replicates": 0}, {"level": 1.0}])
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ValueError, match="must be"):
        intervals.Bootstrap(num_users=3, **wrong)


def test_sheet_gives_each_figure_its_interval_and_each_comparison_its_paired_one():
    rng = np.random.default_rng(4)
    values = rng.random(40)
    bootstrap = intervals.Bootstrap(num_users=40, replicates=100)
    sheet = intervals.Sheet()
    sheet.add("b", sums(values, np.ones(40)), n=40)
    sheet.add("a", sums(values + 0.5, np.ones(40)), n=40)
    sheet.compare("a_minus_b", "a", "b")
    sheet.state("coverage", 0.25, n=3)
    figures = sheet.figures(bootstrap)
    assert list(figures) == ["a", "a_minus_b", "b", "coverage"]
    alone = bootstrap.intervals([sums(values, np.ones(40))])[0]
    assert figures["b"].low == pytest.approx(alone.low)
    assert (figures["a_minus_b"].low, figures["a_minus_b"].high) == pytest.approx((0.5, 0.5))
    assert figures["coverage"].to_json() == {"value": 0.25, "low": None, "high": None, "n": 3}
