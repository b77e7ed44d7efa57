"""Vectors around 0, as the transform graph has them."""

import numpy as np
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from features import preprocessing, spec
from features.preprocessing import Fitted
from features.spec import Feature, Kind, ResolvedSpec, Side
from serving.arrays import deviations
from serving.arrays.deviations import Deviations

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


def test_the_largest_entry_is_that_of_the_transform():
    assert deviations.LARGEST_ENTRY == preprocessing.LARGEST_ENTRY
