"""Which rows are set aside, why, and in which order."""

import math

import hypothesis
import hypothesis.strategies as st
import pyarrow as pa
import pytest

from features.tables import schema
from tests.features.tables.good_rows import (
    GOOD_IMPRESSION,
    _nothing_said_yet,  # noqa: F401
    impressions,
)

NOW_S = 1_000_000


def validated(table, **kwargs):
    options = {"known_video_ids": None, "known_user_ids": None, "now_s": NOW_S, **kwargs}
    return schema.validate("impressions", table, **options)


def test_unknown_table_is_a_callers_bug():
    with pytest.raises(ValueError, match="'likes'"):
        schema.conform("likes", pa.table({"a": [1]}))


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"user_id": None}, "missing_key"),
        ({"user_id": ""}, "missing_key"),
        ({"video_id": "  "}, "missing_key"),
        ({"time": None}, "missing_key"),
        ({"user_id": "two\nlines"}, "unusable_id"),
        ({"video_id": "n\0ul"}, "unusable_id"),
        ({"user_id": "u" * 257}, "unusable_id"),
        ({"video_id": "\x7f"}, "unusable_id"),
        ({"clicked": None}, "missing_key"),
        ({"time": 0}, "bad_time"),
        ({"time": -5}, "bad_time"),
        ({"time": NOW_S + 1}, "future_time"),
        ({"time": 500_000_000}, "future_time"),  # Milliseconds.
        ({"user_id": "stranger"}, "unknown_user"),
        ({"video_id": "removed"}, "unknown_video"),
        ({"watch_time_s": None}, "not_a_number"),
        ({"watch_time_s": math.nan}, "not_a_number"),
        ({"watch_time_s": math.inf}, "not_a_number"),
        ({"watch_time_s": -0.001}, "negative_watch_time"),
        ({"watch_time_s": 86_400.001}, "absurd_watch_time"),
    ],
)
def test_bad_row_is_rejected_with_its_reason(row, reason):
    table = impressions({}, row)
    accepted, rejected = validated(
        table, known_user_ids=pa.array(["u1"]), known_video_ids=pa.array(["v1"])
    )
    assert accepted.to_pylist() == [GOOD_IMPRESSION]
    assert rejected["reason"].to_pylist() == [reason]
    assert rejected.drop_columns("reason").column_names == table.column_names


@pytest.mark.parametrize(
    "row", [{"time": 1}, {"time": NOW_S}, {"watch_time_s": 0.0}, {"watch_time_s": 86_400.0}]
)
def test_values_on_the_border_are_accepted(row):
    accepted, rejected = validated(impressions(row))
    assert (accepted.num_rows, rejected.num_rows) == (1, 0)


def test_first_reason_wins_in_the_documented_order():
    everything = {"user_id": "x", "video_id": "x", "time": -1, "watch_time_s": -1.0}
    table = impressions(
        {**everything, "user_id": None},
        everything,
        {**everything, "time": NOW_S + 1},
        {**everything, "time": 5},
        {**everything, "time": 5, "user_id": "u1"},
        {**everything, "time": 5, "user_id": "u1", "video_id": "v1"},
    )
    _, rejected = validated(
        table, known_user_ids=pa.array(["u1"]), known_video_ids=pa.array(["v1"])
    )
    reasons = rejected["reason"].to_pylist()
    assert reasons == [
        "missing_key",
        "bad_time",
        "future_time",
        "unknown_user",
        "unknown_video",
        "negative_watch_time",
    ]
    assert reasons == sorted(reasons, key=schema.REASONS.index)


def test_unknown_ids_pass_when_there_is_no_table_to_check_against():
    accepted, _ = validated(impressions({"user_id": "stranger", "video_id": "removed"}))
    assert accepted.num_rows == 1


def entities(name, **columns):
    table = schema.conform(name, pa.table(columns))
    return schema.validate(name, table, known_video_ids=None, known_user_ids=None, now_s=NOW_S)


def test_the_last_row_of_a_video_or_a_user_counts():
    accepted, rejected = entities("videos", video_id=["a", "b", "a"], upload_time=[1, 2, 3])
    assert accepted["upload_time"].to_pylist() == [2, 3]
    assert rejected["reason"].to_pylist() == ["older_row"]
    accepted, _ = entities("users", user_id=["u", "w", "u"], region=["de", "us", "fr"])
    assert accepted.to_pylist() == [
        {"user_id": "w", "region": "us"},
        {"user_id": "u", "region": "fr"},
    ]


def test_the_row_that_was_updated_last_counts_wherever_it_stands():
    accepted, rejected = entities(
        "videos",
        video_id=["a", "a", "a", "b", "b"],
        upload_time=[1, 2, 3, 4, 5],
        updated_time=[20, 30, None, 7, 7],  # Unknown is oldest; among equals the last counts.
    )
    assert accepted["upload_time"].to_pylist() == [2, 5]
    assert rejected["upload_time"].to_pylist() == [1, 3, 4]


def test_a_newer_row_that_is_broken_takes_nothing_from_an_older_one():
    accepted, rejected = entities("videos", video_id=["a", "a"], upload_time=[1, None])
    assert accepted["upload_time"].to_pylist() == [1]
    assert rejected["reason"].to_pylist() == ["missing_key"]


def test_an_impression_without_a_click_was_watched_for_no_time():
    raw = {**GOOD_IMPRESSION, "clicked": False}
    for unknown in (None, math.nan):
        table = schema.conform("impressions", pa.table({n: [v] for n, v in raw.items()}))
        assert table["watch_time_s"].to_pylist() == [12.5]  # What the log says stays.
        (seconds,) = impressions({"clicked": False, "watch_time_s": unknown})["watch_time_s"]
        assert seconds.as_py() == 0.0
    del raw["watch_time_s"]
    absent = pa.table({n: [v, v] for n, v in raw.items()} | {"clicked": [False, True]})
    assert schema.conform("impressions", absent)["watch_time_s"].to_pylist() == [0.0, None]


def test_videos_are_checked_for_upload_time_and_not_against_themselves():
    table = schema.conform(
        "videos", pa.table({"video_id": ["a", "b", "c"], "upload_time": [1, 0, NOW_S + 1]})
    )
    _, rejected = schema.validate(
        "videos", table, known_video_ids=pa.array([], pa.string()), known_user_ids=None, now_s=NOW_S
    )
    assert rejected["reason"].to_pylist() == ["bad_time", "future_time"]


def test_users_need_only_an_id():
    table = schema.conform("users", pa.table({"user_id": ["a", None]}))
    accepted, rejected = schema.validate(
        "users", table, known_video_ids=None, known_user_ids=None, now_s=NOW_S
    )
    assert accepted.num_rows == 1
    assert rejected["reason"].to_pylist() == ["missing_key"]


@pytest.mark.parametrize("name", sorted(schema.TABLES))
def test_empty_table_validates_to_nothing(name):
    accepted, rejected = schema.validate(
        name, schema.empty(name), known_video_ids=None, known_user_ids=None, now_s=NOW_S
    )
    assert (accepted.num_rows, rejected.num_rows) == (0, 0)


ROWS = st.fixed_dictionaries(
    {
        "user_id": st.sampled_from([None, "", "u1", "u2"]),
        "video_id": st.sampled_from([None, "v1", "v2"]),
        "time": st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1), st.integers(1, NOW_S)),
        "clicked": st.sampled_from([None, True, False]),
        "watch_time_s": st.one_of(st.none(), st.floats(), st.floats(0, 100)),
    }
)


@hypothesis.settings(deadline=None)
@hypothesis.given(rows=st.lists(ROWS, max_size=30), splits=st.booleans())
def test_accepted_and_rejected_rows_are_all_rows_in_their_order(rows, splits):
    table = impressions(*rows).append_column("row", pa.array(range(len(rows)), pa.int64()))
    if splits and rows:  # Several chunks, as files give them.
        table = pa.concat_tables([table.slice(0, 1), table.slice(1)])
    accepted, rejected = validated(
        table, known_user_ids=pa.array(["u1"]), known_video_ids=pa.array(["v1"])
    )
    kept, refused = accepted["row"].to_pylist(), rejected["row"].to_pylist()
    assert sorted(kept + refused) == list(range(len(rows)))
    assert kept == sorted(kept)
    assert refused == sorted(refused)
    assert set(rejected["reason"].to_pylist()) <= set(schema.REASONS)
    for index in kept:
        row = rows[index]
        assert (row["user_id"], row["video_id"]) == ("u1", "v1")
        assert 0 < row["time"] <= NOW_S
        is_unknown = row["watch_time_s"] is None or math.isnan(row["watch_time_s"])
        assert not (is_unknown and row["clicked"])
        assert is_unknown or 0 <= row["watch_time_s"] <= schema.MAX_WATCH_TIME_S


@hypothesis.settings(deadline=None)
@hypothesis.given(rows=st.lists(ROWS, max_size=20))
def test_what_was_accepted_is_accepted_again(rows):
    accepted, _ = validated(impressions(*rows))
    again, rejected = validated(accepted)
    assert rejected.num_rows == 0
    assert again.num_rows == accepted.num_rows


def test_exact_copies_are_set_aside_and_the_first_stays():
    table = pa.table(
        {
            "user_id": ["a", "b", "a", "a", "b"],
            "watch_time_s": [1.0, math.nan, 1.0, 2.0, math.nan],
            "topics": [["x"], None, ["x"], ["x"], None],
        }
    )
    unique, duplicates = schema.split_duplicates(table)
    assert unique.column("user_id").to_pylist() == ["a", "b", "a"]
    assert unique.column("watch_time_s").to_pylist()[2] == 2.0
    assert duplicates["user_id"].to_pylist() == ["a", "b"]
    assert duplicates["reason"].to_pylist() == ["exact_duplicate"] * 2


def test_lists_that_differ_in_order_or_cut_are_not_copies():
    table = pa.table({"topics": [["x", "y"], ["y", "x"], ["xy"], [], None]})
    unique, duplicates = schema.split_duplicates(table)
    assert (unique.num_rows, duplicates.num_rows) == (5, 0)


def test_no_rows_have_no_copies():
    unique, duplicates = schema.split_duplicates(schema.empty("impressions"))
    assert (unique.num_rows, duplicates.num_rows) == (0, 0)
    assert "reason" in duplicates.column_names
