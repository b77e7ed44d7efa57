"""What the situation adds to a click: a product of parts, and nothing on average."""

import dataclasses

import numpy as np
import pytest

from pipeline.site import behaviour as site_behaviour
from pipeline.site import builder as site_builder
from pipeline.site import config as site_config
from pipeline.site import situations as site_situations
from pipeline.site import world as site_world

HOUR_S, DAY_S = 3600, 86_400
MONDAY_S = 1_651_449_600  # 2022-05-02 00:00 UTC


@pytest.fixture(scope="module")
def world():
    return site_builder.build(dataclasses.replace(site_config.PRESETS["tiny"], situations=1.5))


def _appeal(world, hour_start_s, users=None, videos=None):
    users = np.arange(world.config.users)[:, None] if users is None else users
    videos = np.arange(world.config.videos)[None, :] if videos is None else videos
    return site_situations.appeal(world, users, videos, hour_start_s=np.asarray(hour_start_s))


def test_what_counts_is_the_users_own_clock(world):
    # 07 and 19 o'clock UTC are 01 and 13 in region US, and 04 UTC is 13 in JP; all of a Monday.
    regions = world.users.region
    of_us, of_jp = (
        np.flatnonzero((regions == site_world.REGIONS.index(name)) & np.isnan(world.users.age))[:1]
        for name in ("US", "JP")
    )
    videos = np.arange(world.config.videos)
    noon_us = _appeal(world, MONDAY_S + 19 * HOUR_S, of_us, videos)
    noon_jp = _appeal(world, MONDAY_S + 4 * HOUR_S, of_jp, videos)
    night_us = _appeal(world, MONDAY_S + 7 * HOUR_S, of_us, videos)
    np.testing.assert_array_equal(noon_us, noon_jp)
    assert np.abs(noon_us - night_us).max() > 0.5


def test_a_weekend_differs_from_a_weekday_and_one_weekday_not_from_another(world):
    noon = MONDAY_S + 12 * HOUR_S
    np.testing.assert_array_equal(_appeal(world, noon), _appeal(world, noon + DAY_S))
    assert np.abs(_appeal(world, noon) - _appeal(world, noon + 5 * DAY_S)).max() > 0.5


def test_over_all_situations_each_kind_of_video_has_the_same_appeal(world):
    # [situations, kinds of videos]: mean 0 of each kind, deviation 1 in all.
    moods = site_situations._moods(world.config.seed, world.config.topics)
    mood, want = moods.everywhere()
    table = moods.appeal(mood[:, None], want[None])
    assert table.shape == (24 * 7 * 10, world.config.topics * 10)
    np.testing.assert_allclose(table.mean(axis=0), 0, atol=1e-12)
    assert table.std() == pytest.approx(1)


def test_one_mood_by_hand():
    one = np.ones(1)
    moods = site_situations._Moods(
        hour=6 * one, weekend=0.5 * one, age=-one, topic=np.array([[0.0], [1.0]]), length=2 * one
    )
    # Six hours from its hour the clock says nothing; a weekday counts for -0.6, the age for -1.
    mood = moods.mood(np.array(12), np.array(False), np.array(47.0))
    np.testing.assert_allclose(mood, np.tanh([-0.3 - 1]), rtol=1e-12)
    unstated = moods.mood(np.array(6), np.array(True), np.array(np.nan))
    np.testing.assert_allclose(unstated, np.tanh([1.5 + 0.8]), rtol=1e-12)
    want = moods.want(np.array([0, 1]), np.array([300.0, 300 * np.exp(1.2)]))
    np.testing.assert_allclose(want, np.tanh([[0.0], [3.0]]), rtol=1e-12)


def test_no_sum_explains_the_appeal(world):
    # What a situation wants of one kind of video it does not want of another: the best sum of a
    # part of the situation and one of the video leaves most of it.
    moods = site_situations._moods(world.config.seed, world.config.topics)
    mood, want = moods.everywhere()
    table = moods.appeal(mood[:, None], want[None])
    left = table - table.mean(axis=0, keepdims=True) - table.mean(axis=1, keepdims=True)
    assert left.var() > 0.7 * table.var()


def test_the_weight_is_the_deviation_that_the_click_logit_gets(world):
    plain = dataclasses.replace(world, config=dataclasses.replace(world.config, situations=0.0))
    shape = (world.config.users, world.config.videos)
    showing = site_behaviour.Showing(
        users=np.arange(shape[0])[:, None],
        videos=np.arange(shape[1])[None, :],
        hour_start_s=np.asarray(MONDAY_S),
        position=np.zeros(shape),
        recent_unclicked=np.zeros(shape),
        is_up_next=np.zeros(shape, bool),
        already_watched=np.zeros(shape, bool),
        is_next_episode=np.zeros(shape, bool),
    )
    logits = [site_behaviour.click_parts(one, showing)[0] for one in (world, plain)]
    np.testing.assert_allclose(logits[0] - logits[1], 1.5 * _appeal(world, MONDAY_S))


@pytest.mark.parametrize("weight", [-1.0, float("inf"), float("nan")])
def test_a_weight_that_is_none_is_refused(weight):
    with pytest.raises(ValueError, match="situations must be (finite and )?0 or more"):
        site_config.SiteConfig(situations=weight)
