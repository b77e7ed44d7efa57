"""Charts for reports, drawn as SVG on the server: no script, no other file, sharp on paper.

A chart is as wide as a phone and grows with the screen, so that its words stay readable on both.
Colours are those of the report's style, light and dark; series differ in marker and dash as well,
for those who print or do not see colours. :func:`draw` computes shapes, and the template
``parts.html`` writes them, with every value escaped.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

# Kinds of plots. BARS: x are names; LINES: x are numbers; SCATTER: likewise, not connected.
BARS, LINES, SCATTER = "bars", "lines", "scatter"
SERIES = 8  # Colours that there are; a ninth series looks like the first.
_WIDTH, _HEIGHT = 400, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 54, 12, 22, 44
_TICKS = 5
_BAR, _LABEL = 13, 19
_VALUE_WIDTH = 62  # For the number at the end of a bar.
# Half a marker, in units of the drawing: circle, square, diamond, triangle.
_MARKERS = (
    "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0 -8 0z",
    "M-3.5 -3.5h7v7h-7z",
    "M0 -5L5 0L0 5L-5 0z",
    "M0 -5L4.5 3.5L-4.5 3.5z",
)
_DASHES = ("", "7 3", "2 3", "8 3 2 3")


class Interval(Protocol):
    """A figure with an interval, whose ends are NaN without one."""

    @property
    def value(self) -> float:
        """The figure."""

    @property
    def low(self) -> float:
        """Lower end."""

    @property
    def high(self) -> float:
        """Upper end."""


class Measured(Interval, Protocol):
    """A figure of a setting, with its interval."""

    @property
    def setting(self) -> str:
        """What was varied, as people say it."""

    @property
    def metric(self) -> str:
        """What was measured."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Series:
    """One line, one set of bars or of points.

    Attributes:
        name: Name in the legend.
        x: Places: names for bars, numbers otherwise.
        y: Values, one for each place; NaN leaves a gap.
        low: Lower ends of intervals, empty without.
        high: Upper ends of intervals, empty without.
    """

    name: str
    x: Sequence[float | str]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()

    def __post_init__(self) -> None:
        for name in ("x", "y", "low", "high"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if len(self.x) != len(self.y):
            raise ValueError(f"series {self.name!r} has {len(self.x)} x and {len(self.y)} y.")

    @classmethod
    def of_rows(cls, name: str, x: Sequence[float | str], rows: Sequence[Measured]) -> "Series":
        """Takes values and intervals of rows, one for each place."""
        return cls(
            name=name,
            x=tuple(x),
            y=tuple(row.value for row in rows),
            low=tuple(row.low for row in rows),
            high=tuple(row.high for row in rows),
        )

    def points(self) -> Iterator[tuple[float | str, float, float, float]]:
        """Yields place, value, lower and upper end; both ends are the value without an interval."""
        low, high = self.low or self.y, self.high or self.y
        for x, y, lower, upper in zip(self.x, self.y, low, high, strict=True):
            if math.isfinite(y):
                ends = (lower, upper) if math.isfinite(lower) and math.isfinite(upper) else (y, y)
                yield x, y, *ends


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plot:
    """What to draw.

    Attributes:
        kind: Kind of drawing: ``bars``, ``lines`` or ``scatter``.
        x_label: Label of the x axis with its unit.
        y_label: Label of the y axis with its unit.
        series: Lines, sets of bars or sets of points that are drawn.
        title: What it shows and in which setting, in a line below; "" for none.
    """

    kind: str
    x_label: str
    y_label: str
    series: Sequence[Series]
    title: str = ""

    @classmethod
    def bars(
        cls,
        rows: Sequence[Measured],
        names: Sequence[str],
        metrics: Mapping[str, str],
        *,
        y_label: str,
    ) -> "Plot":
        """Draws settings beside each other, each by the first of its rows of a metric.

        Args:
            rows: Rows of all of them, and of others.
            names: Settings, in the order of the bars.
            metrics: Name of a series to its metric.
            y_label: Label of the axis, with unit.
        """
        first = {(row.setting, row.metric): row for row in reversed(rows)}
        series = [
            Series.of_rows(label, names, [first[name, metric] for name in names])
            for label, metric in metrics.items()
        ]
        return cls(kind=BARS, x_label="", y_label=y_label, series=series)

    def __post_init__(self) -> None:
        object.__setattr__(self, "series", tuple(self.series))
        if self.kind not in {BARS, LINES, SCATTER}:
            raise ValueError(f"kind must be {BARS}, {LINES} or {SCATTER}, got {self.kind!r}.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shape:
    """One SVG element.

    Attributes:
        tag: Name of the element.
        attributes: Attributes by name.
        text: Text inside.
        title: What it says where one points at it; "" for nothing.
    """

    tag: str
    attributes: Mapping[str, str]
    text: str = ""
    title: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Drawing:
    """A chart as shapes.

    Attributes:
        label: What it shows, for those who do not see it.
        width: Width of its view box.
        height: Height of its view box.
        shapes: Elements, later ones on top.
        legend: Names of the series, in the order of the colours; empty for one series.
        title: Line below; "" for none.
    """

    label: str
    width: int
    height: int
    shapes: Sequence[Shape]
    legend: Sequence[str] = ()
    title: str = ""


def shape(
    tag: str,
    kind: str,
    attributes: Mapping[str, float | str],
    *,
    text: str = "",
    title: str = "",
) -> Shape:
    """Returns an element; numbers are rounded to a tenth.

    Args:
        tag: Name of the element.
        kind: Class; "" for none.
        attributes: Attributes by name.
        text: Text inside.
        title: What it says where one points at it.
    """
    shown = {
        name: value if isinstance(value, str) else f"{value:.1f}".removesuffix(".0")
        for name, value in attributes.items()
    }
    return Shape(
        tag=tag, attributes={"class": kind} | shown if kind else shown, text=text, title=title
    )


def number(value: float) -> str:
    """Returns a number in three digits that count, as on an axis."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) >= 1e-3 or not value else f"{value:.0e}"


def draw(plot: Plot) -> Drawing:
    """Returns a plot as shapes; one without any finite value says so."""
    names = [one.name for one in plot.series]
    about = f"{plot.y_label or plot.title} {'by ' + plot.x_label if plot.x_label else ''}"
    label = f"{about.strip()}: {', '.join(names)}" if len(names) > 1 else about.strip() or names[0]
    if not any(True for one in plot.series for _ in one.points()):
        shapes, height = [shape("text", "", {"x": 4, "y": 20}, text="Nothing was measured.")], 30
    elif plot.kind == BARS:
        shapes, height = _bars(plot)
    else:
        shapes, height = _lines(plot), _HEIGHT
    return Drawing(
        label=label,
        width=_WIDTH,
        height=height,
        shapes=shapes,
        legend=names if len(names) > 1 else (),
        title=plot.title,
    )


def ticks(low: float, high: float) -> list[float]:
    """Returns round numbers from at most ``low`` to at least ``high``, evenly spaced."""
    wide = (high - low) or abs(high) or 1.0
    rough = wide / _TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(one * power for one in (1, 2, 2.5, 5, 10) if one * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [number * step for number in range(first, max(last, first + 1) + 1)]


def _told(name: str, x: float | str, figure: tuple[float, float, float]) -> str:
    y, low, high = figure
    interval = f" [{number(low)}, {number(high)}]" if high > low else ""
    place = x if isinstance(x, str) else number(x)
    return f"{name}, {place}: {number(y)}{interval}"


def _colour(place: int) -> str:
    return f"s{place % SERIES}"


# ---- lines and points ----------------------------------------------------------------------------


def _lines(plot: Plot) -> list[Shape]:
    points = [point for one in plot.series for point in one.points()]
    xs = [float(x) for x, *_ in points]
    lows, highs = [min(y, low) for _, y, low, _ in points], [max(y, h) for _, y, _, h in points]
    low = 0.0 if 0 <= min(lows) < 0.6 * max(highs) else min(lows)
    y_ticks, x_ticks = ticks(low, max(highs)), _x_ticks(xs)

    def across(value: float) -> float:
        share = (value - x_ticks[0]) / (x_ticks[-1] - x_ticks[0])
        return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)

    def up(value: float) -> float:
        share = (value - y_ticks[0]) / (y_ticks[-1] - y_ticks[0])
        return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)

    shapes = [shape("text", "soft", {"x": 2, "y": 12}, text=plot.y_label)]
    for value in y_ticks:
        line = {"x1": _LEFT, "x2": _WIDTH - _RIGHT, "y1": up(value), "y2": up(value)}
        shapes.append(shape("line", "grid", line))
        at = {"x": _LEFT - 6, "y": up(value) + 4}
        shapes.append(shape("text", "end", at, text=number(value)))
    for value in x_ticks:
        at = {"x": across(value), "y": _HEIGHT - _BOTTOM + 16}
        shapes.append(shape("text", "middle", at, text=number(value)))
    middle = {"x": (_LEFT + _WIDTH - _RIGHT) / 2, "y": _HEIGHT - 8}
    shapes.append(shape("text", "middle soft", middle, text=plot.x_label))
    for place, one in enumerate(plot.series):
        shapes += _series(one, place, across, up, is_joined=plot.kind == LINES)
    return shapes


def _x_ticks(xs: Sequence[float]) -> list[float]:
    if max(xs) == min(xs):  # One place alone stands in the middle.
        return [xs[0] - 1, xs[0], xs[0] + 1]
    return ticks(min(xs), max(xs))


def _series(
    one: Series,
    place: int,
    across: Callable[[float], float],
    up: Callable[[float], float],
    *,
    is_joined: bool,
) -> Iterator[Shape]:
    points = [(float(x), y, low, high) for x, y, low, high in one.points()]
    colour = _colour(place)
    if is_joined and len(points) > 1:
        path = " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y, _, _ in points)
        dash = _DASHES[place % len(_DASHES)]
        dashed = {"stroke-dasharray": dash} if dash else {}
        yield shape("polyline", f"line {colour}", {"points": path, **dashed})
    for x, y, low, high in points:
        if high > low:
            left, bottom, top = across(x) - 3, up(low), up(high)
            ends = f"M{left:.1f} {bottom:.1f}h6m-3 0V{top:.1f}m-3 0h6"
            yield shape("path", f"interval {colour}", {"d": ends})
        moved = f"translate({across(x):.1f} {up(y):.1f})"
        mark = {"d": _MARKERS[place % len(_MARKERS)], "transform": moved}
        yield shape("path", f"mark {colour}", mark, title=_told(one.name, x, (y, low, high)))


# ---- bars ----------------------------------------------------------------------------------------


def _bars(plot: Plot) -> tuple[list[Shape], int]:
    """Returns bars that lie, below their names: long names then have room on a phone."""
    names = list(dict.fromkeys(x for one in plot.series for x in one.x))
    known = [{x: (y, low, high) for x, y, low, high in one.points()} for one in plot.series]
    ends = [end for by_name in known for y, low, high in by_name.values() for end in (y, low, high)]
    scale = ticks(min(0.0, *ends), max(0.0, *ends))

    def across(value: float) -> float:
        share = (value - scale[0]) / (scale[-1] - scale[0])
        return 4 + share * (_WIDTH - 8 - _VALUE_WIDTH)

    shapes = [shape("text", "soft", {"x": 4, "y": 12}, text=plot.y_label)] if plot.y_label else []
    top = 18 if plot.y_label else 0
    first = top
    for name in names:
        shapes.append(shape("text", "", {"x": 4, "y": top + 14}, text=str(name)))
        top += _LABEL
        for place, (one, by_name) in enumerate(zip(plot.series, known, strict=True)):
            if name in by_name:
                told = _told(one.name, name, by_name[name])
                shapes += _bar(by_name[name], top, place, across, told=told)
                top += _BAR + 2
        top += 5
    zero = across(0)
    shapes.append(shape("line", "axis", {"x1": zero, "x2": zero, "y1": first, "y2": top}))
    return shapes, top + 2


def _bar(
    figure: tuple[float, float, float],
    top: int,
    place: int,
    across: Callable[[float], float],
    *,
    told: str,
) -> Iterator[Shape]:
    value, low, high = figure
    left, right = sorted((across(0), across(value)))
    box = {"x": left, "y": top, "width": max(right - left, 0.5), "height": _BAR}
    yield shape("rect", f"bar {_colour(place)}", box, title=told)
    middle = top + _BAR / 2
    if high > low:
        ends = f"M{across(low):.1f} {middle - 3:.1f}v6m0 -3H{across(high):.1f}m0 -3v6"
        yield shape("path", "whisker", {"d": ends})
    yield shape("text", "end", {"x": _WIDTH - 2, "y": middle + 4}, text=number(value))
