"""Parts of a report: tables as text and HTML, plots as inline SVG, numbers as people write them."""

import html
import io
import math
from collections.abc import Sequence

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Plot

from models.intervals import Interval

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #111827; max-width: 74rem; margin: 2rem auto;
       padding: 0 1rem; }
h2 { margin-top: 2.5rem; border-bottom: 1px solid #d1d5db; }
table { border-collapse: collapse; margin: 1rem 0; }
th, td { padding: .25rem .7rem; text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
thead th { border-bottom: 2px solid #9ca3af; } tbody tr:nth-child(even) { background: #f3f4f6; }
td small { color: #6b7280; } tr.model td { font-weight: 600; } td.better { color: #047857; }
td.worse { color: #b91c1c; } .note { background: #fef3c7; padding: .5rem 1rem; margin: .5rem 0; }
.scroll { overflow-x: auto; } svg { max-width: 100%; height: auto; }
"""


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


def table(header: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]) -> str:
    """Returns a table; each row is its class and its cells, which are HTML already."""
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
    lines = (f'<tr class="{style}">{"".join(cells)}</tr>' for style, cells in rows)
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def cell(content: str, style: str = "") -> str:
    """Returns a cell; ``content`` is HTML already."""
    return f'<td class="{style}">{content}</td>' if style else f"<td>{content}</td>"


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


def page(title: str, body: Sequence[str]) -> str:
    """Returns a whole HTML document that needs no other file; ``body`` is HTML already."""
    name = html.escape(title)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{name}</title>'
        f"<style>{STYLE}</style></head><body><h1>{name}</h1>{''.join(body)}</body></html>\n"
    )
