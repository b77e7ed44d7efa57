"""What users remember: fatigue, watched videos, progress in series."""

import numpy as np
import pytest

from pipeline.site import builder as site_builder
from pipeline.site import config as site_config
from pipeline.site import state as site_state

_ROW = np.array([0])


@pytest.fixture(scope="module")
def world():
    return site_builder.build(site_config.PRESETS["tiny"])


@pytest.fixture
def state(world):
    return site_state.UserState(world, np.array([4]))


def _show(state, videos, clicked, time):
    state.add_impressions(
        _ROW, np.array([videos]), clicked=np.array([clicked]), time=np.array([time])
    )


def _unclicked(state, videos, time):
    return state.recent_unclicked(_ROW, np.array([videos]), time=np.array([time])).tolist()[0]


def _watch(state, video, *, time=0, completed=True):
    state.add_watches(
        _ROW, np.array([video]), time=np.array([time]), completed=np.array([completed])
    )


def test_unclicked_impressions_of_a_video_are_counted(world, state):
    now = world.config.start_s
    _show(state, [7, 8, 9], [False, True, False], now)
    _show(state, [7, 8, -1], [False, False, False], now + 60)
    assert _unclicked(state, [7, 8, 9, 10, -1], now + 120) == [2, 1, 1, 0, 0]


def test_impressions_older_than_a_week_tire_no_more(world, state):
    now = world.config.start_s
    _show(state, [7], [False], now)
    week = 7 * 86400
    assert _unclicked(state, [7], now + week) == [1]
    assert _unclicked(state, [7], now + week + 1) == [0]


def test_only_the_last_96_impressions_are_remembered(world, state):
    now = world.config.start_s
    _show(state, [7], [False], now)
    _show(state, [*range(100, 195)], [False] * 95, now)
    assert _unclicked(state, [7], now) == [1]
    _show(state, [195], [False], now)
    assert _unclicked(state, [7], now) == [0]


def test_watched_and_completed_are_told_apart(state):
    _watch(state, 7, completed=True)
    _watch(state, 8, completed=False)
    videos = np.array([[7, 8, 9, -1]])
    assert state.has_watched(_ROW, videos).tolist() == [[True, True, False, False]]
    completed = state.has_watched(_ROW, videos, is_completed=True)
    assert completed.tolist() == [[True, False, False, False]]
    assert state.last_video(_ROW).tolist() == [8]


def test_a_completed_first_episode_makes_a_follower_who_goes_on_in_order(world, state):
    follows = world.users.follows[4]
    series = np.flatnonzero(world.series_length >= 3)
    channel = int(next(c for c in series if c not in follows))
    first = int(world.series_start[channel])
    one, two, three = world.series_videos[first : first + 3].tolist()

    def next_episode():
        found = state.next_episodes(_ROW, num_videos=world.config.videos)[0]
        return found[state.follows[0] == channel].tolist()

    _watch(state, one, completed=False)
    assert next_episode() == []
    _watch(state, one)
    assert next_episode() == [two]
    _watch(state, two, completed=False)
    assert next_episode() == [three]
    # An earlier episode seen again does not set the user back.
    _watch(state, one)
    assert next_episode() == [three]


def test_an_episode_that_is_not_uploaded_is_not_next(world, state):
    assert (state.next_episodes(_ROW, num_videos=0) == -1).all()


def test_a_session_lasts_an_hour_after_a_watch(state):
    assert not state.is_in_session(_ROW, np.array([10_000]))[0]
    _watch(state, 7, time=10_000)
    assert state.is_in_session(_ROW, np.array([13_599]))[0]
    assert not state.is_in_session(_ROW, np.array([13_600]))[0]
