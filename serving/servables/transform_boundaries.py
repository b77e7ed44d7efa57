"""The quantile boundaries inside a transform graph.

A prepared request has some numbers as quantiles already; the others need the boundaries of their
own columns. tf.Transform keeps these as plain constants of its graph, without a name to ask for.
So every constant of the right shape is a guess, and only one that gives exactly what the graph
gives is taken.
"""

import os
import pathlib
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from features import preprocessing, spec
from features.spec import Kind, ResolvedSpec, Side

Floats = npt.NDArray[np.float32]
_PROBES = 512


def candidate_continuous(
    transform_fn: str | os.PathLike[str],
    resolved: ResolvedSpec,
    quantiles: Callable[[Floats], Floats],
) -> Floats:
    """Returns the boundaries of the ranker's candidate-side continuous vector, float32 [F, Q].

    Args:
        transform_fn: Directory of the graph's SavedModel.
        resolved: The data set's features.
        quantiles: The graph itself: a raw vector float32 [n, F] to its quantiles.

    Raises:
        RuntimeError: The graph keeps them in another way.
    """
    features = resolved.of(spec.RANKER, Side.CANDIDATE, Kind.CONTINUOUS)
    for boundaries in _constants(transform_fn, len(features)):
        probes = _probes(boundaries)
        filled = preprocessing.fill_missing(tf.constant(probes), features)
        ours = preprocessing.interpolated_quantile(filled, tf.constant(boundaries))
        if np.array_equal(ours.numpy(), quantiles(probes)):
            return boundaries
    raise RuntimeError(
        f"the transform graph in {transform_fn} has no constant that gives its quantiles; "
        "tf.Transform keeps them in another way than the versions in setup.py."
    )


def _constants(transform_fn: str | os.PathLike[str], rows: int) -> Iterator[Floats]:
    saved = saved_model_pb2.SavedModel()
    saved.ParseFromString((pathlib.Path(transform_fn) / "saved_model.pb").read_bytes())
    graph = saved.meta_graphs[0].graph_def
    nodes = [*graph.node, *(n for function in graph.library.function for n in function.node_def)]
    for node in nodes:
        if node.op == "Const" and node.attr["value"].tensor.dtype == tf.float32.as_datatype_enum:
            shape = [dim.size for dim in node.attr["value"].tensor.tensor_shape.dim]
            if len(shape) == 2 and shape[0] == rows:
                yield tf.make_ndarray(node.attr["value"].tensor)


def _probes(boundaries: Floats) -> Floats:
    """Returns values on, between and beyond the boundaries, and missing ones: float32 [n, F]."""
    rng = np.random.default_rng(0)
    columns = np.arange(len(boundaries))
    last = boundaries.shape[1]
    some = [boundaries[columns, rng.integers(last, size=(_PROBES, len(columns)))] for _ in "ab"]
    beyond = [boundaries[:, 0] - 1, boundaries[:, -1] + 1, np.full(len(columns), np.nan)]
    return np.concatenate([some[0], (some[0] + some[1]) / 2, beyond]).astype(np.float32)
