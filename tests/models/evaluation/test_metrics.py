import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.evaluation import metrics


def one_dimensional(query_scores):
    """A corpus whose score for query q and video v is query_scores[q][v]."""
    scores = np.asarray(query_scores, np.float32)
    return np.eye(len(scores), dtype=np.float32), scores.T.copy()


def test_rank_counts_the_videos_before_the_label():
    queries, videos = one_dimensional([[0.1, 0.9, 0.5], [3.0, 2.0, 1.0]])
    np.testing.assert_array_equal(metrics.label_ranks(queries, videos, [2, 0]), [2, 1])


def test_ties_count_against_the_label():
    queries, videos = one_dimensional([[1.0, 1.0, 1.0, 0.0]])
    np.testing.assert_array_equal(metrics.label_ranks(queries, videos, [1]), [3])


def test_label_outside_the_corpus_is_a_miss_beyond_the_last_rank():
    queries, videos = one_dimensional([[1.0, 2.0, 3.0]])
    np.testing.assert_array_equal(metrics.label_ranks(queries, videos, [-1]), [4])


def test_excluded_videos_do_not_stand_before_the_label():
    # Rows 0 and 1 are better than the label 2; without row 0 it becomes second.
    scores = np.array([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0]])
    exclude = np.array([0, 3, 3]), np.array([0, -1, 0])
    np.testing.assert_array_equal(metrics.score_ranks(scores, [2, 2], exclude=exclude), [2, 3])


def test_excluded_label_is_a_miss():
    exclude = np.array([0, 1]), np.array([0])
    scores = np.array([[3.0, 2.0, 1.0]])
    np.testing.assert_array_equal(metrics.score_ranks(scores, [0], exclude=exclude), [4])


def test_not_a_number_never_helps():
    # A label that scores NaN is last; a video that scores NaN stands before the label.
    scores = np.array([[np.nan, 1.0, 2.0], [np.nan, 1.0, 2.0]])
    np.testing.assert_array_equal(metrics.score_ranks(scores, [0, 2]), [3, 2])


def test_top_rows_are_in_falling_order_of_score():
    scores = np.array([[0.1, 0.9, 0.5, 0.7]])
    np.testing.assert_array_equal(metrics.top_rows(scores, 3), [[1, 3, 2]])
    assert metrics.top_rows(scores, 10).shape == (1, 4)


def test_recall_and_map_of_known_ranks():
    ranks = [1, 2, 10, 11]
    assert metrics.recall_at_k(ranks, 10) == 0.75
    # (1 + 1/2 + 1/10 + 1/11) / 4; the last one is beyond 10.
    assert metrics.mean_average_precision(ranks) == pytest.approx((1.6 + 1 / 11) / 4)
    assert metrics.mean_average_precision(ranks, k=10) == pytest.approx(0.4)


def test_no_queries_measure_nothing():
    assert math.isnan(metrics.recall_at_k([], 10))
    assert math.isnan(metrics.mean_average_precision([]))


def loss(pages, **columns):
    """`pages` is a list of (user, page, score, clicked, watch seconds)."""
    users, page_ids, scores, clicked, watch = zip(*pages, strict=True)
    return metrics.weighted_per_user_loss(scores, clicked, watch, users, page_ids, **columns)


def test_unclicked_impression_above_mispredicts_the_watch_time_below_it():
    # Pairs: (60 s, .2 vs .9) wrong, (60 s, .2 vs .1) right, (30 s, .5 vs .9) wrong,
    # (30 s, .5 vs .1) right: 90 of 180 watch seconds over the pairs.
    page = [("u", "p", 0.2, 1, 60), ("u", "p", 0.9, 0, 0), ("u", "p", 0.1, 0, 0)]
    assert loss([*page, ("u", "p", 0.5, 1, 30)]) == 0.5
    # Only the long watch is misplaced: 60 of 60 + 30.
    assert loss([*page[:2], ("u", "p", 0.95, 1, 30)]) == pytest.approx(60 / 90)


def test_equal_scores_count_half():
    # 40 s tied with one and right against another: 20 of 80.
    assert loss([("u", "p", 1, 1, 40), ("u", "p", 1, 0, 0), ("u", "p", 0, 0, 0)]) == 0.25


def test_pairs_are_of_the_same_user_and_page_only():
    # Each click is above its own page's unclicked and below the others'.
    rows = [
        ("u", "p", 1.0, 1, 10), ("u", "p", 0.9, 0, 0),
        ("u", "q", 3.0, 1, 10), ("u", "q", 2.0, 0, 0),
        ("v", "p", 5.0, 1, 10), ("v", "p", 4.0, 0, 0),
    ]  # fmt: skip
    assert loss(rows) == 0.0


def test_pages_of_a_single_class_are_ignored():
    mixed = [("u", "p", 0.0, 1, 10), ("u", "p", 1.0, 0, 0)]
    single = [("u", "q", 0.0, 1, 500), ("u", "q", 1.0, 1, 500), ("u", "r", 0.0, 0, 0)]
    assert loss([*mixed, *single]) == 1.0
    assert math.isnan(loss(single))


def test_watch_time_of_unclicked_impressions_is_not_read():
    assert loss([("u", "p", 0.0, 1, 10), ("u", "p", -1.0, 0, math.nan)]) == 0.0


def test_loss_by_user_adds_up_to_the_loss():
    sums = metrics.pair_loss_by_user(
        [0, 1, 0, 1], [1, 0, 0, 1], [30, 0, 0, 10],
        user_codes=np.array([0, 0, 2, 2]), page_ids=[7, 7, 7, 7], num_users=4,
    )  # fmt: skip
    np.testing.assert_array_equal(sums.numerator, [30, 0, 0, 0])
    np.testing.assert_array_equal(sums.denominator, [30, 0, 10, 0])
    assert sums.value == 0.75


@pytest.mark.parametrize("bad", [{"score": math.nan}, {"watch": math.nan}, {"watch": -1.0}])
def test_values_that_cannot_be_compared_are_refused(bad):
    row = ("u", "p", bad.get("score", 0.5), 1, bad.get("watch", 10.0))
    with pytest.raises(ValueError, match="must"):
        loss([row, ("u", "p", 0.1, 0, 0)])


def obvious_loss(rows):
    wrong = total = 0.0
    for user, page, score, clicked, watch in rows:
        for other_user, other_page, other_score, other_clicked, _ in rows:
            if clicked and not other_clicked and (user, page) == (other_user, other_page):
                total += watch
                wrong += watch * ((other_score > score) + 0.5 * (other_score == score))
    return wrong / total if total else math.nan


impressions = st.tuples(
    st.integers(0, 2),
    st.integers(0, 2),
    st.integers(-3, 3).map(float),
    st.booleans(),
    st.integers(0, 100).map(float),
)


@given(st.lists(impressions, max_size=40))
def test_loss_equals_the_obvious_double_loop(rows):
    expected = obvious_loss(rows)
    result = loss(rows) if rows else math.nan
    assert result == pytest.approx(expected, nan_ok=True)


def test_one_large_page_is_not_quadratic():
    rng = np.random.default_rng(0)
    n = 300_000  # All pairs would be 2e10 comparisons, or 20 GB: this would not end.
    clicked = rng.random(n) < 0.5
    value = metrics.weighted_per_user_loss(
        rng.random(n), clicked, np.ones(n), np.zeros(n, int), np.zeros(n, int)
    )
    assert value == pytest.approx(0.5, abs=0.01)


def obvious_concordance(scores, targets):
    right = total = 0.0
    for score, target in zip(scores, targets, strict=True):
        for other_score, other_target in zip(scores, targets, strict=True):
            if target > other_target:
                total += 1
                right += (score > other_score) + 0.5 * (score == other_score)
    return right / total if total else math.nan


def test_auc_of_a_hand_made_list():
    # Pairs: .8>.5, .8>.1, .5=.5 (half), .5>.1: 3.5 of 4.
    assert metrics.auc([0.8, 0.5, 0.5, 0.1], [1, 1, 0, 0]) == 0.875
    assert math.isnan(metrics.auc([0.1, 0.2], [1, 1]))


def test_xauc_leaves_pairs_of_equal_watch_time_out():
    # Of 3 pairs, (10, 10) is left out; 20 against the 10s: one right, one wrong.
    assert metrics.xauc_by_user([1.0, 3.0, 2.0], [10, 10, 20]).value == 0.5


@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(0, 3)), max_size=40))
def test_xauc_and_auc_equal_the_obvious_double_loop(rows):
    scores = [float(score) for score, _ in rows]
    targets = [float(target) for _, target in rows]
    assert metrics.xauc_by_user(scores, targets).value == pytest.approx(
        obvious_concordance(scores, targets), nan_ok=True
    )
    clicked = [target > 1 for target in targets]
    assert metrics.auc(scores, clicked) == pytest.approx(
        obvious_concordance(scores, clicked), nan_ok=True
    )


def test_calibration_bins_are_equally_filled_and_keep_equal_predictions_together():
    np.testing.assert_array_equal(
        np.bincount(metrics.calibration_bins(np.arange(100.0))), np.full(10, 10)
    )
    assert len(set(metrics.calibration_bins([1.0] * 50 + [2.0] * 50))) == 2


def test_ids_of_any_type_get_codes():
    for ids in (["x", "y", "x"], [b"x", b"y", b"x"], [7, 9, 7], np.array(["x", "y", "x"], object)):
        first, second, third = metrics.codes_of(ids)
        assert first == third != second


def test_mean_over_a_slice_counts_its_rows_alone():
    sums = metrics.sums_by_user(
        [1.0, math.nan, 3.0], np.array([0, 0, 1]), 2, where=[True, False, True]
    )
    assert sums.value == 2.0
