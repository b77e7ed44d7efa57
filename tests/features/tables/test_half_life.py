"""The half-life of a site, on watches whose truth is known."""

import numpy as np
import pytest

from features.durations import DAY_S, HOUR_S
from features.tables import half_life


def watches(life_h, *, days=10, per_quarter=40, seed=0):
    """Videos come in all the time; each is watched in proportion to pull exp(-age / life)."""
    rng = np.random.default_rng(seed)
    published = np.sort(rng.uniform(-4 * life_h, days * 24, round(days * 160 / life_h) + 40))
    pull = np.exp(rng.standard_normal(len(published)))
    videos, times = [], []
    for hour in np.arange(0, days * 24, 0.25):
        age = hour - published
        weight = np.where(age >= 0, pull * np.exp(-np.maximum(age, 0) / life_h), 0)
        videos.append(rng.choice(len(published), per_quarter, p=weight / weight.sum()))
        times.append((hour + rng.uniform(0, 0.25, per_quarter)) * HOUR_S)
    users = rng.integers(0, 2000, len(videos) * per_quarter)
    return users, np.concatenate(videos), np.concatenate(times).astype(np.int64)


@pytest.mark.parametrize("life_h", [2.0, 8.0, 30.0])
def test_it_is_the_time_in_which_popularity_halves(life_h):
    found = half_life.estimate(*watches(life_h)) / HOUR_S
    assert found == pytest.approx(life_h * np.log(2), rel=0.3)


def test_what_never_fades_has_a_half_life_as_long_as_the_log():
    rng = np.random.default_rng(1)
    videos = rng.choice(50, 5_000, p=np.arange(1, 51) / 1275)
    times = np.sort(rng.integers(0, 9 * DAY_S, 5_000))
    assert half_life.estimate(rng.integers(0, 300, 5_000), videos, times) > 8.9 * DAY_S


def test_what_one_user_repeats_all_evening_says_nothing_of_others():
    """Each plays one song over and over, another one each day; over all users nothing fades."""
    rng = np.random.default_rng(2)
    users = np.repeat(np.arange(400), 40)
    day = np.tile(np.repeat(np.arange(8), 5), 400)
    song = rng.choice(60, (400, 8), p=np.arange(1, 61) / 1830)
    times = day * DAY_S + 20 * HOUR_S + np.tile(np.arange(5) * 240, 3200)
    assert half_life.estimate(users, song[users, day], times) > 6 * DAY_S


def test_of_a_handful_of_watches_it_is_not_known():
    some = np.arange(150)
    assert half_life.estimate(some, some, some * 60) is None
