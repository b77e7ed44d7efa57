"""Vectors around 0, as the transform graph makes them of raw ones."""

import numpy as np

from serving.arrays.quantiles import LARGEST

# As in features.preprocessing.
LARGEST_ENTRY = LARGEST**0.25
_LEAST_VARIANCE = np.float32(1e-8)
_FARTHEST = np.float32(3)


class Deviations:
    """Distances from the mean of the training examples, in a third of standard deviations."""

    def __init__(self, moments: np.ndarray) -> None:
        """Prepares.

        Args:
            moments: Number, sum and sum of squares of each entry, float32 [3, W], see
                :func:`features.dataset.moments`.
        """
        number, total, squares = np.array(moments, np.float32)
        count = np.maximum(number, np.float32(1))
        self._mean = total / count
        variance = np.maximum(squares / count - np.square(self._mean), np.float32(0))
        self._deviation = np.sqrt(variance + _LEAST_VARIANCE)

    def __call__(self, vectors: np.ndarray) -> np.ndarray:
        """Returns vectors float32 [n, W] in [-1, 1]; 0 where an entry is missing.

        Args:
            vectors: Raw vectors, float32 [n, W], NaN where missing.
        """
        known = np.isfinite(vectors)
        largest = np.float32(LARGEST_ENTRY)
        there = np.clip(np.where(known, vectors, np.float32(0)), -largest, largest)
        deviations = (there - self._mean) / self._deviation
        bounded = np.clip(deviations / _FARTHEST, np.float32(-1), np.float32(1))
        return np.where(known, bounded, np.float32(0))
