"""A ranker whose products run in bfloat16 where that is faster on this machine, and right.

Some processors multiply bfloat16 at twice the speed of float32, others imitate it slowly. And only
the machine that serves knows. So a release has both signatures, and whoever loads it tries both
on its first requests.
"""

import statistics
import threading
import time

import numpy as np
from absl import logging

from serving.model import Arrays, Model

TURNS = 6
# bfloat16 has 8 bits: logits differ by some hundredths, watch times by as many per cent.
TOLERANCE = 0.1
_LOGIT = "logit"
_GAIN = 0.9  # A switch should be worth it.


class FasterOf:
    """Two signatures of one model: the exact one answers until the other has proved itself.

    Args:
        exact: float32.
        reduced: The same with products in bfloat16.
    """

    def __init__(self, exact: Model, reduced: Model) -> None:
        self._exact = exact
        self._reduced = reduced
        self._chosen: Model | None = None
        self._lock = threading.Lock()
        self._seconds: dict[Model, list[float]] = {exact: [], reduced: []}
        self._gap = 0.0

    @property
    def is_reduced(self) -> bool:
        """Whether the choice fell, and on bfloat16."""
        return self._chosen is self._reduced

    def predict(self, inputs: Arrays, *, deadline_s: float | None = None) -> dict[str, np.ndarray]:
        """See :class:`serving.model.Model`; the first :data:`TURNS` calls ask both."""
        if self._chosen is not None:
            return self._chosen.predict(inputs, deadline_s=deadline_s)
        with self._lock:  # One at a time, or they would disturb each other's time.
            if self._chosen is not None:
                return self._chosen.predict(inputs, deadline_s=deadline_s)
            return self._try(inputs, deadline_s)

    def _try(self, inputs: Arrays, deadline_s: float | None) -> dict[str, np.ndarray]:
        outputs = {}
        for model in (self._exact, self._reduced):
            started = time.perf_counter()
            outputs[model] = model.predict(inputs, deadline_s=deadline_s)
            self._seconds[model].append(time.perf_counter() - started)
        exact, reduced = outputs[self._exact], outputs[self._reduced]
        if len(exact[_LOGIT]):
            # np.maximum keeps a NaN, which no tolerance allows.
            gap = np.abs(exact[_LOGIT] - reduced[_LOGIT]).max()
            self._gap = float(np.maximum(self._gap, gap))
        if len(self._seconds[self._exact]) == TURNS:
            self._choose()
        return exact

    def _choose(self) -> None:
        # The first call of each traces and plans; the median does not mind.
        exact, reduced = (
            1000 * statistics.median(self._seconds[m]) for m in (self._exact, self._reduced)
        )
        right = self._gap <= TOLERANCE
        self._chosen = self._reduced if right and reduced < _GAIN * exact else self._exact
        logging.info(
            "The ranker runs in %s: float32 %.1f ms, bfloat16 %.1f ms, logits differ by %.3f.",
            *("bfloat16" if self.is_reduced else "float32", exact, reduced, self._gap),
        )
