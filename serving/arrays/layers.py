"""The layers of both models in NumPy, float32: products, rectifiers, calibration curves."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np


class Dense(NamedTuple):
    """A dense layer.

    Attributes:
        kernel: float32 [in, out].
        bias: float32 [out].
    """

    kernel: np.ndarray
    bias: np.ndarray

    def __call__(self, inputs: np.ndarray) -> np.ndarray:
        """Returns inputs @ kernel + bias, float32 [B, out]."""
        product = inputs @ self.kernel
        product += self.bias
        return product

    @classmethod
    def from_arrays(cls, name: str, arrays: Mapping[str, np.ndarray]) -> "Dense":
        """Returns the layer that :func:`dense_arrays` named."""
        return cls(arrays[f"{name}.kernel"], arrays[f"{name}.bias"])


def dense_arrays(name: str, kernel: np.ndarray, bias: np.ndarray) -> dict[str, np.ndarray]:
    """Returns a layer's arrays by name."""
    return {f"{name}.kernel": kernel, f"{name}.bias": bias}


def relu(values: np.ndarray) -> np.ndarray:
    """Returns max(values, 0), in the place of ``values``."""
    return np.maximum(values, 0, out=values)


class Curve(NamedTuple):
    """A calibration curve, see :class:`models.ranking.calibration.Calibration`.

    Attributes:
        knots: float32 [k].
        slopes: float32 [k + 1].
        height: float32 [1].
    """

    knots: np.ndarray
    slopes: np.ndarray
    height: np.ndarray

    def __call__(self, logits: np.ndarray) -> np.ndarray:
        """Returns x', float32 [N], for x, float32 [N]."""
        below = np.minimum(logits - self.knots[0], 0) * self.slopes[0]
        lengths = np.append(np.diff(self.knots), np.float32(np.inf))
        beyond = np.maximum(logits[:, None] - self.knots, 0)
        return self.height + below + np.minimum(beyond, lengths) @ self.slopes[1:]

    @classmethod
    def from_arrays(cls, name: str, arrays: Mapping[str, np.ndarray]) -> "Curve":
        """Returns the curve whose three arrays stand under a name."""
        return cls(*(arrays[f"{name}.{part}"] for part in cls._fields))


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Returns 1 / (1 + exp(-x)), float32 [N], without overflow."""
    chances: np.ndarray = 0.5 * (1 + np.tanh(0.5 * logits))
    return chances.astype(np.float32)
