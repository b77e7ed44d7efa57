"""The truth of a site: saved and read again, asked about users, videos and times."""

import dataclasses
import json

import numpy as np
import pyarrow as pa
import pytest

from features import command
from models.paper import freshness
from pipeline.site import config as site_config
from pipeline.site import hours as site_hours
from pipeline.site import simulator
from pipeline.site import truth as site_truth

_START_S = site_config.DEFAULT_START_S
_SHOWN = {"times": [_START_S], "position": [0], "recent_unclicked_impressions": [0]}


@pytest.fixture(scope="module")
def truth():
    config = dataclasses.replace(
        site_config.PRESETS["tiny"], users=50, videos=150, channels=10, topics=4
    )
    return site_truth.Truth(simulator.build(config))


def _watches(truth, user, videos, *, end_s, completed=True):
    """Returns one watch a minute before ``end_s``."""
    number = len(videos)
    return pa.table(
        {
            "user_id": [truth.user_ids[user]] * number,
            "video_id": [truth.video_ids[video] for video in videos],
            "time": [end_s - 60 * (number - index) for index in range(number)],
            "completed": [completed] * number,
        }
    )


def test_a_saved_truth_answers_as_before(truth, tmp_path):
    truth.save(tmp_path)
    loaded = site_truth.Truth.load(tmp_path)
    assert loaded.world.config == truth.world.config
    assert loaded.world.behaviour == truth.world.behaviour
    users, times = truth.user_ids[:4], [_START_S + 86400] * 4
    np.testing.assert_array_equal(
        loaded.watch_probability(users, times), truth.watch_probability(users, times)
    )
    np.testing.assert_array_equal(
        loaded.click_probability(["u000001"], ["v000002"], **_SHOWN),
        truth.click_probability(["u000001"], ["v000002"], **_SHOWN),
    )


def test_logs_without_truth_are_explained(tmp_path):
    with pytest.raises(command.InputError, match=r"should hold the truth.*pipeline\.simulate"):
        site_truth.Truth.load(tmp_path)


def test_a_truth_of_another_format_is_refused(truth, tmp_path):
    settings = truth.save(tmp_path) / "site.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "format": 0}))
    with pytest.raises(command.InputError, match="has format 0, expected 1"):
        site_truth.Truth.load(tmp_path)


def test_a_damaged_truth_is_explained(truth, tmp_path):
    arrays = truth.save(tmp_path) / "site.npz"
    arrays.write_bytes(b"PK")
    with pytest.raises(command.InputError, match="should hold the truth"):
        site_truth.Truth.load(tmp_path)


@pytest.mark.parametrize("bad", ["u999999", "v000001", "u", "", "u-1"])
def test_unknown_ids_are_refused(truth, bad):
    with pytest.raises(ValueError, match="ids must be of this site"):
        truth.click_probability([bad], ["v000001"], **_SHOWN)


def test_an_unknown_surface_is_refused(truth):
    with pytest.raises(ValueError, match="surface must be out of"):
        truth.click_probability(["u000001"], ["v000001"], **_SHOWN, surface="sidebar")


def test_each_impression_without_a_click_lowers_the_click_probability_by_its_factor(truth):
    chances = truth.click_probability(
        ["u000001"] * 3,
        ["v000002"] * 3,
        times=[_START_S] * 3,
        position=[0, 0, 0],
        recent_unclicked_impressions=[0, 1, 2],
    )
    np.testing.assert_allclose(chances[1:] / chances[:-1], np.exp(-0.35))


def test_a_television_is_watched_longer_than_a_phone(truth):
    seconds = truth.expected_watch_time_s(["u000001"] * 2, ["v000003"] * 2, devices=["tv", "phone"])
    assert seconds[0] > seconds[1]


def test_what_is_not_uploaded_is_not_watched(truth):
    time = _START_S + 86400
    chances = truth.watch_probability(truth.user_ids, [time] * len(truth.user_ids))
    assert (chances[:, truth.world.videos.upload_time > time] == 0).all()
    np.testing.assert_allclose(chances.sum(axis=1), 1)
    assert (chances >= 0).all()


def test_a_watch_draws_interest_to_its_topic(truth):
    world, time = truth.world, _START_S + 86400
    topic = int(world.users.taste[7].argmin())
    of_topic = world.videos.topic == topic
    video = int(np.flatnonzero(of_topic & (world.videos.episode == 0))[0])
    before = truth.watch_probability([truth.user_ids[7]], [time])
    watches = _watches(truth, 7, [video], end_s=time)
    after = truth.watch_probability([truth.user_ids[7]], [time], watches=watches)
    assert after[0, of_topic].sum() > 5 * before[0, of_topic].sum()


def test_the_next_episode_of_a_followed_series_follows_the_one_watched(truth):
    world, time = truth.world, _START_S + 86400
    uploaded = np.searchsorted(world.videos.upload_time, time)
    for user, slot in np.argwhere(world.users.follows >= 0):
        channel = world.users.follows[user, slot]
        first, length = world.series_start[channel], world.series_length[channel]
        episodes = world.series_videos[first : first + length]
        last = world.users.progress[user, slot]
        if last + 1 < length and episodes[last + 1] < uploaded:
            break
    else:
        pytest.fail("no user follows a series that goes on")
    watched, following = episodes[last], episodes[last + 1]
    user_id = truth.user_ids[user]
    before = truth.watch_probability([user_id], [time])[0]
    watches = _watches(truth, user, [watched], end_s=time)
    after = truth.watch_probability([user_id], [time], watches=watches)[0]
    assert after[following] > 0.1
    assert after[following] > 3 * before[following]


def test_watches_at_or_after_the_question_have_no_influence(truth):
    time = _START_S + 86400
    past = _watches(truth, 7, [3, 4], end_s=time)
    future = _watches(truth, 7, [5, 6], end_s=time + 120)
    assert future["time"].to_pylist() == [time, time + 60]
    others = _watches(truth, 8, [9], end_s=time)
    asked = {"user_ids": [truth.user_ids[7]], "times": [time]}
    np.testing.assert_array_equal(
        truth.watch_probability(**asked, watches=past),
        truth.watch_probability(**asked, watches=pa.concat_tables([future, others, past])),
    )


def test_a_search_tells_what_is_watched_next(truth):
    time = _START_S + 86400
    asked = {"user_ids": [truth.user_ids[7]] * 2, "times": [time] * 2}
    # "gambit" is of topic 1, Chess; 0.7 of the searches are followed.
    chances = truth.watch_probability(**asked, queries=["gambit opening", None])
    of_topic = chances[:, truth.world.videos.topic == 1].sum(axis=1)
    assert of_topic[0] == pytest.approx(0.7 + 0.3 * of_topic[1])


def test_completed_watches_favour_what_is_watched_to_the_end(truth):
    time = _START_S + 86400
    asked = {"user_ids": [truth.user_ids[7]], "times": [time]}
    every, completed = (
        truth.watch_probability(**asked, is_completed=flag)[0] for flag in (False, True)
    )
    number = len(truth.video_ids)
    chance = truth.completed_probability([truth.user_ids[7]] * number, truth.video_ids)
    np.testing.assert_allclose(completed, every * chance / (every * chance).sum())


def test_the_curves_of_figure_4_are_the_popularity_of_the_simulator(truth, tmp_path):
    directory = truth.save(tmp_path)
    hours = _START_S + 3600 * np.array([5, 50, 120])
    rows = np.array([0, 70, 149])
    shares = freshness.true_shares(directory / "site.npz", hours, rows)
    offers = site_hours.Hours(truth.world)
    for hour, found in zip(hours, shares, strict=True):
        popularity = offers.at(int(hour)).popularity
        np.testing.assert_allclose(found, popularity[rows] / popularity.sum(), rtol=1e-9)
