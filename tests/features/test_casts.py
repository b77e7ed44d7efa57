"""Columns as Spark, Hive, DuckDB, pandas, polars and BigQuery write them."""

import datetime
import decimal
import io
import math
import uuid

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features import casts

D = decimal.Decimal
NOON_S = 1_795_132_800 + 12 * 3600  # 2026-11-20T12:00:00Z
STRINGS = pa.list_(pa.string())
WRAPPED = pa.array([{"list": [{"element": "a"}, {"element": None}]}, None, {"list": []}])


def column(values):
    return pa.chunked_array([values])


def checked(values):
    values.validate(full=True)
    return values.to_pylist()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (pa.array([7, None], pa.uint64()), ["7", None]),
        (pa.array([7.0, math.nan]), ["7", None]),  # pandas, integers with a gap.
        (pa.array(np.array([7], np.float16)), ["7"]),
        (pa.array([D("7.00"), None]), ["7", None]),
        (pa.array([D("12345678901234567890123")]), ["12345678901234567890123"]),
        (pa.array(["a"], pa.string_view()), ["a"]),
        (pa.array(["a"], pa.large_string()), ["a"]),
        (pa.array(["a", None]).dictionary_encode(), ["a", None]),
        (pa.array([7]).dictionary_encode(), ["7"]),
        (pa.array(["ä".encode(), None]), ["ä", None]),  # Hive and Impala: no UTF-8 mark.
        (pa.array([b"ab"], pa.binary(2)), ["ab"]),
        (pa.array([b"ab"], pa.binary_view()), ["ab"]),
        (
            pa.array([uuid.UUID(int=258).bytes, None], pa.uuid()),
            ["00000000-0000-0000-0000-000000000102", None],
        ),
        (pa.nulls(2), [None, None]),
        (pa.array([], pa.float64()), []),
    ],
    ids=lambda value: str(getattr(value, "type", ""))[:30],
)
def test_ids_become_text_whatever_they_are_written_as(values, expected):
    assert checked(casts.to_type(column(values), pa.string())) == expected


@pytest.mark.parametrize(
    "values",
    [
        pa.array([1.5]),
        pa.array([2.0**60]),  # Two ids could be one here.
        pa.array([2.0**25], pa.float32()),
        pa.array([D("1.50")]),
        pa.array([b"\xff"]),
        pa.array([True]),
        pa.array([1], pa.timestamp("s")),
        pa.array([{"id": "a"}]),
    ],
    ids=lambda value: str(value.type),
)
def test_what_might_not_be_the_same_id_is_refused(values):
    with pytest.raises(casts.UnfitError):
        casts.to_type(column(values), pa.string())


@pytest.mark.parametrize(
    ("values", "has_zone"),
    [
        (pa.array([NOON_S]), True),
        (pa.array([NOON_S], pa.uint32()), True),
        (pa.array([float(NOON_S), math.nan]), True),
        (pa.array([D(NOON_S) + D("0.75")]), True),
        (pa.array([NOON_S], pa.timestamp("s", "UTC")), True),
        (pa.array([NOON_S * 1_000 + 999], pa.timestamp("ms", "Asia/Tokyo")), True),
        (pa.array([NOON_S * 1_000_000], pa.timestamp("us")), False),
        (pa.array([NOON_S * 10**9 + 1], pa.timestamp("ns")), False),
        (pa.array(["2026-11-20T12:00:00Z"]), True),
        (pa.array(["2026-11-20 20:00:00.123456789+08:00"]), True),
        (pa.array(["2026-11-20 12:00:00 UTC"]), True),  # BigQuery.
        (pa.array(["2026-11-20 04:00:00 -0800"]), True),
        (pa.array(["2026-11-20 12:00:00+00"]), True),  # PostgreSQL.
        (pa.array(["2026-11-20T12:00:00.5"]), False),
        (pa.array(["2026-11-20 12:00", "", None]), False),
        (pa.array(["2026-11-20T12:00:00Z", "2026-11-20T12:00:00"]), False),
        (pa.array([b"2026-11-20T12:00:00Z"]), True),
    ],
    ids=str,
)
def test_times_become_unix_seconds_whatever_they_are_written_as(values, has_zone):
    seconds = casts.to_seconds(column(values))
    assert seconds.type == pa.int64()
    assert set(checked(seconds)) - {None} == {NOON_S}
    assert casts.has_no_zone(column(values)) is not has_zone


def test_a_date_is_its_first_second():
    day = datetime.date(2026, 11, 20)
    for kind in (pa.date32(), pa.date64()):
        assert checked(casts.to_seconds(column(pa.array([day], kind)))) == [NOON_S - 12 * 3600]
    assert checked(casts.to_seconds(column(pa.array(["2026-11-20"])))) == [NOON_S - 12 * 3600]


def test_spark_times_are_read_also_where_nanoseconds_cannot_hold_them():
    far = pa.array([datetime.datetime(2026, 11, 20, 12), datetime.datetime(9999, 12, 31)])
    file = io.BytesIO()
    pq.write_table(pa.table({"time": far}), file, use_deprecated_int96_timestamps=True)
    read = pq.read_table(file, coerce_int96_timestamp_unit="us")["time"]
    assert checked(casts.to_seconds(read)) == [NOON_S, 253_402_214_400]


@pytest.mark.parametrize(
    "values",
    [
        pa.array(["1"]),
        pa.array(["20/11/2026"]),
        pa.array([0.5]),
        pa.array([True]),
        pa.array([5], pa.duration("s")),
        pa.array([2**63], pa.uint64()),
    ],
    ids=lambda value: str(value.type),
)
def test_what_is_no_moment_is_refused(values):
    with pytest.raises(casts.UnfitError):
        casts.to_seconds(column(values))


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        (pa.array([D("1.50"), None]), pa.float64(), [1.5, None]),
        (pa.array([D("1.5")], pa.decimal256(50, 2)), pa.float64(), [1.5]),
        (pa.array([1_500], pa.duration("ms")), pa.float64(), [1.5]),  # pandas' Timedelta.
        (pa.array([3], pa.uint64()), pa.float64(), [3.0]),
        (pa.array([D("3.00")]), pa.int64(), [3]),
        (pa.array([3.0, math.nan]), pa.int64(), [3, None]),
        (pa.array([0, 1, None], pa.int8()), pa.bool_(), [False, True, None]),
        (pa.array([0.0, 1.0, math.nan]), pa.bool_(), [False, True, None]),
        (pa.array([D("1"), D("0")]), pa.bool_(), [True, False]),
        (pa.array([["a"], None], pa.large_list(pa.large_string())), STRINGS, [["a"], None]),
        (pa.array([["a"], ["b"]], pa.list_view(pa.string())), STRINGS, [["a"], ["b"]]),
        (pa.array([["a", "b"], None], pa.list_(pa.string(), 2)), STRINGS, [["a", "b"], None]),
        (pa.array([[b"a"], [b"b"]]), STRINGS, [["a"], ["b"]]),
        (pa.array([[1, 2], []]), STRINGS, [["1", "2"], []]),
        (WRAPPED, STRINGS, [["a", None], None, []]),  # BigQuery.
        (pa.array([None, [None]], pa.list_(pa.null())), STRINGS, [None, [None]]),
        (pa.array([["x"], ["a", "b"], None, ["y"]]).slice(1, 2), STRINGS, [["a", "b"], None]),
        (pa.nulls(1), STRINGS, [None]),
        (pa.array([math.nan, None]), STRINGS, [None, None]),  # pandas, nothing but gaps.
        (pa.array([None, None], pa.string()), pa.float64(), [None, None]),
        (pa.array([None], pa.timestamp("ns")), pa.bool_(), [None]),
    ],
    ids=str,
)
def test_values_arrive_whole(values, kind, expected):
    found = casts.to_type(column(values), kind)
    assert found.type == kind
    assert checked(found) == expected


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (pa.array(["1.5"]), pa.float64()),
        (pa.array([True]), pa.float64()),
        (pa.array([1.5]), pa.int64()),
        (pa.array([2]), pa.bool_()),
        (pa.array([0.5]), pa.bool_()),
        (pa.array(["yes"]), pa.bool_()),
        (pa.array(["a,b"]), STRINGS),
        (pa.array([[0.5]]), STRINGS),
    ],
    ids=str,
)
def test_nothing_is_guessed(values, kind):
    with pytest.raises(casts.UnfitError):
        casts.to_type(column(values), kind)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (pa.array([D("1.5")]), pa.array([1.5])),
        (pa.array([D("7")], pa.decimal128(9, 0)), pa.array([7])),
        (pa.array([b"calm"]), pa.array(["calm"])),
        (pa.array([b"\xff"]), pa.array([b"\xff"])),
        (pa.array([["a"]], pa.list_view(pa.string())), pa.array([["a"]])),
        (pa.array([[1.0, 2.0]], pa.list_(pa.float64(), 2)), pa.array([[1.0, 2.0]])),
        (pa.array([1], pa.timestamp("ms")), pa.array([1_000], pa.timestamp("us", "UTC"))),
        (pa.array([1], pa.time64("us")), pa.array([1], pa.time64("us"))),
    ],
    ids=str,
)
def test_other_columns_have_a_plain_type_that_every_file_can_share(values, expected):
    found = casts.to_plain(column(values), "mood")
    found.validate(full=True)
    assert found.combine_chunks().equals(expected)


def test_a_timestamp_in_a_column_of_milliseconds_is_milliseconds():
    moment = pa.array([NOON_S * 1_000_000 + 250_000], pa.timestamp("us"))
    assert checked(casts.to_plain(column(moment), "seen_ms")) == [NOON_S * 1_000 + 250]
    assert casts.plain_type(moment.type, "seen_ms") == pa.int64()


def test_what_nothing_can_use_has_no_plain_type():
    for kind in (
        pa.struct([("a", pa.int64())]),
        pa.map_(pa.string(), pa.int64()),
        pa.list_(pa.struct([("a", pa.int64())])),
        pa.list_(pa.list_(pa.int64())),
        pa.month_day_nano_interval(),
    ):
        assert casts.plain_type(kind) is None
