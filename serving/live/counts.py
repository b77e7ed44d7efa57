"""Decayed counts of what is watched, and of what is watched after what: small, bounded, current.

A watch at time t counts 2^(t / half-life): relative to each other, older watches lose half their
weight in a half-life, and no count has to be touched for it. The order of videos therefore only
changes with watches.
"""

import collections
import heapq
from collections.abc import Sequence

import numpy as np

from features.durations import DAY_S

# Above it, counts are scaled down; 2^1023 is the largest double.
_MAX_EXPONENT = 400.0


class DecayedCounts:
    """Counts by number, for several half-lives.

    Not safe for threads.
    """

    def __init__(self, half_lives_s: Sequence[float]) -> None:
        self._half_lives = np.array(half_lives_s, np.float64)
        self._epoch = 0.0
        self._counts = np.zeros((len(half_lives_s), 1024))

    def add(self, numbers: np.ndarray, times: np.ndarray) -> None:
        """Counts events; their order does not matter.

        Args:
            numbers: int [n], 0 or more.
            times: int64 [n], Unix seconds.
        """
        if not len(numbers):
            return
        size = self._counts.shape[1]
        if (highest := int(numbers.max())) >= size:
            grown = np.zeros((len(self._half_lives), max(2 * size, highest + 1)))
            grown[:, :size] = self._counts
            self._counts = grown
        newest = float(times.max())
        if not self._epoch or (newest - self._epoch) / self._half_lives.min() > _MAX_EXPONENT:
            self._counts *= np.exp2((self._epoch - newest) / self._half_lives)[:, np.newaxis]
            self._epoch = newest
        for row, half_life in enumerate(self._half_lives):
            weights = np.exp2((times - self._epoch) / half_life)
            np.add.at(self._counts[row], numbers, weights)

    def top(self, place: int, limit: int) -> np.ndarray:
        """Returns the numbers with the largest counts of a half-life, best first: int [<= limit].

        Equal counts come by number; what was never counted does not come.
        """
        counts = self._counts[place]
        limit = min(limit, int(np.count_nonzero(counts)))
        if limit == 0:
            return np.zeros(0, np.int64)
        top = np.argpartition(-counts, limit - 1)[:limit]
        return top[np.lexsort((top, -counts[top]))]

    def at(self, numbers: np.ndarray, now_s: float) -> tuple[np.ndarray, np.ndarray]:
        """Returns counts as they are at a moment, where a watch of that moment counts 1.

        Args:
            numbers: int [n]; -1, or one that was never counted, has 0.
            now_s: Moment, Unix seconds.

        Returns:
            float64 [half-lives, n] for these numbers, and float64 [half-lives], the sums of all.
        """
        scale = np.exp2((self._epoch - now_s) / self._half_lives)
        known = (numbers >= 0) & (numbers < self._counts.shape[1])
        counts = np.zeros((len(self._half_lives), len(numbers)))
        counts[:, known] = self._counts[:, numbers[known]]
        return counts * scale[:, np.newaxis], self._counts.sum(axis=1) * scale

    def renumbered(self, kept: np.ndarray) -> None:
        """Forgets all numbers but those in ``kept``, which become 0, 1, and so on."""
        inside = kept[kept < self._counts.shape[1]]
        counts = np.zeros((len(self._half_lives), max(1024, len(kept))))
        counts[:, np.flatnonzero(kept < self._counts.shape[1])] = self._counts[:, inside]
        self._counts = counts


class RecentWatches:
    """The last watches of a region, as many as there is room for, and what is on top of them."""

    ROOM = 20_000

    def __init__(self, room: int = ROOM) -> None:
        self._room = room
        self._numbers = np.zeros(0, np.int64)
        self._times = np.zeros(0, np.float64)
        self._waiting: list[tuple[np.ndarray, np.ndarray]] = []
        self._num_waiting = 0

    def add(self, numbers: np.ndarray, times: np.ndarray) -> None:
        """Adds watches; the oldest go."""
        self._waiting.append((numbers, times))
        self._num_waiting += len(numbers)
        if len(self._waiting) > 1000 or self._num_waiting > self._room:
            self._settle()

    def _settle(self) -> None:
        if self._waiting:
            numbers = np.concatenate([self._numbers, *(n for n, _ in self._waiting)])
            times = np.concatenate([self._times, *(t for _, t in self._waiting)])
            newest = np.argsort(times, kind="stable")[-self._room :]
            self._numbers, self._times = numbers[newest], times[newest]
            self._waiting, self._num_waiting = [], 0

    def all(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns numbers, int64 [n], and times, Unix seconds, float64 [n], oldest first."""
        self._settle()
        return self._numbers, self._times

    def top(self, half_life_s: float, limit: int, *, at_least: int) -> np.ndarray:
        """Returns the numbers with the largest decayed counts; none from few watches."""
        self._settle()
        if len(self._times) < at_least:
            return np.zeros(0, np.int64)
        weights = np.exp2((self._times - self._times[-1]) / half_life_s)
        distinct, which = np.unique(self._numbers, return_inverse=True)
        counts = np.bincount(which, weights=weights)
        return distinct[np.argsort(-counts, kind="stable")[:limit]]

    def counts(
        self, numbers: np.ndarray, half_life_s: float, now_s: float
    ) -> tuple[np.ndarray, float]:
        """Returns the decayed counts of some numbers, float64 [n], and the sum of all."""
        self._settle()
        if not len(self._times):
            return np.zeros(len(numbers)), 0.0
        weights = np.exp2((self._times - now_s) / half_life_s)
        size = int(max(self._numbers.max(), numbers.max(initial=0))) + 1
        counts = np.bincount(self._numbers, weights=weights, minlength=size)
        return np.where(numbers >= 0, counts[np.maximum(numbers, 0)], 0.0), float(weights.sum())

    def renumbered(self, new_number: np.ndarray) -> None:
        """Applies new numbers; -1 is forgotten."""
        self._settle()
        numbers = new_number[self._numbers]
        self._numbers, self._times = numbers[numbers >= 0], self._times[numbers >= 0]


class FollowCounts:
    """What users watched soon after what, decayed; the most frequent pairs of the newest videos.

    Not safe for threads.
    """

    HALF_LIFE_S = float(DAY_S)
    SESSION_S = DAY_S  # A watch follows one that is not older ...
    STEPS = 3  # ... and is among the last so many.
    _MOST_VIDEOS = 100_000
    _MOST_USERS = 500_000
    _MOST_FOLLOWERS = 64

    def __init__(self) -> None:
        self._epoch: float | None = None
        # Both in the order of their last change, oldest first.
        self._last: collections.OrderedDict[str, list[tuple[int, float]]] = (
            collections.OrderedDict()
        )
        self._followers: collections.OrderedDict[int, dict[int, float]] = collections.OrderedDict()

    def add(self, user_id: str, number: int, time: float) -> None:
        """Takes a watch in; watches of a user must come in the order of their times to count."""
        if self._epoch is None:
            self._epoch = time
        exponent = (time - self._epoch) / self.HALF_LIFE_S
        if exponent > _MAX_EXPONENT:
            self._rescale(time)
            exponent = 0.0
        weight = 2.0**exponent
        before = self._last.pop(user_id, [])
        for step, (other, then) in enumerate(reversed(before), start=1):
            if other != number and 0 <= time - then <= self.SESSION_S:
                followers = self._followers.pop(other, {})
                followers[number] = followers.get(number, 0.0) + weight / step
                if len(followers) > self._MOST_FOLLOWERS:
                    best = heapq.nlargest(
                        self._MOST_FOLLOWERS // 2, followers.items(), key=lambda pair: pair[1]
                    )
                    followers = dict(best)
                self._followers[other] = followers
        self._last[user_id] = [*before, (number, time)][-self.STEPS :]
        if len(self._last) > self._MOST_USERS:
            self._last.popitem(last=False)
        if len(self._followers) > self._MOST_VIDEOS:
            self._followers.popitem(last=False)

    def _rescale(self, time: float) -> None:
        assert self._epoch is not None
        factor = 2.0 ** ((self._epoch - time) / self.HALF_LIFE_S)
        for followers in self._followers.values():
            for number in followers:
                followers[number] *= factor
        self._epoch = time

    def after(self, numbers: Sequence[int]) -> dict[int, float]:
        """Returns what follows any of these videos, with a score: the later ones count less.

        A video's followers share a weight of one, whatever their number.
        """
        scores: dict[int, float] = {}
        for place, number in enumerate(numbers):
            followers = self._followers.get(number)
            if followers:
                share = 0.9**place / (sum(followers.values()) or 1.0)
                for follower, count in followers.items():
                    scores[follower] = scores.get(follower, 0.0) + share * count
        return scores

    def renumbered(self, new_number: np.ndarray) -> None:
        """Applies new numbers; -1 is forgotten."""
        numbers = new_number.tolist()
        renamed = (
            (numbers[n], {numbers[f]: c for f, c in followers.items() if numbers[f] >= 0})
            for n, followers in self._followers.items()
        )
        self._followers = collections.OrderedDict((n, f) for n, f in renamed if n >= 0 and f)
        self._last = collections.OrderedDict(
            (user, [(numbers[n], t) for n, t in watches if numbers[n] >= 0])
            for user, watches in self._last.items()
        )
