"""Finds a candidate model that has collapsed: one list for everyone, or embeddings all alike.

Such a model can have a fair MAP, that of popularity, so metrics alone do not show it. The rule:

* lists: of two queries at random, the lists have 99% or more of their videos in common; or
* spread: the embeddings of queries differ by less than a ten-thousandth of their length; or
* norm: embeddings of queries or of videos are shorter than a ten-thousandth, on average.

A round that breaks it is never the best one, whatever its metrics. Lists of fewer than 20 videos
are not compared: nearly everybody may well want the same there.
"""

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

COVERAGE, OVERLAP = "coverage_at_100", "list_overlap_at_100"
QUERY_SPREAD, QUERY_NORM, VIDEO_NORM = "query_spread", "query_norm", "video_norm"
NAMES = (COVERAGE, OVERLAP, QUERY_SPREAD, QUERY_NORM, VIDEO_NORM)
_MAX_OVERLAP = 0.99
_MIN_SPREAD = _MIN_NORM = 1e-4
_LIST = 100
_MAX_QUERIES = 512
# Fewer say nothing: a handful of users may well want the same.
_FEWEST_QUERIES = 16
_FEWEST_VIDEOS = 20
_MAX_SCORES = 4e8

Floats = npt.NDArray[Any]


def measure(queries: Floats, videos: Floats, *, seed: int = 0) -> dict[str, float]:
    """Returns the signs of a collapse, by name.

    A list holds 100 videos, or a tenth of the corpus where that is less, but 10 at least. Coverage
    is the share of the corpus that some list holds, of what so many lists could hold.

    Args:
        queries: float32 [Q, D + 1], the last column is 1.
        videos: float32 [N, D + 1], those that may be recommended; the last column is the bias.
        seed: Seed of the choice of queries that are looked at, 512 at most.
    """
    number = int(min(len(queries), _MAX_QUERIES, max(_FEWEST_QUERIES, _MAX_SCORES // len(videos))))
    if number < _FEWEST_QUERIES:
        return {}
    some = queries[np.random.default_rng(seed).choice(len(queries), number, replace=False)]
    vectors = some[:, :-1].astype(np.float64)
    norm = float(np.linalg.norm(vectors, axis=1).mean())
    differences = np.linalg.norm(vectors - vectors.mean(axis=0), axis=1)
    return {
        **(_of_lists(some, videos) if len(videos) >= _FEWEST_VIDEOS else {}),
        QUERY_SPREAD: float(differences.mean()) / max(norm, 1e-30),
        QUERY_NORM: norm,
        VIDEO_NORM: float(np.linalg.norm(videos[:, :-1], axis=1).mean()),
    }


def _of_lists(queries: Floats, videos: Floats) -> dict[str, float]:
    size = min(_LIST, max(10, len(videos) // 10))
    lists = _best(queries, videos, size)
    shared = [len(np.intersect1d(one, other)) for one, other in itertools.pairwise(lists)]
    return {
        COVERAGE: len(np.unique(lists)) / min(len(videos), lists.size),
        OVERLAP: float(np.mean(shared)) / size,
    }


def _best(queries: Floats, videos: Floats, size: int) -> npt.NDArray[np.int64]:
    """Returns the rows of the best videos of each query, int64 [Q, size], in no order."""
    block = max(1, int(_MAX_SCORES // 16 // len(videos)))
    parts = []
    for start in range(0, len(queries), block):
        scores = queries[start : start + block] @ videos.T
        # Equal scores would come in an arbitrary order, the same for everyone.
        parts.append(np.argpartition(-scores, size - 1, axis=1)[:, :size])
    return np.concatenate(parts).astype(np.int64)


def signs(metrics: Mapping[str, float]) -> list[str]:
    """Returns what is wrong, in words; nothing where all is well or was not measured.

    Args:
        metrics: Holdout metrics, those of :func:`measure` among them.
    """
    symptoms = []
    if metrics.get(OVERLAP, 0.0) >= _MAX_OVERLAP:
        symptoms.append(
            f"everyone gets the same list: {metrics[OVERLAP]:.1%} of two lists is the same "
            f"(allowed: below {_MAX_OVERLAP:.0%})"
        )
    if metrics.get(QUERY_SPREAD, 1.0) < _MIN_SPREAD:
        symptoms.append(
            f"all queries have the same embedding: they differ by {metrics[QUERY_SPREAD]:.2g} of "
            f"their length (needed: {_MIN_SPREAD:g})"
        )
    for name, what in ((QUERY_NORM, "queries"), (VIDEO_NORM, "videos")):
        if metrics.get(name, 1.0) < _MIN_NORM:
            symptoms.append(
                f"the embeddings of {what} are {metrics[name]:.2g} long (needed: {_MIN_NORM:g})"
            )
    return symptoms
