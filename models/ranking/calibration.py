"""Logits that stand for watch times: a rising curve through them, fitted to what was watched.

A tower that is stopped early, or whose loss cares for the order too, says who is watched longest
better than how long. A curve for all logits, fitted to the holdout, puts that right and leaves
every order as it is: straight between knots, steeper here and flatter there, never falling. Without
knots it is a scale and a shift (Platt, "Probabilistic outputs for support vector machines", 1999).
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import tensorflow as tf
import tf_keras
from scipy import optimize, special

Floats = npt.NDArray[np.float64]

# Few, or the curve follows chance: deciles come out farther from a known truth with 7 than with 3.
MOST_KNOTS = 3
# A piece holds at least so many clicks, so that its watch time is known to about 6%.
CLICKS_PER_PIECE = 500
# Of fewer clicks the height alone is learnt, not how steep the curve should be.
CLICKS_FOR_A_LINE = 100
# No piece is flatter, or steeper, than the straight line by more than this factor.
_BEND = 5.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Curve:
    """x' of x: a straight line, or several that meet.

        x' = height + slopes[0] min(x - knots[0], 0)
                    + slopes[i] clip(x - knots[i - 1], 0, knots[i] - knots[i - 1]) + ...

    Attributes:
        knots: Values of x where the slope changes, ascending, at least one.
        slopes: Slopes between the knots and beyond them, one more than knots, all above 0.
        height: x' at the first knot.
    """

    knots: tuple[float, ...] = (0.0,)
    slopes: tuple[float, ...] = (1.0, 1.0)
    height: float = 0.0

    def __call__(self, logits: npt.ArrayLike) -> Floats:
        """Returns x', float64 [n], for x [n]."""
        pieces = _pieces(np.asarray(logits, np.float64), self.knots)
        return np.asarray(self.height + pieces @ np.asarray(self.slopes))


def fit(
    logits: npt.ArrayLike,
    positive: npt.ArrayLike,
    negative: npt.ArrayLike,
    *,
    clicks_per_piece: int = CLICKS_PER_PIECE,
) -> Curve:
    """Fits x' to a weighted logistic loss.

        loss = positive log(1 + exp(-x')) + negative log(1 + exp(x'))

    The loss is convex in slopes and height, so there is one best curve for the knots, which part
    the clicks evenly.

    Args:
        logits: Logits x of the impressions, float [n].
        positive: Weight of each impression as a click, 0 or more, [n].
        negative: Weight of each impression as not clicked, 0 or more, [n].
        clicks_per_piece: Least number of impressions with a positive weight in a piece.

    Returns:
        The curve; x' = x where there is nothing to fit, or where the best straight line would turn
        the order round.

    Example:
        >>> x = np.linspace(-1, 1, 200)
        >>> curve = fit(x, np.exp(2 * x + 1), np.ones(200))  # Odds of exp(2 x + 1)
        >>> np.round(curve([0.0, 0.5]), 3).tolist()
        [1.0, 2.0]
    """
    x = np.asarray(logits, np.float64)
    positive, negative = np.asarray(positive, np.float64), np.asarray(negative, np.float64)
    if not positive.sum() or not negative.sum():
        return Curve()
    # Fitted to standardised logits: slopes and height then hardly depend on each other.
    mean, spread = float(x.mean()), float(x.std()) or 1.0
    z = (x - mean) / spread
    clicked = z[positive > 0]
    steepness = (0.0, None) if len(clicked) >= CLICKS_FOR_A_LINE else (spread, spread)
    line = _best(z[:, None], positive, negative, start=[spread, mean], bounds=[steepness])
    if line[0] <= 0:
        return Curve()
    pieces = min(len(clicked) // clicks_per_piece, MOST_KNOTS + 1)
    knots = np.unique(np.quantile(clicked, np.arange(1, pieces) / pieces)) if pieces > 1 else [0.0]
    slopes = [line[0]] * (len(knots) + 1)
    height = line[1] + line[0] * knots[0]
    if pieces > 1:
        *slopes, height = _best(
            _pieces(z, knots),
            positive,
            negative,
            start=[*slopes, height],
            bounds=[(line[0] / _BEND, line[0] * _BEND)] * len(slopes),
        )
    return Curve(
        knots=tuple(float(knot * spread + mean) for knot in knots),
        slopes=tuple(float(slope / spread) for slope in slopes),
        height=float(height),
    )


def fit_together(logits: npt.ArrayLike, labels: npt.ArrayLike) -> list[Curve]:
    """Fits straight lines of one slope to several logits, each line with a height of its own.

    Heads over the same towers are overconfident alike, and the rare ones cannot tell by how much:
    where hardly anything is positive, all hangs on the slope.

    Args:
        logits: Logits of K outcomes of each impression, float [n, K].
        labels: Which of them came about, 0 or 1 [n, K]; each at least once, and not always.

    Returns:
        K curves; x' = x where the best slope would turn the order round.
    """
    x, y = np.asarray(logits, np.float64), np.asarray(labels, np.float64)
    means = x.mean(axis=0)
    z = x - means  # Slope and heights then hardly depend on each other.

    def loss(weights: Floats) -> tuple[float, Floats]:
        raw = weights[0] * z + weights[1:]
        slopes = special.expit(raw) - y
        terms = np.logaddexp(0, raw) - y * raw
        return terms.sum() / len(z), np.append((slopes * z).sum(), slopes.sum(axis=0)) / len(z)

    steepness = (0.0, None) if y.sum() >= CLICKS_FOR_A_LINE else (1.0, 1.0)
    bounds = [steepness, *[(None, None)] * len(means)]
    best = optimize.minimize(loss, [1.0, *means], jac=True, method="L-BFGS-B", bounds=bounds)
    slope, *heights = (float(value) for value in best.x)
    if slope <= 0:
        return [Curve() for _ in means]
    return [
        Curve(knots=(float(mean),), slopes=(slope, slope), height=height)
        for mean, height in zip(means, heights, strict=True)
    ]


def _best(
    inputs: Floats,
    positive: Floats,
    negative: Floats,
    *,
    start: Sequence[float],
    bounds: Sequence[tuple[float | None, float | None]],
) -> list[float]:
    """Returns weights of inputs [n, k], within bounds, and then a constant; ``start`` likewise."""
    total = positive.sum() + negative.sum()

    def loss(weights: Floats) -> tuple[float, Floats]:
        raw = inputs @ weights[:-1] + weights[-1]
        slope = negative * special.expit(raw) - positive * special.expit(-raw)
        terms = positive * np.logaddexp(0, -raw) + negative * np.logaddexp(0, raw)
        return terms.sum() / total, np.append(slope @ inputs, slope.sum()) / total

    best = optimize.minimize(
        loss, start, jac=True, method="L-BFGS-B", bounds=[*bounds, (None, None)]
    )
    return [float(value) for value in best.x]


def _pieces(x: Floats, knots: Sequence[float] | Floats) -> Floats:
    """Returns how far each x has come within each piece, [n, knots + 1]; sums to x - knots[0]."""
    first, ends = np.asarray(knots, np.float64), np.append(knots[1:], np.inf)
    later = np.clip(x[:, None] - first, 0, ends - first)
    return np.concatenate([np.minimum(x - first[0], 0)[:, None], later], axis=1)


class Calibration(tf_keras.layers.Layer):
    """A curve as a part of a model; x' = x until one is set.

    Each piece rises, whatever is rounded: what was in order stays in order.
    """

    def __init__(self) -> None:
        super().__init__(name="calibration", trainable=False)
        self.knots = self._weights("knots", MOST_KNOTS, "zeros")
        self.slopes = self._weights("slopes", MOST_KNOTS + 1, "ones")
        self.height = self._weights("height", 1, "zeros")

    def _weights(self, name: str, count: int, initial: str) -> tf.Variable:
        return self.add_weight(name=name, shape=[count], initializer=initial, trainable=False)

    def set(self, curve: Curve) -> None:
        """Takes a curve over; one of fewer knots repeats its last."""
        spare = MOST_KNOTS - len(curve.knots)
        self.knots.assign([*curve.knots, *[curve.knots[-1]] * spare])
        # Pieces between equal knots have no length, so their slopes do not count.
        self.slopes.assign([*curve.slopes[:-1], *[curve.slopes[-1]] * (spare + 1)])
        self.height.assign([curve.height])

    def call(self, logits: tf.Tensor) -> tf.Tensor:
        """Returns x', float32 [N], for x, float32 [N]."""
        below = tf.minimum(logits - self.knots[0], 0.0) * self.slopes[0]
        lengths = tf.concat([self.knots[1:] - self.knots[:-1], [np.inf]], axis=0)
        beyond = tf.maximum(logits[:, None] - self.knots, 0.0)
        return self.height + below + tf.linalg.matvec(tf.minimum(beyond, lengths), self.slopes[1:])
