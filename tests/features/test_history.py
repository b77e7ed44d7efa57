"""As-of history against a slow, obvious reference, and by hand."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features import event_columns, spec
from features.catalogue import Catalogue
from features.event_columns import Queries
from features.history import NEVER_S, History

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
    assert grid["user_video_seconds_since_click"].tolist() == [3600]
    assert grid["user_channel_impressions_1d"].tolist() == [2]  # a and b are both of channel x
    # Topic t1 was shown twice in all, t2 three times: a video has the largest of its topics.
    assert grid["user_topic_impressions_all"].tolist() == [3]
    assert grid["user_video_watches_all"].tolist() == [0]
    assert grid["user_video_seconds_since_watch"].tolist() == [NEVER_S]


def test_video_outside_the_catalogue_has_no_history_but_counts_for_the_user():
    table = watches(("u", "gone", T0 - 5, 7, True))
    history = History.of(CATALOGUE, {"u": 0}, watches=table)
    assert history.user_grid(one_query())["user_any_watch_time_s_1h"].tolist() == [7]
    grid = history.video_grid(one_query(), np.array([-1], np.int32))
    assert grid["user_video_watches_all"].tolist() == [0]
    assert history.watched_rows(one_query(), 50)[0].tolist() == [0]


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


def reference_cell(events, matches, now, window, limit):
    """Count, seconds and seconds since last of one user's (time, video, seconds) events."""
    past = [e for e in sorted(events) if e[0] < now][-limit:]
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


def reference_part(by_kind, entity, matches, now, limit):
    result = {}
    for kind, measure in (("impression", "impressions"), ("click", "clicks"), ("watch", "watches")):
        for name, window in spec.WINDOWS_S.items():
            count, seconds, last = reference_cell(by_kind[kind], matches, now, window, limit)
            result[f"user_{entity}_{measure}_{name}"] = count
            if kind == "watch":
                result[f"user_{entity}_watch_time_s_{name}"] = seconds
            result[f"user_{entity}_seconds_since_{kind}"] = last
    return result


TIMES = st.sampled_from([0, 1, 2, 3600, 3601, 86400, 86401, 7 * 86400, 7 * 86400 + 1, 10**6])
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
        mine = [(t, row_of[v], v, s, f) for u, v, t, s, f in clock if u == user]
        seen = [(t, row_of[v], v, s, f) for u, v, t, s, f in clock_shown if u == user]
        by_kind = {
            "watch": [(t, v, s) for t, _, v, s, _ in ordered(mine)],
            "impression": [(t, v, s) for t, _, v, s, _ in ordered(seen)],
            "click": [(t, v, s) for t, _, v, s, f in ordered(seen) if f],
        }
        for entity in ("any", "video", "channel", "topic"):
            expected = reference_grid(OrderedEvents(by_kind), entity, video, now, limit)
            got = {name: grid[name][number] for name in expected}
            assert got == pytest.approx(expected), (entity, user, video, now)


def ordered(events):
    """Time order, ties by catalogue row: the order that truncation is defined on."""
    return sorted(events, key=lambda e: (e[0], e[1]))


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
