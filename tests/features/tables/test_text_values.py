"""Values as CSV files, spreadsheets and JSON write them."""

import pyarrow as pa
import pytest

from features.tables import text_values
from features.tables.text_values import Form

NOON_S = 1_795_132_800 + 12 * 3600  # 2026-11-20T12:00:00Z


def column(*values):
    return pa.chunked_array([pa.array(values, pa.string())])


@pytest.mark.parametrize(
    "text",
    [
        "2026-11-20T12:00:00Z",
        "2026-11-20T14:00:00+02:00",
        "2026-11-20 12:00:00.123456789",
        "2026-11-20 12:00",
        "2026/11/20 12:00:00",
        "2026-11-20 12:00:00 UTC",  # BigQuery.
        "2026-11-20 13:00:00.5+01",  # PostgreSQL.
        "2026-11-20T06:30:00-0530",
        "20261120T120000Z",
        "Fri, 20 Nov 2026 12:00:00 GMT",
        "20/Nov/2026:13:00:00 +0100",
        str(NOON_S),
        f"{NOON_S}.75",
    ],
)
def test_times_are_understood_in_any_form_that_cannot_be_mistaken(text):
    assert text_values.to_seconds(column(text)).to_pylist() == [NOON_S]


def test_a_day_is_its_first_second_also_without_dashes():
    midnight = NOON_S - 12 * 3600
    assert text_values.to_seconds(column("2026-11-20", "20261120")).to_pylist() == [midnight] * 2


@pytest.mark.parametrize("text", ["20.11.2026", "11/20/2026", "2026-02-30", "noon", "12:00"])
def test_what_could_be_another_time_or_none_is_null(text):
    assert text_values.to_seconds(column(text)).to_pylist() == [None]


def test_a_time_without_a_zone_is_of_the_zone_that_is_given_summer_and_winter():
    berlin = Form(time_zone="Europe/Berlin")
    found = text_values.to_seconds(
        # 02:30 came twice in October and not at all in March; 12:00Z names its own.
        column("2026-11-20 13:00", "2026-10-25 02:30", "2026-03-29 02:30", "2026-11-20T12:00:00Z"),
        berlin,
    )
    twice, never = 1_792_888_200, 1_774_746_000  # 00:30Z and 01:00Z of those days.
    assert found.to_pylist() == [NOON_S, twice, never, NOON_S]


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("20.11.2026 12:00", Form(time_format="%d.%m.%Y %H:%M")),
        ("11/20/2026 12:00 PM", Form(time_format="%m/%d/%Y %I:%M %p")),
        ("20.11.2026 13:00 +0100", Form(time_format="%d.%m.%Y %H:%M %z")),
        (f"{NOON_S}999", Form(unit="ms")),
        (f"{NOON_S}000000999", Form(unit="ns")),
    ],
)
def test_a_form_says_what_cannot_be_told(text, form):
    assert text_values.to_seconds(column(text), form).to_pylist() == [NOON_S]


def test_spans_are_numbers_of_a_unit_clocks_or_iso_8601():
    texts = column("90", "1.5", "4:13", "1:04:13", "PT4M13S", "P1DT1S", "soon", "")
    expected = [90, 1.5, 253, 3853, 253, 86401, None, None]
    assert text_values.to_span(texts).to_pylist() == expected
    assert text_values.to_span(column("1.5", "4:13"), Form(unit="min")).to_pylist() == [90, 253]


def test_flags_are_read_in_the_words_of_every_tool():
    yes = text_values.to_flag(column("true", "True", "t", "YES", "y", "1", "1.0", "on"))
    no = text_values.to_flag(column("false", "F", "no", "N", "0", "0.0", "off"))
    assert yes.to_pylist() == [True] * 8
    assert no.to_pylist() == [False] * 7
    assert text_values.to_flag(column("maybe", "2", None)).to_pylist() == [None] * 3


def test_numbers_are_numbers_and_nothing_else_is():
    texts = column("1", " 2.5 ", "-3e2", "1,5", "0x1", "inf", "NaN", "12 s")
    assert text_values.to_number(texts).to_pylist() == [1, 2.5, -300] + [None] * 5


def test_lists_are_separated_or_in_the_brackets_of_json_python_and_postgresql():
    texts = column("a, b,,c", '["x", "y, z"]', "['p', 'q']", "{r,s}", "", None, "[]", "one")
    expected = [["a", "b", "c"], ["x", "y, z"], ["p", "q"], ["r", "s"], [], None, [], ["one"]]
    assert text_values.to_texts(texts, Form(separator=",")).to_pylist() == expected


def test_what_stands_for_nothing_is_told_from_what_cannot_be_read():
    texts = column("", "NULL", "n/a", "NaN", "-", None, "x", "0")
    assert text_values.is_missing(texts).to_pylist() == [True] * 6 + [False] * 2
