"""Columns that are too good to be true: a total of today is told, an honest one is not."""

import numpy as np
import pytest

from pipeline.statistics import label_relations

RNG = np.random.default_rng(1)
N = 4000


def impressions(strength, size=N):
    """A number that is larger, on average by ``strength``, where an impression was clicked."""
    clicked = RNG.random(size) < 0.3
    return RNG.normal(size=size) + strength * clicked, clicked


def relation(train, holdout=None, videos=None):
    return label_relations.relation("likes", train=train, holdout=holdout, videos=videos)


def test_auc_by_hand():
    # Two of the three pairs of each clicked one are in order: 3 x 2/3 and ties are half.
    values = np.repeat([1.0, 2.0, 2.0, 3.0], 60)
    clicked = np.repeat([False, True, False, True], 60)
    area, error = label_relations.auc(values, clicked)
    assert area == pytest.approx((1 + 0.5 + 1 + 1) / 4)
    assert 0 < error < 0.05
    assert label_relations.auc(np.full(240, np.nan), clicked) is None
    assert label_relations.auc(values[:100], clicked[:100]) is None


def test_honest_column_is_not_warned_of():
    videos = (RNG.normal(size=500), RNG.poisson(20, 500).astype(float))
    found = relation(impressions(0.5), impressions(0.5), videos)
    assert found.warnings == []
    assert 0.55 < found.train < 0.75


def test_column_that_is_the_label_is_warned_of():
    (warning,) = relation(impressions(6.0), impressions(6.0)).warnings
    assert "too well to be true (AUC 1.00)" in warning
    (warning,) = relation(impressions(-6.0), impressions(-6.0)).warnings
    assert "too well to be true (AUC 0.00)" in warning


def test_column_that_changes_at_the_holdout_is_warned_of():
    (warning,) = relation(impressions(1.0), impressions(0.0)).warnings
    assert "in training and" in warning


def test_total_of_today_is_warned_of():
    watches = RNG.poisson(RNG.gamma(1.0, 30.0, 500)).astype(float)
    likes_so_far = RNG.binomial(watches.astype(int), 0.3).astype(float)
    (warning,) = relation(impressions(0.3), impressions(0.3), (likes_so_far, watches)).warnings
    assert "as a total of today does" in warning
    assert label_relations.rank_correlation(np.ones(500), watches) is None
