"""Columns that know the label, which no audit of times sees.

A declared column of the videos or users is one value for all times. Where it is a total of today,
likes so far or views, it knows what came after old examples, and is not there when a new video is
served. Three signs:

* it tells clicked from unclicked impressions nearly perfectly;
* it tells them apart much better, or worse, on the holdout than in training;
* of a video, it rises with how often that was watched in the whole log, as only a total does.

How well a number tells them apart is the AUC: the chance that a clicked impression has more of it
than an unclicked one, .5 for a column that knows nothing. The third sign is Spearman's rank
correlation over videos.
"""

import dataclasses
import math
from typing import Any

import numpy as np
import polars as pl

TOO_GOOD = 0.95  # AUC, or 1 minus it.
CHANGES_BY = 0.1  # Of the AUC, and so many times its standard error ...
CHANGES_NOISE = 4.0
# Rank correlation with a video's watches. Of the 51 totals that KuaiRand has of the month around
# its log 25 reach it (plays .87, likes .76); of what is known at the upload nothing comes above .1.
A_TOTAL = 0.7
_FEWEST = 50  # Clicks, other impressions or videos: below, nothing is told.
_FEWEST_VALUES = 10


@dataclasses.dataclass(frozen=True, kw_only=True)
class Relation:
    """How one declared column goes with the labels.

    Attributes:
        feature: Name of the feature.
        train: AUC of the training impressions; None where there are too few.
        holdout: AUC of the holdout's; None likewise.
        noise: Standard error of the difference of the two, about.
        watches: Rank correlation with the watches of a video in the whole log; None for users.
    """

    feature: str
    train: float | None
    holdout: float | None
    noise: float
    watches: float | None

    @property
    def warnings(self) -> list[str]:
        """What is too good to be true, one phrase each."""
        phrases = []
        if self.train is not None and abs(self.train - 0.5) >= TOO_GOOD - 0.5:
            phrases.append(f"tells clicks from the rest too well to be true (AUC {self.train:.2f})")
        if self.train is not None and self.holdout is not None:
            change = abs(self.train - self.holdout)
            if change > max(CHANGES_BY, CHANGES_NOISE * self.noise):
                phrases.append(
                    f"tells clicks apart with AUC {self.train:.2f} in training and "
                    f"{self.holdout:.2f} in the holdout"
                )
        if self.watches is not None and self.watches >= A_TOTAL:
            phrases.append(
                f"rises with the watches of a video in the whole log (rank correlation "
                f"{self.watches:.2f}), as a total of today does"
            )
        return phrases

    def to_json(self) -> dict[str, Any]:
        """Returns all of it, for ``statistics.json``."""
        return {**dataclasses.asdict(self), "warnings": self.warnings}


REMEDY = (
    "A total of today knows the future of old examples: give the column its value as of the "
    "upload, count it as of the moment (features of origin statistics and history do), or leave "
    "it out."
)


def auc(values: np.ndarray, clicked: np.ndarray) -> tuple[float, float] | None:
    """Returns the AUC of known values and its standard error; None where too few are known.

    Args:
        values: float [n], NaN where missing.
        clicked: bool [n].

    Source: Hanley & McNeil, Radiology 1982, for the standard error.
    """
    known = np.isfinite(values)
    values, clicked = values[known], clicked[known]
    positive, negative = int(clicked.sum()), int((~clicked).sum())
    if min(positive, negative) < _FEWEST:
        return None
    ranks = _ranks(values)
    area = float((ranks[clicked].sum() - positive * (positive + 1) / 2) / (positive * negative))
    q1, q2 = area / (2 - area), 2 * area * area / (1 + area)
    variance = area * (1 - area) + (positive - 1) * (q1 - area**2) + (negative - 1) * (q2 - area**2)
    return area, math.sqrt(max(variance, 0.0) / (positive * negative))


def rank_correlation(values: np.ndarray, watches: np.ndarray) -> float | None:
    """Returns Spearman's correlation over videos; None where too few values are known."""
    known = np.isfinite(values)
    if known.sum() < _FEWEST or len(np.unique(values[known])) < _FEWEST_VALUES:
        return None
    one, other = (ranks - ranks.mean() for ranks in (_ranks(values[known]), _ranks(watches[known])))
    spread = math.sqrt(np.square(one).sum() * np.square(other).sum())
    return float(np.dot(one, other)) / spread if spread else None


def _ranks(values: np.ndarray) -> np.ndarray:
    """Returns ranks from 1, of equal values their mean, float64 [n]."""
    # Not SciPy's, which takes a second to import.
    return pl.Series(values).rank("average").to_numpy()


def relation(
    feature: str,
    *,
    train: tuple[np.ndarray, np.ndarray],
    holdout: tuple[np.ndarray, np.ndarray] | None,
    videos: tuple[np.ndarray, np.ndarray] | None,
) -> Relation:
    """Returns how a column goes with the labels.

    Args:
        feature: Name of the feature.
        train: Its values in training impressions, float [n], and which were clicked, bool [n].
        holdout: Values and clicks of the holdout's impressions; None without one.
        videos: Its value for each video, float [N], and that video's watches; None of a user's.
    """
    first = auc(*train)
    second = None if holdout is None else auc(*holdout)
    return Relation(
        feature=feature,
        train=first and first[0],
        holdout=second and second[0],
        noise=math.hypot(first[1] if first else 0.0, second[1] if second else 0.0),
        watches=None if videos is None else rank_correlation(*videos),
    )
