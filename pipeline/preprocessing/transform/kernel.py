"""The transform of a model over columns of Arrow and NumPy: what its graph does, without a graph.

A graph turns each id into a string of TensorFlow's and runs an operation for each step of each
column; this goes through a column at once. It may not differ: :class:`Proof` runs the saved graph,
the one that serves, on some rows of everything that is transformed. Ids must be equal, and floats
within :data:`TOLERANCE`.
"""

import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import tensorflow as tf
import tensorflow_transform as tft

from features import numbers, preprocessing, spec
from features.catalogue import combined
from features.preprocessing import Fitted
from features.spec import Feature, Kind, ResolvedSpec

TOLERANCE = 1e-6  # of floats that are between -1 and 1
Arrays = dict[str, np.ndarray]


class Kernel:
    """The transform of one model.

    Args:
        resolved: The data set's features.
        model: ``candidate`` or ``ranker``.
        fitted: What its transform was fitted to.
    """

    def __init__(self, resolved: ResolvedSpec, model: str, fitted: Fitted) -> None:
        self._resolved = resolved
        self._model = model
        self._features = [f for f in resolved.of(model) if f.categorical]
        self._vectors = preprocessing.vectors(resolved, model)
        self._deviations = {n: numbers.Deviations(m) for n, m in fitted.moments.items()}
        self._quantiles = {
            column: numbers.Quantiles(fitted.boundaries[column], resolved.of(model, side, kind))
            for side, kind, _ in self._vectors
            if (column := spec.vector_column(side, kind)) in fitted.boundaries
        }
        self._vocabularies = {
            space: pa.array(pathlib.Path(path).read_bytes().decode().split("\n")[:-1], pa.string())
            for space, path in fitted.vocabularies.items()
        }

    def __call__(self, rows: pa.Table) -> dict[str, pa.Array | np.ndarray]:
        """Transforms raw examples.

        Args:
            rows: n raw examples.

        Returns:
            Names as of :func:`features.preprocessing.transformed_feature_spec`: ids, int64 [n] or
            [n, length]; vectors, float32 [n, F]; labels as they are, Arrow's.
        """
        outputs: dict[str, pa.Array | np.ndarray] = {
            name: combined(rows[name]) for name in preprocessing.labels(self._resolved, self._model)
        }
        for space, vocabulary in self._vocabularies.items():
            features = [f for f in self._features if f.space == space]
            columns = [combined(rows[f.name]) for f in features]
            ids = _ids(features, [_values(column) for column in columns], vocabulary)
            for feature, column, flat in zip(features, columns, ids, strict=True):
                is_list = feature.kind is Kind.MULTIVALENT
                outputs[feature.name] = (
                    _padded(column, flat, feature.max_length) if is_list else flat
                )
        for side, kind, names in self._vectors:
            column = spec.vector_column(side, kind)
            values = matrix(rows, column, len(names))
            if kind is Kind.VECTOR:
                outputs[column] = self._deviations[column](values)
            elif kind is Kind.BINARY:
                outputs[column] = numbers.binary(values, self._resolved.of(self._model, side, kind))
            else:
                outputs[column] = self._quantiles[column](values)
        return outputs


def matrix(rows: pa.Table, column: str, width: int) -> np.ndarray:
    """Returns a column of vectors, float32 [rows, width]."""
    flat = combined(rows[column]).flatten()
    return np.asarray(flat.to_numpy(zero_copy_only=False), np.float32).reshape(-1, width)


def _values(column: pa.Array) -> pa.Array:
    return column.flatten() if pa.types.is_list(column.type) else column


def _ids(
    features: Sequence[Feature], columns: Sequence[pa.Array], vocabulary: pa.Array
) -> list[np.ndarray]:
    """Looks up the distinct tokens of a space's columns at once; returns ids, int64 [m] each."""
    encoded = [column.dictionary_encode() for column in columns]
    distinct = []
    for feature, one in zip(features, encoded, strict=True):
        tag = preprocessing.tag_of(feature)
        tokens = one.dictionary
        distinct.append(pc.binary_join_element_wise(tag, tokens, "") if tag else tokens)
    places = pc.index_in(pa.concat_arrays(distinct), value_set=vocabulary)
    ids = np.asarray(pc.fill_null(places, -1), np.int64) + 1
    ends = np.cumsum([len(tokens) for tokens in distinct])
    parts = np.split(ids, ends[:-1])
    return [part[np.asarray(e.indices)] for part, e in zip(parts, encoded, strict=True)]


def _padded(column: pa.ListArray, ids: np.ndarray, length: int) -> np.ndarray:
    """Returns the ids of lists as int64 [n, length], padded with 0."""
    lengths = np.asarray(pc.list_value_length(column), np.int64)
    rows = np.repeat(np.arange(len(lengths)), lengths)
    places = np.arange(len(ids)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    padded = np.zeros([len(lengths), length], np.int64)
    padded[rows, places] = ids
    return padded


class Proof:
    """The saved graph of a model, to hold a kernel against."""

    def __init__(self, directory: pathlib.Path, resolved: ResolvedSpec, model: str) -> None:
        self._layer = tft.TFTransformOutput(str(directory)).transform_features_layer()
        self._columns = preprocessing.raw_feature_spec(resolved, model)
        self._vectors = {
            spec.vector_column(side, kind): len(names)
            for side, kind, names in preprocessing.vectors(resolved, model)
        }
        self._model = model

    def check(self, rows: pa.Table, transformed: Mapping[str, pa.Array | np.ndarray]) -> None:
        """Compares what the kernel and what the graph make of some rows.

        Raises:
            RuntimeError: They differ: a fault of the kernel. What it made must not be published.
        """
        expected = self._layer(self._tensors(rows))
        for name, tensor in expected.items():
            one, other = tensor.numpy(), _numpy(transformed[name], tensor.dtype)
            if tensor.dtype.is_floating:
                differs = ~np.isclose(one, other, rtol=0, atol=TOLERANCE, equal_nan=True)
            else:
                differs = one != other
            if differs.any():
                place = tuple(np.argwhere(differs)[0])
                user, time = (rows[key][int(place[0])].as_py() for key in ("user_id", "time"))
                raise RuntimeError(
                    f"the kernel makes of {name} of the {self._model} model something else than "
                    f"its transform graph: {other[place]} and {one[place]} of the example of user "
                    f"{user!r} at {time}."
                )

    def _tensors(self, rows: pa.Table) -> dict[str, tf.Tensor | tf.SparseTensor]:
        tensors: dict[str, tf.Tensor | tf.SparseTensor] = {}
        for name, feature in self._columns.items():
            column = combined(rows[name])
            if name in self._vectors:
                tensors[name] = tf.constant(matrix(rows, name, self._vectors[name]))
            elif isinstance(feature, tf.io.VarLenFeature):
                ragged = tf.ragged.constant(column.to_pylist(), tf.string, ragged_rank=1)
                tensors[name] = ragged.to_sparse()
            else:
                tensors[name] = tf.constant(column.to_pylist(), feature.dtype)
        return tensors


def _numpy(values: pa.Array | np.ndarray, dtype: tf.DType) -> np.ndarray:
    if isinstance(values, np.ndarray):
        return values
    if dtype is tf.string:
        return np.array([value.encode() for value in values.to_pylist()], object)
    return np.asarray(values, dtype.as_numpy_dtype)
