"""The ranker: expected watch time of an impression, from query and candidate features.

    x = MLP([query inputs, candidate inputs]),   expected watch time = exp(x) seconds

The paper's metric is the order within a user, so pairs of a user's impressions have a loss of
their own beside that of single ones (``pairwise``). It reads what is left of x without its *level*,

    x = MLP([query inputs, candidate inputs]) + level(query inputs)

which orders nothing, and leaves the tower free to say what tells a user's impressions apart.

Where the logs have feedback, the tower says besides how probable each kind of it is
(:mod:`models.ranking.heads`).

The first layer is split (:mod:`models.ranking.layers`): the query's part of the product is computed
once per request, and in training once per page; the video's own part once per release; the rest
per row. The sum is what the concatenated layer would give.

Source: Covington et al., RecSys 2016, section 4 and figure 7.
"""

import os
import types
from collections.abc import Collection, Mapping
from typing import Any

import tensorflow as tf
import tf_keras

from features import command, spec
from features.spec import ResolvedSpec, Side
from models import embeddings, losses
from models.config import RankerConfig
from models.embeddings import SideInputs, Tensors
from models.ranking import calibration
from models.ranking import layers as ranker_layers
from models.ranking.heads import Heads
from models.ranking.layers import Level, Outputs, Tower
from models.training import saved


class Ranker(tf_keras.Model):
    """Scores (query, candidate) pairs.

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
        settings: Any = {"exclude": config.exclude, "powers": config.powers}
        self._query_inputs = SideInputs(resolved, spec.RANKER, Side.QUERY, **settings)
        self._video_inputs, self._moment_inputs = (
            SideInputs(resolved, spec.RANKER, Side.CANDIDATE, static=static, **settings)
            for static in (True, False)
        )
        candidate_features = (*self._video_inputs.features, *self._moment_inputs.features)
        for side, read in (
            ("query", self._query_inputs.features),
            ("candidate", candidate_features),
        ):
            if not read:
                raise command.InputError(f"The ranker has no {side} feature left to read.")
        features = (*self._query_inputs.features, *candidate_features)
        self.tables = embeddings.make_tables(features, vocabulary_sizes, widths={}, seed=seed)
        widths = ranker_layers.Widths(
            query=self._query_inputs.width(self.tables),
            video=self._video_inputs.width(self.tables),
            moment=self._moment_inputs.width(self.tables),
        )
        self.tower = Tower(widths, config.hidden, seed=seed, name="tower")
        self.level = Level(widths.query, seed=seed + 400) if config.pairwise else None
        self.heads = None
        if resolved.feedback:
            width = self.tower.top_width
            self.heads = Heads(resolved.feedback, width=width, seed=seed + 500)
        self.calibration = calibration.Calibration()

    @property
    def query_columns(self) -> tuple[str, ...]:
        """Names of the query-side tensors that are read."""
        return self._query_inputs.columns

    @property
    def candidate_columns(self) -> tuple[str, ...]:
        """Names of the candidate-side tensors that are read."""
        return tuple(dict.fromkeys((*self._video_inputs.columns, *self._moment_inputs.columns)))

    @property
    def layouts(self) -> tuple[list[dict[str, Any]], ...]:
        """What layers read in which order: of queries, of videos alone, and of the moment."""
        inputs = (self._query_inputs, self._video_inputs, self._moment_inputs)
        return tuple(side.layout() for side in inputs)

    def outputs_of(
        self,
        query_features: Tensors,
        candidate_features: Tensors,
        *,
        places: tf.Tensor | None = None,
        training: bool = False,
        video_parts: tf.Tensor | None = None,
    ) -> Outputs:
        """Returns what all that the ranker says is made of; arguments as in :meth:`logits`."""
        is_prepared = video_parts is not None
        if video_parts is None:
            video_parts = self.video_parts(candidate_features)
        query = self._query_inputs.dense(query_features, self.tables)
        moment = tf.zeros([tf.shape(video_parts)[0], 0])
        if self._moment_inputs.columns:
            moment = self._moment_inputs.dense(
                candidate_features, self.tables, of_group=is_prepared
            )
        dropout = self.config.dropout if training else 0.0
        order, top = self.tower(query, video_parts, moment, dropout=dropout, places=places)
        level = tf.constant(0.0)
        if self.level is not None:
            level = ranker_layers.spread(self.level(query), places)
        return Outputs(tf.squeeze(order, axis=1), level, top)

    def video_parts(self, candidate_features: Tensors) -> tf.Tensor:
        """Returns what videos alone contribute, whoever they are shown to.

        Args:
            candidate_features: Transformed features by name, leading dimension N.

        Returns:
            v K_v of the tower's first layer, float32 [N, :attr:`video_parts_width`].
        """
        rows = tf.shape(next(iter(candidate_features.values())))[0]
        video = tf.zeros([rows, 0])
        if self._video_inputs.columns:
            video = self._video_inputs.dense(candidate_features, self.tables)
        return self.tower.first_layer.video_part(video)

    @property
    def video_parts_width(self) -> int:
        """Columns of what :meth:`video_parts` gives."""
        return self.tower.first_layer.units

    def logits(
        self,
        query_features: Tensors,
        candidate_features: Tensors,
        *,
        places: tf.Tensor | None = None,
        training: bool = False,
        video_parts: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Returns x of each candidate.

        Args:
            query_features: Transformed query-side features by name, leading dimension Q.
            candidate_features: Transformed candidate-side features by name, leading dimension N.
            places: int32 [N], the query of each candidate. None: Q is N (row i belongs to row i)
                or 1 (all candidates are of that query).
            training: Whether dropout is on.
            video_parts: What :meth:`video_parts` gave of the candidates before; None: nothing.
                The features are then all but the static ones, also within the vectors.

        Returns:
            Logit x of each candidate, float32 [N].
        """
        outputs = self.outputs_of(
            query_features,
            candidate_features,
            places=places,
            training=training,
            video_parts=video_parts,
        )
        return self.logits_from(outputs)

    def logits_from(self, outputs: Outputs) -> tf.Tensor:
        """Returns x of each candidate, float32 [N], see :meth:`logits`."""
        return self.calibration(outputs.order + outputs.level)

    def feedback_from(self, outputs: Outputs) -> dict[str, tf.Tensor]:
        """Returns the probability of each kind of feedback, float32 [N] in [0, 1], by name."""
        return {} if self.heads is None else self.heads(outputs.top)

    def feedback_probabilities(
        self, query_features: Tensors, candidate_features: Tensors
    ) -> dict[str, tf.Tensor]:
        """Returns what :meth:`feedback_from` does; arguments as in :meth:`logits`."""
        return self.feedback_from(self.outputs_of(query_features, candidate_features))

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
        self.tower.set_bias(logit)


def distinct_queries(
    rows: Tensors, columns: Collection[str]
) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
    """Returns the queries of a batch, each run of equal ones once.

    All impressions of a page have the features of the page's start, so rows of a page that stand
    next to each other differ in their videos alone, and what the model makes of their query is made
    once. Which rows do is read off the features themselves, not off page ids: the model then gives
    what it would give row by row, whatever a batch holds.

    Args:
        rows: Transformed features by name, leading dimension N, 1 or more.
        columns: Names of the query's columns; others are left out.

    Returns:
        The columns, leading dimension Q; int32 [N], ascending: which query is each row's.
    """
    changes = [
        tf.reduce_any(values[1:] != values[:-1], axis=list(range(1, values.shape.rank)))
        for values in (tf.convert_to_tensor(rows[name]) for name in columns)
    ]
    is_first = tf.concat([[True], tf.reduce_any(tf.stack(changes), axis=0)], axis=0)
    places = tf.cumsum(tf.cast(is_first, tf.int32)) - 1
    firsts = tf.where(is_first)[:, 0]
    return {name: tf.gather(rows[name], firsts) for name in columns}, places


def save(ranker: Ranker, directory: str | os.PathLike[str], *, contents: saved.Contents) -> None:
    """Writes a self-contained model directory, atomically; see :mod:`models.training.saved`."""
    saved.write(directory, kind=spec.RANKER, model=ranker, contents=contents)


def load(
    directory: str | os.PathLike[str], examples_dir: str | os.PathLike[str] | None = None
) -> Ranker:
    """Reads what :func:`save` wrote.

    Args:
        directory: Directory of the model.
        examples_dir: Examples with the transform of the training; None: not checked.

    Raises:
        command.InputError: No complete ranker, or another transform.
    """
    opened = saved.open_directory(directory, kind=spec.RANKER, examples_dir=examples_dir)
    model = Ranker(opened.resolved, opened.vocabulary_sizes, opened.config_as(RankerConfig))
    opened.restore(model)
    return model
