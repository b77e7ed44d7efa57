"""What people of the simulated site feel like watching in their situation: a product of many parts.

Without it clicks are a sigmoid of a sum, where a model without hidden layers already finds most of
what there is. People are not like that: a short comedy on the way to work, a long documentary on a
Sunday evening, and not the same for all ages.

    S(u, v, t) = sum over moods m of P(m | o, g) B_m[topic_v, length_v],  mean 0 and deviation 1
    P(m | o, g) = softmax over m of 2 (G_m[o] + H_m[g])
    o           = the part of the day and of the week by the user's OWN clock: hour of the log (UTC)
                  plus the offset of the region
    g           = the age group of the user, those who do not state it one of them
    length_v    = below 4 minutes, below 10, longer

Nothing of it is in the logs but hour, weekday, region, age, topics and duration: a model has to
find the local clock, the mood that goes with it, and what that mood wants, one upon the other. Of
each topic and length S has mean 0 over the situations, so that popularity stays what it is.
"""

import functools

import numpy as np

from pipeline import site_config, site_world

_DAY_PARTS = 6  # Of four hours each.
_WEEK_PARTS = 2  # Monday to Friday, Saturday and Sunday.
_AGE_BOUNDS = (25, 35, 50)  # Years; a group more where it is not stated.
_LENGTH_BOUNDS_S = (240, 600)
_MOODS = 6
_SHARPNESS = 2.0


def appeal(
    world: site_world.World, users: np.ndarray, videos: np.ndarray, *, hour_start_s: np.ndarray
) -> np.ndarray:
    """Returns S of users, videos and the start of the hour (Unix seconds), float [...]."""
    config = world.config
    table = _table(config.seed, config.topics)
    return np.asarray(
        table[
            _occasions(world, users, hour_start_s),
            _age_groups(world.users.age[users]),
            world.videos.topic[videos],
            np.digitize(world.videos.duration_s[videos], _LENGTH_BOUNDS_S),
        ]
    )


def _occasions(world: site_world.World, users: np.ndarray, hour_start_s: np.ndarray) -> np.ndarray:
    """Returns int [...], part of the week times part of the day, by the users' own clocks."""
    offset = site_world.REGION_HOURS[world.users.region[users]]
    local_s = hour_start_s + offset * site_config.HOUR_S
    day_part = local_s % site_config.DAY_S // (site_config.DAY_S // _DAY_PARTS)
    # 1970-01-01 was a Thursday, weekday 3.
    is_weekend = (local_s // site_config.DAY_S + 3) % 7 >= 5
    return np.asarray(is_weekend * _DAY_PARTS + day_part, np.int64)


def _age_groups(age: np.ndarray) -> np.ndarray:
    stated = np.digitize(age, _AGE_BOUNDS)
    return np.where(np.isnan(age), len(_AGE_BOUNDS) + 1, stated)


@functools.lru_cache(maxsize=4)
def _table(seed: int, topics: int) -> np.ndarray:
    """Returns S, float64 [occasions, age groups, topics, lengths]."""
    rng = np.random.default_rng([seed, 8])
    occasions, groups = _WEEK_PARTS * _DAY_PARTS, len(_AGE_BOUNDS) + 2
    leaning = rng.standard_normal((occasions, 1, _MOODS)) + rng.standard_normal((1, groups, _MOODS))
    mood = np.exp(_SHARPNESS * leaning)
    mood /= mood.sum(axis=-1, keepdims=True)
    wants = rng.standard_normal((_MOODS, topics, len(_LENGTH_BOUNDS_S) + 1))
    table = np.einsum("ogm,mkl->ogkl", mood, wants)
    table -= table.mean(axis=(0, 1))
    return np.asarray(table / table.std())
