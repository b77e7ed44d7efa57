"""SavedModels that take raw features: the transform graph and the model in one servable.

Both run in the stock tensorflow_model_server. Inputs are named as in the feature spec: univalent
string [B], multivalent string [B, max_length] padded with "", vectors float32 [B, F] with NaN for
missing; :func:`features.tensors.to_arrays` makes them; :mod:`serving.servables.signatures` has the
names.
"""

import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_transform as tft
from absl import logging

from features import dataset, preprocessing, spec, tensors
from features.spec import Kind, ResolvedSpec, Side
from models import losses
from models.candidate import youth
from models.candidate.model import CandidateModel
from models.ranking.layers import Outputs
from models.ranking.model import Ranker
from serving.servables import prepared_videos, signatures

Path = str | os.PathLike[str]
Tensors = dict[str, tf.Tensor]


def export_query_tower(model: CandidateModel, examples_dir: Path, directory: Path) -> None:
    """Writes both towers of a candidate model as one SavedModel."""
    servable = _Servable(model, examples_dir, spec.CANDIDATE)
    query, videos = servable.inputs(Side.QUERY), servable.inputs(Side.CANDIDATE)

    def embed(**raw: tf.Tensor) -> Tensors:
        return {"embedding": model.query_embeddings(servable.transformed(raw))}

    def embed_videos(**raw: tf.Tensor) -> Tensors:
        embeddings = video_embeddings(model, servable.transformed(raw))
        if not model.has_vectors:
            return {"embedding": embeddings}
        # No input says when a video was uploaded: whoever asks knows, and adds the bias.
        biases = tf.tile(model.youth[tf.newaxis], [tf.shape(embeddings)[0], 1])
        return {"embedding": embeddings, youth.OUTPUT: biases}

    servable.save(
        directory,
        {
            signatures.DEFAULT: _function(embed, query),
            signatures.EMBED_VIDEOS: _function(embed_videos, videos),
        },
    )


def export_ranker(model: Ranker, examples_dir: Path, directory: Path) -> None:
    """Writes a ranker as a SavedModel."""
    servable = _Servable(model, examples_dir, spec.RANKER)
    videos = servable.inputs(Side.CANDIDATE)
    query_names = servable.inputs(Side.QUERY).keys()

    def score(**raw: tf.Tensor) -> Tensors:
        features = servable.transformed(raw)
        query = {name: features[name] for name in query_names}
        candidates = {name: features[name] for name in videos}
        outputs = model.outputs_of(query, candidates)
        return _answers(model, outputs)

    one = {n: _with_batch(s, 1) for n, s in servable.inputs(Side.QUERY).items()}
    many = servable.inputs(Side.QUERY)
    functions = {
        signatures.DEFAULT: _function(score, one | videos),
        signatures.SCORE_PAIRS: _function(score, many | videos),
    }
    if prepared_videos.is_supported(model.resolved):
        functions[signatures.PREPARE_VIDEOS] = _prepare_videos(model, servable, videos)
        functions[signatures.SCORE_PREPARED] = _score_prepared(model, servable, one, examples_dir)
    servable.save(directory, functions)


def _answers(model: Ranker, outputs: Outputs) -> Tensors:
    """Returns logit and expected watch time, and the probability of each kind of feedback."""
    logits = model.logits_from(outputs)
    return {
        "logit": logits,
        "expected_watch_time_s": losses.expected_watch_time_s(logits),
        **model.feedback_from(outputs),
    }


def _prepare_videos(
    model: Ranker, servable: "_Servable", videos: Mapping[str, tf.TensorSpec]
) -> Any:
    """Returns the function that gives what ``score_prepared`` takes of the videos."""

    def prepare(**raw: tf.Tensor) -> Tensors:
        parts = model.video_parts(servable.transformed(raw))
        return {prepared_videos.PARTS: tf.cast(parts, prepared_videos.DTYPE)}

    return _function(prepare, videos)


def _score_prepared(
    model: Ranker,
    servable: "_Servable",
    query_inputs: Mapping[str, tf.TensorSpec],
    examples_dir: Path,
) -> Any:
    """Returns ``score`` for videos that were prepared before."""
    resolved = model.resolved
    shapes = prepared_videos.signature_inputs(resolved, model.video_parts_width)
    candidate_inputs = {
        name: tf.TensorSpec(shape, dtype, name=name) for name, (dtype, shape) in shapes.items()
    }
    moment = {
        kind: prepared_videos.of_the_moment(resolved, kind)
        for kind in (Kind.CONTINUOUS, Kind.BINARY)
    }
    boundaries = None
    if moment[Kind.CONTINUOUS]:
        names = resolved.vector_names(spec.RANKER, Side.CANDIDATE, Kind.CONTINUOUS)
        rows = [names.index(feature.name) for feature in moment[Kind.CONTINUOUS]]
        fitted = dataset.boundaries(examples_dir, spec.RANKER, Side.CANDIDATE)
        boundaries = tf.constant(fitted[rows])

    def numbers(kind: Kind, inputs: Mapping[str, tf.Tensor]) -> tf.Tensor:
        column = spec.vector_column(Side.CANDIDATE, kind)
        filled = preprocessing.fill_missing(inputs[column], moment[kind])
        if kind is Kind.BINARY:
            return tf.clip_by_value(filled, 0.0, 1.0)
        return preprocessing.interpolated_quantile(filled, boundaries)

    def score(**inputs: tf.Tensor) -> Tensors:
        query = servable.transformed({name: inputs[name] for name in query_inputs})
        candidates = {name: inputs[name] for name in shapes if name in model.candidate_columns}
        for kind, features in moment.items():
            if features:
                candidates[spec.vector_column(Side.CANDIDATE, kind)] = numbers(kind, inputs)
        parts = tf.cast(inputs[prepared_videos.PARTS], tf.float32)
        outputs = model.outputs_of(query, candidates, video_parts=parts)
        return _answers(model, outputs)

    return _function(score, {**query_inputs, **candidate_inputs})


def video_embeddings(model: CandidateModel, features: Mapping[str, tf.Tensor]) -> tf.Tensor:
    """Returns what the index holds of each video, float32 [N, D + 1].

    A model without content knows nothing of a video outside its vocabulary: its zeros would
    score above every unlikely video, so it gets a bias that no list reaches.
    """
    embeddings = model.video_embeddings(features)
    if model.has_content:
        return embeddings
    known = tf.convert_to_tensor(features["video_id"])[:, tf.newaxis] > 0
    bias = tf.one_hot([model.config.embedding_dim], model.config.embedding_dim + 1)
    return tf.where(known, embeddings, signatures.UNREACHABLE_BIAS * bias)


def function_of(
    saved_model: Path, signature: str
) -> Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]:
    """Returns a signature of a written SavedModel as a function of arrays by name."""
    loaded = tf.saved_model.load(str(saved_model))

    def function(raw: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        outputs = loaded.signatures[signature](**{n: tf.constant(v) for n, v in raw.items()})
        return {name: tensor.numpy() for name, tensor in outputs.items()}

    return function


class _Servable(tf.Module):
    """A model with the transform graph that its examples went through."""

    def __init__(self, model: CandidateModel | Ranker, examples_dir: Path, name: str) -> None:
        super().__init__()
        self._name_of_model = name
        self._resolved = ResolvedSpec.load(examples_dir)
        output = tft.TFTransformOutput(str(pathlib.Path(examples_dir) / "transform_fn" / name))
        # Tracked as attributes, so that weights, tables and vocabulary files are saved. The
        # weights, not the Keras model: it would drag its Python configuration along.
        self.model_weights = model.variables
        self.transform_layer = output.transform_features_layer()
        self._multivalent = {f.name for f in self._resolved.of(name) if f.kind is Kind.MULTIVALENT}

    def inputs(self, side: Side) -> dict[str, tf.TensorSpec]:
        """Returns the raw inputs of one side by name."""
        shapes = tensors.signature_shapes(self._resolved, self._name_of_model, side)
        return {n: tf.TensorSpec(shape, dtype, name=n) for n, (dtype, shape) in shapes.items()}

    def transformed(self, raw: Mapping[str, tf.Tensor]) -> Tensors:
        """Applies the transform graph to the features of one side or both."""
        sparse = {n: _sparse(v) if n in self._multivalent else v for n, v in raw.items()}
        outputs = self.transform_layer(sparse)
        return {name: outputs[name] for name in raw}

    def save(self, directory: Path, functions: dict[str, Any]) -> None:
        """Writes the SavedModel, with the signatures of the skew proof beside the given ones."""
        for name, side in (
            (signatures.TRANSFORM_QUERY, Side.QUERY),
            (signatures.TRANSFORM_VIDEOS, Side.CANDIDATE),
        ):
            functions[name] = _function(lambda **raw: self.transformed(raw), self.inputs(side))
        tf.saved_model.save(self, str(directory), signatures=functions)
        logging.info("Wrote the SavedModel %s with %s.", directory, ", ".join(sorted(functions)))


def _function(function: Callable[..., Tensors], inputs: Mapping[str, tf.TensorSpec]) -> Any:
    return tf.function(function).get_concrete_function(**inputs)


def _with_batch(tensor_spec: tf.TensorSpec, size: int) -> tf.TensorSpec:
    return tf.TensorSpec([size, *tensor_spec.shape[1:]], tensor_spec.dtype, name=tensor_spec.name)


def _sparse(padded: tf.Tensor) -> tf.SparseTensor:
    """Undoes the padding: string [B, L] to the sparse form that training used.

    Only "" at the end is padding. One in the middle keeps its place, as a missing value within a
    list does in training.
    """
    columns = tf.range(1, tf.shape(padded)[1] + 1, dtype=tf.int64)
    lengths = tf.reduce_max(tf.where(padded == "", tf.constant(0, tf.int64), columns), axis=1)
    return tf.RaggedTensor.from_tensor(padded, lengths=lengths).to_sparse()
