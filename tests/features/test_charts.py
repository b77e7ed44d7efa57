"""Charts: what is drawn where, computed by hand."""

import math

import pytest

from features import charts
from features.charts import Plot, Series

NAN = math.nan


def lines(series, **more):
    return charts.draw(
        Plot(kind=charts.LINES, x_label="k", y_label="recall", series=series, **more)
    )


def of_kind(drawing, kind):
    return [s for s in drawing.shapes if kind in s.attributes.get("class", "").split()]


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (0, 500, [0, 100, 200, 300, 400, 500]),
        (-3, 7, [-4, -2, 0, 2, 4, 6, 8]),
        (0, 0, [0, 0.2]),
        (5, 5, [5, 6]),
    ],
)
def test_ticks_are_round_and_hold_both_ends(low, high, expected):
    assert charts.ticks(low, high) == pytest.approx(expected)


def test_points_stand_where_their_numbers_say():
    # Two points over the whole of both axes: left bottom, right top.
    drawn = lines([Series(name="a", x=[0, 100], y=[0, 1])])
    (line,) = of_kind(drawn, "line")
    (x0, y0), (x1, y1) = (
        [float(n) for n in p.split(",")] for p in line.attributes["points"].split()
    )
    grid = [float(one.attributes["y1"]) for one in of_kind(drawn, "grid")]
    assert (y0, y1) == pytest.approx((max(grid), min(grid)))
    assert x0 < x1 < drawn.width
    titles = [one.title for one in of_kind(drawn, "mark")]
    assert titles == ["a, 0: 0", "a, 100: 1"]
    assert drawn.legend == ()
    assert drawn.label == "recall by k"


def test_interval_is_drawn_where_there_is_one_and_a_gap_where_nothing_was_measured():
    series = Series(
        name="a", x=[1, 2, 3], y=[0.5, NAN, 0.7], low=[0.4, NAN, NAN], high=[0.6, NAN, NAN]
    )
    drawn = lines([series, Series(name="b", x=[1], y=[0.1])])
    assert len(of_kind(drawn, "interval")) == 1
    assert [one.title for one in of_kind(drawn, "mark")] == [
        "a, 1: 0.5 [0.4, 0.6]", "a, 3: 0.7", "b, 1: 0.1",
    ]  # fmt: skip
    assert drawn.legend == ["a", "b"]
    assert len({one.attributes["d"] for one in of_kind(drawn, "mark")}) == 2  # Two markers.


def test_bars_lie_below_their_names_and_grow_from_zero():
    series = [Series(name="a", x=["one", "two"], y=[2, -1], low=[1, -2], high=[3, 0])]
    drawn = charts.draw(Plot(kind=charts.BARS, x_label="", y_label="bits", series=series))
    (zero,) = of_kind(drawn, "axis")
    up, down = of_kind(drawn, "bar")
    at = float(zero.attributes["x1"])
    assert float(up.attributes["x"]) == at
    assert float(down.attributes["x"]) + float(down.attributes["width"]) == pytest.approx(
        at, abs=0.1
    )
    assert float(up.attributes["width"]) == pytest.approx(
        2 * float(down.attributes["width"]), abs=0.2
    )
    assert up.title == "a, one: 2 [1, 3]"
    texts = [one.text for one in drawn.shapes if one.tag == "text"]
    assert texts == ["bits", "one", "2", "two", "-1"]
    assert len(of_kind(drawn, "whisker")) == 2


@pytest.mark.parametrize("kind", [charts.BARS, charts.LINES, charts.SCATTER])
@pytest.mark.parametrize("x", [[], ["a"]])
def test_nothing_measured_is_said(kind, x):
    series = [Series(name="a", x=x, y=[NAN] * len(x))]
    drawn = charts.draw(Plot(kind=kind, x_label="", y_label="", series=series))
    assert [one.text for one in drawn.shapes] == ["Nothing was measured."]


def test_one_point_and_equal_points_have_a_place():
    for y in (0.0, 3.0, -2.0):
        drawn = lines([Series(name="a", x=[5, 5], y=[y, y])])
        for mark in of_kind(drawn, "mark"):
            assert "nan" not in mark.attributes["transform"]


def test_kind_and_lengths_are_checked():
    with pytest.raises(ValueError, match="kind must be bars, lines or scatter, got 'pie'"):
        Plot(kind="pie", x_label="", y_label="", series=[])
    with pytest.raises(ValueError, match="'a' has 1 x and 2 y"):
        Series(name="a", x=[1], y=[1, 2])


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (12345.6, "12,346"), (0.12345, "0.123"), (-7.0, "-7"), (0.00012, "1e-04")],
)
def test_numbers_are_short(value, text):
    assert charts.number(value) == text
