"""A video's own statistics up to the day before (paper section 4.1).

Days are UTC days since the epoch. An impression on day d sees days before d only, so that a
statistic never holds the outcome it helps to predict, and a table made last night serves today.
"""

import dataclasses

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features import spec
from features.catalogue import Catalogue, combined

DAY_S = 86400
COLUMNS = spec.MEASURES  # impressions, clicks, watches: counts; watch_time_s: seconds


def daily_counts(watches: pa.Table | None, impressions: pa.Table | None) -> pa.Table:
    """Counts events by video and day.

    Args:
        watches: ``video_id``, ``time``, ``watch_time_s``.
        impressions: ``video_id``, ``time``, ``clicked``, ``watch_time_s``; None only where the
            log has no such table. A part of a log that has none of its rows passes no rows.

    Returns:
        ``video_id``, ``day`` and :data:`COLUMNS`, one row per video and day with events.
        ``watch_time_s`` is that of impressions; that of watches where there are no impressions.
    """
    parts = []
    if watches is not None:
        parts.append(_rows(watches, watches=1, clicks=False, time_spent=impressions is None))
    if impressions is not None:
        parts.append(_rows(impressions, watches=0, clicks=True, time_spent=True))
    return merge(parts)


def _rows(events: pa.Table, *, watches: int, clicks: bool, time_spent: bool) -> pa.Table:
    count = events.num_rows
    zeros = pa.array(np.zeros(count, np.int64))
    seconds = events["watch_time_s"].cast(pa.float64()).fill_null(0.0)
    return pa.table(
        {
            "video_id": events["video_id"],
            "day": pc.floor(pc.divide(events["time"].cast(pa.float64()), DAY_S)).cast(pa.int64()),
            "impressions": pa.array(np.full(count, 1 - watches, np.int64)),
            "clicks": events["clicked"].cast(pa.int64()).fill_null(0) if clicks else zeros,
            "watches": pa.array(np.full(count, watches, np.int64)),
            "watch_time_s": seconds if time_spent else pa.array(np.zeros(count)),
        }
    )


def merge(parts: list[pa.Table]) -> pa.Table:
    """Adds up tables of :func:`daily_counts`, sorted by video and day."""
    if not parts:
        parts = [_rows(_NO_EVENTS, watches=1, clicks=False, time_spent=True)]
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
        "watch_time_s": pa.array([], pa.float64()),
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
        # The days of one video after each other: they lie side by side in memory.
        asked = _key(video_rows[:, np.newaxis], np.stack([*since, day], axis=1))
        upto = np.searchsorted(self.key, asked)
        totals = (self.sums[upto[:, -1:]] - self.sums[upto[:, :-1]]).astype(np.float64)
        totals[video_rows < 0] = 0
        totals[..., 3] /= 1000
        shown = np.where(totals[..., 0] > 0, totals[..., 0], np.nan)
        columns = totals.transpose(2, 1, 0)
        values = np.concatenate([columns, columns[[1, 3]] / shown.T]).astype(np.float32)
        return dict(zip(spec.statistics_names(), values.reshape(-1, len(day)), strict=True))


def _key(video_rows: np.ndarray, day: np.ndarray) -> np.ndarray:
    return (video_rows.astype(np.int64) << 24) | day
