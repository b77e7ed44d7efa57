import numpy as np
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from features import preprocessing
from features.spec import Feature


def quantile(values, boundaries):
    values = tf.constant(np.array(values, np.float32)[:, None])
    boundaries = tf.constant(np.array(boundaries, np.float32)[None, :])
    return preprocessing.interpolated_quantile(values, boundaries).numpy()[:, 0]


def test_quantiles_by_hand():
    # Boundaries 1, 2, 3, 4 have the quantiles 1/5 ... 4/5; between them the line.
    got = quantile([0.5, 1, 1.5, 2, 4, 9], [1, 2, 3, 4])
    np.testing.assert_allclose(got, [0.1, 0.2, 0.3, 0.4, 0.8, 0.9], atol=1e-6)


def test_ties_get_the_middle_of_their_quantiles():
    # 0 is the boundary 1 to 3 of 4: the middle of 1/5 and 3/5.
    np.testing.assert_allclose(quantile([0, 2.5], [0, 0, 0, 5]), [0.4, 0.7], atol=1e-6)


def test_constant_column_survives():
    got = quantile([6, 7, 8], [7, 7, 7])
    np.testing.assert_allclose(got, [0.125, 0.5, 0.875], atol=1e-6)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.floats(-1e6, 1e6, allow_subnormal=False), min_size=1, max_size=20),
    st.lists(st.floats(-1e30, 1e30, allow_subnormal=False), min_size=2, max_size=30),
)
def test_quantiles_are_monotone_and_within_0_and_1(boundaries, values):
    got = quantile(sorted(values), sorted(boundaries))
    assert (got >= 0).all()
    assert (got < 1).all()
    assert (np.diff(got) >= -1e-6).all()


def test_missing_values_take_the_declared_value():
    declared = [
        Feature(
            name=n, kind="continuous", side="query", models=("ranker",), source="users.x", missing=m
        )
        for n, m in (("a", 0.0), ("b", -1.0))
    ]
    values = tf.constant([[np.nan, np.nan], [np.inf, 3.0]])
    got = preprocessing.fill_missing(values, declared).numpy()
    np.testing.assert_allclose(got, [[0.0, -1.0], [1e30, 3.0]])
