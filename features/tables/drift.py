"""How much the holdout, or what is served, differs from the training examples, by feature.

The distance is the Jensen-Shannon divergence in bits: with p and q the shares of training and
holdout in each bin and m = (p + q) / 2,

    JSD(p, q) = H(m) - (H(p) + H(q)) / 2,    H(p) = -sum p_i log2 p_i,

0 for equal shares, 1 where no bin has both. Bins of a number: at most 20 between the training
quantiles 0.05, 0.10, ..., 0.95, and one for missing values. Bins of ids: the 100 most frequent
training values, one for all others, and one for missing values.

Two samples of one distribution differ too: by about (B - 1) (1/n + 1/m) / (8 ln 2) with B bins and
n and m values (the second-order expansion of the divergence). That is the ``noise`` beside it.
Values of one bag, and examples of one user, are not independent: their noise is larger.
"""

import dataclasses
import itertools
import math
from collections.abc import Mapping

import numpy as np

FORMULA = (
    "Jensen-Shannon divergence, base 2: H((p+q)/2) - (H(p)+H(q))/2, H = -sum p log2 p, over the "
    "shares p (training) and q (holdout). Numbers: bins between the training quantiles 0.05 to "
    "0.95, and missing. Ids: the 100 most frequent in training, all others, and missing."
)
WARN_ABOVE = 0.1
WARN_ABOVE_NOISE = 3.0  # and as many times what two samples of one distribution differ by
TOP = 100
_SHARES = np.arange(0.05, 0.96, 0.05)
FILE = "training_bins.json"
OTHERS, MISSING = "(others)", "(missing)"


@dataclasses.dataclass(frozen=True)
class Bins:
    """Counts of one feature in the same bins.

    Attributes:
        names: Names of the bins, for people.
        train: int64 [B], counts of the training examples.
        holdout: int64 [B], counts of the holdout.
        edges: Upper ends of the bins of a number but the last; None of ids.
    """

    names: tuple[str, ...]
    train: np.ndarray
    holdout: np.ndarray
    edges: tuple[float, ...] | None = None

    @property
    def distance(self) -> float | None:
        """The divergence, in [0, 1]; None where one side has no values."""
        return jensen_shannon(self.train, self.holdout)

    @property
    def noise(self) -> float | None:
        """What two samples of these sizes differ by when nothing has changed."""
        n, m = int(self.train.sum()), int(self.holdout.sum())
        if not n or not m:
            return None
        used = int(((self.train + self.holdout) > 0).sum())
        return (used - 1) * (1 / n + 1 / m) / (8 * math.log(2))

    @property
    def warns(self) -> bool:
        """Whether the difference is large and more than noise."""
        distance, noise = self.distance, self.noise
        if distance is None or noise is None:
            return False
        return distance > max(WARN_ABOVE, WARN_ABOVE_NOISE * noise)


def jensen_shannon(train: np.ndarray, holdout: np.ndarray) -> float | None:
    """Returns the divergence of two lots of counts, in bits; None where one has none.

    Args:
        train: int64 [B], counts of the bins, 0 or more.
        holdout: int64 [B], counts of the same bins, 0 or more.

    Example:
        >>> one, other = np.array([8, 0]), np.array([0, 5])
        >>> jensen_shannon(one, one), jensen_shannon(one, other)
        (0.0, 1.0)
    """
    if not train.sum() or not holdout.sum():
        return None
    p, q = train / train.sum(), holdout / holdout.sum()
    divergence = _entropy((p + q) / 2) - (_entropy(p) + _entropy(q)) / 2
    return float(np.clip(divergence, 0.0, 1.0))


def _entropy(shares: np.ndarray) -> float:
    some = shares[shares > 0]
    return float(-(some * np.log2(some)).sum())


def of_numbers(train: np.ndarray, holdout: np.ndarray) -> Bins:
    """Bins the values of a number; NaN is missing.

    Args:
        train: float [n], values of the training examples.
        holdout: float [m], values of the holdout.
    """
    known = train[np.isfinite(train)]
    edges = np.unique(np.quantile(known, _SHARES)) if len(known) else np.zeros(0)
    # A bin ends with its edge: a value that ties with one stands with the smaller values.
    counts = [counted(values, edges) for values in (train, holdout)]
    shown = [f"{edge:.4g}" for edge in edges]
    if shown:
        between = [f"{a} to {b}" for a, b in itertools.pairwise(shown)]
        names = [f"up to {shown[0]}", *between, f"above {shown[-1]}"]
    else:
        names = ["all"]
    return Bins((*names, MISSING), counts[0], counts[1], tuple(edges.tolist()))


def counted(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Returns int64 [E + 2], counts of float [n] values between E edges, and of missing ones."""
    missing = np.isnan(values)
    place = np.searchsorted(edges, values[~missing], side="left")
    return np.append(np.bincount(place, minlength=len(edges) + 1), missing.sum())


def of_ids(
    train: Mapping[str, int], holdout: Mapping[str, int], *, missing: tuple[int, int]
) -> Bins:
    """Bins the values of a categorical feature.

    Args:
        train: Value to count, most frequent first.
        holdout: Value to count, in any order.
        missing: Numbers of missing values of training and holdout.
    """
    top = list(train)[:TOP]
    rows = []
    for counts, none in ((train, missing[0]), (holdout, missing[1])):
        known = [counts.get(name, 0) for name in top]
        rows.append(np.array([*known, sum(counts.values()) - sum(known), none], np.int64))
    return Bins((*top, OTHERS, MISSING), rows[0], rows[1])
