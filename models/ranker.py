"""The ranker: expected watch time of an impression, from query and candidate features.

    x = MLP([query inputs, candidate inputs]),   expected watch time = exp(x) seconds

Beside the tower, x has one weight for each id of the candidate's univalent features: what a
video is worth to everybody is then learnt from few impressions (Cheng et al., DLRS 2016, "Wide &
Deep Learning for Recommender Systems"; the paper has no such weights, ``wide=False`` is as there).

The paper's metric is the order within a user, so pairs of a user's impressions have a loss of
their own beside that of single ones (``pairwise``). It reads what is left of x without its *level*,

    x = MLP([query inputs, candidate inputs]) + level(query inputs)

which orders nothing, and leaves the towers free to say what tells a user's impressions apart.

There may be several towers over the same embeddings, each with a loss of its own, whose expected
watch times are averaged: small data leaves a single one at the mercy of its seed.

The first layer is split: the query's part of the product is computed once per request, and in
training once per page, each candidate's part per row, and the sum is what the concatenated layer
would give.

Source: Covington et al., RecSys 2016, section 4 and figure 7.
"""

import math
import os
import types
from collections.abc import Mapping, Sequence

import tensorflow as tf
import tf_keras

from features import command, spec
from features.spec import Kind, ResolvedSpec, Side
from models import calibration, duration_target, embeddings, losses, saved
from models import config as configs
from models.config import RankerConfig
from models.embeddings import EmbeddingTable, SideInputs, Tensors

# Units of the hidden layer of the query's own part of the logit.
_LEVEL_UNITS = 64
# Of the weights of single ids: an id is seen in few steps, each must count.
_WIDE_RATE = 0.1


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

    def call(
        self,
        query: tf.Tensor,
        candidate: tf.Tensor,
        products: tf.DType = tf.float32,
        places: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Returns y, float32 [N, units].

        Args:
            query: q, float32 [Q, Fq]; see :meth:`Ranker.logits`.
            candidate: c, float32 [N, Fc].
            products: What the candidates' part is multiplied in; float32 or bfloat16.
            places: int32 [N], the query of each candidate; None: Q is N or 1.
        """
        query_part = _spread(tf.matmul(query, self.query_kernel) + self.bias, places)
        return _product(candidate, self.candidate_kernel, products) + query_part


def _product(rows: tf.Tensor, kernel: tf.Variable, products: tf.DType) -> tf.Tensor:
    """Returns rows @ kernel, float32; both are rounded to ``products`` before."""
    if products == tf.float32:
        return tf.matmul(rows, kernel)
    return tf.cast(tf.matmul(tf.cast(rows, products), tf.cast(kernel, products)), tf.float32)


def _spread(of_queries: tf.Tensor, places: tf.Tensor | None) -> tf.Tensor:
    """Returns what belongs to each candidate's query; without ``places`` as it is."""
    return of_queries if places is None else tf.gather(of_queries, places)


class Tower(tf_keras.layers.Layer):
    """A split first layer, ReLU layers above it, and one output.

    Args:
        query_width: Length of the query's dense vector.
        candidate_width: Of the candidate's.
        hidden: Widths of the ReLU layers, bottom first; () is linear.
        seed: Of the initial weights.
        name: Of the layer.
    """

    def __init__(
        self,
        query_width: int,
        candidate_width: int,
        hidden: Sequence[int],
        *,
        seed: int,
        name: str,
    ) -> None:
        super().__init__(name=name)
        widths = (*hidden, 1)
        self.first_layer = SplitDense(
            query_width, candidate_width, widths[0], seed=seed + 200, name="first_layer"
        )
        self.upper_layers = []
        for i, units in enumerate(widths[1:]):
            initial = tf_keras.initializers.GlorotUniform(seed=seed + 300 + i)
            layer = tf_keras.layers.Dense(units, kernel_initializer=initial, name=f"layer_{i + 2}")
            layer.build([None, widths[i]])
            self.upper_layers.append(layer)

    def call(
        self,
        query: tf.Tensor,
        candidate: tf.Tensor,
        *,
        dropout: float = 0.0,
        products: tf.DType = tf.float32,
        places: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Returns float32 [N, 1]; arguments as of :class:`SplitDense`."""
        hidden = self.first_layer(query, candidate, products, places)
        for layer in self.upper_layers:
            hidden = tf.nn.relu(hidden)
            if dropout:
                hidden = tf.nn.dropout(hidden, dropout)
            hidden = _product(hidden, layer.kernel, products) + layer.bias
        return hidden

    def set_bias(self, value: float) -> None:
        """Sets the bias of the output."""
        layer = self.upper_layers[-1] if self.upper_layers else self.first_layer
        layer.bias.assign([value])


class Level(tf_keras.layers.Layer):
    """What a query alone adds to the logit of all its candidates; starts at 0.

    Args:
        query_width: Length of the query's dense vector.
        seed: Of the initial weights.
    """

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
        self.wide_tables: dict[str, EmbeddingTable] = {}
        self._wide_features = tuple(
            f for f in self._candidate_inputs.features if config.wide and f.kind is Kind.UNIVALENT
        )
        for space in sorted({f.space for f in self._wide_features}):
            self.wide_tables[space] = EmbeddingTable(
                vocabulary_sizes[space],
                1,
                seed=seed,
                stddev=0,
                adagrad_rate=_WIDE_RATE,
                name=f"wide_{space}",
            )
        sides = (self._query_inputs.width(self.tables), self._candidate_inputs.width(self.tables))
        self.towers = [
            Tower(*sides, config.hidden, seed=seed + 1000 * i, name=f"tower_{i}")
            for i in range(config.towers)
        ]
        self.level = Level(sides[0], seed=seed + 400) if config.pairwise else None
        self.calibration = calibration.Calibration()
        self._duration = None
        if config.target == configs.RELATIVE:
            self._duration = duration_target.position(resolved)
            self.duration_factors = self.add_weight(
                name="duration_factors",
                shape=[duration_target.GROUPS],
                initializer="ones",
                trainable=False,
            )

    @property
    def query_columns(self) -> tuple[str, ...]:
        """Names of the query-side tensors that are read."""
        return self._query_inputs.columns

    @property
    def candidate_columns(self) -> tuple[str, ...]:
        """Names of the candidate-side tensors that are read."""
        columns = self._candidate_inputs.columns
        if self._duration is not None and duration_target.COLUMN not in columns:
            return (*columns, duration_target.COLUMN)
        return columns

    def tower_logits(
        self,
        query_features: Tensors,
        candidate_features: Tensors,
        *,
        places: tf.Tensor | None = None,
        training: bool = False,
        products: tf.DType = tf.float32,
    ) -> list[tf.Tensor]:
        """Returns x of each tower before calibration, float32 [N] each; see :meth:`logits`."""
        orders, level = self.orders_and_level(
            query_features, candidate_features, places=places, training=training, products=products
        )
        return [order + level for order in orders]

    def orders_and_level(
        self,
        query_features: Tensors,
        candidate_features: Tensors,
        *,
        places: tf.Tensor | None = None,
        training: bool = False,
        products: tf.DType = tf.float32,
    ) -> tuple[list[tf.Tensor], tf.Tensor]:
        """Returns both parts of x; arguments as in :meth:`logits`.

        Returns:
            What each tower says, float32 [N] each; what the query alone adds, float32 [Q] or, with
            ``places``, [N], or a scalar 0 where ``pairwise`` is 0.
        """
        query = self._query_inputs.dense(query_features, self.tables)
        candidate = self._candidate_inputs.dense(candidate_features, self.tables)
        dropout = self.config.dropout if training else 0.0
        settings = {"dropout": dropout, "products": products, "places": places}
        outputs = [tower(query, candidate, **settings) for tower in self.towers]
        for feature in self._wide_features:
            wide = self.wide_tables[feature.space].lookup(candidate_features[feature.name])
            outputs = [output + wide for output in outputs]
        level = tf.constant(0.0) if self.level is None else _spread(self.level(query), places)
        return [tf.squeeze(output, axis=1) for output in outputs], level

    def logits(
        self,
        query_features: Tensors,
        candidate_features: Tensors,
        *,
        places: tf.Tensor | None = None,
        training: bool = False,
        products: tf.DType = tf.float32,
    ) -> tf.Tensor:
        """Returns x of each candidate: of several towers, the log of the mean of exp(x).

        Args:
            query_features: Transformed features by name, leading dimension Q.
            candidate_features: Likewise, N.
            places: int32 [N], the query of each candidate. None: Q is N (row i belongs to row i)
                or 1 (all candidates are of that query).
            training: Whether dropout is on.
            products: What the towers multiply in: float32, or bfloat16, which some processors do
                faster; sums are float32 either way.

        Returns:
            float32 [N].
        """
        logits = self.tower_logits(
            query_features, candidate_features, places=places, training=training, products=products
        )
        if len(logits) == 1:
            together = logits[0]
        else:
            together = tf.reduce_logsumexp(tf.stack(logits), axis=0) - math.log(len(logits))
        return self.calibration(together)

    def expected_watch_time_s(
        self, query_features: Tensors, candidate_features: Tensors
    ) -> tf.Tensor:
        """Returns exp(x), float32 [N], seconds, finite; arguments as in :meth:`logits`.

        Of a ranker with ``logistic`` loss these are the odds of a click, no seconds.
        """
        return self.seconds(self.logits(query_features, candidate_features), candidate_features)

    def seconds(self, logits: tf.Tensor, candidate_features: Tensors) -> tf.Tensor:
        """Returns the expected watch times that logits stand for, float32 [N], seconds, finite.

        Args:
            logits: x, float32 [N], of :meth:`logits`.
            candidate_features: The same as there.
        """
        expected = losses.expected_watch_time_s(logits)
        factor = self.duration_factor(candidate_features)
        return expected if factor is None else expected * factor

    def duration_factor(self, candidate_features: Tensors) -> tf.Tensor | None:
        """Returns f(d) of :mod:`models.duration_target`, float32 [N]; None where it is 1."""
        if self._duration is None:
            return None
        quantiles = tf.cast(candidate_features[duration_target.COLUMN], tf.float32)
        return duration_target.factor(quantiles[:, self._duration], self.duration_factors)

    def call(self, inputs: Tensors, training: bool = False) -> tf.Tensor:  # noqa: FBT001, FBT002
        """Returns x where both sides come in one dictionary, float32 [B]."""
        return self.logits(inputs, inputs, training=training)

    def set_bias(self, logit: float) -> None:
        """Starts the output at a logit, instead of at 0: that of the mean target."""
        for tower in self.towers:
            tower.set_bias(logit)


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
