import math

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from models import losses


def ids(*values):
    return tf.constant(values, tf.int64)


def floats(*values):
    return tf.constant(values, tf.float32)


def sampled(label_logit, negative_logits, *, label, negatives, counts, expected, label_expected):
    """One query whose logits are given: its embedding is 1, the videos' are their logits."""
    return losses.sampled_softmax_loss(
        tf.ones([1, 1]),
        floats(label_logit)[:, None],
        floats(*negative_logits)[:, None],
        labels=ids(label),
        negatives=ids(*negatives),
        label_log_expected=tf.math.log(floats(label_expected)),
        negative_log_expected=tf.math.log(floats(*expected)),
        negative_counts=tf.constant(counts, tf.int32),
    )[0]


def test_full_softmax_of_equal_logits_is_the_log_of_the_classes():
    np.testing.assert_allclose(
        losses.full_softmax_loss(tf.zeros([2, 5]), tf.constant([0, 4])),
        [math.log(5)] * 2,
        rtol=1e-6,
    )


def test_sampled_softmax_weighs_each_video_by_count_over_expected_count():
    # Label: e^1 / 0.5. Video 7: drawn 3 times where 2 were expected, e^0 * 3 / 2. Video 8: e^2 / 4.
    label, others = math.e / 0.5, 3 / 2 + math.exp(2) / 4
    loss = sampled(
        1.0,
        [0.0, 2.0],
        label=3,
        negatives=[7, 8],
        counts=[3, 1],
        expected=[2.0, 4.0],
        label_expected=0.5,
    )
    np.testing.assert_allclose(loss, -math.log(label / (label + others)), rtol=1e-6)


def test_accidental_hit_is_no_negative_and_counts_in_the_label():
    # The label 7 was drawn twice: its weight is (1 + 2) e^1 / 2, and only video 8 is against it.
    label, others = 3 * math.e / 2, math.exp(2) / 4
    loss = sampled(
        1.0,
        [1.0, 2.0],
        label=7,
        negatives=[7, 8],
        counts=[2, 1],
        expected=[2.0, 4.0],
        label_expected=2.0,
    )
    np.testing.assert_allclose(loss, -math.log(label / (label + others)), rtol=1e-6)


def test_only_accidental_hits_cost_nothing():
    loss = sampled(
        0.3, [0.3], label=7, negatives=[7], counts=[9], expected=[9.0], label_expected=9.0
    )
    np.testing.assert_allclose(loss, 0.0, atol=1e-6)


def test_accidental_hit_gets_no_gradient():
    negatives = tf.constant([[1.0], [2.0]])
    with tf.GradientTape() as tape:
        tape.watch(negatives)
        loss = losses.sampled_softmax_loss(
            tf.ones([2, 1]),
            tf.ones([2, 1]),
            negatives,
            labels=ids(7, 7),
            negatives=ids(7, 8),
            label_log_expected=tf.zeros([2]),
            negative_log_expected=tf.zeros([2]),
            negative_counts=tf.constant([1, 1]),
        )
    gradient = tape.gradient(loss, negatives)[:, 0].numpy()
    assert gradient[0] == 0
    # Twice e^2 / (2 e^1 + e^2).
    np.testing.assert_allclose(gradient[1], 2 * math.e / (2 + math.e), rtol=1e-6)


def test_gradient_is_that_of_the_formula():
    rng = np.random.default_rng(1)
    queries, label_rows, rows = (
        tf.constant(rng.normal(size=shape), tf.float32) for shape in ([3, 4], [3, 4], [5, 4])
    )
    correction = tf.constant(rng.normal(size=5), tf.float32)

    def fast():
        return losses.sampled_softmax_loss(
            queries,
            label_rows,
            rows,
            labels=ids(1, 2, 3),
            negatives=ids(11, 12, 13, 14, 15),
            label_log_expected=tf.zeros([3]),
            negative_log_expected=-correction,
            negative_counts=tf.ones([5], tf.int32),
        )

    def plain():
        own = tf.reduce_sum(queries * label_rows, axis=1, keepdims=True)
        logits = tf.concat([own, tf.matmul(queries, rows, transpose_b=True) + correction], axis=1)
        return losses.full_softmax_loss(logits, tf.zeros([3], tf.int32))

    found = []
    for loss in (fast, plain):
        with tf.GradientTape() as tape:
            tape.watch([queries, label_rows, rows])
            value = tf.reduce_sum(loss() * floats(1.0, 2.0, 3.0))
        found.append((value, tape.gradient(value, [queries, label_rows, rows])))
    np.testing.assert_allclose(found[0][0], found[1][0], rtol=1e-5)
    for ours, theirs in zip(found[0][1], found[1][1], strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_sampled_softmax_stands_huge_logits():
    loss = sampled(
        1e4, [-1e4, 1e4], label=1, negatives=[2, 3], counts=[1, 1], expected=[1, 1],
        label_expected=1.0,
    )  # fmt: skip
    np.testing.assert_allclose(loss, math.log(2), rtol=1e-3)  # float32 at 1e4


@given(st.lists(st.integers(1, 6), min_size=1, max_size=8), st.integers(1, 6))
@settings(max_examples=30, deadline=None)
def test_draws_in_proportion_to_their_expectation_give_the_full_softmax(labels, weight):
    # With n_c = e_c for all six videos, and many draws, the multiset is the corpus itself.
    videos = np.random.default_rng(weight).normal(size=(6, 3)).astype("f")
    queries = np.random.default_rng(weight + 9).normal(size=(len(labels), 3)).astype("f")
    counts = np.arange(1, 7) * 100_000 * weight
    log_expected = np.log(counts).astype("f")
    rows = np.array(labels) - 1
    loss = losses.sampled_softmax_loss(
        tf.constant(queries),
        tf.constant(videos[rows]),
        tf.constant(videos),
        labels=ids(*labels),
        negatives=ids(1, 2, 3, 4, 5, 6),
        label_log_expected=tf.constant(log_expected[rows]),
        negative_log_expected=tf.constant(log_expected),
        negative_counts=tf.constant(counts, tf.int32),
    )
    full = losses.full_softmax_loss(tf.constant(queries @ videos.T), tf.constant(rows))
    np.testing.assert_allclose(loss, full, atol=1e-4)


def test_in_batch_softmax_corrects_by_the_labels_frequency():
    # Orthogonal queries: logits [[1, 0], [0, 1]], minus log p of the column.
    weights = np.array([[math.e / 0.5, 1 / 0.1], [1 / 0.5, math.e / 0.1]])
    loss = losses.in_batch_softmax_loss(
        tf.eye(2), tf.eye(2), log_probabilities=tf.math.log(floats(0.5, 0.1))
    )
    np.testing.assert_allclose(loss, -np.log(np.diag(weights) / weights.sum(axis=1)), rtol=1e-6)


def test_in_batch_correction_is_not_clipped():
    # p = 1e-9 against 1e-3; TFRS' own correction would stop at 1e-6.
    weights = np.array([1e9, 1e3])
    loss = losses.in_batch_softmax_loss(
        tf.zeros([2, 1]), tf.zeros([2, 1]), log_probabilities=tf.math.log(floats(1e-9, 1e-3))
    )
    np.testing.assert_allclose(loss, -np.log(weights / weights.sum()), atol=1e-6)


def test_repeated_label_of_a_batch_is_not_pushed_away():
    labels = tf.constant([[1.0, 0.0], [1.0, 0.0]])
    queries = tf.constant([[2.0, 0.0], [0.5, 0.0]])
    with tf.GradientTape() as tape:
        tape.watch(queries)
        loss = losses.in_batch_softmax_loss(
            queries, labels, log_probabilities=tf.math.log(floats(0.5, 0.5))
        )
    np.testing.assert_allclose(tape.gradient(loss, queries), np.zeros([2, 2]), atol=1e-6)


def test_mean_of_nothing_is_zero():
    assert losses.mean(tf.zeros([0])) == 0
    assert losses.mean(floats(1.0, 3.0)) == 2


def test_weighted_logistic_loss_by_hand():
    # Clicked, 10 s, x = 0: 10 log 2. Not clicked, x = log 3: log 4. Watch time of it is unread.
    loss = losses.weighted_logistic_loss(floats(0.0, math.log(3)), floats(1, 0), floats(10, 99))
    np.testing.assert_allclose(loss, [10 * math.log(2), math.log(4)], rtol=1e-6)


def test_exact_loss_adds_one_negative_per_click():
    # Clicked, 10 s, x = log 3: 10 log(4 / 3) + log 4.
    loss = losses.exact_watch_time_loss(
        floats(math.log(3), math.log(3)), floats(1, 0), floats(10, 99)
    )
    np.testing.assert_allclose(loss, [10 * math.log(4 / 3) + math.log(4), math.log(4)], rtol=1e-6)


def test_pair_loss_by_hand():
    # User 1 has rows 0 (clicked, 10 s), 1 and 2; user 2 has row 3 (clicked) and nothing unclicked;
    # user 3 has row 4 alone, unclicked.
    logits = floats(math.log(2), 0, math.log(6), 5, -5)
    loss = losses.same_user_pair_loss(
        logits, floats(1, 0, 0, 1, 0), floats(10, 99, 99, 7, 99), tf.constant([1, 1, 1, 2, 3])
    )
    # Behind row 0 by log 2 and ahead of it by log 3: log(1 + 1/2) + log(1 + 3) of three rows.
    np.testing.assert_allclose(loss, [10 * math.log(6) / 3, 0, 0, 0, 0], rtol=1e-6)


def test_pair_loss_sees_no_change_that_all_of_a_user_share():
    clicked, seconds = floats(1, 0, 1, 0), floats(3, 0, 5, 0)
    users, logits = tf.constant([4, 4, 9, 9]), floats(0.5, -1, 2, 3)
    shifted = logits + floats(7, 7, -2, -2)
    np.testing.assert_allclose(
        losses.same_user_pair_loss(shifted, clicked, seconds, users),
        losses.same_user_pair_loss(logits, clicked, seconds, users),
        rtol=1e-5,
    )


def test_logistic_loss_does_not_read_watch_time():
    loss = losses.logistic_loss(floats(0.0, 0.0), floats(1, 0), floats(1e9, math.inf))
    np.testing.assert_allclose(loss, [math.log(2)] * 2, rtol=1e-6)


@pytest.mark.parametrize(
    "loss", [losses.weighted_logistic_loss, losses.exact_watch_time_loss, losses.logistic_loss]
)
def test_ranker_losses_are_finite_with_finite_gradients_at_extreme_logits(loss):
    logits = floats(-1e4, 1e4, -1e4, 1e4)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        value = loss(logits, floats(1, 1, 0, 0), floats(86_400, 86_400, 0, 0))
    assert np.isfinite(value).all()
    assert np.isfinite(tape.gradient(value, logits)).all()


def best_odds(loss, clicked, watch_time_s):
    """exp of the constant logit with the smallest mean loss, by Newton's method."""
    logit = tf.Variable(0.0, dtype=tf.float64)
    labels = [tf.constant(v, tf.float64) for v in (clicked, watch_time_s)]
    for _ in range(60):
        with tf.GradientTape() as outer:
            with tf.GradientTape() as inner:
                value = tf.reduce_mean(loss(logit * tf.ones_like(labels[0]), *labels))
            slope = inner.gradient(value, logit)
        curvature = outer.gradient(slope, logit)
        logit.assign_sub(tf.clip_by_value(slope / curvature, -1, 1))
    return math.exp(logit.numpy())


CLICKED = np.array([1, 1, 0, 0, 0], float)
WATCHED = np.array([30, 90, 0, 0, 0], float)


def test_odds_of_the_papers_loss_are_watch_time_over_unclicked_impressions():
    # sum T / (N - k) = 120 / (5 - 2); E[T] = 120 / 5 and P = 0.4, so this is E[T] / (1 - P).
    odds = best_odds(losses.weighted_logistic_loss, CLICKED, WATCHED)
    np.testing.assert_allclose(odds, 120 / 3, rtol=1e-6)
    np.testing.assert_allclose(odds, (120 / 5) / (1 - 0.4), rtol=1e-6)


def test_odds_of_the_exact_loss_are_expected_watch_time_at_any_click_rate():
    np.testing.assert_allclose(
        best_odds(losses.exact_watch_time_loss, CLICKED, WATCHED), 120 / 5, rtol=1e-6
    )


def test_odds_of_the_logistic_loss_are_those_of_a_click():
    np.testing.assert_allclose(best_odds(losses.logistic_loss, CLICKED, WATCHED), 2 / 3, rtol=1e-6)


def test_papers_odds_are_close_to_expected_watch_time_times_one_plus_small_click_rate():
    clicked = np.zeros(1000)
    clicked[:20] = 1  # P = 0.02
    watched = clicked * 50  # E[T] = 1 second
    odds = best_odds(losses.weighted_logistic_loss, clicked, watched)
    np.testing.assert_allclose(odds, 1.0 * (1 + 0.02), rtol=1e-3)


def test_expected_watch_time_is_exp_and_finite():
    seconds = losses.expected_watch_time_s(floats(0.0, math.log(60), 1e9))
    np.testing.assert_allclose(seconds[:2], [1, 60], rtol=1e-6)
    assert np.isfinite(seconds[2])
