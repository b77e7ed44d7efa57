"""Layers of the ranker: a tower whose first layer is split three ways, and the query's own part.

The first layer reads a long vector, and most of it hardly ever changes: what the query says is the
same for all candidates of a request, what a video says of itself is the same in all requests. So
the layer is a sum of three products, and each can be computed as rarely as its inputs change:

    y = q K_q + v K_v + m K_m + b
    q   the query: once per request, in training once per page
    v   the video alone, its static features: once per release
    (:mod:`serving.servables.prepared_videos`) m   what only the two together have (history,
    nomination, age): once per candidate

Source: Covington et al., RecSys 2016, section 4 and figure 7, have the layer; not the split.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf
import tf_keras

# Units of the hidden layer of the query's own part of the logit.
_LEVEL_UNITS = 64


@dataclasses.dataclass(frozen=True, kw_only=True)
class Widths:
    """Lengths of the three vectors that the first layer reads; 0: there are no such features."""

    query: int
    video: int
    moment: int


class Outputs(NamedTuple):
    """What the tower makes of impressions.

    Attributes:
        order: Order logit, float32 [N].
        level: Part of the query alone, float32 [Q] or [N], or a scalar 0 where there is none.
        top: What the last layer of the tower reads, float32 [N, top_width].
    """

    order: tf.Tensor
    level: tf.Tensor
    top: tf.Tensor


class SplitDense(tf_keras.layers.Layer):
    """A dense layer over [query, video, moment] that never concatenates them.

    Args:
        widths: Lengths of the three vectors.
        units: Length of y.
        seed: Seed of the initial kernels, Glorot uniform as for the concatenated layer.
        name: Name of the layer.
    """

    def __init__(self, widths: Widths, units: int, *, seed: int, name: str) -> None:
        super().__init__(name=name)
        self.units = units
        sizes = dataclasses.asdict(widths)
        limit = math.sqrt(6.0 / (sum(sizes.values()) + units))

        def kernel(side: str, offset: int) -> tf.Variable:
            initial = tf_keras.initializers.RandomUniform(-limit, limit, seed=seed + offset)
            shape = [sizes[side], units]
            return self.add_weight(name=f"{side}_kernel", shape=shape, initializer=initial)

        self.query_kernel = kernel("query", 0)
        self.video_kernel = kernel("video", 1)
        self.moment_kernel = kernel("moment", 2)
        self.bias = self.add_weight(name="bias", shape=[units], initializer="zeros")

    def video_part(self, video: tf.Tensor) -> tf.Tensor:
        """Returns v K_v, float32 [N, units], for v, float32 [N, Fv]."""
        return tf.matmul(video, self.video_kernel)

    def call(
        self,
        query: tf.Tensor,
        video_part: tf.Tensor,
        moment: tf.Tensor,
        *,
        places: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Returns y, float32 [N, units].

        Args:
            query: q, float32 [Q, Fq]; see :meth:`models.ranking.model.Ranker.logits`.
            video_part: Result of :meth:`video_part`, float32 [N, units].
            moment: m, float32 [N, Fm].
            places: int32 [N], the query of each candidate; None: Q is N or 1.
        """
        query_part = spread(tf.matmul(query, self.query_kernel) + self.bias, places)
        return tf.matmul(moment, self.moment_kernel) + video_part + query_part


def spread(of_queries: tf.Tensor, places: tf.Tensor | None) -> tf.Tensor:
    """Returns what belongs to each candidate's query; without ``places`` as it is."""
    return of_queries if places is None else tf.gather(of_queries, places)


class Tower(tf_keras.layers.Layer):
    """A split first layer, ReLU layers above it, and one output.

    Args:
        widths: Lengths of the three vectors that the first layer reads.
        hidden: Widths of the ReLU layers, bottom first; () is linear.
        seed: Seed of the initial weights.
        name: Name of the layer.
    """

    def __init__(self, widths: Widths, hidden: Sequence[int], *, seed: int, name: str) -> None:
        super().__init__(name=name)
        units_of = (*hidden, 1)
        self.top_width = units_of[len(hidden) - 1] if hidden else 1
        self.first_layer = SplitDense(widths, units_of[0], seed=seed + 200, name="first_layer")
        self.upper_layers = []
        for i, units in enumerate(units_of[1:]):
            initial = tf_keras.initializers.GlorotUniform(seed=seed + 300 + i)
            layer = tf_keras.layers.Dense(units, kernel_initializer=initial, name=f"layer_{i + 2}")
            layer.build([None, units_of[i]])
            self.upper_layers.append(layer)

    def call(
        self,
        query: tf.Tensor,
        video_part: tf.Tensor,
        moment: tf.Tensor,
        *,
        dropout: float = 0.0,
        places: tf.Tensor | None = None,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Computes the output; arguments as of :class:`SplitDense`.

        Returns:
            The output, float32 [N, 1], and what its layer reads, float32 [N, ``top_width``]: the
            last hidden layer, and the output itself where there is none.
        """
        hidden = self.first_layer(query, video_part, moment, places=places)
        top = hidden
        for layer in self.upper_layers:
            top = tf.nn.relu(hidden)
            if dropout:
                top = tf.nn.dropout(top, dropout)
            hidden = tf.matmul(top, layer.kernel) + layer.bias
        return hidden, top

    def set_bias(self, value: float) -> None:
        """Sets the bias of the output."""
        layer = self.upper_layers[-1] if self.upper_layers else self.first_layer
        layer.bias.assign([value])


class Level(tf_keras.layers.Layer):
    """What a query alone adds to the logit of all its candidates; starts at 0."""

    def __init__(self, query_width: int, *, seed: int) -> None:
        super().__init__(name="level")
        initial = tf_keras.initializers.GlorotUniform(seed=seed)
        self.hidden = tf_keras.layers.Dense(
            _LEVEL_UNITS, activation="relu", kernel_initializer=initial, name="hidden"
        )
        self.hidden.build([None, query_width])
        self.output_layer = tf_keras.layers.Dense(1, kernel_initializer="zeros", name="output")
        self.output_layer.build([None, _LEVEL_UNITS])

    def call(self, query: tf.Tensor) -> tf.Tensor:
        """Returns float32 [Q] for float32 [Q, Fq]."""
        return tf.squeeze(self.output_layer(self.hidden(query)), axis=1)
