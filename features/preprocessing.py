"""``preprocessing_fn``: raw features to model inputs, saved by tf.Transform as the transform graph.

It follows from the spec; there is nothing to add here for a new feature. Its analyzers are
tf.Transform's. The job fits the same in one pass over columns of Arrow, whose outcome then stands
in their place (:class:`Fitted`); the tests hold the two together.

* One vocabulary per ID space, most frequent first. Ids become 1..V; 0 is missing or out of
  vocabulary and embeds to the zero vector (paper section 4.1).
* One quantile analyzer per vector, not per feature: 60 scalar analyzers took 34 s where the
  vector took 6 s. A continuous x becomes its quantile in [0, 1) by linear interpolation. The
  powers x^2 and sqrt(x) are taken by the models, so that they cost no storage.
* One pair of sums per column of vectors: an entry becomes its distance from the mean.
* Query and candidate side never meet in one operation, so that a serving signature that has
  only one side keeps only its part of the graph.

Source: Covington et al., RecSys 2016, section 4.1.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import tensorflow as tf
import tensorflow_transform as tft

from features import feedback, spec
from features.id_spaces import IdSpace
from features.numbers import LARGEST, LARGEST_ENTRY
from features.spec import Feature, Kind, ResolvedSpec, Side

NUM_QUANTILES = 255  # boundaries; 256 equal shares
QUANTILE_ERROR = 0.001  # largest error of a boundary's rank
LABELS = {
    spec.CANDIDATE: {"user_id": tf.string, "time": tf.int64, "label_video_id": tf.string},
    spec.RANKER: {
        "user_id": tf.string,
        "page_id": tf.string,
        "time": tf.int64,
        "label_video_id": tf.string,
        "position": tf.int64,
        "clicked": tf.float32,
        "watch_time_s": tf.float32,
    },
}
Tensors = dict[str, tf.Tensor]


def labels(resolved: ResolvedSpec, model: str) -> dict[str, tf.DType]:
    """Returns the columns of a model's examples that are no features, and their types."""
    said = resolved.feedback if model == spec.RANKER else ()
    return LABELS[model] | {feedback.label(kind): tf.float32 for kind in said}


def raw_feature_spec(resolved: ResolvedSpec, model: str) -> dict[str, tf.io.FixedLenFeature]:
    """Returns the tf.io feature spec of raw examples, labels included."""
    result = _label_spec(resolved, model)
    for feature in resolved.of(model):
        if feature.kind is Kind.UNIVALENT:
            result[feature.name] = tf.io.FixedLenFeature([], tf.string)
        elif feature.kind is Kind.MULTIVALENT:
            result[feature.name] = tf.io.VarLenFeature(tf.string)
    for side, kind, names in vectors(resolved, model):
        result[spec.vector_column(side, kind)] = tf.io.FixedLenFeature([len(names)], tf.float32)
    return result


def transformed_feature_spec(
    resolved: ResolvedSpec, model: str
) -> dict[str, tf.io.FixedLenFeature]:
    """Returns the tf.io feature spec of transformed examples, labels included."""
    result = _label_spec(resolved, model)
    for feature in resolved.of(model):
        if feature.categorical:
            shape = [] if feature.kind is Kind.UNIVALENT else [feature.max_length]
            result[feature.name] = tf.io.FixedLenFeature(shape, tf.int64)
    for side, kind, names in vectors(resolved, model):
        result[spec.vector_column(side, kind)] = tf.io.FixedLenFeature([len(names)], tf.float32)
    return result


def _label_spec(resolved: ResolvedSpec, model: str) -> dict[str, tf.io.FixedLenFeature]:
    types = labels(resolved, model)
    return {name: tf.io.FixedLenFeature([], dtype) for name, dtype in types.items()}


def vectors(resolved: ResolvedSpec, model: str) -> list[tuple[Side, Kind, tuple[str, ...]]]:
    """Returns side, kind and feature names of every vector that is not empty."""
    keys = [(side, kind) for side in Side for kind in spec.NUMERIC]
    named = [(side, kind, resolved.vector_names(model, side, kind)) for side, kind in keys]
    return [entry for entry in named if entry[2]]


def vocabulary_name(space: str) -> str:
    """File name of a space's vocabulary among the transform graph's assets."""
    return f"vocabulary_{space}"


@dataclasses.dataclass(frozen=True)
class Fitted:
    """What the transform of a model was fitted to.

    Attributes:
        vocabularies: ID space to the file of its tokens, one in each line, most frequent first.
        boundaries: Column of a continuous vector of F features to their boundaries, float32
            [F, :data:`NUM_QUANTILES`], ascending.
        moments: Column of a vector feature of width W to the number, the sum and the sum of
            squares of its entries' finite values, float32 [3, W].
    """

    vocabularies: Mapping[str, str]
    boundaries: Mapping[str, np.ndarray]
    moments: Mapping[str, np.ndarray]


def make_preprocessing_fn(
    resolved: ResolvedSpec, model: str, fitted: Fitted | None = None
) -> Callable[[Mapping[str, tf.Tensor]], Tensors]:
    """Returns the preprocessing_fn of a model for tf.Transform.

    Args:
        resolved: The data set's features.
        model: ``candidate`` or ``ranker``.
        fitted: What its analyzers come to; None leaves them to tf.Transform.
    """

    def preprocessing_fn(raw: Mapping[str, tf.Tensor]) -> Tensors:
        outputs: Tensors = {name: tf.identity(raw[name]) for name in labels(resolved, model)}
        for space in resolved.spaces_of(model):
            features = [f for f in resolved.of(model) if f.space == space.name]
            tokens = {f.name: _tokens(raw[f.name], f) for f in features}
            if fitted is None:
                vocabulary = _vocabulary(space, _counted(raw, tokens, resolved, space, model=model))
            else:
                vocabulary = fitted.vocabularies[space.name]
            for side in Side:
                mine = [f for f in features if f.side is side]
                if mine:
                    outputs |= _ids(mine, tokens, vocabulary)
        for side, kind, names in vectors(resolved, model):
            column = spec.vector_column(side, kind)
            if kind is Kind.VECTOR:
                moments = None if fitted is None else fitted.moments[column]
                outputs[column] = _normalised(raw[column], len(names), moments, column)
                continue
            filled = fill_missing(raw[column], resolved.of(model, side, kind))
            if kind is Kind.BINARY:
                outputs[column] = tf.clip_by_value(filled, 0.0, 1.0)
            else:
                cuts = _analysed(filled) if fitted is None else _beside(fitted.boundaries[column])
                cuts = tf.ensure_shape(cuts, [len(names), None], name=boundaries_of(column))
                quantiles = interpolated_quantile(filled, cuts)
                outputs[column] = tf.ensure_shape(quantiles, [None, len(names)])
        return outputs

    return preprocessing_fn


def tag_of(feature: Feature) -> str:
    """Returns what stands before a feature's values in an ID space that small ones share."""
    return f"{feature.name}=" if feature.space == "category" else ""


def _tokens(raw: tf.Tensor | tf.SparseTensor, feature: Feature) -> tf.Tensor | tf.SparseTensor:
    """Tags the values of the shared category space with their feature; "" stays ""."""
    tag = tag_of(feature)
    if not tag:
        return raw
    values = raw.values if isinstance(raw, tf.SparseTensor) else raw
    tagged = tf.where(values == "", values, tf.strings.join([tag, values]))
    if isinstance(raw, tf.SparseTensor):
        return tf.SparseTensor(raw.indices, tagged, raw.dense_shape)
    return tagged


def _flat(tokens: tf.Tensor | tf.SparseTensor) -> tf.Tensor:
    return tokens.values if isinstance(tokens, tf.SparseTensor) else tokens


def _vocabulary(space: IdSpace, counted: tf.Tensor) -> tf.Tensor:
    """Returns the file of the space's most frequent tokens, of string [m]; "" is none."""
    name = vocabulary_name(space.name)
    if space.approximate:
        return tft.experimental.approximate_vocabulary(
            counted, top_k=space.max_size, vocab_filename=name
        )
    return tft.vocabulary(
        counted,
        top_k=space.max_size,
        frequency_threshold=space.min_count if space.min_count > 1 else None,
        vocab_filename=name,
    )


def counted_features(resolved: ResolvedSpec, model: str, space: str) -> tuple[list[Feature], bool]:
    """Returns whose tokens order and cut a vocabulary, and whether only those of clicked examples.

    Where videos have the space, their values count once per watch (candidate model) or clicked
    impression (ranker), as in the paper; the bags of the same space would count a watch once
    for each later example. The shared category space counts all its features.
    """
    features = [f for f in resolved.of(model) if f.space == space]
    counted = [f for f in features if f.side is Side.CANDIDATE]
    if not counted or space == "category":
        return features, False
    return counted, model == spec.RANKER


def _counted(
    raw: Mapping[str, tf.Tensor],
    tokens: Tensors,
    resolved: ResolvedSpec,
    space: IdSpace,
    *,
    model: str,
) -> tf.Tensor:
    """Returns the tokens of :func:`counted_features`, string [m]."""
    features, only_clicked = counted_features(resolved, model, space.name)
    if not only_clicked:
        return tf.concat([_flat(tokens[f.name]) for f in features], axis=0)
    clicked = raw["clicked"] > 0
    parts = []
    for feature in features:
        token = tokens[feature.name]
        if isinstance(token, tf.SparseTensor):
            parts.append(tf.boolean_mask(token.values, tf.gather(clicked, token.indices[:, 0])))
        else:
            parts.append(tf.boolean_mask(token, clicked))
    return tf.concat(parts, axis=0)


def _ids(features: Sequence[Feature], tokens: Tensors, vocabulary: tf.Tensor) -> Tensors:
    """Looks up all tokens of a space's features of one side at once: one table, one pass."""
    flat = [_flat(tokens[f.name]) for f in features]
    ids = tft.apply_vocabulary(tf.concat(flat, axis=0), vocabulary, default_value=-1) + 1
    outputs = {}
    for feature, part in zip(features, tf.split(ids, [tf.size(f) for f in flat]), strict=True):
        token = tokens[feature.name]
        if isinstance(token, tf.SparseTensor):
            outputs[feature.name] = _padded(token, part, feature.max_length)
        else:
            outputs[feature.name] = tf.reshape(part, [-1])
    return outputs


def _padded(token: tf.SparseTensor, ids: tf.Tensor, length: int) -> tf.Tensor:
    """Returns the ids of a sparse [B, None] as int64 [B, length], padded with 0.

    Raw examples are cut to ``length`` where they are made, and signatures have that width.
    """
    # Plain scatter: a RaggedTensor or a mask here doubles the time to trace and load the graph.
    dense = tf.scatter_nd(token.indices, ids, [token.dense_shape[0], length])
    return tf.ensure_shape(dense, [None, length])


def fill_missing(values: tf.Tensor, features: Sequence[Feature]) -> tf.Tensor:
    """Replaces NaN by each feature's declared ``missing`` and bounds the rest.

    Args:
        values: Continuous or binary values, float32 [B, F], NaN where missing.
        features: F declarations, in the order of the vector.
    """
    missing = tf.constant([f.missing for f in features], tf.float32)
    filled = tf.where(tf.math.is_nan(values), tf.broadcast_to(missing, tf.shape(values)), values)
    return tf.clip_by_value(filled, -LARGEST, LARGEST)


def _normalised(
    values: tf.Tensor, width: int, moments: np.ndarray | None, column: str
) -> tf.Tensor:
    """Returns vectors around 0, float32 [B, width] in [-1, 1]; 0 where a vector is missing.

    Each entry is its distance from the mean of the training examples in a third of standard
    deviations.

    Args:
        values: Vectors, float32 [B, width].
        width: Number of entries.
        moments: What the analyzers come to; None leaves them to tf.Transform.
        column: Name of the column.
    """
    known = tf.math.is_finite(values)
    there = tf.clip_by_value(tf.where(known, values, 0.0), -LARGEST_ENTRY, LARGEST_ENTRY)
    if moments is None:
        total = functools.partial(tft.sum, reduce_instance_dims=False)
        sums = [total(tf.cast(known, tf.float32)), total(there), total(tf.square(there))]
    else:
        sums = [_beside(row) for row in moments]
    names = moments_of(column)
    sums = [tf.ensure_shape(s, [width], name=name) for s, name in zip(sums, names, strict=True)]
    count = tf.maximum(sums[0], 1.0)
    mean = sums[1] / count
    variance = tf.maximum(sums[2] / count - tf.square(mean), 0.0)
    deviations = (there - mean) * tf.math.rsqrt(variance + 1e-8)
    entries = tf.where(known, tf.clip_by_value(deviations / 3.0, -1.0, 1.0), 0.0)
    return tf.ensure_shape(entries, [None, width])


def _analysed(values: tf.Tensor) -> tf.Tensor:
    """Returns the boundaries of columns, float32 [F, Q], as tf.Transform finds them."""
    return tft.quantiles(
        values, num_buckets=NUM_QUANTILES + 1, epsilon=QUANTILE_ERROR, reduce_instance_dims=False
    )


def _beside(fitted: np.ndarray) -> tf.Tensor:
    """Puts an array beside the function that is being traced, as tf.Transform does."""
    with tf.init_scope():
        return tf.constant(fitted)


def boundaries_of(column: str) -> str:
    """Returns the name in the transform graph of a vector's boundaries."""
    return f"{column}_boundaries"


def moments_of(column: str) -> list[str]:
    """Returns the names in the transform graph of a vector's number, sum and sum of squares."""
    return [f"{column}_{moment}" for moment in ("number", "sum", "squares")]


def interpolated_quantile(values: tf.Tensor, boundaries: tf.Tensor) -> tf.Tensor:
    """Cumulative distribution by linear interpolation on quantiles (paper section 4.1).

    With boundaries b_1 <= ... <= b_Q, b_i has the quantile i / (Q + 1); between two boundaries
    the quantile is interpolated linearly. A value that ties with b_i = ... = b_j gets the middle
    of their quantiles. Below b_1 it is 0.5 / (Q + 1), above b_Q (Q + 0.5) / (Q + 1): monotone,
    within [0, 1), and a constant column is harmless.

    Args:
        values: Values of F columns, float32 [B, F], finite.
        boundaries: Boundaries of each column, float32 [F, Q], ascending in each row.

    Returns:
        Quantile of each value, float32 [B, F] in [0, 1).

    Example:
        >>> values = tf.constant([[-1.0], [5.0], [10.0], [30.0]])
        >>> quantiles = interpolated_quantile(values, tf.constant([[0.0, 10.0, 20.0]]))
        >>> quantiles.numpy().ravel().tolist()  # 0.5 / 4, 1.5 / 4, 2 / 4, 3.5 / 4
        [0.125, 0.375, 0.5, 0.875]
    """
    columns = tf.transpose(values)
    width, number = tf.unstack(tf.shape(boundaries))
    # All that depends on the boundaries alone, by how many of them a value has reached: so one
    # search and one look-up for each value do, and constant boundaries are worked out once.
    at_or_below = tf.range(1, number + 1)
    below = tf.searchsorted(boundaries, boundaries, side="left")
    ranks = tf.cast(at_or_below, tf.float32)
    beyond_last = tf.one_hot(number - 1, number, on_value=0.5, off_value=0.0)
    gaps = tf.concat([boundaries[:, 1:] - boundaries[:, :-1], tf.zeros([width, 1])], axis=1)
    reached = [
        boundaries,
        gaps,
        tf.broadcast_to(ranks + beyond_last, tf.shape(boundaries)),
        tf.cast(below + 1 + at_or_below, tf.float32) / 2,
    ]
    none = tf.constant([-math.inf, 0.0, 0.5, 0.5])
    table = tf.concat([tf.tile(none[None, None], [width, 1, 1]), tf.stack(reached, axis=2)], axis=1)
    first = tf.range(width)[:, tf.newaxis] * (number + 1)
    places = first + tf.searchsorted(boundaries, columns, side="right")
    low, gap, rank, tied = tf.unstack(tf.gather(tf.reshape(table, [-1, 4]), places), axis=2)
    rank = tf.where(columns == low, tied, rank + tf.math.divide_no_nan(columns - low, gap))
    return tf.transpose(rank / tf.cast(number + 1, tf.float32))
