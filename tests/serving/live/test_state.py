import threading
import types

import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings

from features.as_of import live_statistics
from features.as_of.live_statistics import LiveStatistics
from features.catalogue import Catalogue
from features.tables import logs
from serving.events.event import Event, Kind
from serving.events.log import EventLog
from serving.funnel.nominations import Nominations, Question
from serving.funnel.recorder import Recorder
from serving.funnel.sources import CoWatch, Trending
from serving.history.sqlite_store import SqliteHistoryStore
from serving.live.counts import DecayedCounts, FollowCounts, RecentWatches
from serving.live.state import Happened, LiveState
from serving.live.view import LiveView
from serving.servables.embedded import EmbeddedBackend
from serving.server.live_service import LiveParts

NOW = 1_700_000_000
VIDEOS = [f"v{n}" for n in range(20)]
CATALOGUE = Catalogue(
    pa.table({"video_id": VIDEOS, "upload_time": pa.array([NOW - 10**6] * 20, pa.int64())})
)


def watch(video, ago=60, user="u", kind=Kind.WATCH):
    return Event(
        event_id=f"{user}{video}{ago}{kind}",
        kind=kind,
        user_id=user,
        time=NOW - ago,
        video_id=video,
    )


def question(*liked, region="", excluded=()):
    viewer = types.SimpleNamespace(now=NOW, region=region, liked_rows=np.array(liked, np.int32))
    return Question(
        viewer=viewer,
        excluded=np.array(excluded, np.int32),
        upload_times=CATALOGUE.upload_times,
    )


def trending_of(state, asked, limit=20):
    of_build = Nominations(np.array([19], np.int32), np.ones(1, np.float32))
    return Trending(of_build, LiveView(state, CATALOGUE)).nominate(asked, limit)


def test_a_new_half_life_counts_as_if_it_had_been_known_from_the_start():
    known, learnt = LiveState(half_life_s=600.0), LiveState()
    events = [watch(video, ago, user=f"u{ago}") for video, ago in (("v1", 9000), ("v2", 30))]
    events += [watch("v1", 8000 + n, user=f"w{n}") for n in range(5)]
    for state in (known, learnt):
        state.apply(events)
    numbers = np.array([0, 1])
    before = learnt.rates(numbers, region="", now_s=NOW)[1].counts
    learnt.set_half_life(600.0)
    _, expected = known.rates(numbers, region="", now_s=NOW)
    np.testing.assert_allclose(
        learnt.rates(numbers, region="", now_s=NOW)[1].counts, expected.counts
    )
    assert not np.allclose(before, expected.counts)
    assert learnt.trending("")[1].tolist() == known.trending("")[1].tolist()


def test_counts_halve_in_a_half_life():
    counts = DecayedCounts([100.0, 10_000.0])
    # Two watches 150 s ago weigh 0.707 at a half-life of 100 s, less than one of just now.
    counts.add(np.array([7, 7, 3]), np.array([1000.0, 1000.0, 1150.0]))
    assert counts.top(0, 5).tolist() == [3, 7]
    assert counts.top(1, 5).tolist() == [7, 3]
    assert counts.top(1, 1).tolist() == [7]


def test_counts_stay_finite_for_years_and_late_events_keep_their_weight():
    counts = DecayedCounts([100.0])
    for start in range(0, 10**9, 10**8):
        counts.add(np.array([1]), np.array([float(start)]))
    counts.add(np.array([2, 3]), np.array([9e8 - 50, 9e8 - 90]))
    assert counts.top(0, 5).tolist()[:3] == [1, 2, 3]


def test_the_last_watches_of_a_region_are_kept_and_decay():
    recent = RecentWatches(4)
    recent.add(np.array([1, 1, 1]), np.array([0.0, 1.0, 2.0]))
    recent.add(np.array([2, 2]), np.array([10.0, 11.0]))
    # The first watch is gone: two of each, those of video 2 younger.
    assert recent.top(5.0, 9, at_least=4).tolist() == [2, 1]
    assert recent.top(5.0, 9, at_least=5).tolist() == []


def test_what_follows_what_by_hand():
    follows = FollowCounts()
    for user, numbers in {"u": [1, 2, 3], "w": [1, 3]}.items():
        for place, number in enumerate(numbers):
            follows.add(user, number, 1000.0 + place)
    after = follows.after([1])
    # After 1: 2 at once for u, 3 two steps later for u and at once for w (all about as old).
    total = 1 + 0.5 + 1
    assert after[2] == pytest.approx(1 / total, rel=1e-3)
    assert after[3] == pytest.approx(1.5 / total, rel=1e-3)
    assert follows.after([2])[3] == pytest.approx(1.0)
    assert follows.after([99]) == {}


def test_watches_of_another_day_do_not_follow():
    follows = FollowCounts()
    follows.add("u", 1, 0.0)
    follows.add("u", 2, 90_000.0)
    assert follows.after([1]) == {}


def test_followers_are_bounded(monkeypatch):
    monkeypatch.setattr(FollowCounts, "_MOST_FOLLOWERS", 4)
    follows = FollowCounts()
    for user in range(30):
        follows.add(f"u{user}", 0, 0.0)
        follows.add(f"u{user}", 1 if user % 3 else 100 + user, 1.0)
    after = follows.after([0])
    assert len(after) <= 4
    assert max(after, key=after.get) == 1  # The frequent one is never pruned.


def test_an_event_changes_what_trends_at_once():
    state = LiveState()
    assert trending_of(state, question()).rows.tolist() == [19]  # what trended before
    state.apply([watch("v3", 600), watch("v4", 500, user="w")])
    assert set(trending_of(state, question()).rows.tolist()) == {3, 4}
    state.apply([watch("v5", ago, user=f"x{ago}") for ago in range(1, 4)])
    assert trending_of(state, question()).rows.tolist()[0] == 5
    assert trending_of(state, question(excluded=[5])).rows.tolist()[0] in {3, 4}


def test_a_region_has_its_own_trend_where_it_has_enough_watches():
    state = LiveState()
    for n in range(60):
        state.meet(f"fr{n}", "fr")
    state.apply([watch("v1", 30, user=f"us{n}") for n in range(100)])
    state.apply([watch("v2", 30, user=f"fr{n}") for n in range(60)])
    assert trending_of(state, question(region="us"), 1).rows.tolist() == [1]
    # Everybody's lists begin with v1, those of the region with v2: both come before all others.
    assert set(trending_of(state, question(region="fr"), 2).rows.tolist()) == {1, 2}
    state = LiveState()
    state.meet("fr0", "fr")
    state.apply([watch("v2", 30, user="fr0"), *(watch("v1", 30, user=f"u{n}") for n in range(9))])
    assert trending_of(state, question(region="fr"), 1).rows.tolist() == [1]


def test_co_watch_nominates_what_was_watched_next():
    state = LiveState()
    events = []
    for user in "abc":
        events += [watch("v1", 300, user=user), watch("v2", 200, user=user)]
    state.apply([*events, watch("v1", 300, user="d"), watch("v3", 200, user="d")])
    source = CoWatch(LiveView(state, CATALOGUE))
    found = source.nominate(question(1), 5)
    assert found.rows.tolist() == [2, 3]
    assert found.scores.tolist() == pytest.approx([0.75, 0.25], rel=0.01)
    assert not len(source.nominate(question(), 5).rows)


def test_impressions_count_but_do_not_trend():
    state = LiveState()
    state.apply([watch("v1", 120, kind=Kind.IMPRESSION), watch("v2", 120)])
    assert trending_of(state, question()).rows.tolist() == [2]
    columns = LiveView(state, CATALOGUE).columns(np.array([1, 2]), np.full(2, NOW))
    assert columns["video_live_impressions_1h"].tolist() == [1, 0]
    assert columns["video_live_watches_1h"].tolist() == [0, 1]


def test_videos_of_other_releases_are_left_out_and_later_ones_join():
    state = LiveState()
    state.apply([watch("of yesterday"), watch("v1", user="w"), watch("new", 10, user="x")])
    assert trending_of(state, question()).rows.tolist() == [1]
    new = pa.table({"video_id": ["new"], "upload_time": pa.array([NOW - 100], pa.int64())})
    longer = CATALOGUE.extended(new)
    assert LiveView(state, longer).trending_rows("").tolist() == [20, 1]


moments = st.lists(
    st.tuples(st.sampled_from(VIDEOS[:4]), st.integers(0, 80_000), st.booleans()), max_size=40
)


@settings(max_examples=40, deadline=None)
@given(moments, st.integers(1, 7), st.randoms(use_true_random=False))
def test_features_equal_those_of_replay_whatever_the_order_of_events(events, size, random):
    """Training and serving count alike, also where events are late."""
    state, view = LiveState(), None
    random.shuffle(events)
    for start in range(0, len(events), size):
        part = events[start : start + size]
        state.apply(
            [
                watch(v, ago, str(i), (Kind.WATCH, Kind.IMPRESSION)[shown])
                for i, (v, ago, shown) in enumerate(part, start)
            ]
        )
        view = view or LiveView(state, CATALOGUE)
        view.columns(np.arange(4), np.full(4, NOW - 40_000))  # Someone asks in between.

    def table(is_shown):
        mine = [(v, ago) for v, ago, shown in events if shown is is_shown]
        return pa.table(
            {
                "video_id": pa.array([v for v, _ in mine], pa.string()),
                "time": pa.array([NOW - ago for _, ago in mine], pa.int64()),
            }
        )

    counts = live_statistics.minute_counts(CATALOGUE, table(False), table(True))
    trained = LiveStatistics.of(counts).columns(np.arange(4), np.full(4, NOW))
    served = LiveView(state, CATALOGUE).columns(np.arange(4), np.full(4, NOW))
    for name, values in trained.items():
        np.testing.assert_array_equal(served[name], values, err_msg=name)


def test_memory_is_bounded_and_the_newest_survive():
    state = LiveState(max_videos=10)
    view = LiveView(state, CATALOGUE)
    for n in range(20):
        times = np.array([NOW - 200_000 + 10_000 * n], np.int64)
        state.add(Happened(Kind.WATCH, [f"u{n}"], [f"v{n}"], times))
        view.columns(np.arange(3), np.full(3, int(times[0])))
    _, ids = state.known(0)
    assert len(ids) <= 11
    assert "v19" in ids
    assert "v0" not in ids
    assert view.trending_rows("").tolist()[0] == 19
    columns = view.columns(np.array([19, 0]), np.full(2, NOW))
    assert columns["video_live_watches_1d"].tolist() == [1, 0]


class RenumberedMeanwhile(LiveState):
    """Takes in events that give videos new numbers, right before or after its next answer."""

    def __init__(self, events):
        super().__init__(max_videos=10)
        self._events = events
        self.due = None

    def _answer(self, answer, *asked):
        for moment in ("before", "after"):
            if moment == "after":
                found = answer(*asked)
            if self.due == moment:
                self.due = None
                others = threading.Thread(target=self.apply, args=(self._events,))
                others.start()
                others.join()
        return found

    def trending(self, region):
        return self._answer(super().trending, region)

    def following(self, numbers):
        return self._answer(super().following, numbers)

    def statistics(self, now_s):
        return self._answer(super().statistics, now_s)


@pytest.fixture(params=["before", "after"])
def renumbered(request):
    """A view of a state that forgets its first six videos about its next answer."""
    # Three days ago somebody watched v0 to v5, lately v6 and then v7; three new ones are too many.
    old = [watch(f"v{n}", 3 * 86400, user=f"old {n}") for n in range(6)]
    lately = [watch("v6", 300, user="u"), watch("v7", 200, user="u"), watch("v7", 120, user="w")]
    state = RenumberedMeanwhile([watch(f"v{n}", 130, user=f"new {n}") for n in range(10, 13)])
    state.apply(old)
    state.apply(lately)
    view = LiveView(state, CATALOGUE)
    assert view.trending_rows("")[0] == 7
    before, _ = state.known(0)
    state.due = request.param
    yield view
    after, ids = state.known(0)
    assert (before, after) == (0, 1)  # It did happen.
    assert ids[:2] == ["v6", "v7"]  # Their numbers were 6 and 7, those of other videos now.


def test_what_trends_is_right_while_videos_get_new_numbers(renumbered):
    assert renumbered.trending_rows("").tolist()[0] == 7


def test_what_follows_is_right_while_videos_get_new_numbers(renumbered):
    rows, _ = renumbered.rows_after(np.array([6]))
    assert rows.tolist() == [7]


def test_counts_are_right_while_videos_get_new_numbers(renumbered):
    columns = renumbered.columns(np.array([6, 7, 0, -1]), np.full(4, NOW))
    assert columns["video_live_watches_10m"].tolist() == [1, 2, 0, 0]


def test_an_ancient_event_costs_nothing_and_changes_nothing_that_is_of_today():
    """One of 1970 made each minute cost seconds: a count for each minute since then."""
    state = LiveState()
    view = LiveView(state, CATALOGUE)
    state.apply([watch("v1", 120)])
    _, before = state.statistics(NOW)
    state.apply([watch("v2", NOW - 1), watch("v2", 86400 * 400, kind=Kind.IMPRESSION)])
    _, after = state.statistics(NOW)
    assert after is before  # Nothing was counted anew.
    # Nor does it come back with what happens next: v1 was watched twice before this minute.
    state.apply([watch("v1", 30, user="w")])
    columns = view.columns(np.arange(3), np.full(3, NOW))
    assert columns["video_live_watches_1d"].tolist() == [0, 2, 0]
    assert columns["video_live_impressions_1d"].tolist() == [0, 0, 0]


def test_made_up_regions_are_kept_for_a_while_and_few_at_a_time():
    state = LiveState()
    for n in range(1000):
        state.meet(f"u{n}", f"made up {n}")
        state.apply([watch("v1", 60, user=f"u{n}")])
        state.trending(f"made up {n}")
    assert len(state._by_region) == 500
    assert state._lists.keys() <= state._by_region.keys() | {""}


def test_the_recorder_tells_of_each_event_once(tmp_path):
    history, log = SqliteHistoryStore(tmp_path / "history.sqlite"), EventLog(tmp_path / "logs")
    state = LiveState()
    recorder = Recorder(history, log, state)
    sent = [watch("v1", 120), watch("v2", 120)]
    recorder.record(sent, {"u": {"region": "fr"}})
    recorder.record(sent, {})
    recorder.record_page([watch("v3", 130, kind=Kind.IMPRESSION)], {})
    columns = LiveView(state, CATALOGUE).columns(np.array([1, 2, 3]), np.full(3, NOW))
    assert columns["video_live_watches_10m"].tolist() == [1, 1, 0]
    assert columns["video_live_impressions_10m"].tolist() == [0, 0, 1]
    log.close()
    history.close()


def test_a_server_starts_from_its_logs_and_from_what_waits_beside_them(tmp_path):
    logs_dir = tmp_path / "logs"
    table = pa.table(
        {
            "user_id": ["a", "b"],
            "video_id": ["v4", "v4"],
            "time": pa.array([NOW - 400, NOW - 300], pa.int64()),
            "watch_time_s": [1.0, 2.0],
        }
    )
    logs.append(logs_dir, "watches", table)
    log = EventLog(logs_dir)
    log.append_page([watch("v5", 120, kind=Kind.IMPRESSION)])
    parts = LiveParts(tmp_path, logs_dir, EmbeddedBackend(), clock=lambda: float(NOW))
    parts.seed()
    assert trending_of(parts.state, question()).rows.tolist() == [4]
    columns = LiveView(parts.state, CATALOGUE).columns(np.array([4, 5]), np.full(2, NOW))
    assert columns["video_live_watches_10m"].tolist() == [2, 0]
    assert columns["video_live_impressions_10m"].tolist() == [0, 1]
    log.close()
