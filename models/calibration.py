"""Logits that stand for watch times again, after a loss that cares for their order alone.

The loss of pairs spreads logits beyond what the watch times warrant. A scale and a shift for all
of them, fitted to the holdout, put that right and leave every order as it is (Platt, "Probabilistic
outputs for support vector machines", 1999).
"""

import numpy as np
import numpy.typing as npt
from scipy import optimize, special

Floats = npt.NDArray[np.float64]


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
    # Fitted to standardised logits: scale and shift then hardly depend on each other.
    mean, spread = float(x.mean()), float(x.std()) or 1.0

    def loss(found: Floats) -> tuple[float, Floats]:
        raw = found[0] * x + found[1]
        slope = negative * special.expit(raw) - positive * special.expit(-raw)
        terms = positive * np.logaddexp(0, -raw) + negative * np.logaddexp(0, raw)
        return terms.sum() / total, np.array([slope @ x, slope.sum()]) / total

    x, total = (x - mean) / spread, positive.sum() + negative.sum()
    best = optimize.minimize(
        loss, [spread, mean], jac=True, method="L-BFGS-B", bounds=[(0.0, None), (None, None)]
    )
    scale = float(best.x[0]) / spread
    shift = float(best.x[1]) - scale * mean
    return (scale, shift) if scale > 0 else (1.0, 0.0)
