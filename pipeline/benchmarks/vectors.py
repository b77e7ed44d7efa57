"""Synthetic embeddings that are as hard to search as those of a trained model.

Videos lie around many centres of uneven size, have norms that differ by a factor of several, and
a softmax bias as their last column. Queries of users mix a few centres and end in 1.
"""

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
_CENTRES = 4_000
_LATENT = 48  # Directions that matter; the other dimensions are noise, as in trained embeddings.
_BLOCK = 50_000


def videos(count: int, dimension: int, *, seed: int = 0) -> Floats:
    """Returns float32 [count, dimension + 1], the bias last."""
    rng = np.random.default_rng(seed)
    centres = _centres(dimension)
    popularity = rng.zipf(1.5, size=_CENTRES).clip(max=200).astype(np.float64)
    owner = rng.choice(_CENTRES, size=count, p=popularity / popularity.sum())
    result = np.empty((count, dimension + 1), np.float32)
    for start in range(0, count, _BLOCK):
        block = slice(start, min(start + _BLOCK, count))
        size = block.stop - block.start
        vectors = centres[owner[block]] + 0.6 * _noise(rng, size, dimension)
        vectors *= rng.gamma(6.0, 1 / 6, size=(size, 1))
        result[block, :-1] = vectors
    result[:, -1] = rng.normal(-1.0, 0.7, size=count)
    return result


def queries(count: int, dimension: int, *, seed: int = 1) -> Floats:
    """Returns float32 [count, dimension + 1], the last column 1."""
    rng = np.random.default_rng(seed)
    centres = _centres(dimension)
    mixed = rng.dirichlet(np.full(3, 0.7), size=count)
    chosen = rng.integers(_CENTRES, size=(count, 3))
    vectors = np.einsum("qc,qcd->qd", mixed, centres[chosen]) + 0.3 * _noise(rng, count, dimension)
    vectors *= rng.gamma(6.0, 1 / 6, size=(count, 1))
    return np.concatenate([vectors, np.ones((count, 1))], axis=1).astype(np.float32)


def _centres(dimension: int) -> npt.NDArray[np.float64]:
    rng = np.random.default_rng(99)
    latent = rng.normal(size=(_CENTRES, _LATENT)) / np.sqrt(_LATENT)
    basis, _ = np.linalg.qr(rng.normal(size=(dimension, min(_LATENT, dimension))))
    return 4.0 * latent[:, : basis.shape[1]] @ basis.T


def _noise(rng: np.random.Generator, count: int, dimension: int) -> Floats:
    """Returns noise of norm about 1, float32 [count, dimension], stronger in few directions."""
    weights = 1.0 / np.sqrt(1.0 + np.arange(dimension))
    weights /= np.linalg.norm(weights)
    return rng.standard_normal((count, dimension), np.float32) * weights.astype(np.float32)
