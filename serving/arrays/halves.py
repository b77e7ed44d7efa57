"""Half precision to single, by its bits: NumPy's own cast takes twice as long."""

import numpy as np

_SIGN, _REST = np.int32(0x8000), np.int32(0x7FFF)
_SHIFT, _TO_TOP = 13, 16  # Bits by which the fraction is longer, and the sign further up.
_BIAS = np.float32(2.0**112)  # Between the two biases of exponents, 127 - 15.


def to_float32(halves: np.ndarray) -> np.ndarray:
    """Returns finite float16 numbers as float32, exactly, in the same shape."""
    bits = np.ascontiguousarray(halves).view(np.uint16).astype(np.int32)
    signs = (bits & _SIGN) << _TO_TOP
    bits &= _REST
    bits <<= _SHIFT
    values = bits.view(np.float32)
    values *= _BIAS
    bits |= signs
    return values
