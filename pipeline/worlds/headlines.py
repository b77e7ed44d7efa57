"""A news portal of which only clicks are known: most articles are dead after a day.

Made after the statistics of a public log of 2.7 million clicks of 308,000 users on 40,934 articles
in 16 days, at a smaller size: live popularity of the last hour finds about as many of the next
clicks in its first 10 and 100 (.558 and .836 there), popularity of the last three hours before a
day, frozen, about as few of those of the day (.105, .195, MAP .061). An article a of age t, of
topic k and, where it is local, of a region, draws at time t

    w_a(t) = pull_a (1 - exp(-(t + 5 min) / 25 min)) exp(-(t / life_a) ^ fading)

and a user u who clicks takes it with a probability in proportion to

    w_a(t) taste_u[k] near(u, a) (1 + link [k = topic of the last click of the visit])

among the articles that u has not clicked. A part of the clicks goes to the archive, some of whose
articles are sought far more than others, and editors publish by day.
"""

import dataclasses
import itertools

import numpy as np

from features.durations import DAY_S, HOUR_S, MINUTE_S
from pipeline.worlds import happenings
from pipeline.worlds.happenings import Floats, Happenings, Ints

_STEP_S = 10 * MINUTE_S
_GONE_S = 6 * DAY_S
_RISE_S, _FIRST_S = 1500, 300
_NEAR, _FAR = 5.0, 0.1
_SOUGHT = 1.3  # Standard deviation of the log of how much an article of the archive is sought.
# Of a day's clicks and of its publications, by hour.
_READERS = np.array(
    [30, 18, 11, 8, 8, 14, 30, 52, 68, 78, 84, 90, 92, 90, 86, 84, 84, 86, 88, 86, 82, 76, 64, 46],
    np.float64,
)
_EDITORS = np.array(
    [6, 3, 2, 2, 4, 14, 40, 62, 76, 84, 88, 88, 84, 84, 86, 88, 86, 84, 74, 62, 48, 36, 24, 12],
    np.float64,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Headlines:
    """How large the portal is and how its people choose.

    Attributes:
        seed: Seed of all draws.
        days: Length of the log, days.
        users: Number of users.
        clicks_per_user: Clicks of a user over all days, mean.
        articles_per_day: Articles published in a day.
        archive: Number of articles published before the log.
        topics: Number of topics.
        regions: Number of regions.
        pull: Standard deviation of the log of an article's pull.
        life_hours: Median of the time in which an article fades, hours.
        fading: Exponent of its age: above 1, articles end rather than fade.
        taste: Standard deviation of the log of a user's taste for a topic.
        local: Part of the articles that is local.
        link: Weight of the topic of the last click, in units of its usual weight.
        to_archive: Part of the clicks that goes to the archive.
    """

    seed: int = 1
    days: int = 16
    users: int = 7_000
    clicks_per_user: float = 10.0
    articles_per_day: float = 94.0
    archive: int = 700
    topics: int = 20
    regions: int = 12
    pull: float = 2.1
    life_hours: float = 4.5
    fading: float = 1.1
    taste: float = 0.6
    local: float = 0.15
    link: float = 2.0
    to_archive: float = 0.09

    def happen(self, start_s: int) -> Happenings:
        """Returns what happens from ``start_s``, a midnight, on."""
        rng = np.random.default_rng([self.seed, 11])
        portal = _Portal(self, rng)
        users, times = happenings.visits(
            rng,
            users=self.users,
            days=self.days,
            watches_per_user=self.clicks_per_user,
            per_visit=2.7,
            pause_s=150.0,
            by_hour=_READERS,
        )
        videos, places = np.zeros(len(users), np.int64), np.zeros(len(users), np.int64)
        bounds = np.searchsorted(times, np.arange(0, self.days * DAY_S + 1, _STEP_S))
        for first, end in itertools.pairwise(bounds):
            for turn in happenings.turns(users[first:end]):
                rows = first + turn
                videos[rows], places[rows] = portal.choose(rng, users[rows], times[rows])
        return Happenings(
            users=users,
            videos=videos,
            times=start_s + times,
            places=places,
            regions=portal.region_of,
            devices=portal.device_of,
        )


class _Portal:
    """Articles, readers, and what they have clicked."""

    def __init__(self, config: Headlines, rng: np.random.Generator) -> None:
        self._config = config
        new = round(config.articles_per_day * config.days)
        total = config.archive + new
        hours = rng.choice(24, new, p=_EDITORS / _EDITORS.sum()) * HOUR_S
        fresh = rng.integers(0, config.days, new) * DAY_S + hours + rng.integers(0, HOUR_S, new)
        old = -rng.integers(DAY_S, 90 * DAY_S, config.archive)
        self._published = np.concatenate([np.sort(old), np.sort(fresh)])
        self._pull = np.exp(config.pull * rng.standard_normal(total))
        self._life = config.life_hours * HOUR_S * np.exp(0.5 * rng.standard_normal(total))
        sought = np.exp(_SOUGHT * rng.standard_normal(config.archive))
        self._sought = sought / sought.sum()
        self._topic = rng.integers(0, config.topics, total)
        is_local = rng.random(total) < config.local
        self._region = np.where(is_local, rng.integers(0, config.regions, total), -1)
        size = 1.0 / np.arange(1, config.regions + 1)
        self.region_of: Ints = rng.choice(config.regions, config.users, p=size / size.sum())
        self.device_of: Ints = rng.choice(3, config.users, p=[0.62, 0.3, 0.08])
        by_device = 0.3 * rng.standard_normal((3, config.topics))
        taste = config.taste * rng.standard_normal((config.users, config.topics))
        self._taste = np.exp(taste + by_device[self.device_of])
        self._last_topic = np.full(config.users, -1)
        self._last_time = np.full(config.users, -_GONE_S)
        self._seen = np.zeros((config.users, total), bool)

    def choose(self, rng: np.random.Generator, users: Ints, times: Ints) -> tuple[Ints, Ints]:
        """Returns the article that each user clicks, and its place in the true order."""
        config = self._config
        alive, pull = self._alive(int(times.max()))
        weights = self._weights(users, alive, pull, int(times.max()))
        total = np.maximum(weights.sum(axis=1, keepdims=True), 1e-12)
        archive = np.broadcast_to(config.to_archive * self._sought, (len(users), config.archive))
        chances = np.concatenate([(1 - config.to_archive) * weights / total, archive], axis=1)
        chosen, places = happenings.drawn(rng, chances)
        videos = np.concatenate([alive, np.arange(config.archive)])[chosen]
        self._seen[users, videos] = True
        self._last_topic[users], self._last_time[users] = self._topic[videos], times
        return videos, places

    def _alive(self, now: int) -> tuple[Ints, Floats]:
        """Returns the articles that draw anybody, and how much."""
        alive = np.flatnonzero((self._published <= now) & (now - self._published < _GONE_S))
        age = now - self._published[alive]
        rise = 1 - np.exp(-(age + _FIRST_S) / _RISE_S)
        pull = self._pull[alive] * rise
        pull *= np.exp(-((age / self._life[alive]) ** self._config.fading))
        return alive[pull > 1e-5], pull[pull > 1e-5]

    def _weights(self, users: Ints, alive: Ints, pull: Floats, now: int) -> Floats:
        """Returns how much each article draws each user, float64 [users, articles]."""
        topic, local = self._topic[alive], self._region[alive]
        weights = pull * self._taste[users][:, topic]
        near = np.where(self.region_of[users][:, None] == local, _NEAR, _FAR)
        weights *= np.where(local < 0, 1.0, near)
        goes_on = now - self._last_time[users] < HOUR_S
        last = np.where(goes_on, self._last_topic[users], -1)
        weights *= 1 + self._config.link * (topic == last[:, None])
        weights[self._seen[users][:, alive]] = 0.0
        return np.asarray(weights)
