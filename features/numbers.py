"""Numbers of raw examples to what models read, in NumPy: what the transform graph does, without it.

Preprocessing goes through columns with it, a server through requests. It may not differ from
:mod:`features.preprocessing`, which has the formulas: a proof in each preprocessing and a gate of
each release hold the two together.
"""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from features.as_of.entity_lookup import NEVER_S
from features.loops import compiled
from features.spec import Feature

LARGEST = 1e30  # beyond this a difference of two boundaries could overflow float32
LARGEST_ENTRY = LARGEST**0.25  # of a vector feature, whose squares are added up
# Fewer rows are not worth looking for what is usual; with more, a search for each column pays.
_FEW, _MANY = 8, 4096
_SINCE = "_seconds_since_"


def filled(values: np.ndarray, features: Sequence[Feature]) -> np.ndarray:
    """Does what :func:`features.preprocessing.fill_missing` does, float32 [n, F]."""
    missing = np.array([f.missing for f in features], np.float32)
    largest = np.float32(LARGEST)
    return np.clip(np.where(np.isnan(values), missing, values), -largest, largest)


def binary(values: np.ndarray, features: Sequence[Feature]) -> np.ndarray:
    """Returns binary values float32 [n, F] with NaN replaced, in [0, 1]."""
    return np.clip(filled(values, features), np.float32(0), np.float32(1))


class Quantiles:
    """Quantiles by linear interpolation, :func:`features.preprocessing.interpolated_quantile`.

    Most values of a candidate's numbers are one and the same, of what was never watched, clicked or
    shown: their quantiles are found once.

    Args:
        boundaries: Boundaries of F columns, float32 [F, Q], ascending in each row.
        features: F declarations, in the order of the columns.
    """

    def __init__(self, boundaries: np.ndarray, features: Sequence[Feature]) -> None:
        self._boundaries = np.ascontiguousarray(boundaries, np.float32)
        self._features = features
        usual = [NEVER_S if _SINCE in f.name else f.missing for f in features]
        self._usual = np.clip(
            np.array(usual, np.float32), -np.float32(LARGEST), np.float32(LARGEST)
        )

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """Returns the quantile of each value, float32 [n, F] in [0, 1).

        Args:
            values: Values, float32 [n, F], NaN where missing.
        """
        loops = compiled.loops()
        if loops is not None and 0 < len(values) < _MANY:
            return np.asarray(loops.quantiles(values, *self._of_loops))
        known = filled(values, self._features)
        rows, width = known.shape
        if rows < _FEW:
            columns = np.broadcast_to(np.arange(width), known.shape).reshape(-1)
            return self._searched(known.reshape(-1), columns).reshape(known.shape)
        result = np.empty((rows, width), np.float32)
        result[:] = self._of_usual
        if rows < _MANY:
            flat = np.flatnonzero(known != self._usual)
            result.reshape(-1)[flat] = self._searched(known.reshape(-1)[flat], flat % width)
            return result
        for column, boundaries in enumerate(self._boundaries):
            one = np.ascontiguousarray(known[:, column])
            places = np.flatnonzero(one != self._usual[column])
            one = one[places]
            reached = np.searchsorted(boundaries, one, side="right")
            result[places, column] = self._ranked(one, column, reached)
        return result

    @functools.cached_property
    def _of_usual(self) -> np.ndarray:
        return self._searched(self._usual, np.arange(len(self._usual)))

    @functools.cached_property
    def _of_loops(self) -> tuple[Any, ...]:
        """What the compiled loop takes beside the values."""
        width, number = self._boundaries.shape
        missing = np.array([f.missing for f in self._features], np.float32)
        reached = self._reached.reshape(width, number + 1, 4)
        usual = (self._usual, self._of_usual)
        return missing, np.float32(LARGEST), self._boundaries, reached, *usual

    @functools.cached_property
    def _padded(self) -> tuple[np.ndarray, int]:
        """The boundaries in a row, padded to 2^steps - 1 of each column; and the steps."""
        width, number = self._boundaries.shape
        steps = max(int(number).bit_length(), 1)
        padded = np.full((width, (1 << steps) - 1), np.inf, np.float32)
        padded[:, :number] = self._boundaries
        return padded.reshape(-1), steps

    @functools.cached_property
    def _reached(self) -> np.ndarray:
        """What depends on the boundaries alone, by how many of them a value has reached.

        float32 [F * (Q + 1), 4]: the last one reached, the gap after it, its rank, and the rank of
        what ties with it.
        """
        width, number = self._boundaries.shape
        table = np.empty((width, number + 1, 4), np.float32)
        table[:, 0] = [-np.inf, 0.0, 0.5, 0.5]
        if number:
            ranks = np.arange(1, number + 1, dtype=np.float32)
            beyond = np.zeros(number, np.float32)
            beyond[-1] = 0.5
            below = np.stack([np.searchsorted(b, b, side="left") for b in self._boundaries])
            table[:, 1:, 0] = self._boundaries
            table[:, 1:-1, 1] = self._boundaries[:, 1:] - self._boundaries[:, :-1]
            table[:, -1, 1] = 0.0
            table[:, 1:, 2] = ranks + beyond
            table[:, 1:, 3] = (below + 1 + np.arange(1, number + 1)).astype(np.float32) / 2
        return table.reshape(-1, 4)

    def _searched(self, values: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Returns quantiles float32 [m] of filled values float32 [m] of columns int [m]."""
        padded, steps = self._padded
        first = columns * ((1 << steps) - 1) - 1
        reached = np.zeros(len(values), np.int64)
        for step in range(steps - 1, -1, -1):
            # One step of all binary searches at once.
            jump = 1 << step
            reached += jump * (padded.take(first + reached + jump) <= values)
        return self._ranked(values, columns, reached)

    def _ranked(
        self, values: np.ndarray, columns: np.ndarray | int, reached: np.ndarray
    ) -> np.ndarray:
        """Returns quantiles float32 [m] of values that have reached so many boundaries, int [m]."""
        number = self._boundaries.shape[1]
        low, gap, rank, tied = self._reached.take(columns * (number + 1) + reached, axis=0).T
        with np.errstate(divide="ignore", invalid="ignore"):
            share = np.where(gap > 0, (values - low) / gap, np.float32(0))
        rank = np.where(values == low, tied, rank + share)
        return rank / np.float32(number + 1)


def known_entries(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns which entries of vectors are finite, bool, and those, bounded, with 0 for others."""
    known = np.isfinite(vectors)
    largest = np.float32(LARGEST_ENTRY)
    return known, np.clip(np.where(known, vectors, np.float32(0)), -largest, largest)


class Deviations:
    """Distances from the mean of the training examples, in a third of standard deviations.

    Args:
        moments: Number, sum and sum of squares of each entry, float32 [3, W], see
            :func:`features.dataset.moments`.
    """

    def __init__(self, moments: np.ndarray) -> None:
        number, total, squares = np.array(moments, np.float32)
        count = np.maximum(number, np.float32(1))
        self._mean = total / count
        variance = np.maximum(squares / count - np.square(self._mean), np.float32(0))
        self._deviation = np.sqrt(variance + np.float32(1e-8))

    def __call__(self, vectors: np.ndarray) -> np.ndarray:
        """Returns vectors float32 [n, W] in [-1, 1]; 0 where an entry is missing.

        Args:
            vectors: Raw vectors, float32 [n, W], NaN where missing.
        """
        known, there = known_entries(vectors)
        deviations = (there - self._mean) / self._deviation
        bounded = np.clip(deviations / np.float32(3), np.float32(-1), np.float32(1))
        return np.where(known, bounded, np.float32(0))
