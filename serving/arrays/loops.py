"""Loops of the ranker that Numba compiles, as :mod:`features.loops.of_pages`."""

import numpy as np
from numba import types

from features.loops.of_pages import array, compiled_for

_FLOATS = array(types.float32, 2, written=True)


@compiled_for(_FLOATS, array(types.uint16, 2), array(types.float32), types.float32)
def add_halves(hidden: np.ndarray, halves: np.ndarray, row: np.ndarray, least: float) -> None:
    """Adds numbers of half precision and a row, and raises what is below ``least`` to it.

    Args:
        hidden: float32 [N, P], changed in its place.
        halves: Bits of finite float16 numbers, uint16 [N, P].
        row: float32 [P].
        least: The rectifier's 0, or minus infinity.
    """
    width = len(row)
    bits = np.empty(width, np.int32)
    values = bits.view(np.float32)
    for i in range(len(hidden)):
        for j in range(width):  # As in serving.arrays.halves, which says why.
            bits[j] = (np.int32(halves[i, j]) & 0x7FFF) << 13
        for j in range(width):
            value = values[j] * np.float32(2.0**112)
            value = -value if halves[i, j] & 0x8000 else value
            total = hidden[i, j] + value + row[j]
            hidden[i, j] = least if total < least else total
