"""What people of the simulated site feel like watching in their situation: a sum of products.

Without it clicks are a sigmoid of a sum, where a model without hidden layers already finds most of
what there is. People are not like that: something short on the way to work, something long on a
Sunday evening, and not the same for all ages.

    S(u, v, t) = sum over moods m of (R_m(u, t) - mean of R_m) W_m(v),  deviation 1
    R_m        = tanh(1.5 cos(2 pi (hour - H_m) / 24) + B_m weekend + C_m (age - 35) / 12)
    W_m        = tanh(D_m[topic_v] + E_m log(length_v / 300 s) / 1.2)
    hour       = of the user's OWN clock: hour of the log (UTC) plus the offset of the region
    weekend    = -0.6 from Monday to Friday, 1.6 on the other days, by that clock too
    age        = of the user in years; who does not state it is taken for 35

H is anywhere in the day; B, C, D and E are standard normal. Nothing of it is in the logs but hour,
weekday, region, age, topics and duration: a model has to find the local clock, the mood that goes
with it, and what that mood wants, one upon the other. The mean is over all situations, so that of
each topic and length S is 0 on average, and popularity stays what it is.
"""

import dataclasses
import functools
import statistics

import numpy as np

from features.durations import DAY_S, HOUR_S
from pipeline.site import world as site_world

_MOODS = 3
_RHYTHM = 1.5
_WEEKEND = (-0.6, 1.6)  # Mean 0 and deviation 1 over the days of a week.
_AGE, _AGE_SCALE = 35.0, 12.0  # Years.
_LENGTH_S, _LENGTH_SCALE = 300.0, 1.2
_HOURS = 24
# Where ages and lengths are taken to lie for means and deviations: the middle of each tenth.
_TENTHS = np.array([statistics.NormalDist().inv_cdf((n + 0.5) / 10) for n in range(10)])


def appeal(
    world: site_world.World, users: np.ndarray, videos: np.ndarray, *, hour_start_s: np.ndarray
) -> np.ndarray:
    """Returns S of users, videos and the start of the hour (Unix seconds), float [...]."""
    moods = _moods(world.config.seed, world.config.topics)
    offset = site_world.REGION_HOURS[world.users.region[users]]
    local_s = hour_start_s + offset * HOUR_S
    # 1970-01-01 was a Thursday, weekday 3.
    is_weekend = (local_s // DAY_S + 3) % 7 >= 5
    hour = local_s % DAY_S // HOUR_S
    return moods.appeal(
        moods.mood(hour, is_weekend, world.users.age[users]),
        moods.want(world.videos.topic[videos], world.videos.duration_s[videos]),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Moods:
    """M moods; K topics.

    Attributes:
        hour: H, float64 [M].
        weekend: B, float64 [M].
        age: C, float64 [M].
        topic: D, float64 [K, M].
        length: E, float64 [M].
    """

    hour: np.ndarray
    weekend: np.ndarray
    age: np.ndarray
    topic: np.ndarray
    length: np.ndarray

    def mood(self, hour: np.ndarray, is_weekend: np.ndarray, age: np.ndarray) -> np.ndarray:
        """Returns R, float64 [..., M]; age in years, NaN where it is not stated."""
        turn = 2 * np.pi * (np.asarray(hour)[..., None] - self.hour) / _HOURS
        weekend = np.where(is_weekend, _WEEKEND[1], _WEEKEND[0])[..., None]
        years = np.nan_to_num(age, nan=_AGE) - _AGE
        older = np.asarray(years / _AGE_SCALE)[..., None]
        leaning = _RHYTHM * np.cos(turn) + self.weekend * weekend + self.age * older
        return np.asarray(np.tanh(leaning))

    def want(self, topic: np.ndarray, duration_s: np.ndarray) -> np.ndarray:
        """Returns W, float64 [..., M]."""
        longer = np.asarray(np.log(np.asarray(duration_s) / _LENGTH_S) / _LENGTH_SCALE)[..., None]
        return np.asarray(np.tanh(self.topic[topic] + self.length * longer))

    def appeal(self, mood: np.ndarray, want: np.ndarray) -> np.ndarray:
        """Returns S, float64 [...], of R and W."""
        mean, deviation = self._scale
        return np.asarray(((mood - mean) * want).sum(axis=-1) / deviation)

    @functools.cached_property
    def _scale(self) -> tuple[np.ndarray, float]:
        """The mean of R, float64 [M], and the deviation of the sum before it is divided by it."""
        mood, want = self.everywhere()
        mean = mood.mean(axis=0)
        return mean, float(((mood - mean) @ want.T).std())

    def everywhere(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns R of all situations and W of all kinds of videos, equally likely ones."""
        hour, day, older = np.meshgrid(np.arange(_HOURS), np.arange(7), _TENTHS, indexing="ij")
        topic, longer = np.meshgrid(np.arange(len(self.topic)), _TENTHS, indexing="ij")
        mood = self.mood(hour, day >= 5, _AGE + _AGE_SCALE * older)
        want = self.want(topic, _LENGTH_S * np.exp(_LENGTH_SCALE * longer))
        return mood.reshape(-1, _MOODS), want.reshape(-1, _MOODS)


@functools.lru_cache(maxsize=4)
def _moods(seed: int, topics: int) -> _Moods:
    rng = np.random.default_rng([seed, 8])
    return _Moods(
        hour=rng.uniform(0, _HOURS, _MOODS),
        weekend=rng.standard_normal(_MOODS),
        age=rng.standard_normal(_MOODS),
        topic=rng.standard_normal((topics, _MOODS)),
        length=rng.standard_normal(_MOODS),
    )
