"""Scores of many impressions by a ranker in memory, in batches, compiled once."""

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from models.ranking.model import Ranker, distinct_queries

Array = npt.NDArray[np.generic]
_SCORE_BATCH = 8192


class Rows:
    """A function of rows, compiled once for any number of them.

    TensorFlow would compile it for the rows of the first call, and anew for the fewer ones of the
    last, which takes seconds.

    Args:
        function: Function of tensors by name, leading dimension n.
    """

    def __init__(self, function: Callable[[Mapping[str, tf.Tensor]], tf.Tensor]) -> None:
        self._function = tf.function(function)
        self._signature: dict[str, tf.TensorSpec] = {}

    def __call__(self, rows: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Returns what the function does."""
        signature = {n: tf.TensorSpec([None, *t.shape[1:]], t.dtype) for n, t in rows.items()}
        if signature != self._signature:
            self._function.get_concrete_function(signature)
            self._signature = signature
        return self._function(rows)


class Scorer:
    """Scores many impressions in batches, compiled once; fastest where pages stand together.

    Args:
        model: Ranker that scores.
        of_heads: Whether the logits are those of its heads before calibration, float32 [n, K].
    """

    def __init__(self, model: Ranker, *, of_heads: bool = False) -> None:
        self._names = (*model.query_columns, *model.candidate_columns)

        def logits(part: Mapping[str, tf.Tensor]) -> tf.Tensor:
            query, places = distinct_queries(part, model.query_columns)
            if of_heads and model.heads is not None:
                return model.heads.logits(model.outputs_of(query, part, places=places).top)
            return model.logits(query, part, places=places)

        self._logits = Rows(logits)

    def __call__(self, impressions: Mapping[str, Array]) -> npt.NDArray[np.float32]:
        """Returns the logit of each impression, float32 [n].

        Args:
            impressions: Transformed features of both sides by name, leading dimension n.
        """
        parts = []
        for start in range(0, len(impressions[self._names[0]]), _SCORE_BATCH):
            rows = slice(start, start + _SCORE_BATCH)
            part = {name: tf.constant(impressions[name][rows]) for name in self._names}
            parts.append(self._logits(part).numpy())
        return np.concatenate(parts) if parts else np.zeros(0, np.float32)
