"""The transform in NumPy gives what the graph gives."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from features import preprocessing, spec
from features.as_of.entity_lookup import NEVER_S
from features.numbers import Deviations, Quantiles
from features.preprocessing import Fitted
from features.spec import Feature, Kind, ResolvedSpec, Side

# TensorFlow takes what is subnormal for 0.
NUMBERS = st.floats(-(2.0**40), 2.0**40, width=32, allow_subnormal=False) | st.sampled_from(
    [0.0, 1.0, NEVER_S, np.nan, np.inf]
)


def features(names):
    return [
        Feature(
            name=name,
            kind=Kind.CONTINUOUS,
            side=Side.CANDIDATE,
            models=(spec.RANKER,),
            source=f"videos.{name}",
            missing=float(place),
        )
        for place, name in enumerate(names)
    ]


FEATURES = features(["a", "user_video_seconds_since_watch", "c"])


def by_tensorflow(values, boundaries):
    filled = preprocessing.fill_missing(tf.constant(values), FEATURES)
    return preprocessing.interpolated_quantile(filled, tf.constant(boundaries)).numpy()


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_quantiles_are_those_of_the_transform(data):
    rows = data.draw(st.sampled_from([1, 7, 8, 40]))
    number = data.draw(st.sampled_from([1, 2, 3, 8, 255]))
    some = st.sampled_from([-3.0, 0.0, 1.0, 2.5, 7.0, NEVER_S])
    values = data.draw(arrays.arrays(np.float32, (rows, 3), elements=NUMBERS | some))
    boundaries = data.draw(
        arrays.arrays(
            np.float32,
            (3, number),
            elements=st.floats(-(2.0**30), 2.0**30, width=32, allow_subnormal=False) | some,
        )
    )
    boundaries = np.sort(boundaries, axis=1)
    result = Quantiles(boundaries, FEATURES)(values)
    np.testing.assert_allclose(result, by_tensorflow(values, boundaries), atol=1e-6, rtol=0)


@pytest.mark.parametrize("rows", [3, 800, 5000])
def test_whatever_way_a_quantile_is_searched_it_is_that_of_the_graph_to_the_last_bit(rows):
    draw = np.random.default_rng(0)
    boundaries = np.sort(np.round(draw.normal(size=(3, 9)), 1), axis=1).astype(np.float32)
    boundaries[2] = 5.0
    values = np.round(draw.normal(size=(rows, 3)), 1).astype(np.float32)
    values[:2] = [[-1e30] * 3, [1e30] * 3]
    values[2:9, 2] = 5.0
    np.testing.assert_array_equal(
        Quantiles(boundaries, FEATURES)(values), by_tensorflow(values, boundaries)
    )


def test_ties_have_the_middle_of_their_quantiles():
    # Of three boundaries: 0.5 / 4 below, 1.5 and 2.5 in between, (1 + 3) / 2 / 4 at all three.
    quantiles = Quantiles(np.array([[5.0, 5.0, 5.0]], np.float32), features(["a"]))
    result = quantiles(np.array([[4.0], [5.0], [6.0]], np.float32))
    np.testing.assert_allclose(result[:, 0], [0.125, 0.5, 0.875])


WIDTH = 3
TASTE = Feature(
    name="taste",
    kind=Kind.VECTOR,
    side=Side.QUERY,
    models=(spec.CANDIDATE,),
    source="users.taste",
    width=WIDTH,
)
ENTRIES = st.floats(-(2.0**20), 2.0**20, width=32, allow_subnormal=False) | st.sampled_from(
    [np.nan, np.inf, 2.0**100]
)


def by_the_graph(moments, vectors):
    transform = preprocessing.make_preprocessing_fn(
        ResolvedSpec(features=(TASTE,)),
        spec.CANDIDATE,
        Fitted(vocabularies={}, boundaries={}, moments={"query_vector": moments}),
    )
    labels = dict.fromkeys(preprocessing.LABELS[spec.CANDIDATE], tf.zeros([len(vectors)]))
    return transform({**labels, "query_vector": tf.constant(vectors)})["query_vector"].numpy()


@given(vectors=arrays.arrays(np.float32, (5, WIDTH), elements=ENTRIES))
@settings(deadline=None, max_examples=50)
def test_they_are_those_of_the_graph_also_of_users(vectors):
    # Ordinary, always the same number, and never seen.
    moments = np.array([[10, 10, 0], [20, 50, 0], [90, 250, 0]], np.float32)
    values = Deviations(moments)(vectors)
    assert values.dtype == np.float32
    np.testing.assert_allclose(values, by_the_graph(moments, vectors), atol=1e-6)
