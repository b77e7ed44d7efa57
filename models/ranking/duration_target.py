"""A training target that long videos do not win by their length.

Seconds of watch time grow with the length of a video whether it was liked or not, so a ranker of
seconds favours long videos. The target ``relative`` divides what was watched by what videos of
like duration are watched for:

    y = T / f(d),    f(d) = mean T of clicks on videos of like duration / mean T of all clicks

The ranker then learns E[y], and orders by it: a short video that holds people longer than other
short videos do stands above a long one that is mediocre among its like. Since f is known for each
video, inference maps back, and exactly so, whatever f is:

    E[T] = f(d) E[y]

f is piecewise linear in the duration's quantile, through the means of equal shares of the
impressions; a thin share leans on the mean of all.

Sources: Zhan et al., KDD 2022, "Deconfounding Duration Bias in Watch-time Prediction for Video
Recommendation" (D2Q), for grouping by duration and mapping back; Zheng et al., MM 2022, "DVR:
Micro-Video Recommendation Optimizing Watch-Time-Gain under Duration Bias", for measuring a watch
against the mean of its group. D2Q's quantiles do not map back to an expectation, a ratio does.
"""

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from features import command, spec
from features.spec import Kind, ResolvedSpec, Side

FEATURE = "duration_s"
COLUMN = spec.vector_column(Side.CANDIDATE, Kind.CONTINUOUS)
GROUPS = 20
# A group's mean leans on the mean of all until it holds about so many clicks.
_PRIOR_CLICKS = 20.0
# A video cannot count for less than this share of the average one: f divides.
_LEAST = 0.05


def position(resolved: ResolvedSpec) -> int:
    """Returns where the duration stands in the candidate side's continuous vector.

    Raises:
        command.InputError: The data set has no durations.
    """
    names = resolved.vector_names(spec.RANKER, Side.CANDIDATE, Kind.CONTINUOUS)
    if FEATURE not in names:
        raise command.InputError(
            f"target=relative needs the durations of videos, but the examples have no {FEATURE!r}: "
            "add the column duration_s to the videos table, or use target=seconds."
        )
    return names.index(FEATURE)


class Means:
    """Sums up clicks by duration; see :meth:`factors`."""

    def __init__(self) -> None:
        self._clicks = np.zeros(GROUPS)
        self._seconds = np.zeros(GROUPS)

    def add(self, quantiles: npt.ArrayLike, clicked: npt.ArrayLike, seconds: npt.ArrayLike) -> None:
        """Adds impressions.

        Args:
            quantiles: Quantiles of the duration, float [n] in [0, 1).
            clicked: Whether each impression was clicked, 0 or 1 [n].
            seconds: Watch time, float [n]; read where clicked.
        """
        rows = np.asarray(clicked) > 0
        group = np.asarray(quantiles, np.float64)[rows] * GROUPS
        group = np.clip(group, 0, GROUPS - 1).astype(np.int64)
        watched = np.asarray(seconds, np.float64)[rows]
        self._clicks += np.bincount(group, minlength=GROUPS)
        self._seconds += np.bincount(group, weights=watched, minlength=GROUPS)

    def factors(self) -> npt.NDArray[np.float32]:
        """Returns f at the middle of each group, float32 [GROUPS], 1 for an average video."""
        mean = self._seconds.sum() / max(self._clicks.sum(), 1.0)
        if mean <= 0:
            return np.ones(GROUPS, np.float32)
        own = (self._seconds + _PRIOR_CLICKS * mean) / (self._clicks + _PRIOR_CLICKS)
        return np.maximum(own / mean, _LEAST).astype(np.float32)


def factor(quantiles: tf.Tensor, factors: tf.Tensor) -> tf.Tensor:
    """Returns f(d), float32 [n]: linear between the middles of groups, level beyond the ends.

    Args:
        quantiles: Quantiles of the duration, float32 [n] in [0, 1).
        factors: Factors of the groups, float32 [GROUPS], see :meth:`Means.factors`.
    """
    place = tf.clip_by_value(quantiles * GROUPS - 0.5, 0.0, GROUPS - 1.0)
    below = tf.minimum(tf.floor(place), GROUPS - 2.0)
    share = place - below
    row = tf.cast(below, tf.int32)
    return tf.gather(factors, row) * (1.0 - share) + tf.gather(factors, row + 1) * share
