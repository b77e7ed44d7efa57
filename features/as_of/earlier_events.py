"""What a user had done before a moment, counted in a way of its own: for the leakage audit.

Nothing here is shared with the code that makes features (:mod:`features.as_of.history`,
:mod:`features.clicks`), so that a mistake there is seen by what comes out.
"""

import dataclasses

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from features.catalogue import combined
from features.clicks import CLICK_WINDOW_S

_MANY_S = 10**11  # more than any Unix time


def clicks_of(impressions: pa.Table, watches: pa.Table | None) -> pa.Table:
    """Returns ``user_id`` and ``time`` of each click, by the rule of :mod:`features.clicks`.

    Args:
        impressions: Raw, clean impressions of some users.
        watches: Raw, clean watches of the same users; None where the log has none.
    """
    keys = ["user_id", "video_id"]
    columns = [*keys, "time", "clicked", *({"click_time"} & set(impressions.column_names))]
    shown = pl.DataFrame(pl.from_arrow(impressions.select(columns)))
    if "click_time" not in columns:
        shown = shown.with_columns(click_time=pl.lit(None, pl.Int64))
    watched = impressions.slice(0, 0) if watches is None else watches
    watched_at = pl.DataFrame(pl.from_arrow(watched.select([*keys, "time"])))
    joined = (
        shown.filter(pl.col("clicked").cast(pl.Boolean))
        .sort("time")
        .join_asof(
            watched_at.with_columns(watched="time").sort("time"),
            on="time",
            by=keys,
            strategy="forward",
            tolerance=CLICK_WINDOW_S,
            check_sortedness=False,  # Both are; it cannot see it by group, and would say so.
        )
    )
    told, end = pl.max_horizontal("click_time", "time"), pl.col("time") + CLICK_WINDOW_S
    moment = (
        pl.when(pl.col("click_time").is_not_null())
        .then(told)
        .otherwise(pl.coalesce("watched", end))
    )
    return joined.filter(moment <= end).select("user_id", time=moment).to_arrow()


@dataclasses.dataclass(frozen=True)
class EarlierEvents:
    """Counts a user's events before a moment, its own way: [user] -> sorted times.

    Attributes:
        key: int64 [n] sorted, user and time.
    """

    key: np.ndarray

    @classmethod
    def of(cls, names: pa.Array, events: pa.Table) -> "EarlierEvents":
        """Takes events, ``user_id`` and ``time``; a user is a place in ``names``."""
        user = np.asarray(pc.index_in(combined(events["user_id"]), value_set=names), np.int64)
        return cls(np.sort(user * _MANY_S + np.asarray(combined(events["time"]), np.int64)))

    def count(self, users: np.ndarray, moment: np.ndarray) -> np.ndarray:
        """Returns how many events of ``users`` int [n] lie before ``moment`` int64 [n]."""
        first = np.searchsorted(self.key, users * _MANY_S)
        return np.searchsorted(self.key, users * _MANY_S + moment) - first
