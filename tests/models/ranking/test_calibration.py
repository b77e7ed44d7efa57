"""A rising curve through logits, fitted to a weighted logistic loss."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import example, given, settings
from hypothesis import strategies as st

from models.ranking import calibration
from models.ranking.calibration import Calibration, Curve

# Bent near the quartiles of a normal distribution, where a fit puts its knots.
BENT = Curve(knots=(-0.67, 0.0, 0.67), slopes=(2.0, 0.5, 1.5, 1.0), height=-3.0)


def drawn(truth, count=40_000, low=-3.0):
    """Clicks and watch seconds whose expected watch time is exp(truth(x))."""
    rng = np.random.default_rng(1)
    x = np.maximum(rng.normal(size=count), low)
    clicked = rng.random(count) < 0.5
    seconds = 2 * np.exp(truth(x)) * rng.gamma(4, 0.25, count)
    return x, np.where(clicked, seconds, 0.0), np.ones(count)


def loss(logits, positive, negative):
    return np.sum(positive * np.logaddexp(0, -logits) + negative * np.logaddexp(0, logits))


def test_a_curve_by_hand():
    # -3 at the first knot, 2 less one unit before it, .5 x .67 and 1.5 x .67 more at the others.
    assert BENT([-1.67, -0.67, 0, 0.67, 1.67]) == pytest.approx([-5, -3, -2.665, -1.66, -0.66])


@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (0.4, 1.5), (2.0, -1.0)])
def test_the_true_line_is_found(scale, shift):
    x, positive, negative = drawn(lambda x: scale * x + shift)
    found = calibration.fit(x, positive, negative)
    places = np.linspace(-2, 2, 9)
    assert found(places) == pytest.approx(scale * places + shift, abs=0.1)


def test_a_bent_truth_is_found():
    found = calibration.fit(*drawn(BENT))
    places = np.linspace(-2, 2, 9)
    assert found(places) == pytest.approx(BENT(places), abs=0.15)


@pytest.mark.parametrize("clicks", [5, 999, 1000, 1700, 20_000])
def test_pieces_are_as_many_as_there_are_clicks_for(clicks):
    rng = np.random.default_rng(1)
    x, watched = rng.normal(size=2 * clicks), np.repeat([0.0, 30.0], clicks)
    found = calibration.fit(x + (watched > 0), watched, np.ones(2 * clicks))
    pieces = max(1, min(clicks // calibration.CLICKS_PER_PIECE, calibration.MOST_KNOTS + 1))
    # A line alone has a knot too, and the same slope on either side.
    assert len(found.slopes) == max(2, pieces)
    assert len(set(found.slopes)) == pieces


@pytest.mark.parametrize("spread", [1.0, 30.0])
def test_watch_times_come_out_right_in_every_tenth(spread):
    x, positive, negative = drawn(BENT)
    expected = np.exp(calibration.fit(spread * x - 2, positive, negative)(spread * x - 2))
    for rows in np.array_split(np.argsort(x), 10):
        assert expected[rows].mean() == pytest.approx(positive[rows].mean(), rel=0.08)


@pytest.mark.parametrize(
    ("x", "positive", "negative"),
    [
        ([], [], []),
        ([1.0, 2.0], [0.0, 0.0], [1.0, 1.0]),
        ([1.0, 2.0], [5.0, 5.0], [0.0, 0.0]),
        ([2.0, 1.0], [0.0, 9.0], [1.0, 1.0]),  # the best scale is negative
    ],
    ids=["nothing", "no click", "all clicked", "wrong order"],
)
def test_where_there_is_nothing_to_fit_logits_stay(x, positive, negative):
    columns = [np.repeat(c, calibration.CLICKS_FOR_A_LINE) for c in (x, positive, negative)]
    assert calibration.fit(*columns) == Curve()


def test_few_clicks_move_all_logits_alike():
    x, positive, negative = (column[:100] for column in drawn(BENT))
    found = calibration.fit(x, positive, negative)
    assert 0 < (positive > 0).sum() < calibration.CLICKS_FOR_A_LINE
    # The height is where expected and watched seconds agree, as the loss weighs them.
    steps = found(x) - x
    assert steps == pytest.approx(steps[0])
    odds = np.exp(found(x))
    assert ((positive + negative) * odds / (1 + odds)).sum() == pytest.approx(
        positive.sum(), rel=1e-3
    )


@settings(max_examples=50, deadline=None)
@example([(12.0, 0.0, False), (12.0, 1.0, True)], 1)  # all logits the same, and far out
@example([(-30.0, 5000.0, True), (30.0, 0.0, False), (29.0, 5000.0, True)], 1)
@example([(0.0, 1.0, True), (1.0, 2.0, True), (1.0, 2.0, False)], 400)  # ties at the knots
@given(
    st.lists(
        st.tuples(st.floats(-30, 30), st.floats(0, 5000), st.booleans()), min_size=1, max_size=30
    ),
    st.sampled_from([1, 100]),
)
def test_the_loss_never_rises_and_the_order_stays(rows, times):
    x = np.repeat([r[0] for r in rows], times)
    positive = np.repeat([r[1] if r[2] else 0.0 for r in rows], times)
    negative = np.ones(len(x))
    found = calibration.fit(x, positive, negative)
    assert min(found.slopes) > 0
    assert np.all(np.diff(found.knots) > 0)
    assert loss(found(x), positive, negative) <= loss(x, positive, negative) * (1 + 1e-9)


def test_a_layer_changes_nothing_until_a_curve_is_set():
    x = np.linspace(-20, 20, 41).astype(np.float32)
    np.testing.assert_array_equal(Calibration()(tf.constant(x)), x)


_rising = st.lists(
    st.tuples(st.floats(0.01, 5), st.floats(0.01, 9)), min_size=1, max_size=calibration.MOST_KNOTS
)


@settings(max_examples=50, deadline=None)
@given(_rising, st.floats(-9, 9), st.floats(-9, 9))
def test_a_layer_is_its_curve(rises, first, height):
    curve = Curve(
        knots=tuple(first + np.cumsum([step for step, _ in rises])),
        slopes=(0.7, *(slope for _, slope in rises)),
        height=height,
    )
    layer = Calibration()
    layer.set(curve)
    x = np.linspace(-50, 50, 2001).astype(np.float32)
    found = layer(tf.constant(x)).numpy()
    np.testing.assert_allclose(found, curve(x), rtol=1e-5, atol=1e-3)
    assert np.all(np.diff(found) > 0)


def test_a_layer_forgets_an_earlier_curve():
    layer = Calibration()
    layer.set(BENT)
    layer.set(Curve())
    x = np.array([-4.0, 0.5, 3.0], np.float32)
    np.testing.assert_array_equal(layer(tf.constant(x)), x)


def overconfident(rng, means, count=100_000):
    """Logits of kinds that are 1 / .7 as steep as the truth, and labels by that."""
    truth = np.asarray(means) + 1.5 * rng.normal(size=(count, len(means)))
    labels = rng.random(truth.shape) < 1 / (1 + np.exp(-truth))
    return (truth - 0.5) / 0.7, labels, truth


def test_a_rare_kind_is_as_steep_as_those_that_tell():
    logits, labels, truth = overconfident(np.random.default_rng(2), [-3.0, -4.0, -9.0])
    assert 5 <= labels[:, 2].sum() <= 80
    curves = calibration.fit_together(logits, labels)
    assert {curve.slopes[0] for curve in curves} == {curves[0].slopes[0]}
    assert curves[0].slopes[0] == pytest.approx(0.7, rel=0.03)
    for kind, tolerated in ((0, 0.1), (1, 0.1), (2, 0.6)):  # The rare height has an error, too.
        places = truth[:9, kind]
        assert curves[kind]((places - 0.5) / 0.7) == pytest.approx(places, abs=tolerated)


def test_lines_that_would_turn_the_order_or_know_too_little_stay_as_they_are():
    logits, labels, _ = overconfident(np.random.default_rng(3), [-2.0, -3.0])
    assert calibration.fit_together(-logits, labels) == [Curve(), Curve()]
    few = slice(0, 40)
    assert labels[few].sum() < calibration.CLICKS_FOR_A_LINE
    curves = calibration.fit_together(logits[few], labels[few])
    assert {curve.slopes for curve in curves} == {(1.0, 1.0)}
    for column, curve in enumerate(curves):
        chance = 1 / (1 + np.exp(-curve(logits[few, column])))
        assert chance.sum() == pytest.approx(labels[few, column].sum(), rel=1e-3)
