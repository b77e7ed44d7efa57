"""The leakage audit: clean logs pass it, and every planted leak is caught and named.

A leak is planted where a mistake would be made: in the comparison of times, in the day of a
statistic, in what a transform is fitted on. Nothing that the audit itself is made of is changed.
"""

import dataclasses
import json
import pathlib

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features import clicks, event_columns, files, spec
from features.as_of import examples, held_out, history, leakage, live_statistics, replay, statistics
from features.as_of.live_statistics import LiveStatistics
from features.as_of.statistics import VideoStatistics
from features.catalogue import Catalogue
from features.durations import DAY_S
from features.event_columns import Queries
from features.tables import logs
from pipeline.preprocessing import job as preprocessing_job
from pipeline.preprocessing import leakage_audit, transforming
from pipeline.preprocessing.config import PreprocessConfig

T0 = 1_699_920_000  # the first second of a UTC day
VIDEOS = pa.table({"video_id": list("abcd"), "upload_time": [T0 - 10**6] * 4})
USERS = pa.table({"user_id": ["u", "v"]})
TRAIN_UNTIL = T0 + 3 * DAY_S


def tables():
    """Two users; a page of two impressions and the watches of them, every few hours, for 4 days."""
    rows = [
        (user, "abcd"[(i + k) % 4], T0 + i * 9_000 + 7 * code, i)
        for code, user in enumerate("uv")
        for i in range(38)
        for k in range(2)
    ]
    shown = {
        "user_id": [r[0] for r in rows],
        "video_id": [r[1] for r in rows],
        "time": [r[2] + n % 2 for n, r in enumerate(rows)],
        "clicked": [n % 2 == 0 for n in range(len(rows))],
        "watch_time_s": [9.0 * (n % 2 == 0) for n in range(len(rows))],
        "page_id": [f"{r[0]}-{r[3]}" for r in rows],
    }
    watched = rows[::2]
    watches = {
        "user_id": [r[0] for r in watched],
        "video_id": [r[1] for r in watched],
        "time": [r[2] + 5 for r in watched],
        "watch_time_s": [9.0] * len(watched),
    }
    searches = {
        "user_id": watches["user_id"],
        "time": [t - 3 for t in watches["time"]],
        "query": ["cat videos"] * len(watched),
    }
    return {
        "watches": pa.table(watches),
        "impressions": pa.table(shown),
        "searches": pa.table(searches),
    }


def seen(events=None, **config):
    """Replays with an audit and returns what it saw."""
    events = tables() if events is None else events
    resolved = spec.resolve(
        {"videos": VIDEOS.column_names, "users": [], "context": []}
        | {name: table.column_names for name, table in events.items()}
    )
    catalogue = Catalogue(VIDEOS)
    audit = leakage.Audit(resolved, catalogue, train_until_s=TRAIN_UNTIL)
    replayer = replay.Replayer(
        replay.ReplayConfig(train_until_s=TRAIN_UNTIL, **config),
        resolved=resolved,
        catalogue=catalogue,
        users=examples.Users(USERS),
        audit=audit,
    )
    daily = statistics.daily_counts(events["watches"], events["impressions"])
    minutes = live_statistics.minute_counts(catalogue, events["watches"], events["impressions"])
    audit.begin(events, daily, minutes)
    for _ in replayer.examples(events, daily, LiveStatistics.of(minutes)):
        pass
    return audit.drain()


def leaking(found):
    return {key for key, finding in found.findings.items() if finding.leaking}


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


# ---- leaks in the code that makes features ------------------------------------------------------


def not_strictly(key, user, now):
    """``visible`` with a ``<=``: what happens at the moment itself is seen."""
    end = np.searchsorted(key, event_columns.user_time_key(user, now), side="right")
    start = np.searchsorted(key, event_columns.user_time_key(user, np.zeros_like(now)))
    return start, end


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


# ---- the job -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def logs_dir(tmp_path_factory):
    directory = tmp_path_factory.mktemp("audit") / "logs"
    with logs.LogWriter(directory) as writer:
        for name, table in ({"videos": VIDEOS, "users": USERS} | tables()).items():
            writer.write(name, table)
    return directory


@pytest.fixture(scope="module")
def small_logs_dir(tmp_path_factory):
    """Without impressions, so without a ranker: its transform takes most of the time."""
    directory = tmp_path_factory.mktemp("audit") / "logs"
    with logs.LogWriter(directory) as writer:
        writer.write("videos", VIDEOS)
        writer.write("watches", tables()["watches"])
    return directory


def run(logs_dir, output, **settings):
    return preprocessing_job.run(str(logs_dir), str(output), PreprocessConfig(**settings), [])


def refused(logs_dir, tmp_path, match, **settings):
    output = tmp_path / "examples"
    with pytest.raises(leakage_audit.LeakageError, match=match):
        run(logs_dir, output, **settings)
    assert not list(tmp_path.iterdir())


def test_the_job_writes_down_what_it_looked_at(logs_dir, tmp_path):
    info = run(logs_dir, tmp_path / "examples")
    audit = info["audit"]
    assert files.read_complete(tmp_path / "examples")["audit"] == json.loads(json.dumps(audit))
    assert set(audit["inputs"]) == {
        f"{model}_{split}" for model in spec.MODELS for split in ("train", "holdout")
    }
    assert audit["newest_training_label"] < info["train_until_s"]
    assert audit["transforms"]["candidate"]["newest"] == audit["newest_training_label"]
    assert audit["excused"] == []
    # Nothing that carried it stays behind.
    assert not [p for p in (tmp_path / "examples").iterdir() if p.name.startswith(".")]


def test_the_job_fails_on_a_leak_and_leaves_nothing(logs_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(event_columns, "visible", not_strictly)
    refused(logs_dir, tmp_path, "of the candidate model have inputs from 'watches'")


def test_a_held_out_run_without_its_flag_fails(logs_dir, tmp_path, monkeypatch):
    # As if somebody had made training examples of held-out watches the default.
    over = held_out.HeldOutHistory.over
    make = replay.Replayer._candidate_batch

    def leaky(self, labels, codes, past, *, is_train):
        rows = self._catalogue.rows(labels["video_id"])
        if is_train:
            past = over(past, until_s=self._config.train_until_s, labels=rows)
        return make(self, labels, codes, past, is_train=is_train)

    monkeypatch.setattr(replay.Replayer, "_candidate_batch", leaky)
    refused(logs_dir, tmp_path, "train examples of the candidate model.*'watches'")


def test_a_held_out_run_with_its_flag_says_so_and_passes(small_logs_dir, tmp_path, caplog):
    info = run(small_logs_dir, tmp_path / "examples", label=replay.HELD_OUT)
    assert "candidate train watches" in info["audit"]["excused"]
    assert info["audit"]["inputs"]["candidate_train"]["watches"]["leaking"] > 0
    assert "LEAK" in caplog.text


def test_the_flag_excuses_nothing_but_training_examples(logs_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(history, "visible", not_strictly)
    monkeypatch.setattr(event_columns, "visible", not_strictly)
    refused(logs_dir, tmp_path, "holdout examples", label=replay.HELD_OUT)


def test_statistics_that_count_events_a_day_too_early_fail_the_job(logs_dir, tmp_path, monkeypatch):
    count = statistics.daily_counts

    def early(watches, impressions):
        daily = count(watches, impressions)
        return daily.set_column(1, "day", pa.compute.subtract(daily["day"], 1))

    monkeypatch.setattr(statistics, "daily_counts", early)
    refused(logs_dir, tmp_path, "of which the video statistics have 0 there")


def test_a_vocabulary_fitted_on_the_holdout_too_fails(small_logs_dir, tmp_path, monkeypatch):
    row_groups = transforming.row_groups

    def all_splits(directory: pathlib.Path):
        both = row_groups(directory)
        if directory.name == "train" and directory.parent.name == "candidate_examples":
            both += row_groups(directory.parent / "holdout")
        return both

    monkeypatch.setattr(transforming, "row_groups", all_splits)
    refused(small_logs_dir, tmp_path, "quantiles of the candidate model were fitted on")


def test_a_token_that_no_training_example_has_fails(small_logs_dir, tmp_path, monkeypatch):
    # A vocabulary that was brought from elsewhere: from the logs of another week, say.
    vocabulary = leakage_audit.dataset.vocabulary

    def with_another(directory, model, space):
        return [*vocabulary(directory, model, space), *(["z"] if space == "video" else [])]

    monkeypatch.setattr(leakage_audit.dataset, "vocabulary", with_another)
    refused(small_logs_dir, tmp_path, "1 of 5 tokens.*'video'.*'z'")


def test_an_example_on_the_wrong_side_of_the_split_fails_the_job(logs_dir, tmp_path, monkeypatch):
    labels = replay.Replayer._labels

    def mixed(self, watches, periods):
        split = labels(self, watches, periods)
        together = pa.concat_tables(split.values())
        return {replay.TRAIN: together, replay.HOLDOUT: together.slice(0, 0)}

    monkeypatch.setattr(replay.Replayer, "_labels", mixed)
    refused(logs_dir, tmp_path, "a training example of 2023")
