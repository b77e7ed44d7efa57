"""Formulas of behaviour against values derived by hand."""

import math

import numpy as np
import pytest

from pipeline.site import behaviour as site_behaviour
from pipeline.site import builder as site_builder
from pipeline.site import config as site_config
from pipeline.site import hours as site_hours
from pipeline.site import names as site_names


@pytest.fixture(scope="module")
def world():
    return site_builder.build(site_config.PRESETS["tiny"])


def _showing(world, **changes):
    fields = {
        "users": np.array([0]),
        "videos": np.array([0]),
        "hour_start_s": np.array([world.config.start_s]),
        "position": np.array([0]),
        "recent_unclicked": np.array([0]),
        "is_up_next": np.array([False]),
        "already_watched": np.array([False]),
        "is_next_episode": np.array([False]),
    }
    return site_behaviour.Showing(**{**fields, **changes})


def _attention(world, **changes):
    return site_behaviour.click_parts(world, _showing(world, **changes))[1].tolist()


def test_attention_at_the_top_of_a_page_is_whole(world):
    assert _attention(world) == [1.0]


def test_attention_falls_with_the_position(world):
    # (position + 1)^-0.35 at position 3, and ^-0.5 beside a watch: 1 / sqrt(4).
    assert _attention(world, position=np.array([3])) == pytest.approx([4**-0.35])
    up_next = {"position": np.array([3]), "is_up_next": np.array([True])}
    assert _attention(world, **up_next) == pytest.approx([0.5])


def test_each_unclicked_impression_tires_until_the_limit(world):
    # exp(-0.35 n), at most six count.
    found = _attention(world, recent_unclicked=np.array([0, 1, 2, 6, 60]))
    expected = [1, math.exp(-0.35), math.exp(-0.7), math.exp(-2.1), math.exp(-2.1)]
    assert found == pytest.approx(expected)


def test_a_watched_video_is_clicked_less(world):
    assert _attention(world, already_watched=np.array([True])) == pytest.approx([0.35])


def test_interest_is_half_on_the_last_topic_and_fades_by_e_in_six_hours(world):
    users = np.array([3, 3, 3])
    found = site_behaviour.interest(
        world,
        users,
        mood_topic=np.array([2, 2, -1]),
        mood_age_s=np.array([0, 6 * 3600, 1 << 40]),
    )
    taste = world.users.taste[3].astype(float)
    topic = np.eye(world.config.topics)[2]
    np.testing.assert_allclose(found[0], 0.5 * taste + 0.5 * topic, rtol=1e-5)
    rho = 0.5 / math.e
    np.testing.assert_allclose(found[1], (1 - rho) * taste + rho * topic, rtol=1e-5)
    np.testing.assert_allclose(found[2], taste, rtol=1e-5)


def test_wishes_are_what_niche_and_language_draws_give(world):
    users = np.array([5])
    wanted = np.eye(world.config.topics)[None, 1]
    wishes = site_behaviour.wishes(world, users, wanted)[0, 1]
    niche, language = site_behaviour.niche_and_language(
        world, np.random.default_rng(0), users, np.full((1, 50_000), 1)
    )
    counts = np.zeros(wishes.shape)
    np.add.at(counts, (language[0], niche[0]), 1)
    # The rarest group that is drawn at all has 1 percent: 500 draws, sd 22.
    np.testing.assert_allclose(counts / 50_000, wishes, atol=0.01)
    assert wishes.sum() == pytest.approx(1)


def test_the_normal_distribution_has_its_known_values():
    found = site_behaviour.normal_cdf(np.array([0.0, 1.0, -1.96, 8.0]))
    np.testing.assert_allclose(found, [0.5, 0.8413447, 0.0249979, 1.0], atol=2e-7)


def test_expected_watch_time_is_the_mean_of_clipped_draws():
    m, s, upper = np.array([5.0, 5.0, 0.2]), 0.7, np.array([100.0, 1e9, 50.0])
    draws = np.exp(m + s * np.random.default_rng(0).standard_normal((400_000, 3)))
    found = site_behaviour.expected_clipped_lognormal(m, s, upper)
    np.testing.assert_allclose(found, np.clip(draws, 1, upper).mean(axis=0), rtol=5e-3)
    # Without an upper bound in reach: exp(m + s^2 / 2).
    assert found[1] == pytest.approx(math.exp(5.0 + 0.245), rel=1e-5)


def test_popularity_rises_after_upload_and_then_decays(world):
    video = int(np.flatnonzero(world.videos.upload_time > world.config.start_s)[0])
    upload = int(world.videos.upload_time[video]) // 3600 * 3600 + 3600
    rise_h = world.videos.rise_s[video] / 3600
    after_h = np.array([0, math.ceil(3 * rise_h), 1000])
    first, peak, late = site_hours.popularity_of(world, upload + after_h * 3600, np.full(3, video))
    assert first < peak
    # In the end only the evergreen part is left.
    assert late == pytest.approx(world.videos.pull[video] * world.config.evergreen, rel=0.2)
    assert late < 0.1 * peak


def test_a_video_is_not_offered_before_its_upload(world):
    hours = site_hours.Hours(world)
    video = world.config.videos - 1
    before = int(world.videos.upload_time[video]) // 3600 * 3600
    assert hours.at(before).popularity[video] == 0
    assert hours.at(before + 3600).popularity[video] > 0


def test_later_episodes_are_met_from_outside_only(world):
    hour = site_hours.Hours(world).at(world.config.end_s - 3600)
    later = world.videos.episode > 1
    assert later.any()
    for stock in (hour.interest, hour.fresh, hour.popular, hour.channel):
        assert (stock.weights[later] == 0).all()
    assert (hour.external.weights[later & (hour.popularity > 0)] > 0).all()


def test_each_search_word_belongs_to_one_topic():
    _, words = site_names.topics(40)
    flat = [word for of_topic in words for word in of_topic]
    assert len(flat) == len(set(flat))
    assert {len(of_topic) for of_topic in words} == {8}


def test_channels_have_unique_readable_names():
    topic_names, _ = site_names.topics(3)
    ids, titles = site_names.channels(np.arange(300) % 3, topic_names)
    assert ids[0] == "cooking-with-ana"
    assert titles[0] == "Cooking with Ana"
    assert len(set(ids)) == 300


def test_an_episode_is_named_after_its_channel():
    topic_names, words = site_names.topics(1)
    (title,) = site_names.titles(
        topic=np.array([0]),
        channel_titles=["Cooking with Ana"],
        channel=np.array([0]),
        episode=np.array([7]),
        clickbait=np.array([0.0]),
        topic_names=topic_names,
        topic_words=words,
        picks=np.zeros((1, 3), int),
    )
    assert title == "Cooking with Ana, episode 7"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"users": 0}, "users must be 1 or more, got 0"),
        ({"click_rate": 1.5}, r"click_rate must be in \(0, 1\), got 1.5"),
        ({"topics": 200}, "channels must be at least topics"),
        ({"topics": 100_000}, "topics must be in"),
        ({"start_s": 1_651_363_201}, "must be a midnight UTC"),
        ({"life_hours": float("nan")}, "life_hours must be above 0, got nan"),
        ({"events_per_user_day": 501.0}, r"must be in \(0, 500\]"),
        ({"videos": 40, "channels": 30}, "videos must be enough"),
    ],
)
def test_impossible_settings_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        site_config.SiteConfig(**change)


def test_channels_grow_with_the_videos_but_more_slowly():
    preset = site_config.SiteConfig()
    assert site_config.channels_for(preset, preset.videos, preset.topics) == preset.channels
    # 32 times the videos: 32^0.8 = 2^4 times the channels.
    assert site_config.channels_for(preset, 32 * preset.videos, 24) == 16 * preset.channels
    assert site_config.channels_for(preset, 20, 24) == 24
