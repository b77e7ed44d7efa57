"""Popularity as of each query: what everybody watched in the last hour, day, minutes.

Other baselines know what was known at training's end. These see more: the watches of the holdout
that came before the query, of all users. Where videos live for hours that is nearly everything,
and a model can only keep up if it is told as much (see :class:`Live`).
"""

import dataclasses

import numpy as np

from features.catalogue import ragged_rows
from features.durations import HOUR_S
from models.baselines.retrieval import Baseline, Floats, Ints, Queries

WINDOWS_S = {"1h": HOUR_S, "6h": 6 * HOUR_S, "1d": 24 * HOUR_S}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Live:
    """Watches of all users in the order of time.

    Attributes:
        times: Times of the watches, int64 [n], Unix seconds, ascending.
        rows: Catalogue rows of the watched videos, int64 [n].
        num_videos: N, number of videos of the catalogue.
    """

    times: Ints
    rows: Ints
    num_videos: int

    @classmethod
    def of(cls, *parts: Queries, num_videos: int) -> "Live":
        """Takes the labels of examples: completed watches, as far as the examples hold them."""
        times = np.concatenate([part.times for part in parts])
        rows = np.concatenate([part.label_rows for part in parts])
        order = np.argsort(times, kind="stable")
        order = order[rows[order] >= 0]
        return cls(times=times[order], rows=rows[order], num_videos=num_videos)

    def counts(self, now: Ints, window_s: int) -> Floats:
        """Returns float64 [q, N], watches with ``now - window_s <= time < now``."""
        first = np.searchsorted(self.times, now - window_s, side="left")
        end = np.searchsorted(self.times, now, side="left")
        lengths = np.maximum(end - first, 0)
        owner = np.repeat(np.arange(len(now)), lengths)
        cell = owner * self.num_videos + self.rows[ragged_rows(first, lengths)]
        counts = np.bincount(cell, minlength=len(now) * self.num_videos)
        return counts.reshape(len(now), self.num_videos).astype(np.float64)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LivePopularity:
    """Counts of a window before the query; ties by popularity in training.

    Attributes:
        name: Name of the baseline in tables.
        live: Watches of all users.
        window_s: Length of the window, seconds.
        tie_break: Popularity in training, float64 [N] in [0, 1).
    """

    name: str
    live: Live
    window_s: int
    tie_break: Floats

    def score(self, queries: Queries) -> Floats:
        """Returns float64 [Q, N]."""
        return self.live.counts(queries.times, self.window_s) + self.tie_break


def fit_all(train: Queries, holdout: Queries, order: Floats) -> list[Baseline]:
    """Returns live popularity of the last hour, six hours and day.

    Args:
        train: Training examples.
        holdout: ALL holdout examples, so that each query sees every watch before it.
        order: Popularity that breaks ties, float64 [N] in [0, 1).
    """
    live = Live.of(train, holdout, num_videos=len(order))
    return [
        LivePopularity(name=f"live_popularity_{name}", live=live, window_s=window, tie_break=order)
        for name, window in WINDOWS_S.items()
    ]
