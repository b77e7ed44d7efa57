"""Events of users as sorted columns, and the moments at which they are asked about.

Truncation: per user and kind of event, a question at ``now`` sees the last :data:`MAX_EVENTS`
events before it; older ones have no influence. That bounds what the funnel must keep of a user,
and replay applies the very same bound. Of what else a kind of event is cut by, see
:mod:`features.as_of.history`.
"""

import dataclasses

import numpy as np

MAX_EVENTS = 5000
_TIME_BITS = 34  # Unix seconds until the year 2514


@dataclasses.dataclass(frozen=True)
class Events:
    """Events of one kind, sorted by user, time and video.

    Attributes:
        key: int64 [n], user and time in one sortable number.
        user: User code of each event, int64 [n].
        time: Time of each event, int64 [n], Unix seconds.
        video: int32 [n], catalogue row, -1 for a video outside the catalogue.
        watch_time_ms: int64 [n]. Whole numbers: sums are exact in any order.
    """

    key: np.ndarray
    user: np.ndarray
    time: np.ndarray
    video: np.ndarray
    watch_time_ms: np.ndarray

    @classmethod
    def of_sorted(cls, key: np.ndarray, video: np.ndarray, watch_time_ms: np.ndarray) -> "Events":
        """Takes columns of events that are sorted by key, see :func:`user_time_key`."""
        return cls(
            key=key,
            user=key >> _TIME_BITS,
            time=times_of(key),
            video=video.astype(np.int32),
            watch_time_ms=watch_time_ms,
        )

    def keep(self, mask: np.ndarray) -> "Events":
        """Returns the events where ``mask`` bool [n] is true."""
        return Events(*(getattr(self, f.name)[mask] for f in dataclasses.fields(self)))

    def bounds(self, user: np.ndarray, now: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the slice [start, end) of each query's visible events, int64 [q] each."""
        return visible(self.key, user, now)


def watch_time_ms(seconds: np.ndarray) -> np.ndarray:
    """Returns whole milliseconds, int64 [n], of seconds, float [n]; NaN counts as 0."""
    return np.round(np.nan_to_num(seconds.astype(np.float64)) * 1000).astype(np.int64)


def user_time_key(user: np.ndarray, time: np.ndarray) -> np.ndarray:
    """Packs user codes (below 2^29) and Unix seconds into one sortable int64."""
    return (user.astype(np.int64) << _TIME_BITS) | time.astype(np.int64)


def times_of(key: np.ndarray) -> np.ndarray:
    """Returns the Unix seconds in keys of :func:`user_time_key`."""
    return key & ((1 << _TIME_BITS) - 1)


def visible(key: np.ndarray, user: np.ndarray, now: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns [start, end) of the events that a query sees: its user's, before ``now``, truncated.

    Args:
        key: Keys of the events, int64 [n] sorted, see :func:`user_time_key`.
        user: User codes of the queries, int64 [q].
        now: Times of the queries, int64 [q], Unix seconds; events at ``now`` itself are not seen.
    """
    end = np.searchsorted(key, user_time_key(user, now))
    start = np.searchsorted(key, user_time_key(user, np.zeros_like(now)))
    return np.maximum(start, end - MAX_EVENTS), end


@dataclasses.dataclass(frozen=True)
class Queries:
    """Moments at which history is asked.

    Attributes:
        user: User code of each query, int64 [q].
        now: Time of each query, int64 [q], Unix seconds.
    """

    user: np.ndarray
    now: np.ndarray

    def take(self, rows: np.ndarray) -> "Queries":
        """Returns the queries at ``rows``."""
        return Queries(self.user[rows], self.now[rows])
