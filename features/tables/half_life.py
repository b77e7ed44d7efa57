"""How fast a site forgets: the time in which what is watched together is watched together no more.

Two watches of different people are of the same video with a probability that falls with the time
between them: what everybody watches now is watched less in an hour, a day, a month. The time in
which it falls to half is the half-life of the site. It says how far back counts still tell what is
watched next: hours at a news site, weeks at an archive.

    C(lag) = P(two watches that lie lag apart are of one video)
           = sum_t <a_t, b_(t + lag)> / sum_t A_t B_(t + lag)

with a_t the watches of each video in bin t by one half of the users, b_t those by the other half,
and A_t, B_t their sums: who plays a song all evening says nothing of what others play. Where
popularity fades as exp(-age / life) and what is new takes its place, C falls as exp(-lag / life),
and the half-life is life x log 2. Ours.
"""

import itertools

import numpy as np
import numpy.typing as npt

from features.durations import DAY_S, MINUTE_S

_LOOK_BACK_S = 28 * DAY_S
_MOST_BINS = 672  # An hour each over four weeks.
_SHORTEST_BIN_S = 10 * MINUTE_S
# What is watched together at all is nearly only what is watched most.
_MOST_VIDEOS = 20_000
_FEWEST_WATCHES = 200
_MIX = 0x9E3779B1  # Of Knuth's multiplicative hashing.

Ints = npt.NDArray[np.int64]


def estimate(users: Ints, rows: Ints, times: Ints) -> float | None:
    """Returns the half-life of a site, seconds.

    Args:
        users: User of each watch, int64 [n], 0 or more.
        rows: Its video, int64 [n], 0 or more.
        times: Its time, int64 [n], Unix seconds, in any order.

    Returns:
        Between a bin (10 minutes, or an hour where the log has four weeks) and the length of what
        is looked at, 28 days at most; that where it is longer. None where there are too few
        watches to tell.
    """
    if len(rows) < _FEWEST_WATCHES:
        return None
    # Any halves will do that do not depend on when a user came.
    is_second = (users * _MIX) >> 31 & 1
    end = int(times.max()) + 1
    start = max(int(times.min()), end - _LOOK_BACK_S)
    width = max((end - start) / _MOST_BINS, float(_SHORTEST_BIN_S))
    late = times >= start
    bins = ((times[late] - start) / width).astype(np.int64)
    counts = _counts(rows[late], bins, is_second[late])
    together = _together(*counts)
    return _half(together, width) if together[0] > 0 else None


def _counts(rows: Ints, bins: Ints, half: Ints) -> npt.NDArray[np.float32]:
    """Returns the watches by half of the users, bin and video, float32 [2, T, M + 1].

    The videos are the most watched; the last column holds the watches of all others.
    """
    distinct, place, total = np.unique(rows, return_inverse=True, return_counts=True)
    most = np.argsort(-total, kind="stable")[:_MOST_VIDEOS]
    column = np.full(len(distinct), len(most))
    column[most] = np.arange(len(most))
    width = len(most) + 1
    size = int(bins.max()) + 1
    cells = (half * size + bins) * width + column[place]
    counts = np.bincount(cells, minlength=2 * size * width)
    return counts.reshape(2, size, width).astype(np.float32)


def _together(
    first: npt.NDArray[np.float32], second: npt.NDArray[np.float32]
) -> npt.NDArray[np.float64]:
    """Returns C of each lag in bins, float64 [T]; NaN where no two watches lie so far apart."""
    same = (first[:, :-1] @ second[:, :-1].T).astype(np.float64)
    volumes = (counts.sum(axis=1, dtype=np.float64) for counts in (first, second))
    pairs = np.outer(*volumes)
    # Whichever half came first.
    same, pairs = same + same.T, pairs + pairs.T
    hits = np.array([np.trace(same, offset=lag) for lag in range(len(same))])
    total = np.array([np.trace(pairs, offset=lag) for lag in range(len(same))])
    return np.where(total > 0, hits / np.maximum(total, 1.0), np.nan)


def _half(together: npt.NDArray[np.float64], width: float) -> float:
    """Returns where C falls to half of what it is within a bin, seconds."""
    size = len(together)
    lags = np.arange(size) * width
    lags[0] = width / 3  # The mean of two moments of one bin.
    known = np.flatnonzero(np.isfinite(together))
    # Single lags are noisy, and far ones are alike: means of neighbours, ever more of them.
    edges = np.unique(np.round(np.geomspace(1, max(size, 2), 48)).astype(np.int64))
    groups = [known[known == 0]]
    groups += [known[(known >= a) & (known < b)] for a, b in itertools.pairwise(edges)]
    groups = [group for group in groups if len(group)]
    level = np.array([together[group].mean() for group in groups])
    place = np.array([lags[group].mean() for group in groups])
    below = np.flatnonzero(level <= level[0] / 2)
    if not level[0] or not len(below):
        return float(size * width)
    after = int(below[0])
    if after == 0:
        return float(width)
    first, last = level[after - 1], level[after]
    part = (first - level[0] / 2) / max(first - last, 1e-12)
    half = place[after - 1] + part * (place[after] - place[after - 1])
    return float(np.clip(half, width, size * width))
