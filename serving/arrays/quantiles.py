"""Quantiles by linear interpolation, as :func:`features.preprocessing.interpolated_quantile`.

The same boundaries, and the same formula in float32, without a search per value where most values
are usual: of 500 candidates most were never watched, clicked or shown, so that most of their
numbers are one and the same.
"""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from features.as_of.entity_lookup import NEVER_S
from features.spec import Feature

LARGEST = 1e30  # As in features.preprocessing.
_SINCE = "_seconds_since_"


@dataclasses.dataclass(frozen=True, eq=False)
class Quantiles:
    """The quantiles of some columns.

    Attributes:
        boundaries: Boundaries of F columns, float32 [F, Q], ascending in each row.
        missing: Values in place of NaN, float32 [F].
        usual: The value that most rows have, float32 [F]; any value is right.
    """

    boundaries: np.ndarray
    missing: np.ndarray
    usual: np.ndarray

    @classmethod
    def of(cls, boundaries: np.ndarray, features: Sequence[Feature]) -> "Quantiles":
        """Returns those of features whose boundaries are float32 [F, Q]."""
        missing = np.array([f.missing for f in features], np.float32)
        usual = [NEVER_S if _SINCE in f.name else f.missing for f in features]
        return cls(np.asarray(boundaries, np.float32), missing, np.array(usual, np.float32))

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """Returns the quantile of each value, float32 [n, F] in [0, 1).

        Args:
            values: Values, float32 [n, F], NaN where missing.
        """
        filled = np.where(np.isnan(values), self.missing, values)
        np.clip(filled, -LARGEST, LARGEST, out=filled)
        rows, width = filled.shape
        if rows < 8:
            columns = np.broadcast_to(np.arange(width), filled.shape).reshape(-1)
            return self._searched(filled.reshape(-1), columns).reshape(filled.shape)
        result = np.empty((rows, width), np.float32)
        result[:] = self._of_usual
        flat = np.flatnonzero(filled != self.usual)
        result.reshape(-1)[flat] = self._searched(filled.reshape(-1)[flat], flat % width)
        return result

    @functools.cached_property
    def _of_usual(self) -> np.ndarray:
        filled = np.clip(self.usual, -LARGEST, LARGEST)
        return self._searched(filled.astype(np.float32), np.arange(len(filled)))

    @functools.cached_property
    def _padded(self) -> tuple[np.ndarray, int]:
        """The boundaries in a row, padded to 2^steps - 1 of each column; and the steps."""
        width, number = self.boundaries.shape
        steps = max(int(number).bit_length(), 1)
        padded = np.full((width, (1 << steps) - 1), np.inf, np.float32)
        padded[:, :number] = self.boundaries
        return padded.reshape(-1), steps

    @functools.cached_property
    def _reached(self) -> np.ndarray:
        """What depends on the boundaries alone, by how many of them a value has reached.

        float32 [F * (Q + 1), 4]: the last one reached, the gap after it, its rank, and the rank of
        what ties with it, see :func:`features.preprocessing.interpolated_quantile`.
        """
        width, number = self.boundaries.shape
        table = np.empty((width, number + 1, 4), np.float32)
        table[:, 0] = [-np.inf, 0.0, 0.5, 0.5]
        if number:
            ranks = np.arange(1, number + 1, dtype=np.float32)
            beyond = np.zeros(number, np.float32)
            beyond[-1] = 0.5
            below = np.stack([np.searchsorted(b, b, side="left") for b in self.boundaries])
            table[:, 1:, 0] = self.boundaries
            table[:, 1:-1, 1] = self.boundaries[:, 1:] - self.boundaries[:, :-1]
            table[:, -1, 1] = 0.0
            table[:, 1:, 2] = ranks + beyond
            table[:, 1:, 3] = (below + 1 + np.arange(1, number + 1)).astype(np.float32) / 2
        return table.reshape(-1, 4)

    def _searched(self, values: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Returns quantiles float32 [m] of filled values float32 [m] of columns int [m]."""
        padded, steps = self._padded
        number = self.boundaries.shape[1]
        first = columns * ((1 << steps) - 1) - 1
        reached = np.zeros(len(values), np.int64)
        for step in range(steps - 1, -1, -1):
            # One step of all binary searches at once.
            jump = 1 << step
            reached += jump * (padded.take(first + reached + jump) <= values)
        low, gap, rank, tied = self._reached.take(columns * (number + 1) + reached, axis=0).T
        with np.errstate(divide="ignore", invalid="ignore"):
            share = np.where(gap > 0, (values - low) / gap, np.float32(0))
        rank = np.where(values == low, tied, rank + share)
        quantiles: np.ndarray = rank / np.float32(number + 1)
        return quantiles
