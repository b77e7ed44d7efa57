"""Parts of a report: tables as text, plots as inline SVG, numbers as people write them."""

import io
import math
from collections.abc import Sequence

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Plot

from features.reports import Cell
from models.evaluation.intervals import Interval


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Returns a table as text: the first column to the left, the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    return "\n".join(f"  {line.rstrip()}" for line in lines)


def number(value: float, *, signed: bool = False) -> str:
    """Returns a number with as many digits as its size deserves; a dash for NaN."""
    if math.isnan(value):
        return "–"
    digits = 1 if abs(value) >= 100 else 2 if abs(value) >= 10 else 4
    return f"{value:+.{digits}f}" if signed else f"{value:.{digits}f}"


def figure_cell(figure: Interval, style: str = "", *, signed: bool = False) -> Cell:
    """Returns a figure with its interval, where it has one, below it."""
    value, low, high = (
        number(one, signed=signed) for one in (figure.value, figure.low, figure.high)
    )
    return Cell(value, "" if math.isnan(figure.low) else f"[{low}, {high}]", style)


def svg(plot: Plot) -> str:
    """Returns a plot as an SVG element."""
    buffer = io.StringIO()
    # Fixed salt and no date: the same evaluation gives the same file. Text stays text.
    with mpl.rc_context({"svg.hashsalt": "report", "svg.fonttype": "none"}):
        plot.savefig(buffer, format="svg", metadata={"Date": None}, bbox_inches="tight")
    return "<svg" + buffer.getvalue().partition("<svg")[2]


def axes(width: float, height: float) -> tuple[Plot, Axes]:
    """Returns an empty plot of a size in inches, and its axes."""
    plot = Plot(figsize=(width, height))
    empty = plot.add_subplot()
    empty.spines[["top", "right"]].set_visible(False)
    empty.grid(axis="y", color="#e5e7eb")
    empty.set_axisbelow(True)
    return plot, empty


def error_bars(figures: Sequence[Interval]) -> list[list[float]]:
    """Returns distances below and above; an interval that does not hold its value has none."""
    below = [max(0.0, figure.value - figure.low) for figure in figures]
    above = [max(0.0, figure.high - figure.value) for figure in figures]
    return [[0.0 if math.isnan(one) else one for one in side] for side in (below, above)]
