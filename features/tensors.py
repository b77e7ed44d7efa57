"""Example columns as arrays in the shape that serving signatures and models take."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features import spec
from features.catalogue import combined
from features.screen import progress
from features.spec import Feature, Kind, ResolvedSpec, Side

_BATCH = 4096


def to_arrays(
    batch: pa.RecordBatch | pa.Table, resolved: ResolvedSpec, model: str, side: Side
) -> dict[str, np.ndarray]:
    """Converts the columns of one side of a model.

    Args:
        batch: Columns as in :mod:`features.as_of.examples`, n rows; others are ignored.
        resolved: The data set's features.
        model: Name of the model, ``candidate`` or ``ranker``.
        side: Side of the model, query or candidate.

    Returns:
        Univalent: object (str) [n]; multivalent: object (str) [n, max_length] padded with "";
        vectors: float32 [n, F].
    """
    arrays = {}
    for feature in resolved.of(model, side):
        if feature.kind is Kind.UNIVALENT:
            arrays[feature.name] = combined(batch[feature.name]).to_numpy(zero_copy_only=False)
        elif feature.kind is Kind.MULTIVALENT:
            arrays[feature.name] = padded(combined(batch[feature.name]), feature.max_length)
    for kind in spec.NUMERIC:
        width = len(resolved.vector_names(model, side, kind))
        if width:
            name = spec.vector_column(side, kind)
            values = combined(batch[name]).flatten().to_numpy(zero_copy_only=False)
            arrays[name] = values.astype(np.float32, copy=False).reshape(-1, width)
    return arrays


def padded(lists: pa.ListArray, length: int) -> np.ndarray:
    """Returns list<string> [n] as object [n, length], cut or padded with ""."""
    sizes = np.asarray(pc.fill_null(pc.list_value_length(lists), 0), np.int64)
    values = lists.flatten().to_numpy(zero_copy_only=False)
    if len(sizes) and sizes.max() > length:
        place = np.arange(len(values)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        values = values[place < length]
    result = np.full((len(sizes), length), "", object)
    result[np.arange(length) < sizes[:, np.newaxis]] = values
    return result


def signature_shapes(
    resolved: ResolvedSpec, model: str, side: Side
) -> Mapping[str, tuple[str, Sequence[int | None]]]:
    """Returns name to (dtype name, shape) of every array of :func:`to_arrays`."""

    def shape(feature: Feature) -> Sequence[int | None]:
        return [None] if feature.kind is Kind.UNIVALENT else [None, feature.max_length]

    shapes = {f.name: ("string", shape(f)) for f in resolved.of(model, side) if f.categorical}
    for kind in spec.NUMERIC:
        width = len(resolved.vector_names(model, side, kind))
        if width:
            shapes[spec.vector_column(side, kind)] = ("float32", [None, width])
    return shapes


def side_columns(resolved: ResolvedSpec, model: str, side: Side) -> list[str]:
    """Returns the names of the inputs of one side of a model, each once."""
    names = [f.name for f in resolved.of(model, side) if f.categorical]
    names += [
        spec.vector_column(side, f.kind) for f in resolved.of(model, side) if not f.categorical
    ]
    return list(dict.fromkeys(names))


def side_features(
    resolved: ResolvedSpec, model: str, side: Side, arrays: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Returns the inputs of one side of a model, by name; those that are not there are left out."""
    return {name: arrays[name] for name in side_columns(resolved, model, side) if name in arrays}


def in_batches(
    tower: Callable[[dict[str, np.ndarray]], Any],
    features: Mapping[str, np.ndarray],
    *,
    phase: str = "",
) -> np.ndarray:
    """Runs a model over many rows, some at a time.

    Args:
        tower: Function of arrays by name that gives float32 [n, width].
        features: Arrays by name, leading dimension N.
        phase: Name of what is done, for the progress that is shown; "" where it is not worth it.

    Returns:
        float32 [N, width].
    """
    rows = len(next(iter(features.values())))
    if phase:
        progress.at(phase, total=rows, unit="rows")
    parts = []
    for start in range(0, max(rows, 1), _BATCH):
        part = tower({name: array[start : start + _BATCH] for name, array in features.items()})
        parts.append(np.asarray(part, np.float32))
        if phase:
            progress.add(len(parts[-1]))
    return np.concatenate(parts)
