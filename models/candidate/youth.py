"""A bias by the age of a video: what is new is watched more than its features can tell.

    b_i <- b_i + w 2^(-a_i / 2 days)

with a_i the age at the end of training, 0 for what is uploaded later.

What training has met has biases of its own (:mod:`models.candidate.recent_biases`). A video that it
has not met has none, whether it was uploaded a minute ago or stood there for a year unwatched: its
features place it among tastes, and its age tells which of the two it is. w is fitted together with
the weights of recent watches; only models whose videos have a vector have it.

The half-life was chosen on a simulated site of another size than those of docs/results.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from features.durations import DAY_S

Array = npt.NDArray[Any]
HALF_LIFE_S = 2.0 * DAY_S
# What a servable gives beside embeddings where there is such a bias: w and the end of training.
OUTPUT = "youth"


def decayed(upload_times: Array, until_s: float) -> npt.NDArray[np.float64]:
    """Returns 2^(-age / half-life) of videos, float64 [n] in (0, 1].

    Args:
        upload_times: Unix seconds, [n].
        until_s: End of training, Unix seconds.

    Example:
        >>> decayed(np.array([0, 172_800, 999_999]), until_s=172_800).tolist()
        [0.5, 1.0, 1.0]
    """
    return np.exp2(-np.maximum(until_s - np.asarray(upload_times, np.float64), 0) / HALF_LIFE_S)


def with_bias(answer: dict[str, Array], upload_times: Array) -> npt.NDArray[np.float32]:
    """Returns the embeddings that a servable gave, the bias by age added, float32 [n, D + 1].

    Args:
        answer: ``embedding`` and, where the model has the bias, ``youth``, float32 [n, 2].
        upload_times: Upload times of these videos, Unix seconds, [n].
    """
    embeddings = np.array(answer["embedding"], np.float32)
    if OUTPUT in answer and len(embeddings):
        weight, until_s = np.asarray(answer[OUTPUT], np.float64)[0]
        embeddings[:, -1] += (weight * decayed(upload_times, until_s)).astype(np.float32)
    return embeddings
