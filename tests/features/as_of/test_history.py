"""As-of history against a slow, obvious reference, and by hand."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features import event_columns, spec
from features.as_of.entity_lookup import NEVER_S
from features.as_of.examples import Request, Users, query_batch
from features.as_of.history import History
from features.catalogue import Catalogue
from features.event_columns import Queries
from features.spec import Feature, ResolvedSpec

VIDEOS = pa.table(
    {
        "video_id": ["a", "b", "c", "d"],
        "upload_time": [0, 0, 0, 0],
        "channel_id": ["x", "x", "y", None],
        "topics": [["t1", "t2"], ["t2", "t2"], [], ["t1"]],
    }
)
CATALOGUE = Catalogue(VIDEOS)
T0 = 1_000_000


def watches(*rows):
    """Rows of (user, video, time, seconds, completed)."""
    names = ["user_id", "video_id", "time", "watch_time_s", "completed"]
    columns = list(zip(*rows, strict=True)) or [[]] * 5
    types = [pa.string(), pa.string(), pa.int64(), pa.float64(), pa.bool_()]
    return pa.table({n: pa.array(c, t) for n, c, t in zip(names, columns, types, strict=True)})


def impressions(*rows):
    """Rows of (user, video, time, seconds, clicked)."""
    return watches(*rows).rename_columns(["user_id", "video_id", "time", "watch_time_s", "clicked"])


def one_query(user=0, now=T0):
    return Queries(np.array([user]), np.array([now]))


def test_bag_holds_completed_watches_strictly_before_now_newest_first():
    table = watches(
        ("u", "a", T0 - 30, 5, True),
        ("u", "b", T0 - 20, 5, False),  # not completed
        ("u", "c", T0 - 10, 5, None),  # not known: counts
        ("u", "d", T0, 5, True),  # at now: not seen
        ("w", "b", T0 - 5, 5, True),  # somebody else
    )
    history = History.of(CATALOGUE, {"u": 0, "w": 1}, watches=table)
    lengths, rows = history.watched_rows(one_query(), 50)
    assert lengths.tolist() == [2]
    assert rows.tolist() == [2, 0]  # c, a
    lengths, ages = history.watched_ages(one_query(), 50)
    assert lengths.tolist() == [2]
    assert ages.tolist() == [3, 4]  # 10 s and 30 s


def test_ages_of_watches_are_powers_of_two_in_the_order_of_the_bag():
    ago_s = {"a": 1, "b": 3, "c": 4, "d": 86_400}
    table = watches(*[("u", video, T0 - ago, 1, True) for video, ago in ago_s.items()])
    ages = Feature(
        name="watch_ages",
        kind="multivalent",
        side="query",
        models=("candidate",),
        source="history.watched_ages",
        space="watch_age",
        max_length=3,
    )
    batch = query_batch(
        ResolvedSpec(features=(ages,)),
        "candidate",
        request=Request(one_query(), np.array([-1]), {}),
        users=Users(pa.table({"user_id": pa.array([], pa.string())})),
        history=History.of(CATALOGUE, {"u": 0}, watches=table),
    )
    assert batch["watch_ages"].to_pylist() == [["0", "1", "2"]]


def test_bag_keeps_the_newest_when_it_is_full():
    table = watches(*[("u", v, T0 - 10 + i, 1, True) for i, v in enumerate("abcd")])
    history = History.of(CATALOGUE, {"u": 0}, watches=table)
    _, rows = history.watched_rows(one_query(), 2)
    assert rows.tolist() == [3, 2]


def test_grid_by_hand():
    shown = impressions(
        ("u", "a", T0 - 3600, 10.5, True),  # exactly 1 h ago: inside [now - 1 h, now)
        ("u", "b", T0 - 3601, 2, False),  # just outside
        ("u", "a", T0 - 8 * 86400, 4, True),
    )
    history = History.of(CATALOGUE, {"u": 0}, watches=watches(), impressions=shown)
    grid = history.video_grid(one_query(), np.array([0], np.int32))
    assert grid["user_video_impressions_1h"].tolist() == [1]
    assert grid["user_video_impressions_all"].tolist() == [2]
    assert grid["user_video_clicks_7d"].tolist() == [1]
    # No watch tells when it was clicked: when the window of half an hour was over.
    assert grid["user_video_seconds_since_click"].tolist() == [1800]
    assert grid["user_channel_impressions_1d"].tolist() == [2]  # a and b are both of channel x
    # Topic t1 was shown twice in all, t2 three times: a video has the largest of its topics.
    assert grid["user_topic_impressions_all"].tolist() == [3]
    assert grid["user_video_watches_all"].tolist() == [0]
    assert grid["user_video_seconds_since_watch"].tolist() == [NEVER_S]


def test_events_on_videos_outside_the_catalogue_do_not_count():
    # Training sets them aside, so they must not count for whoever is served either.
    table = watches(("u", "gone", T0 - 5, 7, True), ("u", "a", T0 - 9, 2, True))
    shown = impressions(("u", "gone", T0 - 50, 0, True), ("u", "b", T0 - 50, 0, False))
    history = History.of(CATALOGUE, {"u": 0}, watches=table, impressions=shown)
    grid = history.user_grid(one_query())
    assert grid["user_any_watch_time_s_1h"].tolist() == [2]
    assert grid["user_any_impressions_all"].tolist() == [1]
    assert grid["user_any_clicks_all"].tolist() == [0]
    # Nor do they take the place of one that counts.
    assert history.watched_rows(one_query(), 1)[1].tolist() == [0]


def test_a_copy_counts_once_whatever_else_its_row_says():
    table = watches(
        ("u", "a", T0 - 9, 2, True),
        ("u", "a", T0 - 9, 2, True),
        ("u", "a", T0 - 9, 3, True),  # another watch time: another watch
        ("u", "a", T0 - 9, 2, False),  # nor was this one completed
        ("u", "b", T0 - 9, 2, True),
    )
    shown = impressions(
        ("u", "a", T0 - 20, 0, False), ("u", "a", T0 - 20, 2, True), ("u", "a", T0 - 21, 0, False)
    )
    searched = pa.table({"user_id": ["u"] * 3, "time": [T0 - 7] * 3, "query": ["x", "y", "x"]})
    history = History.of(CATALOGUE, {"u": 0}, watches=table, impressions=shown, searches=searched)
    grid = history.user_grid(one_query())
    assert grid["user_any_watches_all"].tolist() == [4]
    assert grid["user_any_watch_time_s_all"].tolist() == [9]
    assert grid["user_any_impressions_all"].tolist() == [2]
    # The one of the copies that was clicked, at the watch of T0 - 9.
    assert grid["user_any_clicks_all"].tolist() == [1]
    assert grid["user_any_seconds_since_click"].tolist() == [9]
    assert history.searches_within(one_query(), 60).tolist() == [2]


def test_a_click_counts_from_its_own_moment():
    # A page of T0, its click at T0 + 40, and a page of T0 + 30 in between.
    shown = impressions(("u", "a", T0, 50, True), ("u", "b", T0 + 30, 0, False))
    table = watches(("u", "a", T0 + 40, 50, True))
    history = History.of(CATALOGUE, {"u": 0}, watches=table, impressions=shown)

    def clicked(now):
        grid = history.user_grid(one_query(now=now))
        return grid["user_any_clicks_1h"][0], grid["user_any_seconds_since_click"][0]

    assert clicked(T0 + 30) == clicked(T0 + 40) == (0, np.float32(NEVER_S))
    assert clicked(T0 + 41) == (1, 1)
    # Windows begin at the click too, not at what it clicked.
    assert clicked(T0 + 40 + 3600) == (1, 3600)
    assert clicked(T0 + 41 + 3600) == (0, 3601)


def test_clicks_reach_as_far_back_as_impressions_and_watches_tell_of_them_all(monkeypatch):
    monkeypatch.setattr(event_columns, "MAX_EVENTS", 3)
    hour = 3600
    shown = impressions(*[("u", "a", T0 + hour * i, 1, True) for i in range(6)])
    watched = watches(*[("u", "a", T0 + hour * i + 5, 1, True) for i in range(6)])
    more = watches(*[("u", "b", T0 + hour * 9 + i, 1, True) for i in range(3)])

    def clicks(watched, now):
        history = History.of(CATALOGUE, {"u": 0}, watches=watched, impressions=shown)
        return history.user_grid(one_query(now=now))["user_any_clicks_all"].tolist()

    # Of six impressions three are seen. The oldest of them, of hour 3, cut off what came before it,
    # which may have been clicked until half an hour later.
    assert clicks(watched, T0 + 6 * hour) == [2]
    # Three are not too many, so nothing is cut.
    assert clicks(watched, T0 + 2 * hour + 6) == [3]
    # Three later watches leave none that tells of a click.
    assert clicks(pa.concat_tables([watched, more]), T0 + 10 * hour) == [0]


def test_completed_watches_are_those_of_the_watches_that_are_seen(monkeypatch):
    monkeypatch.setattr(event_columns, "MAX_EVENTS", 3)
    table = watches(*[("u", "abcd"[i], T0 - 9 + i, 1, i in {0, 2}) for i in range(4)])
    history = History.of(CATALOGUE, {"u": 0}, watches=table)
    assert history.watched_rows(one_query(), 50)[1].tolist() == [2]


def test_nothing_before_the_begin_of_training_counts_nor_a_click_on_it():
    shown = impressions(("u", "a", T0 - 20, 0, True), ("u", "b", T0 - 10, 0, False))
    table = watches(("u", "a", T0 - 20, 5, True), ("u", "a", T0 - 9, 5, True))
    searched = pa.table({"user_id": ["u"] * 2, "time": [T0 - 20, T0 - 9], "query": ["x", "y"]})
    history = History.of(
        CATALOGUE,
        {"u": 0},
        watches=table,
        impressions=shown,
        searches=searched,
        from_s=T0 - 10,
    )
    grid = history.user_grid(one_query())
    assert grid["user_any_impressions_all"].tolist() == [1]
    assert grid["user_any_watches_all"].tolist() == [1]
    assert grid["user_any_clicks_all"].tolist() == [0]
    assert history.watched_rows(one_query(), 50)[1].tolist() == [0]
    assert history.searches_within(one_query(), 60).tolist() == [1]


def test_empty_history_answers():
    history = History.of(CATALOGUE, {}, watches=None)
    grid = history.video_grid(one_query(), np.array([1], np.int32))
    assert grid["user_channel_clicks_7d"].tolist() == [0]
    assert grid["user_topic_seconds_since_impression"].tolist() == [NEVER_S]


# ---- the reference: one query at a time, plain loops -------------------------------------------

CHANNEL = dict(zip(VIDEOS["video_id"].to_pylist(), VIDEOS["channel_id"].to_pylist(), strict=True))
TOPICS = {
    v: set(t)
    for v, t in zip(VIDEOS["video_id"].to_pylist(), VIDEOS["topics"].to_pylist(), strict=False)
}


def reference_cell(events, matches, now, window, limit, *, told_from=0):
    """Count, seconds and seconds since last of one user's (time, video, seconds) events."""
    past = [e for e in sorted(events) if told_from <= e[0] < now][-limit:]
    inside = [e for e in past if matches(e[1]) and (window is None or e[0] >= now - window)]
    last = [now - t for t, v, _ in past if matches(v)]
    return len(inside), sum(s for _, _, s in inside), min(last, default=NEVER_S)


def reference_grid(by_kind, entity, video, now, limit):
    """The grid of one query as a dict, by the definition."""
    if entity == "topic":
        parts = [
            reference_part(by_kind, entity, lambda v, t=t: t in TOPICS.get(v, ()), now, limit)
            for t in sorted(TOPICS.get(video, ()))
        ]
        nothing = reference_part({k: [] for k in by_kind}, entity, lambda v: False, now, limit)
        reduce = {name: min if "since" in name else max for name in nothing}
        return {n: reduce[n]([p[n] for p in parts], default=nothing[n]) for n in nothing}
    matches = {
        "any": lambda v: True,
        "video": lambda v: v == video and video in CHANNEL,
        "channel": lambda v: CHANNEL.get(v) is not None and CHANNEL.get(v) == CHANNEL.get(video),
    }[entity]
    return reference_part(by_kind, entity, matches, now, limit)


def reference_reach(events, now, limit):
    """From when on all clicks are told: half an hour after the oldest event left, if cut."""
    past = [e for e in sorted(events) if e[0] < now]
    return past[-limit][0] + 1801 if len(past) > limit else 0


def reference_clicks(shown, watched):
    """(moment, row, video) of each click: its first watch in half an hour, or the end of it."""
    found = {}
    for time, row, video, _, clicked in shown:
        told = [t for t, _, v, _, _ in watched if v == video and time <= t <= time + 1800]
        if clicked:
            moment = min(told, default=time + 1800)
            found[time, row, video] = min(moment, found.get((time, row, video), moment))
    return sorted((moment, time, row, video) for (time, row, video), moment in found.items())


def reference_part(by_kind, entity, matches, now, limit):
    result = {}
    told_from = max(reference_reach(by_kind[kind], now, limit) for kind in ("impression", "watch"))
    for kind, measure in (("impression", "impressions"), ("click", "clicks"), ("watch", "watches")):
        since = told_from if kind == "click" else 0
        for name, window in spec.WINDOWS_S.items():
            count, seconds, last = reference_cell(
                by_kind[kind], matches, now, window, limit, told_from=since
            )
            result[f"user_{entity}_{measure}_{name}"] = count
            if kind == "watch":
                result[f"user_{entity}_watch_time_s_{name}"] = seconds
            result[f"user_{entity}_seconds_since_{kind}"] = last
    return result


TIMES = st.sampled_from(
    [0, 1, 2, 1800, 1801, 3600, 3601, 86400, 86401, 7 * 86400, 7 * 86400 + 1, 10**6]
)
EVENT = st.tuples(
    st.sampled_from("uvw"), st.sampled_from("abcde"), TIMES, st.integers(0, 100), st.booleans()
)


@settings(max_examples=60, deadline=None)
@given(
    watched=st.lists(EVENT, max_size=25),
    shown=st.lists(EVENT, max_size=25),
    asked=st.lists(st.tuples(st.sampled_from("uvw"), st.sampled_from("abcde"), TIMES), min_size=1),
    limit=st.sampled_from([3, 5000]),
)
def test_grid_equals_the_obvious_reference(watched, shown, asked, limit):
    # e is not in the catalogue. Times are chosen so that windows are met exactly and missed by 1.
    users = {"u": 0, "v": 1, "w": 2}
    clock = [(u, v, T0 + 10**6 - t, s / 8, f) for u, v, t, s, f in watched]
    clock_shown = [(u, v, T0 + 10**6 - t, s / 8, f) for u, v, t, s, f in shown]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(event_columns, "MAX_EVENTS", limit)
        history = History.of(
            CATALOGUE, users, watches=watches(*clock), impressions=impressions(*clock_shown)
        )
        queries = Queries(
            np.array([users[u] for u, _, _ in asked]),
            np.array([T0 + 10**6 - t for _, _, t in asked]),
        )
        rows = CATALOGUE.rows(pa.array([v for _, v, _ in asked]))
        grid = history.video_grid(queries, rows) | history.user_grid(queries)
    row_of = {**CATALOGUE.row_of, "e": -1}
    for number, (user, video, _) in enumerate(asked):
        now = int(queries.now[number])
        # Copies count once, and what is outside the catalogue not at all.
        mine = {(t, row_of[v], v, s, f) for u, v, t, s, f in clock if u == user and v != "e"}
        seen = {(t, row_of[v], v, s, f) for u, v, t, s, f in clock_shown if u == user and v != "e"}
        by_kind = {
            "watch": [(t, v, s) for t, _, v, s, _ in ordered(mine)],
            "impression": [(t, v, 0) for t, _, v in sorted({e[:3] for e in seen})],
            "click": [(t, v, 0) for t, _, _, v in reference_clicks(seen, mine)],
        }
        for entity in ("any", "video", "channel", "topic"):
            expected = reference_grid(OrderedEvents(by_kind), entity, video, now, limit)
            got = {name: grid[name][number] for name in expected}
            assert got == pytest.approx(expected), (entity, user, video, now)


def ordered(events):
    """Time order, ties by catalogue row: the order that truncation is defined on."""
    return sorted(events, key=lambda e: (e[0], e[1], e[3], e[4]))


class OrderedEvents(dict):
    """Marks events whose order is already right, so that the reference's sort keeps it."""

    def __getitem__(self, kind):
        return [Stable(event, place) for place, event in enumerate(super().__getitem__(kind))]


class Stable(tuple):
    """An event that compares by its place."""

    def __new__(cls, event, place):
        self = super().__new__(cls, event)
        self.place = place
        return self

    def __lt__(self, other):
        return self.place < other.place


def test_many_users_at_once_answer_as_each_alone():
    rng = np.random.default_rng(0)
    rows = [
        (
            f"u{rng.integers(5)}",
            "abcd"[rng.integers(4)],
            T0 + int(rng.integers(0, 10**5)),
            3.25,
            True,
        )
        for _ in range(200)
    ]
    users = {f"u{i}": i for i in range(5)}
    together = History.of(CATALOGUE, users, watches=watches(*rows))
    now = np.full(4, T0 + 50_000)
    videos = np.arange(4, dtype=np.int32)
    for user, code in users.items():
        alone = History.of(
            CATALOGUE, {user: 0}, watches=watches(*[r for r in rows if r[0] == user])
        )
        a = together.video_grid(Queries(np.full(4, code), now), videos)
        b = alone.video_grid(Queries(np.zeros(4, np.int64), now), videos)
        for name in a:
            np.testing.assert_array_equal(a[name], b[name])


def test_searches_come_as_tokens_newest_query_first():
    searches = pa.table(
        {
            "user_id": ["u", "u"],
            "time": [T0 - 20, T0 - 10],
            "query": ["Taylor Swift", "cats"],
        }
    )
    history = History.of(CATALOGUE, {"u": 0}, watches=None, searches=searches)
    lengths, rows = history.last_search_rows(one_query(), 50)
    assert lengths.tolist() == [2]
    assert history.search_tokens.take(pa.array(rows)).to_pylist() == [
        ["cats"],
        ["taylor", "swift", "taylor swift"],
    ]
    assert history.searches_within(one_query(now=T0), 15).tolist() == [1]
