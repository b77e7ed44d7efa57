"""A video's own statistics up to the day before (paper section 4.1).

Days are UTC days since the epoch. An impression on day d sees days before d only, so that a
statistic never holds the outcome it helps to predict, and a table made last night serves today.
A click, and the watch time of a clicked impression, are of the day of the click
(:mod:`features.clicks`), which may be the one after that of the impression.
"""

import dataclasses

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features import clicks, spec
from features.catalogue import Catalogue, combined
from features.durations import DAY_S
from features.loops import compiled

_DAY_BITS = 24
COLUMNS = spec.MEASURES  # impressions, clicks, watches: counts; watch_time_s: seconds


def daily_counts(watches: pa.Table | None, impressions: pa.Table | None) -> pa.Table:
    """Counts events by video and day.

    Args:
        watches: Watches with columns ``video_id``, ``time`` and ``watch_time_s``.
        impressions: ``video_id``, ``time``, ``clicked``, ``watch_time_s``, and the moments of the
            clicks or what they are found by; None only where the log has no such table. A part of
            a log that has none of its rows passes no rows.

    Returns:
        ``video_id``, ``day`` and :data:`COLUMNS`, one row per video and day with events.
        ``watch_time_s`` is that of impressions; that of watches where there are no impressions.
    """
    parts = []
    if watches is not None:
        counted: dict[str, pa.ChunkedArray | int] = {"watches": 1}
        if impressions is None:
            counted["watch_time_s"] = watches["watch_time_s"]
        parts.append(_rows(watches["video_id"], watches["time"], **counted))
    if impressions is not None:
        parts.append(_rows(impressions["video_id"], impressions["time"], impressions=1))
        clicked_at = clicks.with_moments(impressions, watches)[clicks.CLICKED_AT]
        parts.append(
            _rows(
                impressions["video_id"],
                pc.coalesce(clicked_at, impressions["time"]),
                clicks=pc.is_valid(clicked_at),
                watch_time_s=impressions["watch_time_s"],
            )
        )
    return merge(parts)


def _rows(
    video_ids: pa.ChunkedArray, times: pa.ChunkedArray, **counted: pa.ChunkedArray | int
) -> pa.Table:
    """Returns a row for each event, with some of :data:`COLUMNS`; the others are 0."""
    days = pc.floor(pc.divide(times.cast(pa.float64()), DAY_S)).cast(pa.int64())
    columns = {"video_id": video_ids, "day": days}
    for name in COLUMNS:
        values = counted.get(name, 0)
        if isinstance(values, int):
            values = pa.chunked_array([np.full(len(days), values)])
        dtype = pa.float64() if name == "watch_time_s" else pa.int64()
        columns[name] = values.cast(dtype).fill_null(0)
    return pa.table(columns)


def merge(parts: list[pa.Table]) -> pa.Table:
    """Adds up tables of :func:`daily_counts`, sorted by video and day."""
    if not parts:
        parts = [_rows(*_NO_EVENTS.columns)]
    rows = pa.concat_tables(parts)
    sums = rows.group_by(["video_id", "day"]).aggregate([(name, "sum") for name in COLUMNS])
    sums = sums.rename_columns([n.removesuffix("_sum") for n in sums.column_names])
    return sums.select(["video_id", "day", *COLUMNS]).sort_by(
        [("video_id", "ascending"), ("day", "ascending")]
    )


_NO_EVENTS = pa.table(
    {
        "video_id": pa.array([], pa.string()),
        "time": pa.array([], pa.int64()),
    }
)


@dataclasses.dataclass(frozen=True)
class VideoStatistics:
    """Answers :func:`features.spec.statistics_names` for videos at times.

    Attributes:
        key: int64 [n] sorted: video row and day in one number.
        sums: int64 [n + 1, 4] running totals of :data:`COLUMNS`, watch time in milliseconds.
    """

    key: np.ndarray
    sums: np.ndarray

    @classmethod
    def of(cls, daily: pa.Table, catalogue: Catalogue) -> "VideoStatistics":
        """Indexes a table of :func:`daily_counts`; videos outside the catalogue are left out."""
        rows = catalogue.rows(daily["video_id"])
        key = _key(rows, np.asarray(combined(daily["day"]), np.int64))
        values = np.stack([np.asarray(combined(daily[name]), np.float64) for name in COLUMNS], 1)
        # Whole milliseconds: running totals are then exact in any order of addition.
        values[:, 3] = np.round(values[:, 3] * 1000)
        order = np.argsort(key, kind="stable")
        order = order[rows[order] >= 0]
        sums = np.zeros((len(order) + 1, len(COLUMNS)), np.int64)
        np.cumsum(values[order].astype(np.int64), axis=0, out=sums[1:])
        return cls(key=key[order], sums=sums)

    def columns(self, video_rows: np.ndarray, times: np.ndarray) -> dict[str, np.ndarray]:
        """Computes every statistic.

        Args:
            video_rows: int [n], -1 for a video outside the catalogue.
            times: int64 [n], Unix seconds of the request.

        Returns:
            Name to float32 [n]. Counts are 0 without events; rates are then NaN (missing).
        """
        day = times // DAY_S
        days = spec.STATISTICS_WINDOWS_DAYS.values()
        since = [np.zeros_like(day) if n is None else np.maximum(day - n, 0) for n in days]
        bounds = np.stack([*since, day], axis=1)
        columns = self._totals(video_rows, bounds).astype(np.float64)
        columns[3] /= 1000
        shown = np.where(columns[0] > 0, columns[0], np.nan)
        values = np.concatenate([columns, columns[[1, 3]] / shown]).astype(np.float32)
        return dict(zip(spec.statistics_names(), values.reshape(-1, len(day)), strict=True))

    def _totals(self, video_rows: np.ndarray, bounds: np.ndarray) -> np.ndarray:
        """Returns the sums of days from each of W bounds to the last, int64 [4, W, n].

        Args:
            video_rows: int [n], -1 for a video outside the catalogue.
            bounds: int64 [n, W + 1], days.
        """
        loops = compiled.loops()
        if loops is not None and len(bounds) and (bounds == bounds[0]).all():
            shape = (len(COLUMNS), bounds.shape[1] - 1, len(bounds))
            totals = np.zeros(shape, np.int64)
            rows = np.ascontiguousarray(video_rows, np.int32)
            loops.add_window_counts(self.key, self.sums, rows, bounds[0], _DAY_BITS, totals)
            return totals
        # The days of one video after each other: they lie side by side in memory.
        upto = np.searchsorted(self.key, _key(video_rows[:, np.newaxis], bounds))
        of_video = self.sums[upto[:, -1:]] - self.sums[upto[:, :-1]]
        of_video[video_rows < 0] = 0
        return of_video.transpose(2, 1, 0)


def _key(video_rows: np.ndarray, day: np.ndarray) -> np.ndarray:
    return (video_rows.astype(np.int64) << _DAY_BITS) | day
