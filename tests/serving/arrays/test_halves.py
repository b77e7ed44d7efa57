import numpy as np

from serving.arrays import halves


def test_every_finite_half_is_the_same_number():
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    finite = every[np.isfinite(every)].reshape(2, -1)
    values = halves.to_float32(finite)
    assert values.dtype == np.float32
    np.testing.assert_array_equal(values, finite.astype(np.float32))
    np.testing.assert_array_equal(np.signbit(values), np.signbit(finite))
