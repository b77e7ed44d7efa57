"""The ranker: expected watch time of an impression, from query and candidate features.

    x = MLP([query inputs, candidate inputs]),   expected watch time = exp(x) seconds

The first layer is split: the query's part of the product is computed once per request, each
candidate's part per row, and the sum is what the concatenated layer would give.

Source: Covington et al., RecSys 2016, section 4 and figure 7.
"""

import math
import os
import types
from collections.abc import Mapping

import tensorflow as tf
import tf_keras

from features import command, spec
from features.spec import ResolvedSpec, Side
from models import embeddings, losses, saved
from models.config import RankerConfig
from models.embeddings import SideInputs, Tensors


class SplitDense(tf_keras.layers.Layer):
    """A dense layer over [query, candidate] that never concatenates them.

        y = q K_q + c K_c + b

    Args:
        query_width: Of q.
        candidate_width: Of c.
        units: Of y.
        seed: Of the initial kernels, Glorot uniform as for the concatenated layer.
        name: Of the layer.
    """

    def __init__(
        self, query_width: int, candidate_width: int, units: int, *, seed: int, name: str
    ) -> None:
        super().__init__(name=name)
        limit = math.sqrt(6.0 / (query_width + candidate_width + units))

        def kernel(side: str, width: int, offset: int) -> tf.Variable:
            initial = tf_keras.initializers.RandomUniform(-limit, limit, seed=seed + offset)
            return self.add_weight(name=side, shape=[width, units], initializer=initial)

        self.query_kernel = kernel("query_kernel", query_width, 0)
        self.candidate_kernel = kernel("candidate_kernel", candidate_width, 1)
        self.bias = self.add_weight(name="bias", shape=[units], initializer="zeros")

    def call(self, query: tf.Tensor, candidate: tf.Tensor) -> tf.Tensor:
        """Returns y, float32 [N, units].

        Args:
            query: q, float32 [N, Fq], or [1, Fq] for one query with N candidates.
            candidate: c, float32 [N, Fc].
        """
        query_part = tf.matmul(query, self.query_kernel) + self.bias
        return tf.matmul(candidate, self.candidate_kernel) + query_part


class Ranker(tf_keras.Model):
    """Scores (query, candidate) pairs.

    Args:
        resolved: Declarations of the data set.
        vocabulary_sizes: V of each ID space of the ranker.
        config: Settings.
        seed: Of the initial weights.

    Raises:
        command.InputError: A side has no feature left.
    """

    def __init__(
        self,
        resolved: ResolvedSpec,
        vocabulary_sizes: Mapping[str, int],
        config: RankerConfig,
        *,
        seed: int = 1,
    ) -> None:
        super().__init__(name="ranker")
        self.resolved = resolved
        # A proxy, since Keras would take a plain dictionary for weights to track.
        self.vocabulary_sizes = types.MappingProxyType(dict(vocabulary_sizes))
        self.config = config
        self._query_inputs, self._candidate_inputs = (
            SideInputs(resolved, spec.RANKER, side, exclude=config.exclude, powers=config.powers)
            for side in (Side.QUERY, Side.CANDIDATE)
        )
        for side, inputs in (("query", self._query_inputs), ("candidate", self._candidate_inputs)):
            if not inputs.columns:
                raise command.InputError(f"The ranker has no {side} feature left to read.")
        features = (*self._query_inputs.features, *self._candidate_inputs.features)
        self.tables = embeddings.make_tables(features, vocabulary_sizes, widths={}, seed=seed)
        self._make_layers(seed)

    def _make_layers(self, seed: int) -> None:
        widths = (*self.config.hidden, 1)
        self.first_layer = SplitDense(
            self._query_inputs.width(self.tables),
            self._candidate_inputs.width(self.tables),
            widths[0],
            seed=seed + 200,
            name="first_layer",
        )
        self.upper_layers = []
        for i, units in enumerate(widths[1:]):
            initial = tf_keras.initializers.GlorotUniform(seed=seed + 300 + i)
            layer = tf_keras.layers.Dense(units, kernel_initializer=initial, name=f"layer_{i + 2}")
            layer.build([None, widths[i]])
            self.upper_layers.append(layer)

    @property
    def query_columns(self) -> tuple[str, ...]:
        """Names of the query-side tensors that are read."""
        return self._query_inputs.columns

    @property
    def candidate_columns(self) -> tuple[str, ...]:
        """Names of the candidate-side tensors that are read."""
        return self._candidate_inputs.columns

    def logits(
        self, query_features: Tensors, candidate_features: Tensors, *, training: bool = False
    ) -> tf.Tensor:
        """Returns x of each candidate.

        Args:
            query_features: Transformed features by name, leading dimension Q.
            candidate_features: Likewise, N. Q is N (row i belongs to row i) or 1 (all
                candidates are of that query).
            training: Whether dropout is on.

        Returns:
            float32 [N].
        """
        query = self._query_inputs.dense(query_features, self.tables)
        candidate = self._candidate_inputs.dense(candidate_features, self.tables)
        hidden = self.first_layer(query, candidate)
        for layer in self.upper_layers:
            hidden = tf.nn.relu(hidden)
            if training and self.config.dropout:
                hidden = tf.nn.dropout(hidden, self.config.dropout)
            hidden = layer(hidden)
        return tf.squeeze(hidden, axis=1)

    def expected_watch_time_s(
        self, query_features: Tensors, candidate_features: Tensors
    ) -> tf.Tensor:
        """Returns exp(x), float32 [N], seconds, finite; arguments as in :meth:`logits`.

        Of a ranker with ``logistic`` loss these are the odds of a click, no seconds.
        """
        return losses.expected_watch_time_s(self.logits(query_features, candidate_features))

    def call(self, inputs: Tensors, training: bool = False) -> tf.Tensor:  # noqa: FBT001, FBT002
        """Returns x where both sides come in one dictionary, float32 [B]."""
        return self.logits(inputs, inputs, training=training)

    def set_bias(self, logit: float) -> None:
        """Starts the output at a logit, instead of at 0: that of the mean target."""
        layer = self.upper_layers[-1] if self.upper_layers else self.first_layer
        layer.bias.assign([logit])


def save(ranker: Ranker, directory: str | os.PathLike[str], *, contents: saved.Contents) -> None:
    """Writes a self-contained model directory, atomically; see :mod:`models.saved`."""
    saved.write(directory, kind=spec.RANKER, model=ranker, contents=contents, arrays={})


def load(
    directory: str | os.PathLike[str], examples_dir: str | os.PathLike[str] | None = None
) -> Ranker:
    """Reads what :func:`save` wrote.

    Args:
        directory: Of the model.
        examples_dir: Where given, it must hold the transform that the ranker was trained on.

    Raises:
        command.InputError: No complete ranker, or another transform.
    """
    opened = saved.open_directory(directory, kind=spec.RANKER, examples_dir=examples_dir)
    model = Ranker(opened.resolved, opened.vocabulary_sizes, opened.config_as(RankerConfig))
    opened.restore(model)
    return model
