import math

import hypothesis
import hypothesis.strategies as st
import pyarrow as pa
import pytest

from features import command
from features.tables import schema

NOW_S = 1_000_000
MAP = pa.map_(pa.string(), pa.int64())
GOOD_IMPRESSION = {
    "user_id": "u1",
    "video_id": "v1",
    "time": 500_000,
    "clicked": True,
    "watch_time_s": 12.5,
}


@pytest.fixture(autouse=True)
def _nothing_said_yet():
    schema.warn_once.cache_clear()


def impressions(*rows):
    """Conformed impressions; each row is the good one with some values replaced."""
    full = [{**GOOD_IMPRESSION, **row} for row in rows]
    columns = {name: [row[name] for row in full] for name in GOOD_IMPRESSION}
    return schema.conform("impressions", pa.table(columns, schema=_raw_schema()))


def _raw_schema():
    return pa.schema(
        [
            (column.name, column.type)
            for column in schema.TABLES["impressions"].columns
            if column.required
        ]
    )


def validated(table, **kwargs):
    options = {"known_video_ids": None, "known_user_ids": None, "now_s": NOW_S, **kwargs}
    return schema.validate("impressions", table, **options)


def test_every_table_of_the_contract_is_there():
    events = {"watches", "searches", "impressions", "feedback"}
    assert set(schema.TABLES) == {"videos", "users", *events}


@pytest.mark.parametrize("name", sorted(schema.TABLES))
def test_only_event_tables_are_partitioned_and_have_a_time(name):
    table = schema.TABLES[name]
    is_event = name not in {"videos", "users"}
    assert table.partitioned is is_event
    assert (table.time_column == "time") is is_event
    assert (table.key is None) is is_event


def test_conform_reaches_the_contract_types_from_what_other_tools_write():
    found = pa.table(
        {
            "user_id": pa.array([1, 2]),  # Integer ids.
            "video_id": pa.array(["a", "b"]).dictionary_encode(),
            "time": pa.array([10.0, math.nan]),  # pandas, integers with a gap.
            "clicked": pa.array([0, 1], pa.int8()),
            "watch_time_s": pa.array([3, 4]),
            "candidate_sources": pa.array([["x"], None], pa.large_list(pa.large_string())),
            "page_id": pa.nulls(2),
        }
    )
    conformed = schema.conform("impressions", found)
    assert conformed.schema.types == [
        pa.string(),
        pa.string(),
        pa.int64(),
        pa.bool_(),
        pa.float64(),
        pa.list_(pa.string()),
        pa.string(),
    ]
    assert conformed.to_pylist()[1] == {
        "user_id": "2",
        "video_id": "b",
        "time": None,
        "clicked": True,
        "watch_time_s": 4.0,
        "candidate_sources": None,
        "page_id": None,
    }


def test_conform_keeps_unknown_columns_in_their_plain_form_and_place():
    found = pa.table(
        {
            "taste": pa.array(["x"], pa.large_string()),
            "user_id": ["u"],
            "score": pa.array([1.5], pa.float32()),
        }
    )
    conformed = schema.conform("users", found)
    assert conformed.column_names == ["taste", "user_id", "score"]
    assert conformed.schema.types == [pa.string(), pa.string(), pa.float32()]


def test_conform_is_idempotent():
    once = impressions({}, {"clicked": False})
    assert schema.conform("impressions", once).equals(once)


def test_missing_column_is_named_with_what_was_found():
    with pytest.raises(command.InputError, match=r"users lacks the required column 'user_id'.*age"):
        schema.conform("users", pa.table({"age": [3]}))


def test_missing_column_is_allowed_when_the_table_is_partial():
    assert schema.conform("users", pa.table({"age": [3]}), is_partial=True).num_rows == 1


def test_repeated_column_is_named():
    twice = pa.Table.from_arrays([pa.array(["u"]), pa.array(["u"])], names=["user_id", "user_id"])
    with pytest.raises(command.InputError, match="'user_id' more than once"):
        schema.conform("users", twice)


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("user_id", pa.array([1.5]), "expected string, found double"),
        ("time", pa.array(["1"]), "expected int64, found string"),
        ("time", pa.array([0.5]), "expected int64, found double with a value it cannot hold"),
        ("time", pa.array(["20/11/2026"]), "Write times as whole Unix seconds"),
        ("time", pa.array([True]), "expected int64, found bool"),
        ("user_id", pa.array([b"\xff"]), "expected string, found binary with a value"),
        ("clicked", pa.array(["yes"]), "expected bool, found string"),
        ("clicked", pa.array([2]), "with values from 2 to 2"),
        ("watch_time_s", pa.array(["12"]), "expected double, found string"),
        ("candidate_sources", pa.array(["a,b"]), "expected list<string>, found string"),
        ("candidate_sources", pa.array([[0.5]]), "expected list<string>, found list<double>"),
    ],
)
def test_wrong_type_names_table_column_found_and_expected(column, values, message):
    table = pa.table({name: [value] for name, value in GOOD_IMPRESSION.items()})
    table = table.drop_columns([column] if column in table.column_names else [])
    with pytest.raises(command.InputError) as error:
        schema.conform("impressions", table.append_column(column, values))
    assert f"table impressions, column {column!r}" in str(error.value)
    assert message in str(error.value)


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


def test_all_that_breaks_the_contract_is_named_at_once_with_what_is_alike():
    table = pa.table({"userId": ["u"], "video_id": [1.5], "time": ["noon"], "watch_time_s": [1]})
    with pytest.raises(schema.ContractError) as error:
        schema.conform("watches", table)
    missing, video, time = error.value.problems
    assert "lacks the required column 'user_id'" in missing
    assert "Is it 'userId'?" in missing
    assert "column 'video_id': expected string, found double" in video
    assert "column 'time': expected int64, found string with a value it cannot hold" in time
    assert "pd.to_datetime(df['time'], utc=True)" in time


def test_a_column_that_nothing_can_use_is_left_alone_and_said_so(caplog):
    table = pa.table(
        {"user_id": ["u"], "who": [{"name": "x"}], "seen": pa.array([[("a", 1)]], MAP)}
    )
    assert schema.conform("users", table).column_names == ["user_id"]
    assert "column 'who' is left alone" in caplog.text
    assert "column 'seen' is left alone" in caplog.text


def test_times_without_a_zone_are_said_to_be_read_as_utc_once_a_table(caplog):
    naive = pa.table({"video_id": ["a"], "upload_time": pa.array([86_400_000], pa.timestamp("ms"))})
    for _ in range(3):
        assert schema.conform("videos", naive)["upload_time"].to_pylist() == [86_400]
    assert caplog.text.count("column 'upload_time' do not name a zone") == 1


def test_events_with_dates_for_times_are_said_to_have_no_order(caplog):
    days = pa.array([20_777, 20_777], pa.date32())
    table = pa.table({"user_id": ["u", "u"], "time": days, "query": ["cats", "dogs"]})
    assert schema.conform("searches", table)["time"].to_pylist() == [1_795_132_800] * 2
    assert "Table searches: times are dates: events of one day have no order" in caplog.text


def test_rules_of_a_video_are_part_of_the_contract():
    table = pa.table({"video_id": ["a"], "upload_time": [1], "regions": ["us"], "min_age": ["18+"]})
    with pytest.raises(schema.ContractError) as error:
        schema.conform("videos", table)
    regions, age = error.value.problems
    assert "column 'regions': expected list<string>, found string" in regions
    assert "column 'min_age': expected double, found string" in age
    empty = pa.table({"video_id": ["a"], "upload_time": [1], "regions": pa.nulls(1)})
    assert schema.conform("videos", empty).schema.field("regions").type == pa.list_(pa.string())


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
