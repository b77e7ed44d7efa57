"""A scale and a shift of logits, fitted to a weighted logistic loss."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from models import calibration


def drawn(scale, shift, count=200_000):
    """Clicks and watch seconds whose expected watch time is exp(scale x + shift)."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=count)
    clicked = rng.random(count) < 0.5
    seconds = 2 * np.exp(scale * x + shift) * rng.gamma(4, 0.25, count)
    return x, np.where(clicked, seconds, 0.0), np.ones(count)


@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (0.4, 1.5), (2.0, -1.0)])
def test_the_true_scale_and_shift_are_found(scale, shift):
    found = calibration.scale_and_shift(*drawn(scale, shift))
    assert found == pytest.approx((scale, shift), abs=0.03)


def test_the_mean_comes_out_right():
    x, positive, negative = drawn(0.4, 1.5)
    scale, shift = calibration.scale_and_shift(3 * x - 2, positive, negative)
    expected = np.exp(scale * (3 * x - 2) + shift)
    tenths = np.array_split(np.argsort(x), 10)
    for rows in tenths:
        assert expected[rows].mean() == pytest.approx(positive[rows].mean(), rel=0.03)


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
    columns = [np.array(c, float) for c in (x, positive, negative)]
    assert calibration.scale_and_shift(*columns) == (1.0, 0.0)


@settings(max_examples=300, deadline=None)
@example([(12.0, 0.0, False), (12.0, 1.0, True)])  # all logits the same, and far out
@example([(-30.0, 5000.0, True), (30.0, 0.0, False), (29.0, 5000.0, True)])
@given(
    st.lists(
        st.tuples(st.floats(-30, 30), st.floats(0, 5000), st.booleans()), min_size=1, max_size=30
    )
)
def test_the_loss_never_rises_and_the_order_stays(rows):
    x = np.array([r[0] for r in rows])
    positive = np.array([r[1] if r[2] else 0.0 for r in rows])
    negative = np.ones(len(rows))
    scale, shift = calibration.scale_and_shift(x, positive, negative)
    assert scale > 0
    before, after = (
        np.sum(positive * np.logaddexp(0, -logits) + negative * np.logaddexp(0, logits))
        for logits in (x, scale * x + shift)
    )
    assert after <= before * (1 + 1e-9)
