"""Logits that stand for watch times again, after a loss that cares for their order alone.

The loss of pairs spreads logits beyond what the watch times warrant. A scale and a shift for all
of them, fitted to the holdout, put that right and leave every order as it is (Platt, "Probabilistic
outputs for support vector machines", 1999).
"""

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
_STEPS = 100
_CONVERGED = 1e-9
_RIDGE = 1e-9  # Keeps the curvature invertible where all logits are the same.


def scale_and_shift(logits: Floats, positive: Floats, negative: Floats) -> tuple[float, float]:
    """Fits x' = scale x + shift to a weighted logistic loss.

        loss = positive log(1 + exp(-x')) + negative log(1 + exp(x'))

    Args:
        logits: x, float [n].
        positive: Weight of each impression as a click, 0 or more, [n].
        negative: As what was not clicked, [n].

    Returns:
        The scale, above 0, and the shift. (1, 0) where there is nothing to fit, or where the best
        scale would turn the order round.
    """
    x = np.asarray(logits, np.float64)
    positive, negative = np.asarray(positive, np.float64), np.asarray(negative, np.float64)
    if not positive.sum() or not negative.sum():
        return 1.0, 0.0
    inputs = np.stack([x, np.ones_like(x)], axis=1)
    found = np.array([1.0, 0.0])
    loss = _loss(inputs @ found, positive, negative)
    for _ in range(_STEPS):
        share = 1 / (1 + np.exp(-np.clip(inputs @ found, -500, 500)))
        gradient = inputs.T @ (negative * share - positive * (1 - share))
        curvature = (positive + negative) * share * (1 - share)
        hessian = (inputs * curvature[:, np.newaxis]).T @ inputs
        step = np.linalg.solve(hessian + _RIDGE * np.trace(hessian) * np.eye(2), gradient)
        # Newton's step from afar may overshoot: halved until it goes down.
        while (lower := _loss(inputs @ (found - step), positive, negative)) > loss:
            step /= 2
            if np.abs(step).max() < _CONVERGED:
                break
        if lower > loss:
            break
        found, gain, loss = found - step, loss - lower, lower
        if gain <= _CONVERGED * abs(loss):
            break
    scale, shift = float(found[0]), float(found[1])
    return (scale, shift) if scale > 0 and np.isfinite(shift) else (1.0, 0.0)


def _loss(logits: Floats, positive: Floats, negative: Floats) -> float:
    terms = positive * np.logaddexp(0, -logits) + negative * np.logaddexp(0, logits)
    return float(terms.sum())
