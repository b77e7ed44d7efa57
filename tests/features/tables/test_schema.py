"""Raw tables reach the types of the contract, or are refused by name."""

import math

import pyarrow as pa
import pytest

from features import command
from features.tables import schema
from tests.features.tables.good_rows import (
    GOOD_IMPRESSION,
    _nothing_said_yet,  # noqa: F401
    impressions,
)

MAP = pa.map_(pa.string(), pa.int64())


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
