"""What the audit finds: nothing in clean logs, and each leak that is planted in the code."""

import dataclasses

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features import clicks, event_columns
from features.as_of import history, leakage, replay, statistics
from features.as_of.live_statistics import LiveStatistics
from features.as_of.statistics import VideoStatistics
from features.durations import DAY_S
from features.event_columns import Queries
from pipeline.preprocessing import leakage_audit
from tests.pipeline.preprocessing.leaks import T0, TRAIN_UNTIL, leaking, not_strictly, seen, tables


def test_clean_logs_pass_and_offsets_are_those_of_the_log():
    found = seen().findings
    assert not leaking(seen())
    # A watch follows the user's last watch by 9,000 s, and a search by 3 s.
    watches = found["candidate", "train", "watches"]
    assert (watches.newest_s, watches.examples) == (-9000, 2 * 29)
    assert watches.with_input == 2 * 28  # The first label of a user has no past.
    assert found["candidate", "train", "searches"].newest_s == -3
    # A page begins 9,000 s after the one before it, and 8,995 s after its watch.
    assert found["ranker", "holdout", "watches"].newest_s == -8995
    assert found["ranker", "holdout", "history"].newest_s == -8995
    # Statistics end with the day before: at T0 + n days, one second before the page at best.
    assert found["ranker", "train", "statistics"].newest_s < 0
    assert -DAY_S < found["ranker", "train", "live"].newest_s < 0
    assert {source for _, _, source in found} == set(leakage.SOURCES)


def test_newest_day_and_minute_are_found_exactly():
    found = seen().findings
    # The page nearest to the midnight before it: 9,000 s x 29 = 3 days + 1,800 s, of the holdout.
    assert found["ranker", "holdout", "statistics"].newest_s == -1801
    # Live statistics reach to the end of the minute of the other user's page, watch and all; the
    # page of user v begins 7 s after that of user u, in the same minute, so the newest whole
    # minute is that of the pages before, 9,000 s ago: 9,000 - 59 s at the shortest.
    assert found["ranker", "train", "live"].newest_s == -(9000 - 59)


EVENTS = st.lists(
    st.tuples(st.sampled_from("uv"), st.sampled_from("abcd"), st.integers(0, 6)), max_size=20
)


@settings(max_examples=40, deadline=None)
@given(watched=EVENTS, shown=EVENTS)
def test_what_is_seen_equals_the_obvious_reference(watched, shown):
    # Times are few, so that many events share one.
    def columns(rows):
        users, videos, times = zip(*rows, strict=True) if rows else ((), (), ())
        names = {"user_id": pa.string(), "video_id": pa.string(), "time": pa.int64()}
        times = [T0 + 40_000 * t for t in times]
        parts = zip((users, videos, times), names.values(), strict=True)
        table = pa.table([pa.array(list(v), kind) for v, kind in parts], list(names))
        table = table.append_column("watch_time_s", pa.array([1.0] * len(rows), pa.float64()))
        return table.sort_by([("user_id", "ascending"), ("time", "ascending")])

    watches, impressions = columns(watched), columns(shown)
    clicked = pa.array([True] * len(shown), pa.bool_())
    impressions = impressions.append_column("clicked", clicked)
    got = seen({"watches": watches, "impressions": impressions}).findings
    for model, labels in (("candidate", watches), ("ranker", impressions)):
        offsets = {"train": [], "holdout": []}
        for user, time in zip(*(labels[n].to_pylist() for n in ("user_id", "time")), strict=True):
            earlier = [
                T0 + 40_000 * t - time
                for u, _, t in watched
                if u == user and T0 + 40_000 * t < time
            ]
            split = "train" if time < TRAIN_UNTIL else "holdout"
            offsets[split].append(max(earlier, default=None))
        for split, expected in offsets.items():
            known = [offset for offset in expected if offset is not None]
            finding = leakage.Finding(len(expected), len(known), 0, max(known, default=None))
            assert got.get((model, split, "watches"), leakage.Finding()) == finding


def test_less_or_equal_in_place_of_less_is_caught(monkeypatch):
    monkeypatch.setattr(event_columns, "visible", not_strictly)
    monkeypatch.setattr(history, "visible", not_strictly)
    assert {
        ("candidate", "train", "watches"),
        ("candidate", "holdout", "watches"),
        ("candidate", "train", "counts"),
        ("ranker", "train", "history"),
        ("ranker", "train", "counts"),
    } <= leaking(seen())


def test_searches_at_the_moment_itself_are_caught(monkeypatch):
    later = lambda key, user, now: not_strictly(key, user, now + 3)  # noqa: E731
    monkeypatch.setattr(history, "visible", later)
    # Page and search are 2 s apart, and the watch comes after both.
    assert leaking(seen()) >= {("ranker", split, "searches") for split in ("train", "holdout")}


@pytest.mark.parametrize("model", ["candidate", "ranker"])
def test_features_as_of_a_later_moment_are_caught(monkeypatch, model):
    request = replay.Replayer._request

    def late(self, events, codes, *, time="time"):
        asked = request(self, events, codes, time=time)
        if (time == "time") == (model == "candidate"):
            late_by_one = Queries(asked.queries.user, asked.queries.now + 1)
            asked = dataclasses.replace(asked, queries=late_by_one)
        return asked

    monkeypatch.setattr(replay.Replayer, "_request", late)
    assert {(model, split, "asked") for split in ("train", "holdout")} <= leaking(seen())


def test_ranking_features_as_of_the_impression_and_not_its_page_are_caught(monkeypatch):
    with_pages = replay.pages.with_pages

    def at_own_time(impressions):
        paged = with_pages(impressions)
        index = paged.column_names.index("page_time")
        return paged.set_column(index, "page_time", paged["time"])

    monkeypatch.setattr(replay.pages, "with_pages", at_own_time)
    assert ("ranker", "train", "asked") in leaking(seen())


def test_statistics_of_the_same_day_are_caught(monkeypatch):
    columns = VideoStatistics.columns
    monkeypatch.setattr(
        VideoStatistics, "columns", lambda self, rows, times: columns(self, rows, times + DAY_S)
    )
    assert {("ranker", split, "statistics") for split in ("train", "holdout")} == leaking(seen())


def test_live_statistics_of_the_same_minute_are_caught(monkeypatch):
    columns = LiveStatistics.columns
    monkeypatch.setattr(
        LiveStatistics, "columns", lambda self, rows, times: columns(self, rows, times + 60)
    )
    assert {("ranker", split, "live") for split in ("train", "holdout")} == leaking(seen())


def test_a_count_that_cannot_be_true_is_caught(monkeypatch):
    grid = history.History.user_grid

    def too_many(self, queries):
        columns = grid(self, queries)
        return columns | {"user_any_clicks_all": columns["user_any_clicks_all"] + 1}

    monkeypatch.setattr(history.History, "user_grid", too_many)
    assert {("ranker", split, "counts") for split in ("train", "holdout")} == leaking(seen())


def with_a_page_before_the_click(told=False):
    """Both users: a page, another one 30 s later, and 10 s after that the click on the first."""
    log = tables()
    shown = {name: log["impressions"][name].to_pylist() for name in log["impressions"].column_names}
    watched = {name: log["watches"][name].to_pylist() for name in log["watches"].column_names}
    moments = [None] * len(shown["time"])
    for user in "uv":
        for day in (1, 4):
            at = T0 + day * DAY_S - 3600
            for video, time, clicked in (("a", at, True), ("b", at + 30, False)):
                row = (user, video, time, clicked, 9.0 * clicked, f"{user} {time}")
                for column, value in zip(shown.values(), row, strict=True):
                    column.append(value)
                moments.append(at + 40 if clicked and told else None)
            for column, value in zip(watched.values(), (user, "a", at + 40, 9.0), strict=True):
                column.append(value)
    shown["click_time"] = pa.array(moments, pa.int64())
    order = [("user_id", "ascending"), ("time", "ascending")]
    made = {"impressions": pa.table(shown), "watches": pa.table(watched)}
    return log | {name: table.sort_by(order) for name, table in made.items()}


@pytest.mark.parametrize("told", [False, True])
def test_a_click_that_counts_before_it_happened_is_caught(monkeypatch, told):
    log = with_a_page_before_the_click(told)
    assert not leaking(seen(log))

    def at_the_impression(impressions, watches):
        clicked = np.asarray(impressions["clicked"])
        return np.where(clicked, np.asarray(impressions["time"]), clicks.NEVER)

    monkeypatch.setattr(clicks, "moments", at_the_impression)
    assert {("ranker", "train", "counts"), ("ranker", "holdout", "counts")} <= leaking(seen(log))


def test_a_click_of_tomorrow_in_the_statistics_of_today_is_caught(tmp_path):
    watched = pa.table({"user_id": ["u"], "video_id": ["a"], "time": [T0 + DAY_S + 5]})
    shown = pa.table(
        {
            "user_id": ["u"],
            "video_id": ["a"],
            "time": [T0 + DAY_S - 60],
            "clicked": [True],
            "watch_time_s": [9.0],
        }
    )
    watched = watched.append_column("watch_time_s", pa.array([9.0]))
    found = seen({"watches": watched, "impressions": shown})
    day = T0 // DAY_S
    assert found.events == {
        ("watches", day + 1): 1,
        ("impressions", day): 1,
        ("clicks", day + 1): 1,
    }
    right = statistics.daily_counts(watched, shown)
    assert leakage_audit._misdated(right, found.events) == []
    early = shown.append_column(clicks.CLICKED_AT, shown["time"])
    (said,) = leakage_audit._misdated(statistics.daily_counts(watched, early), found.events)
    assert said.startswith("1 clicks of the day from")


def test_held_out_labels_leak_in_training_alone():
    assert {key[:2] for key in leaking(seen(label=replay.HELD_OUT))} == {("candidate", "train")}


def test_parts_add_up():
    a, b = leakage.Finding(5, 3, 1, -4), leakage.Finding(2, 0, 0, None)
    assert a.plus(b) == leakage.Finding(7, 3, 1, -4)
    key = ("ranker", "train", "live")
    total = leakage.merged([leakage.Seen({key: a}), leakage.Seen({key: a}), leakage.Seen()])
    assert total.findings == {key: leakage.Finding(10, 6, 2, -4)}
