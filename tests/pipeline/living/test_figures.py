"""Figures of a living site, by hand."""

import dataclasses

import numpy as np
import pytest

from features.durations import HOUR_S
from pipeline.living import figures
from pipeline.living.figures import Happened
from pipeline.site import builder
from pipeline.site import config as site_config

SITE = dataclasses.replace(
    site_config.PRESETS["tiny"], users=4, videos=60, topics=2, channels=4, days=2
)
# Users 0 and 1 are of the control, 2 and 3 of the arm.
ARMS = np.array([0, 0, 1, 1])
HOME, EXTERNAL = 0, 4


@pytest.fixture(scope="module")
def world():
    return builder.build(SITE)


def columns(**values):
    return {name: np.array(value) for name, value in values.items()}


def day(world, *, minutes, shown, away=()):
    """A day: minutes that each user watched from a page; (user, video, clicked) of impressions."""
    users = [user for user, value in enumerate(minutes) if value]
    start = SITE.start_s + HOUR_S
    impressions = np.array(shown)
    return Happened(
        watches=columns(
            user=[*users, 0],
            video=[user for user in users] + [5],
            time=[start] * (len(users) + 1),
            watch_time_s=[60.0 * minutes[user] for user in users] + [600.0],
            source=[HOME] * len(users) + [EXTERNAL],
        ),
        impressions=columns(
            user=impressions[:, 0],
            video=impressions[:, 1],
            time=[start] * len(shown),
            clicked=impressions[:, 2].astype(bool),
            page=impressions[:, 0],
            surface=[0] * len(shown),
        ),
        looks=columns(user=[0, 2], time=[start, start], value=[10.0, 30.0], best=[40.0, 60.0]),
        away=np.array(away, np.int64),
        videos=40,
    )


@pytest.fixture(scope="module")
def measured(world):
    days = {
        1: day(
            world,
            minutes=[2, 0, 6, 4],
            shown=[(0, 7, 1), (0, 8, 0), (2, 7, 1), (3, 9, 1), (3, 10, 0)],
            away=[1],
        ),
        2: day(world, minutes=[0, 0, 5, 5], shown=[(0, 7, 0), (2, 7, 0), (2, 11, 1)], away=[1]),
    }
    return figures.of_days(world, ARMS, ["control", "arm"], days, before={1: days[1]})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        # User 0: 2 from the page and 10 from elsewhere, of 2 users.
        ("1/control/watch_min_per_user", 6.0),
        ("1/control/recommended_min_per_user", 1.0),
        ("1/arm/watch_min_per_user", 5.0),
        ("1/arm-control/recommended_min_per_user", 4.0),
        ("2/arm/watch_min_per_user", 5.0),
        ("all/arm/watch_min_per_user", 5.0),  # 20 minutes of two users on two days.
        ("1/control/coming", 0.5),
        ("1/control/visiting", 0.5),
        ("1/control/oracle_share", 0.25),
        ("1/arm/oracle_share", 0.5),
        ("1/arm/page_value_s", 30.0),
        ("1/arm/click_rate", 2 / 3),
        ("1/arm/repeated", 0.0),
        ("2/arm/repeated", 0.5),  # Video 7 was shown to user 2 on the day before.
        ("2/control/repeated", 1.0),
        ("1/arm/pages_per_user", 1.0),
        ("1/arm/coverage", 3 / 40),
        # Before: 12, 0, 6, 4 minutes, mean 5.5; on day 2: 10, 0, 5, 5, so theta = 60 / 75.
        ("2/control/adjusted_min_per_user", 5 - 0.8 * 0.5),
        ("2/arm-control/adjusted_min_per_user", 0.8),
    ],
)
def test_each_figure_is_what_one_counts_by_hand(measured, key, value):
    assert measured[key].value == pytest.approx(value)


def test_users_who_stopped_coming_count_with_nothing(measured):
    assert measured["2/control/recommended_min_per_user"].value == 0
    assert measured["2/control/watch_min_per_user"].n == 2


def test_an_arm_is_compared_with_the_one_that_is_named(world):
    days = {1: day(world, minutes=[2, 1, 6, 4], shown=[(0, 7, 1), (2, 7, 1)])}
    arms = np.array([0, 1, 2, 2])
    measured = figures.of_days(
        world,
        arms,
        ["control", "retrieval", "no_age"],
        days,
        before={},
        against={"no_age": "retrieval"},
    )
    assert measured["1/no_age-retrieval/recommended_min_per_user"].value == 4.0
    assert "1/retrieval-control/watch_min_per_user" in measured
    assert "1/no_age-control/watch_min_per_user" not in measured
