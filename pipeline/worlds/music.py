"""A music service: most of what people play they have played before.

A user plays again with a probability that grows with the number of tracks ever played,

    P(again) = again n / (n + 10)

and then a track with a probability in proportion to plays^0.8 exp(-days since the last / memory).
Else something new: with ``album`` another track of the artist who just played, else a track by its
popularity, times how the user likes its genre. A few tracks come out in the time of the log.
"""

import dataclasses

import numpy as np

from features.durations import DAY_S
from pipeline.worlds import happenings
from pipeline.worlds.happenings import Floats, Happenings, Ints

_LISTENERS = np.array(
    [20, 10, 6, 4, 4, 8, 24, 50, 60, 52, 48, 48, 50, 52, 52, 54, 62, 72, 74, 70, 66, 62, 52, 36],
    np.float64,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Music:
    """How large the service is and how its people choose.

    Attributes:
        seed: Seed of all draws.
        days: Length of the log, days.
        users: Number of users.
        plays_per_user: Plays of a user over all days, mean.
        tracks: Number of tracks.
        artists: Number of artists.
        genres: Number of genres.
        again: Chance that a play is a repeat, of who has played much.
        memory_days: Days in which a track that was played is forgotten.
        album: Chance that what is new is of the artist who just played.
        taste: Standard deviation of the log of a user's taste for a genre.
    """

    seed: int = 1
    days: int = 42
    users: int = 1_000
    plays_per_user: float = 80.0
    tracks: int = 3_000
    artists: int = 300
    genres: int = 12
    again: float = 0.75
    memory_days: float = 7.0
    album: float = 0.5
    taste: float = 1.2

    def happen(self, start_s: int) -> Happenings:
        """Returns what happens from ``start_s``, a midnight, on."""
        rng = np.random.default_rng([self.seed, 12])
        users, times = happenings.visits(
            rng,
            users=self.users,
            days=self.days,
            watches_per_user=self.plays_per_user,
            per_visit=7.0,
            pause_s=220.0,
            by_hour=_LISTENERS,
        )
        service = _Service(self, rng)
        videos, places = np.zeros(len(users), np.int64), np.zeros(len(users), np.int64)
        for rows in happenings.turns(users):
            videos[rows], places[rows] = service.choose(rng, users[rows], times[rows])
        return Happenings(users=users, videos=videos, times=start_s + times, places=places)


class _Service:
    """Tracks, listeners, and what they have played."""

    def __init__(self, config: Music, rng: np.random.Generator) -> None:
        self._config = config
        size = config.users, config.tracks
        self._artist = rng.integers(0, config.artists, config.tracks)
        genre = rng.integers(0, config.genres, config.artists)[self._artist]
        fame = np.exp(1.2 * rng.standard_normal(config.artists))[self._artist]
        self._popularity = fame * np.exp(1.2 * rng.standard_normal(config.tracks))
        out = rng.integers(0, config.days * DAY_S, config.tracks)
        self._out = np.where(rng.random(config.tracks) < 0.1, out, -1)
        liking = np.exp(config.taste * rng.standard_normal((config.users, config.genres)))
        self._liking, self._genre = liking, genre
        self._plays = np.zeros(size, np.float32)
        self._last = np.full(size, -np.inf, np.float32)  # Days.
        self._current = np.full(config.users, -1)

    def choose(self, rng: np.random.Generator, users: Ints, times: Ints) -> tuple[Ints, Ints]:
        """Returns the track that each user plays, and its place in the true order."""
        config = self._config
        plays, days = self._plays[users], (times / DAY_S)[:, None]
        known = plays > 0
        often = np.where(known, plays, 1.0) ** 0.8
        again = known * often * np.exp(-(days - self._last[users]) / config.memory_days)
        number = known.sum(axis=1, keepdims=True)
        p_again = config.again * number / (number + 10.0)
        new = self._new(users, times)
        new[known] = 0.0
        chances = p_again * _shares(again) + (1 - p_again) * _shares(new)
        tracks, places = happenings.drawn(rng, chances)
        self._plays[users, tracks] += 1
        self._last[users, tracks] = days[:, 0]
        self._current[users] = self._artist[tracks]
        return tracks, places

    def _new(self, users: Ints, times: Ints) -> Floats:
        """Returns how much each track draws who looks for something new, float64 [n, tracks]."""
        is_out = self._out <= times[:, None]
        taste = self._liking[users][:, self._genre] * self._popularity * is_out
        of_artist = (self._artist == self._current[users][:, None]) * self._popularity * is_out
        part = np.where(of_artist.any(axis=1, keepdims=True), self._config.album, 0.0)
        return np.asarray(part * _shares(of_artist) + (1 - part) * _shares(taste))


def _shares(weights: Floats) -> Floats:
    return np.asarray(weights / np.maximum(weights.sum(axis=1, keepdims=True), 1e-12))
