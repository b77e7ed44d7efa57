"""What the funnel sees of a model, wherever it runs."""

from collections.abc import Mapping
from typing import Protocol

import numpy as np

Arrays = Mapping[str, np.ndarray]


class Model(Protocol):
    """One signature of one model version. Safe for threads."""

    def predict(self, inputs: Arrays, *, deadline_s: float | None = None) -> dict[str, np.ndarray]:
        """Returns the outputs by name.

        Args:
            inputs: Name to array: strings as object arrays of str, numbers in the signature's
                dtype.
            deadline_s: Seconds that the answer may take; None for the backend's default.

        Raises:
            ModelError: See the subclasses.
        """
