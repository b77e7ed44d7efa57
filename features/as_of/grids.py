"""Grids of what users did, laid out by name; those of a page by compiled loops.

:meth:`features.as_of.history.History.video_grid` says what they are.
"""

import types
from collections.abc import Mapping

import numpy as np

from features import spec
from features.as_of.entity_lookup import NEVER_S
from features.catalogue import Catalogue
from features.event_columns import Events

Slice = tuple[Events, int, int]  # Events, and [start, end) of those that count.


def of_user(loops: types.ModuleType, seen: Mapping[str, Slice], *, now: int) -> np.ndarray:
    """Returns the grid of whatever a user did, float32 [1, G]; arguments as of :func:`of_page`."""
    since = _since(now)
    answers = {}
    for kind, (events, start, end) in seen.items():
        counts, sums, ago = loops.count_all(
            events.time, events.watch_time_ms, start, end, since, now, int(NEVER_S)
        )
        answers[kind] = (counts, sums, ago)
    return side_by_side(answers)


def of_page(
    loops: types.ModuleType,
    catalogue: Catalogue,
    seen: Mapping[str, Slice],
    *,
    now: int,
    rows: np.ndarray,
) -> np.ndarray:
    """Returns the grids of videos, their channels and their topics, float32 [3 G, n].

    Args:
        loops: See :func:`features.loops.compiled.loops`.
        catalogue: Catalogue of all videos.
        seen: What the user did that counts at the moment, by kind in the order of the grid.
        now: Moment, Unix seconds.
        rows: int [n], catalogue rows, -1 for none.
    """
    rows = np.ascontiguousarray(rows, np.int32)
    channels, names = catalogue.channels
    offsets, topics, _ = catalogue.topics
    numbering = (channels, offsets, topics, len(catalogue) + len(names))
    keys, slots, slot_of, used = loops.entity_slots(rows, *numbering)
    since = _since(now)
    counts = np.zeros((len(seen), used, len(since)), np.int64)
    sums = np.zeros((len(seen), used, len(since)), np.int64)
    ago = np.full((len(seen), used), int(NEVER_S), np.int64)
    for place, (events, start, end) in enumerate(seen.values()):
        which = (events.time, events.video, events.watch_time_ms, start, end)
        into = (counts[place], sums[place], ago[place])
        loops.count_events(keys, slots, *numbering, *which, since, now, *into)
    watched = sums[list(seen).index("watch")]
    grid = loops.grid_columns(slot_of, rows, offsets, counts, watched, ago, NEVER_S)
    return np.asarray(grid).reshape(-1, len(rows))


def _since(now: int) -> np.ndarray:
    """Returns where each window begins, int64 [W], Unix seconds."""
    windows = spec.WINDOWS_S.values()
    return np.array([0 if w is None else max(now - w, 0) for w in windows], np.int64)


def side_by_side(answers: Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray]]) -> np.ndarray:
    """Returns answers by kind of event side by side, float32 [q, F], as ``grid_names`` has them."""
    return np.concatenate(
        [
            *(counts for counts, _, _ in answers.values()),
            answers["watch"][1] / 1000,
            *(last[:, np.newaxis] for _, _, last in answers.values()),
        ],
        axis=1,
    ).astype(np.float32)


def named(entity: str, grid: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the columns of a grid by name, float32 [q] each."""
    return dict(zip(spec.grid_names(entity), grid.T, strict=True))


def per_video(pairs: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Reduces the grid of (query, topic) pairs to one row per query."""
    since = len(spec.KINDS_OF_EVENT)  # Columns at the end: the others are counts.
    result = np.zeros((len(lengths), pairs.shape[1]), np.float32)
    result[:, -since:] = NEVER_S
    if len(pairs):
        some = lengths > 0
        starts = (np.cumsum(lengths) - lengths)[some]
        result[some, :-since] = np.maximum.reduceat(pairs[:, :-since], starts)
        result[some, -since:] = np.minimum.reduceat(pairs[:, -since:], starts)
    return result


def largest(pairs: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Reduces counts of (query, topic) pairs to the largest of each query."""
    result = np.zeros((len(lengths), pairs.shape[1]), np.float32)
    some = lengths > 0
    if len(pairs):
        starts = (np.cumsum(lengths) - lengths)[some]
        result[some] = np.maximum.reduceat(pairs, starts)
    return result
