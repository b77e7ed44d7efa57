import numpy as np
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from features import preprocessing, spec
from features.as_of.entity_lookup import NEVER_S
from features.spec import Feature, Kind, Side
from serving.arrays.quantiles import Quantiles

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
    result = Quantiles.of(boundaries, FEATURES)(values)
    np.testing.assert_allclose(result, by_tensorflow(values, boundaries), atol=1e-6, rtol=0)


def test_ties_have_the_middle_of_their_quantiles():
    # Of three boundaries: 0.5 / 4 below, 1.5 and 2.5 in between, (1 + 3) / 2 / 4 at all three.
    quantiles = Quantiles.of(np.array([[5.0, 5.0, 5.0]], np.float32), features(["a"]))
    result = quantiles(np.array([[4.0], [5.0], [6.0]], np.float32))
    np.testing.assert_allclose(result[:, 0], [0.125, 0.5, 0.875])
