"""Parts of the query tower: dense layers, the example age in pieces, and thinned bags."""

from collections.abc import Collection
from typing import Any

import tensorflow as tf
import tf_keras

from models.candidate.youth import HALF_LIFE_S
from models.embeddings import Tensors


def dense(units: int, *, seed: int, name: str, **settings: Any) -> tf_keras.layers.Dense:
    """Returns a dense layer whose kernel starts as Glorot and Bengio have it."""
    initializer = tf_keras.initializers.GlorotUniform(seed=seed)
    return tf_keras.layers.Dense(units, kernel_initializer=initializer, name=name, **settings)


def age_pieces(ages: tf.Tensor, pieces: int) -> tf.Tensor:
    """Returns the example age as hat functions, float32 [B, pieces + 1], each row sums to 1.

    Hat k is 1 at the k-th of equally spaced quantiles and 0 from its neighbours on.

    Args:
        ages: Quantiles of the example age, float32 [B], in [0, 1).
        pieces: Number of pieces between the hats' tips, 1 or more.
    """
    return tf.nn.relu(
        1 - tf.abs(ages[:, tf.newaxis] * pieces - tf.range(pieces + 1, dtype=tf.float32))
    )


def youth_bias(youth: tf.Tensor, upload_times: tf.Tensor, width: int) -> tf.Tensor:
    """Returns what being new adds to embeddings, float32 [N, width]: a bias, in the last column.

    Args:
        youth: Weight, and end of training in Unix seconds, float32 [2]; see
            :mod:`models.candidate.youth`.
        upload_times: Unix seconds, int64 [N].
        width: Number of columns.
    """
    age_s = tf.cast(youth[1], tf.float64) - tf.cast(upload_times, tf.float64)
    decayed = tf.pow(tf.constant(0.5, tf.float64), tf.maximum(age_s, 0.0) / HALF_LIFE_S)
    bias = youth[0] * tf.cast(decayed, tf.float32)
    return tf.pad(bias[:, tf.newaxis], [[0, 0], [width - 1, 0]])


def thinned(features: Tensors, bags: Collection[str], rate: float) -> dict[str, tf.Tensor]:
    """Returns the features with each value of each bag kept, or at ``rate`` replaced by 0."""
    kept_some = dict(features)
    for name in bags:
        ids = tf.convert_to_tensor(features[name])
        kept = tf.random.uniform(tf.shape(ids)) >= rate
        kept_some[name] = tf.where(kept, ids, tf.zeros_like(ids))
    return kept_some
