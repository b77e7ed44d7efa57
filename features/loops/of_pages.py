"""Loops over the candidates of a page, compiled by Numba: one call where NumPy takes dozens.

No feature is defined here. What a loop computes is what the NumPy code beside its only caller
computes, to the bit; tests hold the two together, and a server without Numba runs that code. Ask
:func:`features.loops.compiled.loops` for this module.

Each function has one signature, so that none is compiled while a request waits. Arrays of a release
may be memory-mapped, and so are taken as read-only.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import numba
import numpy as np
from absl import logging
from numba import types

Function = TypeVar("Function", bound=Callable[..., Any])

_INT, _FLOAT, _DOUBLE = types.int64, types.float32, types.float64
_HASH = np.uint64(0x9E3779B97F4A7C15)  # 2^64 over the golden ratio: spreads consecutive numbers.
_NONE = -1


def array(dtype: Any, dimensions: int = 1, *, layout: str = "C", written: bool = False) -> Any:
    """Returns the type of an array that is read, or written to."""
    return types.Array(dtype, dimensions, layout, readonly=not written)


def compiled_for(*arguments: Any) -> Callable[[Function], Function]:
    """Compiles a function for arguments of these types, or takes what was compiled before."""

    def compiled(function: Function) -> Function:
        options = {"nogil": True, "error_model": "numpy"}
        try:
            return numba.njit(arguments, cache=True, **options)(function)
        except RuntimeError as error:
            if "cache" not in str(error):
                raise
            # Neither beside this file nor in the home directory can anything be written.
            logging.warning("Compiled anew at each start, set NUMBA_CACHE_DIR: %s", error)
            return numba.njit(arguments, **options)(function)

    return compiled


_I32, _I64, _F32 = array(types.int32), array(_INT), array(_FLOAT)
_TABLE = (array(_INT, written=True), array(types.int32, written=True))
_CATALOGUE = (_I32, _I64, _I32)  # Channel of each video; where its topics begin, and topics.


# ---- the grid of what a user did, see features.as_of.history ---------------------------------


@numba.njit(nogil=True)
def _place(keys: np.ndarray, entity: int) -> Any:
    """Returns where an entity is in a hash table, or where it would be put."""
    mask = len(keys) - 1
    place = np.int64((np.uint64(entity) * _HASH) >> np.uint64(32)) & mask
    while keys[place] != entity and keys[place] != _NONE:
        place = (place + 1) & mask
    return place


@compiled_for(_I32, *_CATALOGUE, _INT)
def entity_slots(
    rows: np.ndarray,
    channels: np.ndarray,
    offsets: np.ndarray,
    topics: np.ndarray,
    first_topic: int,
) -> Any:
    """Numbers the distinct videos, channels and topics of candidates.

    Args:
        rows: int32 [n], rows of the catalogue, -1 for none.
        channels: int32 [N], -1 for none; the number of channel c is N + c.
        offsets: int64 [N + 1], where the topics of each video begin.
        topics: int32; the number of topic t is ``first_topic + t``.
        first_topic: N and the number of channels.

    Returns:
        A hash table: entities int64 [2^b], -1 where there is none, and their slots, int32; the slot
        of each video, each channel and each topic of the candidates, int32 [n + n + topics], -1 for
        none; the number of slots.
    """
    count = len(rows)
    total = 2 * count
    for row in rows:
        if row >= 0:
            total += offsets[row + 1] - offsets[row]
    size = 16
    while size < 2 * total:
        size *= 2
    keys, slots = np.full(size, _NONE, np.int64), np.empty(size, np.int32)
    slot_of = np.full(total, _NONE, np.int32)
    used, end = 0, 2 * count
    for i in range(count):
        row = np.int64(rows[i])
        if row < 0:
            continue
        first, beyond = offsets[row], offsets[row + 1]
        for part in range(2 + beyond - first):
            if part == 0:
                entity, target = row, i
            elif part == 1:
                entity, target = len(channels) + np.int64(channels[row]), count + i
                if channels[row] < 0:
                    continue
            else:
                entity, target = first_topic + topics[first + part - 2], end
                end += 1
            place = _place(keys, entity)
            if keys[place] == _NONE:
                keys[place], slots[place] = entity, used
                used += 1
            slot_of[target] = slots[place]
    return keys, slots, slot_of, used


@compiled_for(
    *_TABLE, *_CATALOGUE, _INT, _I64, _I32, _I64, _INT, _INT, _I64, _INT,
    array(_INT, 2, written=True), array(_INT, 2, written=True), array(_INT, written=True),
)  # fmt: skip
def count_events(
    keys: np.ndarray, slots: np.ndarray,
    channels: np.ndarray, offsets: np.ndarray, topics: np.ndarray, first_topic: int,
    times: np.ndarray, videos: np.ndarray, watch_ms: np.ndarray, start: int, end: int,
    since: np.ndarray, now: int,
    counts: np.ndarray, sums: np.ndarray, ago: np.ndarray,
) -> None:  # fmt: skip
    """Counts the events [start, end) of one kind, by slots of :func:`entity_slots` and windows.

    Args:
        keys, slots, channels, offsets, topics, first_topic: See :func:`entity_slots`.
        times: int64, Unix seconds, ascending within [start, end).
        videos: int32, rows of the catalogue.
        watch_ms: int64, milliseconds.
        start, end: Events that count.
        since: int64 [W], where each window begins, Unix seconds.
        now: Moment, Unix seconds.
        counts, sums: int64 [slots, W], numbers of events and their milliseconds; added to.
        ago: int64 [slots], seconds since the newest one; written where there is one.
    """
    for event in range(start, end):
        row, time = np.int64(videos[event]), times[event]
        if row < 0:
            continue
        first, beyond = offsets[row], offsets[row + 1]
        for part in range(2 + beyond - first):
            if part == 0:
                entity = row
            elif part == 1:
                entity = len(channels) + np.int64(channels[row])
                if channels[row] < 0:
                    continue
            else:
                entity = first_topic + topics[first + part - 2]
            place = _place(keys, entity)
            if keys[place] == _NONE:
                continue
            slot = slots[place]
            for window in range(len(since)):
                if time >= since[window]:
                    counts[slot, window] += 1
                    sums[slot, window] += watch_ms[event]
            ago[slot] = now - time


@compiled_for(_I64, _I64, _INT, _INT, _I64, _INT, _INT)
def count_all(
    times: np.ndarray, watch_ms: np.ndarray, start: int, end: int,
    since: np.ndarray, now: int, never: int,
) -> Any:  # fmt: skip
    """Counts the events [start, end) of one kind, whatever they are about.

    Returns:
        Numbers and milliseconds by window, int64 [1, W] each, and seconds since the newest, int64
        [1], or ``never``; other arguments as of :func:`count_events`.
    """
    counts = np.zeros((1, len(since)), np.int64)
    sums = np.zeros((1, len(since)), np.int64)
    for event in range(start, end):
        for window in range(len(since)):
            if times[event] >= since[window]:
                counts[0, window] += 1
                sums[0, window] += watch_ms[event]
    return counts, sums, np.full(1, now - times[end - 1] if end > start else never, np.int64)


@compiled_for(_I32, _I32, _I64, array(_INT, 3), array(_INT, 2), array(_INT, 2), _FLOAT)
def grid_columns(
    slot_of: np.ndarray, rows: np.ndarray, offsets: np.ndarray,
    counts: np.ndarray, sums: np.ndarray, ago: np.ndarray, never: float,
) -> Any:  # fmt: skip
    """Lays counts by slot out by candidate.

    Args:
        slot_of: See :func:`entity_slots`.
        rows: int32 [n], rows of the catalogue, -1 for none.
        offsets: int64 [N + 1], where the topics of each video begin.
        counts: int64 [kinds, slots, W].
        sums: int64 [slots, W], milliseconds of watches.
        ago: int64 [kinds, slots].
        never: Seconds since what never happened.

    Returns:
        float32 [3, columns, n], of video, channel and topics: counts by kind and window, seconds of
        watches by window, seconds since the last one by kind. Of several topics, the largest count
        and the shortest time.
    """
    kinds, _, windows = counts.shape
    number, width = len(rows), (kinds + 1) * windows + kinds
    out = np.zeros((3, width, number), np.float32)
    out[:, width - kinds :] = never
    topic = 2 * number
    for i in range(number):
        beyond = topic
        if rows[i] >= 0:
            beyond += offsets[rows[i] + 1] - offsets[rows[i]]
        for part in range(2 + beyond - topic):
            entity = min(part, 2)
            slot = slot_of[entity * number + i if part < 2 else topic + part - 2]
            if slot < 0:
                continue
            for kind in range(kinds):
                for window in range(windows):
                    column = kind * windows + window
                    value = np.float32(counts[kind, slot, window])
                    out[entity, column, i] = max(out[entity, column, i], value)
                column = width - kinds + kind
                value = np.float32(ago[kind, slot])
                out[entity, column, i] = min(out[entity, column, i], value) if part > 2 else value
            for window in range(windows):
                column = kinds * windows + window
                value = np.float32(sums[slot, window] / 1000)
                out[entity, column, i] = max(out[entity, column, i], value)
        topic = beyond
    return out


# ---- counts of videos by day and by minute, see features.as_of.statistics and live_statistics --


@numba.njit(nogil=True)
def _first(keys: np.ndarray, low: int, high: int, key: int) -> Any:
    """Returns the first place in [low, high) whose key is ``key`` or more, else ``high``."""
    while low < high:
        middle = (low + high) >> 1
        if keys[middle] < key:
            low = middle + 1
        else:
            high = middle
    return low


@numba.njit(nogil=True)
def _first_from(keys: np.ndarray, low: int, key: int) -> Any:
    """Returns the first place from ``low`` on whose key is ``key`` or more, near ``low`` first."""
    step, high = 1, low
    while high < len(keys) and keys[high] < key:
        low, high, step = high + 1, high + step, 2 * step
    return _first(keys, low, min(high, len(keys)), key)


@compiled_for(_I64, array(_INT, 2), _I32, _I64, _INT, array(_INT, 3, written=True))
def add_window_counts(
    keys: np.ndarray, sums: np.ndarray, rows: np.ndarray, bounds: np.ndarray, bits: int,
    totals: np.ndarray,
) -> None:  # fmt: skip
    """Adds what was counted of videos in windows of time that end at the same moment.

    Args:
        keys: int64 sorted: video row and time in one number, ``row << bits | time``.
        sums: int64 [len(keys) + 1, M], running totals.
        rows: int32 [n], rows of videos, -1 for none.
        bounds: int64 [W + 1], where each window begins; last where they end, itself not counted.
        bits: Bits of a time.
        totals: int64 [M, W, n]; added to.
    """
    windows = len(bounds) - 1
    earliest = np.argmin(bounds)
    for i in range(len(rows)):
        if rows[i] < 0:
            continue
        base = np.int64(rows[i]) << bits
        low = _first(keys, 0, len(keys), base | bounds[earliest])
        end = _first_from(keys, low, base | bounds[windows])
        if end == low:
            continue
        for window in range(windows):
            first = _first_from(keys, low, base | bounds[window])
            for measure in range(sums.shape[1]):
                totals[measure, window, i] += sums[end, measure] - sums[first, measure]


# ---- quantiles, see features.numbers -----------------------------------------------------------


@compiled_for(
    array(_FLOAT, 2, layout="A"), _F32, _FLOAT, array(_FLOAT, 2), array(_FLOAT, 3), _F32, _F32
)
def quantiles(
    values: np.ndarray, missing: np.ndarray, largest: float,
    boundaries: np.ndarray, reached: np.ndarray, usual: np.ndarray, of_usual: np.ndarray,
) -> Any:  # fmt: skip
    """Returns the quantile of each value, float32 [n, F].

    Args:
        values: float32 [n, F], NaN where missing.
        missing: float32 [F], what stands for NaN.
        largest: Bound of values.
        boundaries: float32 [F, Q], ascending.
        reached: float32 [F, Q + 1, 4], by boundaries reached: the last one, the gap after it, its
            rank, and the rank of what ties with it.
        usual: float32 [F], a value of which each column has many.
        of_usual: float32 [F], its quantiles.
    """
    count, width = values.shape
    number = boundaries.shape[1]
    out = np.empty((count, width), np.float32)
    for column in range(width):
        for i in range(count):
            value = values[i, column]
            if np.isnan(value):
                value = missing[column]
            value = min(max(value, -largest), largest)
            if value == usual[column]:
                out[i, column] = of_usual[column]
                continue
            low, high = 0, number
            while low < high:
                middle = (low + high) >> 1
                if boundaries[column, middle] <= value:
                    low = middle + 1
                else:
                    high = middle
            last, gap, rank, tied = reached[column, low]
            if value == last:
                rank = tied
            elif gap > 0:
                rank += (value - last) / gap
            out[i, column] = rank / np.float32(number + 1)
    return out
