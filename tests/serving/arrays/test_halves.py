import numpy as np
import pytest

from features.loops import compiled
from serving.arrays import halves


def test_every_finite_half_is_the_same_number():
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    finite = every[np.isfinite(every)].reshape(2, -1)
    values = halves.to_float32(finite)
    assert values.dtype == np.float32
    np.testing.assert_array_equal(values, finite.astype(np.float32))
    np.testing.assert_array_equal(np.signbit(values), np.signbit(finite))


@pytest.mark.parametrize("least", [0.0, -np.inf])
def test_the_compiled_sum_is_that_of_numpy(needs_module, least):
    needs_module("numba")
    loops = compiled.loops("serving.arrays.loops")
    finite = np.arange(2**16, dtype=np.uint16).view(np.float16)
    finite = finite[np.isfinite(finite)]
    parts = np.random.default_rng(1).permutation(finite)[:60_000].reshape(100, 600)
    hidden, row = (
        np.random.default_rng(n).normal(size=size).astype(np.float32)
        for n, size in enumerate([(100, 600), 600])
    )
    hidden[3, 5] = np.nan
    expected = np.maximum(hidden + halves.to_float32(parts) + row, np.float32(least))
    loops.add_halves(hidden, parts.view(np.uint16), row, np.float32(least))
    np.testing.assert_array_equal(hidden, expected)
