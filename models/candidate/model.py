"""The candidate model: a query tower and, for every video, a row of softmax weights.

    P(watch = i | query) = softmax_i(<u, v_i> + b_i)

Both towers give one more column than D, 1 for queries and the bias b_i for videos, so that the
plain inner product of the two is exactly the softmax logit, and nearest-neighbour search by
inner product finds the most likely videos.

Layers over averaged bags know what a user likes, but forget which videos were watched: that one
episode leads to the next is lost in them. So u may have a second part, the sum of the embeddings
of the watched videos times a learned weight of their place, newest first: factored item-to-item
similarity, trained together with the layers.

Sources: Covington et al., RecSys 2016, section 3 and figure 3; Kabbur et al., "FISM: factored
item similarity models", KDD 2013. Content beside ids is ours.
"""

import os
import types
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf
import tf_keras

from features import command, spec
from features.catalogue import UPLOAD_TIME
from features.spec import Kind, ResolvedSpec, Side
from models import embeddings
from models.candidate import layers
from models.candidate.attention import SequenceEncoder
from models.candidate.video_features import VIDEO_ID
from models.config import ATTENTION, CandidateConfig
from models.embeddings import EmbeddingTable, SideInputs, Tensors
from models.training import saved

Array = npt.NDArray[np.generic]
VIDEO_SPACE = "video"
_WATCHES, _AGE = "watched_video_ids", "example_age_s"
# How long ago each watch was, where a data set declares it; read by attention alone in its order.
_WATCH_AGES, _WATCH_AGE_SPACE = "watch_ages", "watch_age"
# The spaces whose embeddings are as wide as the softmax's: 256 each in the paper, section 3.5.
_WIDE_SPACES = (VIDEO_SPACE, "search_token", _WATCH_AGE_SPACE)
_SOFTMAX_STDDEV = 0.02


class CandidateModel(tf_keras.Model):
    """Query tower, video tower, and the logits between them.

    Raises:
        command.InputError: The model has nothing to learn from, or nothing to recommend.
    """

    def __init__(
        self,
        resolved: ResolvedSpec,
        vocabulary_sizes: Mapping[str, int],
        config: CandidateConfig,
        *,
        seed: int = 1,
    ) -> None:
        super().__init__(name="candidate_model")
        self.resolved = resolved
        # A proxy, since Keras would take a plain dictionary for weights to track.
        self.vocabulary_sizes = types.MappingProxyType(dict(vocabulary_sizes))
        self.config = config
        self._query_inputs = SideInputs(
            resolved, spec.CANDIDATE, Side.QUERY, exclude=config.exclude, powers=config.powers
        )
        # The id is the softmax row; the rest is content.
        self._video_inputs = SideInputs(
            *(resolved, spec.CANDIDATE, Side.CANDIDATE),
            exclude=(*config.exclude, VIDEO_ID),
            powers=config.powers,
        )
        self._check()
        # What having been watched adds to a video's logit; fitted after the training.
        self.repeat_bias = tf.Variable(0.0, trainable=False, name="repeat_bias")
        self.youth = tf.Variable([0.0, 0.0], trainable=False, name="youth")  # See that module.
        self._make_tables(seed)
        self._make_query_layers(seed)
        self._make_place_weights()
        self._make_content_layer(seed)

    def _check(self) -> None:
        if not self.vocabulary_sizes.get(VIDEO_SPACE):
            raise command.InputError(
                "The video vocabulary is empty: no video was watched in the training examples. "
                "Give more logs to pipeline.preprocess, or a shorter holdout."
            )
        if not self._query_inputs.columns:
            raise command.InputError(
                f"exclude={','.join(self.config.exclude)} leaves the query tower no feature."
            )

    @property
    def has_content(self) -> bool:
        """Whether videos outside the vocabulary have an embedding."""
        return self.config.video_content and bool(self._video_inputs.columns)

    @property
    def id_dropout(self) -> float:
        """Chance that a training step sees a video by its content alone."""
        return self.config.vector_id_dropout if self.has_vectors else self.config.id_dropout

    @property
    def has_vectors(self) -> bool:
        """Whether a vector says what videos are like."""
        kinds = {feature.kind for feature in self._video_inputs.features}
        return self.has_content and Kind.VECTOR in kinds

    @property
    def has_item_to_item(self) -> bool:
        """Whether watched videos stand in the query embedding themselves."""
        return self.config.item_to_item and self._reads(_WATCHES)

    @property
    def has_age_pieces(self) -> bool:
        """Whether the layers read the example age piece by piece too."""
        return bool(self.config.age_pieces) and self._reads(_AGE)

    @property
    def has_attention(self) -> bool:
        """Whether watched videos are read in their order."""
        return self.config.query_encoder == ATTENTION and self._reads(_WATCHES)

    def _reads(self, name: str) -> bool:
        return any(feature.name == name for feature in self._query_inputs.features)

    @property
    def query_columns(self) -> tuple[str, ...]:
        """Names of the tensors that the query tower reads."""
        return self._query_inputs.columns

    @property
    def content_columns(self) -> tuple[str, ...]:
        """Names of the tensors that the video tower reads besides ``video_id``."""
        return self._video_inputs.columns if self.has_content else ()

    @property
    def layouts(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """What the layers of queries, and of the content of videos, read in which order."""
        return self._query_inputs.layout(), self._video_inputs.layout()

    @property
    def num_videos(self) -> int:
        """V, the videos that have a softmax row."""
        return self.vocabulary_sizes[VIDEO_SPACE]

    def _make_tables(self, seed: int) -> None:
        width = self.config.embedding_dim
        read = [*self._query_inputs.features]
        if self.has_content:
            read += self._video_inputs.features
        self.tables = embeddings.make_tables(
            read,
            self.vocabulary_sizes,
            widths=dict.fromkeys(_WIDE_SPACES, width),
            seed=seed,
        )
        self.softmax_rows = EmbeddingTable(
            self.num_videos, width, seed=seed + 101, stddev=_SOFTMAX_STDDEV, name="softmax_rows"
        )
        self.softmax_biases = EmbeddingTable(
            self.num_videos, 1, seed=seed, stddev=0.0, name="softmax_biases"
        )
        # What of them was not learnt: see models/candidate/recent_biases.py.
        rows = tf.zeros([self.num_videos + 1, 1])
        self.moved_biases = tf.Variable(rows, trainable=False, name="moved_biases")

    def _make_query_layers(self, seed: int) -> None:
        config = self.config
        self.hidden_layers = [
            layers.dense(units, seed=seed + 200 + i, activation="relu", name=f"hidden_{i}")
            for i, units in enumerate(config.hidden)
        ]
        self.output_layer = (
            layers.dense(config.embedding_dim, seed=seed + 300, name="query_output")
            if config.linear_output or not config.depth
            else None
        )
        width = self._query_inputs.width(self.tables)
        width += config.age_pieces + 1 if self.has_age_pieces else 0
        if self.has_attention:
            self.sequence_encoder = SequenceEncoder(
                config, places=self._places(), context=width, seed=seed + 500
            )
        for layer in [*self.hidden_layers, *([self.output_layer] if self.output_layer else [])]:
            layer.build([None, width])
            width = layer.units

    def _make_place_weights(self) -> None:
        if not self.has_item_to_item:
            return
        # Newest first; models/baselines/retrieval.py weighs the watches of its item-to-item lists
        # likewise.
        initial = tf.constant_initializer(1 / np.sqrt(1.0 + np.arange(self._places())))
        self.place_weights = self.add_weight(
            name="place_weights", shape=[self._places()], initializer=initial
        )

    def _places(self) -> int:
        """Returns L, the greatest number of watches that a query has."""
        return next(f.max_length for f in self._query_inputs.features if f.name == _WATCHES)

    def _make_content_layer(self, seed: int) -> None:
        self.content_layer = None
        if self.has_content:
            width = self.config.embedding_dim + 1
            self.content_layer = layers.dense(width, seed=seed + 401, name="content_output")
            self.content_layer.build([None, self._video_inputs.width(self.tables)])

    def query_embeddings(self, features: Tensors, *, training: bool = False) -> tf.Tensor:
        """Returns u of each query and a 1.

        Args:
            features: Transformed query features by name, leading dimension B.
            training: Whether dropout is on.

        Returns:
            float32 [B, D + 1].
        """
        config = self.config
        if training and config.bag_dropout:
            bags = [f.name for f in self._query_inputs.features if f.kind is Kind.MULTIVALENT]
            features = layers.thinned(features, bags, config.bag_dropout)
        inputs = self._query_inputs.dense(features, self.tables)
        if self.has_age_pieces:
            names = self.resolved.vector_names(spec.CANDIDATE, Side.QUERY, Kind.CONTINUOUS)
            column = features[spec.vector_column(Side.QUERY, Kind.CONTINUOUS)]
            ages = tf.cast(column, tf.float32)[:, names.index(_AGE)]
            inputs = tf.concat([inputs, layers.age_pieces(ages, config.age_pieces)], axis=1)
        hidden = inputs
        for layer in self.hidden_layers:
            hidden = layer(hidden)
            if training and config.dropout:
                hidden = tf.nn.dropout(hidden, config.dropout)
        if self.output_layer is not None:
            hidden = self.output_layer(hidden)
        if self.has_item_to_item or self.has_attention:
            hidden += self._of_watches(features, inputs, training=training)
        return tf.concat([hidden, tf.ones([tf.shape(hidden)[0], 1])], axis=1)

    def _of_watches(self, features: Tensors, inputs: tf.Tensor, *, training: bool) -> tf.Tensor:
        """Returns what the watches themselves add to u, float32 [B, D]."""
        ids = tf.convert_to_tensor(features[_WATCHES])
        known = ids > 0
        watches = self.tables[VIDEO_SPACE].members(ids)
        added = tf.zeros([tf.shape(ids)[0], self.config.embedding_dim])
        if self.has_item_to_item:
            # A thinned bag sums to less than the whole one will when it is served.
            weights = self.place_weights / (1 - self.config.bag_dropout if training else 1.0)
            weights *= tf.cast(known, tf.float32)
            added += tf.linalg.matvec(watches, weights, transpose_a=True)
        if self.has_attention:
            if self._reads(_WATCH_AGES):
                ages = tf.convert_to_tensor(features[_WATCH_AGES])
                there = tf.cast(ages > 0, tf.float32)[:, :, tf.newaxis]
                watches += self.tables[_WATCH_AGE_SPACE].members(ages) * there
            added += self.sequence_encoder(watches, known, inputs)
        return added

    def video_embeddings(self, video_features: Tensors, *, training: bool = False) -> tf.Tensor:
        """Returns v and the bias of each video.

        A video outside the vocabulary has its content alone; in a model without content it has
        no embedding and gets zeros (see :meth:`can_embed`).

        Args:
            video_features: Transformed candidate-side features by name, ``video_id`` among them,
                leading dimension N; with ``upload_time``, Unix seconds, what is new has its bias.
            training: Whether ids are dropped at :attr:`id_dropout`.

        Returns:
            float32 [N, D + 1].
        """
        ids = tf.convert_to_tensor(video_features[VIDEO_ID])
        row = tf.concat([self.softmax_rows.lookup(ids), self.softmax_biases.lookup(ids)], axis=1)
        if self.content_layer is not None:
            if training and self.id_dropout:
                kept = tf.random.uniform(tf.shape(ids)) >= self.id_dropout
                row *= tf.cast(kept, tf.float32)[:, tf.newaxis]
            row += self.content_layer(self._video_inputs.dense(video_features, self.tables))
        if self.has_vectors and UPLOAD_TIME in video_features:
            row += layers.youth_bias(self.youth, video_features[UPLOAD_TIME], row.shape[1])
        return row

    def logits_of_all(self, queries: tf.Tensor) -> tf.Tensor:
        """Returns the logits of ids 1 to V by ids alone, float32 [B, V], without a copy of rows.

        Args:
            queries: u and a 1, float32 [B, D + 1].
        """
        products = tf.matmul(queries[:, :-1], self.softmax_rows.rows, transpose_b=True)
        return (products + self.softmax_biases.rows[:, 0])[:, 1:]

    def can_embed(self, video_features: Tensors) -> npt.NDArray[np.bool_]:
        """Returns bool [N]: whether a video has an embedding, so may be recommended."""
        ids = np.asarray(video_features[VIDEO_ID])
        return np.ones(len(ids), np.bool_) if self.has_content else ids > 0

    def call(self, inputs: Tensors, training: bool = False) -> tf.Tensor:  # noqa: FBT001, FBT002
        """Returns the logit of row i's query with row i's video, float32 [B]."""
        queries = self.query_embeddings(inputs, training=training)
        return tf.reduce_sum(queries * self.video_embeddings(inputs, training=training), axis=1)

    def set_popularity_bias(self, label_counts: npt.NDArray[np.int64]) -> None:
        """Sets the biases to log(count + 1), so that a video never watched has 0.

        Args:
            label_counts: int64 [V], watches of id 1 to V in the training examples.
        """
        logs = np.log1p(np.concatenate([[0], label_counts])).astype(np.float32)
        self.softmax_biases.rows.assign(logs[:, np.newaxis])


def save(
    model: CandidateModel,
    directory: str | os.PathLike[str],
    *,
    contents: saved.Contents,
) -> None:
    """Writes a self-contained model directory, atomically; see :mod:`models.training.saved`."""
    saved.write(directory, kind=spec.CANDIDATE, model=model, contents=contents)


def load(
    directory: str | os.PathLike[str], examples_dir: str | os.PathLike[str] | None = None
) -> CandidateModel:
    """Reads what :func:`save` wrote.

    Args:
        directory: Directory of the model.
        examples_dir: Examples with the transform of the training; None: not checked.

    Raises:
        command.InputError: No complete candidate model, or another transform.
    """
    opened = saved.open_directory(directory, kind=spec.CANDIDATE, examples_dir=examples_dir)
    model = CandidateModel(
        opened.resolved, opened.vocabulary_sizes, opened.config_as(CandidateConfig)
    )
    opened.restore(model)
    return model
