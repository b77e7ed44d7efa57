"""Raw features to what a model reads, and that to dense vectors: the transform graph in NumPy.

It follows from the spec, the vocabularies, boundaries and moments of the release, and gives what
the transform graph of the SavedModel gives; a gate compares the two
(:mod:`serving.building.array_trials`).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from features import numbers, spec
from features.spec import Kind, ResolvedSpec, Side
from serving.arrays.constants import Constants
from serving.arrays.vocabulary import Ids, Vocabulary, token

Arrays = Mapping[str, np.ndarray]


def boundaries_name(side: Side) -> str:
    """Returns the name of the boundaries of a side's continuous features, float32 [F, Q]."""
    return f"boundaries.{side.value}"


def moments_name(side: Side) -> str:
    """Returns the name of the moments of a side's vectors, float32 [3, W]."""
    return f"moments.{side.value}"


def tables_of(constants: Constants) -> dict[str, np.ndarray]:
    """Returns the embedding tables by space, float32 [V + 1, width] each, row 0 zero."""
    start = "table."
    return {n.removeprefix(start): v for n, v in constants.arrays.items() if n.startswith(start)}


class RawSide:
    """The transform of one side of a model: strings to ids, numbers to quantiles, vectors.

    Attributes:
        ids: Ids of values; whoever has them may give them in the place of strings.
    """

    def __init__(
        self, resolved: ResolvedSpec, model: str, side: Side, constants: Constants
    ) -> None:
        """Prepares."""
        self._side = side
        features = resolved.of(model, side)
        self._spaces = {
            space: (
                Vocabulary.from_arrays(space, constants.arrays),
                [f for f in features if f.categorical and f.space == space],
            )
            for space in dict.fromkeys(f.space for f in features if f.categorical)
        }
        self.ids = Ids({space: vocabulary for space, (vocabulary, _) in self._spaces.items()})
        self._binary = resolved.of(model, side, Kind.BINARY)
        continuous = resolved.of(model, side, Kind.CONTINUOUS)
        self.quantiles = None
        if continuous:
            boundaries = constants.arrays[boundaries_name(side)]
            self.quantiles = numbers.Quantiles(boundaries, continuous)
        self._deviations = None
        if resolved.of(model, side, Kind.VECTOR):
            self._deviations = numbers.Deviations(constants.arrays[moments_name(side)])

    def __call__(self, raw: Arrays) -> dict[str, np.ndarray]:
        """Returns ids int32 and numbers float32 by name, in the shapes of the raw inputs."""
        transformed: dict[str, np.ndarray] = {}
        for vocabulary, categorical in self._spaces.values():
            features = [f for f in categorical if raw[f.name].dtype != np.int32]
            transformed |= {f.name: raw[f.name] for f in categorical if f not in features}
            given = [np.asarray(raw[f.name]) for f in features]
            # Most of a padded list is "", which is not looked for.
            told = [np.flatnonzero(values.reshape(-1) != "") for values in given]
            texts = [
                token(feature, text)
                for feature, values, places in zip(features, given, told, strict=True)
                for text in values.reshape(-1)[places].tolist()
            ]
            ids = vocabulary.lookup(texts)
            start = 0
            for feature, values, places in zip(features, given, told, strict=True):
                flat = np.zeros(values.size, np.int32)
                flat[places] = ids[start : start + len(places)]
                transformed[feature.name] = flat.reshape(values.shape)
                start += len(places)
        if self.quantiles is not None:
            name = spec.vector_column(self._side, Kind.CONTINUOUS)
            transformed[name] = self.quantiles(np.asarray(raw[name], np.float32))
        if self._binary:
            name = spec.vector_column(self._side, Kind.BINARY)
            transformed[name] = numbers.binary(np.asarray(raw[name], np.float32), self._binary)
        if self._deviations is not None:
            name = spec.vector_column(self._side, Kind.VECTOR)
            transformed[name] = self._deviations(np.asarray(raw[name], np.float32))
        return transformed


class DenseSide:
    """The dense vector of a side, as :meth:`models.embeddings.SideInputs.dense` makes it."""

    def __init__(
        self,
        layout: Sequence[Mapping[str, Any]],
        tables: Mapping[str, np.ndarray],
        *,
        of_group: bool = False,
    ) -> None:
        """Prepares.

        Args:
            layout: Result of :meth:`models.embeddings.SideInputs.layout`.
            tables: Embedding table of each space, float32 [V + 1, width], row 0 zero.
            of_group: Whether columns of numbers hold the group alone, see there.
        """
        self._parts = layout
        self._tables = tables
        self._places = "of_group" if of_group else "of_all"

    def __call__(self, features: Arrays) -> np.ndarray:
        """Returns the dense vector of each row, float32 [B, F], of transformed features."""
        parts: list[np.ndarray] = []
        for part in self._parts:
            if "feature" in part:
                parts.append(mean(self._tables[part["space"]], features[part["feature"]]))
                continue
            values = features[part["column"]]
            places = part[self._places]
            if places is not None:
                values = values[:, places]
            parts.append(values)
            if part["powers"]:
                parts += [np.square(values), np.sqrt(np.maximum(values, 0))]
        return np.concatenate(parts, axis=1, dtype=np.float32)


def mean(table: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Returns the mean embedding of each row's known ids, float32 [B, width].

    Args:
        table: float32 [V + 1, width], row 0 zero.
        ids: int [B], or bags int [B, L]; 0 is none.
    """
    if ids.ndim == 1:
        return table.take(ids, axis=0)
    if len(ids) == 1:
        known = ids[0][ids[0] > 0]
        total = table.take(known, axis=0).sum(axis=0, keepdims=True)
        return np.asarray(total / max(len(known), 1), np.float32)
    counts = np.maximum((ids > 0).sum(axis=1, keepdims=True), 1).astype(np.float32)
    return table.take(ids, axis=0).sum(axis=1) / counts


def members(table: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Returns the embedding of each member, float32 [B, L, width], of bags int [B, L]."""
    return table.take(ids, axis=0)
