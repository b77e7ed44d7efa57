"""The logs of a simulated site against its truth, on one tiny site."""

import dataclasses
import types

import numpy as np
import pyarrow as pa
import pytest

from features import command
from features.tables import logs, schema
from pipeline.site import benchmark as site_benchmark
from pipeline.site import config as site_config
from pipeline.site import impressions as site_impressions
from pipeline.site import names as site_names
from pipeline.site import simulator
from pipeline.site import truth as site_truth

_MINI = dataclasses.replace(
    site_config.PRESETS["tiny"], users=50, videos=120, channels=10, topics=4, days=2
)


def _columns(truth, table):
    """Returns columns as arrays, with the rows of users and videos in the world."""
    found = {"user": truth.user_rows(table["user_id"])}
    if "video_id" in table.column_names:
        found["video"] = truth.video_rows(table["video_id"])
    for name in table.column_names:
        if not pa.types.is_list(table[name].type):
            found[name] = table[name].to_numpy()
    return types.SimpleNamespace(**found)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Simulated logs with everything that the tests ask."""
    directory = tmp_path_factory.mktemp("site") / "logs"
    summary = simulator.write_logs(site_config.PRESETS["tiny"], directory)
    truth = site_truth.Truth.load(directory)
    tables = {name: logs.read_table(directory, name) for name in logs.tables_in(directory)}
    columns = {
        name: _columns(truth, tables[name]) for name in ("impressions", "watches", "searches")
    }
    return types.SimpleNamespace(
        directory=directory,
        summary=summary,
        truth=truth,
        world=truth.world,
        tables=tables,
        **columns,
        recent=_recent_unclicked(columns["impressions"]),
        watched=_already_watched(columns["impressions"], columns["watches"]),
    )


def _recent_unclicked(shown):
    """Counts, from the logs alone, what the truth calls recent unclicked impressions."""
    counts = np.zeros(len(shown.user))
    order = np.lexsort((shown.position, shown.time, shown.user))
    for rows in np.split(order, np.flatnonzero(np.diff(shown.user[order])) + 1):
        time, video, clicked = shown.time[rows], shown.video[rows], shown.clicked[rows]
        for index, row in enumerate(rows):
            start = np.searchsorted(time, time[index])
            last = slice(max(0, start - 96), start)
            is_recent = time[last] >= time[index] - 7 * 86400
            counts[row] = (is_recent & ~clicked[last] & (video[last] == video[index])).sum()
    return counts


def _already_watched(shown, watches):
    first = {}
    for user, video, time in zip(watches.user, watches.video, watches.time, strict=True):
        first[user, video] = min(time, first.get((user, video), time))
    return np.array(
        [
            first.get((user, video), time) < time
            for user, video, time in zip(shown.user, shown.video, shown.time, strict=True)
        ]
    )


def _assert_counts(happened, probability):
    """Asserts that as many happened as were expected, within four standard deviations."""
    expected, sd = probability.sum(), np.sqrt((probability * (1 - probability)).sum())
    assert abs(happened.sum() - expected) < 4 * sd + 0.5


def _chance(site):
    shown = site.impressions
    return site.truth.click_probability(
        site.tables["impressions"]["user_id"],
        site.tables["impressions"]["video_id"],
        times=shown.time,
        position=shown.position,
        recent_unclicked_impressions=site.recent,
        surface=shown.surface,
        already_watched=site.watched,
    )


def test_circumstances_are_replayed_from_the_logs(site):
    found = site_impressions.expected_watch_times(site.truth, site.directory)
    chance = found["click_probability"].to_numpy()
    # Which episode is next is not asked for by hand, so series are left to the counts.
    single = site.world.videos.episode[site.impressions.video] == 0
    np.testing.assert_allclose(chance[single], _chance(site)[single])
    _assert_counts(site.impressions.clicked, chance)
    for place in range(3):
        there = site.impressions.position == place
        _assert_counts(site.impressions.clicked[there], chance[there])


def test_impressions_are_watched_for_as_long_as_expected(site):
    found = site_impressions.expected_watch_times(site.truth, site.directory)
    expected = found["expected_watch_time_s"].to_numpy()
    watched = site.impressions.watch_time_s
    error = np.sqrt((watched**2).sum()) / watched.sum()
    assert expected.sum() == pytest.approx(watched.sum(), rel=4 * error)
    assert np.corrcoef(expected, watched)[0, 1] > 0.2


def test_the_tables_conform_to_the_contract_and_no_row_is_rejected(site):
    for name, table in site.tables.items():
        conformed = schema.conform(name, table)
        missing = set(schema.TABLES[name].required) - set(conformed.column_names)
        assert not missing
        _, rejected = schema.validate(
            name,
            conformed,
            known_video_ids=site.tables["videos"]["video_id"].combine_chunks(),
            known_user_ids=site.tables["users"]["user_id"].combine_chunks(),
            now_s=site.world.config.end_s,
        )
        assert rejected.num_rows == 0
        assert table.num_rows == site.summary.rows[name]


def test_every_column_of_the_contract_that_a_site_can_have_is_there(site):
    without = {"exposures", "release_id", "updated_time", "click_time"}
    without |= {"withdrawn", "regions", "blocked_regions", "min_age"}
    assert set(schema.TABLES) - set(site.tables) == {"feedback"}  # Nobody was asked to say.
    for name in site.tables:
        contract = schema.TABLES[name]
        absent = {column.name for column in contract.columns} - set(site.tables[name].column_names)
        assert absent <= without
    assert "production_quality" in site.tables["videos"].column_names
    assert "subscription_tier" in site.tables["users"].column_names


def test_events_lie_inside_the_days_of_the_logs_and_after_the_upload(site):
    for events in (site.impressions, site.watches, site.searches):
        assert events.time.min() >= site.world.config.start_s
        assert events.time.max() < site.world.config.end_s
    for events in (site.impressions, site.watches):
        assert (events.time >= site.world.videos.upload_time[events.video]).all()


def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not(tmp_path):
    for name, seed in (("one", 5), ("two", 5), ("other", 6)):
        simulator.write_logs(dataclasses.replace(_MINI, seed=seed), tmp_path / name)
    found = {
        name: {
            str(path.relative_to(tmp_path / name)): path.read_bytes()
            for path in sorted((tmp_path / name).rglob("*"))
            if path.is_file()
        }
        for name in ("one", "two", "other")
    }
    assert found["one"] == found["two"]
    watches = [path for path in found["one"] if path.startswith("watches")]
    assert watches
    assert all(found["one"][path] != found["other"].get(path) for path in watches)


def test_a_directory_with_content_is_kept(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(command.InputError, match="is not empty"):
        simulator.write_logs(_MINI, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_site_without_events_is_refused_and_leaves_nothing(tmp_path):
    config = dataclasses.replace(_MINI, users=1, days=1, events_per_user_day=1e-6)
    with pytest.raises(command.InputError, match="nobody watched anything"):
        simulator.write_logs(config, tmp_path / "logs")
    assert list(tmp_path.iterdir()) == []


def test_clicks_come_as_often_as_the_truth_says(site):
    # Without episodes: whether one is the next for its user is not in the logs as such.
    is_plain = site.world.videos.episode[site.impressions.video] == 0
    chance, clicked = _chance(site)[is_plain], site.impressions.clicked[is_plain]
    _assert_counts(clicked, chance)
    bounds = np.quantile(chance, [0.25, 0.5, 0.75, 0.9])
    for part in range(len(bounds) + 1):
        inside = np.digitize(chance, bounds) == part
        _assert_counts(clicked[inside], chance[inside])


def test_each_of_the_truths_reasons_holds_on_its_own(site):
    is_plain = site.world.videos.episode[site.impressions.video] == 0
    chance, clicked = _chance(site), site.impressions.clicked
    reasons = {
        "tired": site.recent >= 2,
        "watched": site.watched,
        "low on the page": site.impressions.position >= 8,
        "clickbait": site.world.videos.clickbait[site.impressions.video] > 0.5,
        "beside a watch": site.impressions.surface == "up_next",
    }
    for reason, holds in reasons.items():
        rows = is_plain & holds
        assert rows.sum() > 200, reason
        _assert_counts(clicked[rows], chance[rows])


def test_the_home_page_gets_about_the_click_rate_that_was_asked_for(site):
    is_home = site.impressions.surface == "home"
    rate = site.impressions.clicked[is_home].mean()
    assert rate == pytest.approx(site.world.config.click_rate, rel=0.15)


def test_events_per_user_and_day_are_about_what_was_asked_for(site):
    config = site.world.config
    found = site.summary.num_events / config.users / config.days
    assert found == pytest.approx(config.events_per_user_day, rel=0.35)


def test_repeated_impressions_lower_the_click_rate(site):
    clicked = site.impressions.clicked
    assert clicked[site.recent >= 3].mean() < 0.6 * clicked[site.recent == 0].mean()


def test_the_top_of_the_page_is_clicked_more_than_its_end(site):
    shown = site.impressions
    is_home = shown.surface == "home"
    top, end = is_home & (shown.position == 0), is_home & (shown.position >= 9)
    assert shown.clicked[top].mean() > 1.5 * shown.clicked[end].mean()


def test_clickbait_has_more_clicks_and_shorter_watches(site):
    bait = site.world.videos.clickbait
    shown_bait = bait[site.impressions.video]
    clicked = site.impressions.clicked
    assert clicked[shown_bait > 0.5].mean() > 1.3 * clicked[shown_bait < 0.2].mean()
    watches = site.watches
    part = watches.watch_time_s / site.world.videos.duration_s[watches.video]
    watched_bait = bait[watches.video]
    assert part[watched_bait > 0.5].mean() < 0.7 * part[watched_bait < 0.2].mean()


def test_clicked_impressions_are_watched_and_the_others_are_not(site):
    shown, watches = site.impressions, site.watches
    assert (shown.watch_time_s[~shown.clicked] == 0).all()
    assert (shown.watch_time_s[shown.clicked] >= 1).all()
    from_pages = np.isin(watches.source, ["home", "up_next"])
    np.testing.assert_allclose(
        np.sort(shown.watch_time_s[shown.clicked]), np.sort(watches.watch_time_s[from_pages])
    )


def test_watch_times_and_completion_have_the_truths_mean(site):
    table, watches = site.tables["watches"], site.watches
    ids = (table["user_id"], table["video_id"])
    devices = table["device"].to_pylist()
    expected = site.truth.expected_watch_time_s(*ids, devices=devices)
    error = watches.watch_time_s - expected
    assert abs(error.mean()) < 4 * error.std() / np.sqrt(len(error))
    duration = site.world.videos.duration_s[watches.video]
    assert (watches.watch_time_s <= duration).all()
    completed = site.truth.completed_probability(*ids, devices=devices)
    _assert_counts(watches.completed, completed)
    np.testing.assert_array_equal(watches.completed, watches.watch_time_s >= 0.7 * duration)


def test_the_popularity_of_a_new_video_rises_and_then_decays(site):
    videos, end_s = site.world.videos, site.world.config.end_s
    new = np.flatnonzero((videos.upload_time > site.world.config.start_s) & (videos.episode <= 1))
    age_h = (site.watches.time - videos.upload_time[site.watches.video]) / 3600
    is_new = np.isin(site.watches.video, new)

    def watches_per_hour(low, high):
        seen = np.clip((end_s - videos.upload_time[new]) / 3600, low, high) - low
        return (is_new & (age_h >= low) & (age_h < high)).sum() / seen.sum()

    assert watches_per_hour(0, 1) < 0.8 * watches_per_hour(4, 24)
    assert watches_per_hour(4, 24) > 1.5 * watches_per_hour(96, 168)


def test_series_are_watched_in_order(site):
    videos, watches = site.world.videos, site.watches
    episode = videos.episode[watches.video]
    rows = np.flatnonzero((episode > 0) & (watches.source == "channel"))
    rows = rows[
        np.lexsort((watches.time[rows], videos.channel[watches.video[rows]], watches.user[rows]))
    ]
    same = (np.diff(watches.user[rows]) == 0) & (np.diff(videos.channel[watches.video[rows]]) == 0)
    steps = np.diff(episode[rows])[same]
    assert len(steps) > 50
    assert (steps > 0).mean() > 0.98
    # Episodes in between were watched from another source, mostly a page.
    assert (steps == 1).mean() > 0.6


def test_queries_are_words_of_a_topic_and_what_follows_at_once_is_of_it(site):
    names, words = site_names.topics(site.world.config.topics)
    topic_of = {word: topic for topic, of_topic in enumerate(words) for word in of_topic}
    queries = [query.split() for query in site.searches.query]
    assert all(len({topic_of[word] for word in query}) == 1 for query in queries)
    topic = np.array([topic_of[query[0]] for query in queries])
    found = site.watches.source == "search"
    _assert_counts(np.ones(found.sum()), np.full(len(queries), 0.7))
    followed = 0
    for user, video, time in zip(
        site.watches.user[found], site.watches.video[found], site.watches.time[found], strict=True
    ):
        asked = (site.searches.user == user) & (site.searches.time < time)
        last = np.flatnonzero(asked)[-1]
        if time - site.searches.time[last] <= 40:
            followed += 1
            assert site.world.videos.topic[video] == topic[last]
    assert followed >= found.sum() - 1  # One may be cut off by the end of the logs.
    assert names[0] == "Cooking"


def test_watches_come_from_all_sources(site):
    assert set(site.watches.source) == {"home", "up_next", "search", "channel", "external"}


def test_pages_have_every_position_once_and_say_where_candidates_came_from(site):
    shown = site.impressions
    pages, first, size = np.unique(shown.page_id, return_index=True, return_counts=True)
    assert size.max() == 12
    for column in (shown.user, shown.time, shown.surface):
        np.testing.assert_array_equal(
            np.repeat(column[first], size), column[np.argsort(shown.page_id, kind="stable")]
        )
    position = shown.position[np.lexsort((shown.position, shown.page_id))]
    expected = np.concatenate([np.arange(number) for number in size])
    np.testing.assert_array_equal(position, expected)
    sources = site.tables["impressions"]["candidate_sources"].to_pylist()
    assert all(sources)
    assert {name for row in sources for name in row} == {
        "taste", "popular", "fresh", "subscriptions", "random", "next_episode",
    }  # fmt: skip
    assert len(pages) > 500


def test_the_logged_score_tells_something_about_clicks(site):
    shown = site.impressions
    score = shown.retrieval_score
    assert shown.clicked[score > np.median(score)].mean() > 1.5 * (
        shown.clicked[score < np.median(score)].mean()
    )


def test_the_next_watch_is_as_likely_as_the_truth_says(site):
    table = site.tables["watches"].sort_by("time")
    asked = table.slice(table.num_rows - 600)
    chances = site.truth.watch_probability(
        asked["user_id"], asked["time"].to_numpy(), watches=table
    )
    np.testing.assert_allclose(chances.sum(axis=1), 1)
    label = np.zeros(chances.shape, bool)
    label[np.arange(600), site.truth.video_rows(asked["video_id"])] = True
    for low, high in ((0.0, 0.003), (0.003, 0.02), (0.02, 0.1), (0.1, 1.01)):
        inside = (chances >= low) & (chances < high)
        expected = chances[inside].sum()
        assert expected > 20
        # To first order in repeats within a page, hence a tenth more than chance alone.
        assert abs(label[inside].sum() - expected) < 4 * np.sqrt(expected) + 0.1 * expected


def test_the_oracle_retrieves_far_more_than_popularity(site):
    found = site_benchmark.last_day(site.truth, site.directory, number=150)
    best = max(value for name, value in found.recall.items() if name != "oracle")
    assert found.recall["oracle"] > best + 0.2
    assert "recall@100" in found.text()
