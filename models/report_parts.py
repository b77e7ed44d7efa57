"""Parts of a report: tables as text and HTML, plots as inline SVG, numbers as people write them."""

import html
import io
import math
from collections.abc import Sequence

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Plot

from models.intervals import Interval

# Figures have their interval below them, so that a table of eight columns fits a small screen; one
# that does not scrolls in its own box, its first column staying. Plots are turned light on dark.
STYLE = """
:root { color-scheme: light dark; --page: #fff; --text: #111827; --soft: #6b7280; --line: #d1d5db;
  --row: #f3f4f6; --good: #047857; --bad: #b91c1c; --note: #fef3c7; --box: #eff6ff; }
@media (prefers-color-scheme: dark) { :root { --page: #16181c; --text: #e5e7eb; --soft: #9ca3af;
  --line: #3f444d; --row: #1f2329; --good: #6ee7b7; --bad: #fca5a5; --note: #3b2f14;
  --box: #1c2738; } svg { filter: invert(.91) hue-rotate(180deg); } }
* { box-sizing: border-box; }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--text); background: var(--page);
       max-width: 80rem; margin: 2rem auto; padding: 0 1rem; }
h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--line); }
.scroll { overflow-x: auto; } table { border-collapse: collapse; margin: 1rem 0; }
th, td { padding: .25rem .6rem; text-align: right; vertical-align: top; background: var(--page); }
td { white-space: nowrap; } td small { display: block; color: var(--soft); }
th:first-child, td:first-child { text-align: left; position: sticky; left: 0; }
td:first-child { white-space: normal; min-width: 7rem; }
thead th { border-bottom: 2px solid var(--soft); vertical-align: bottom; }
tbody tr:nth-child(even) td { background: var(--row); }
tr.model td { font-weight: 600; } td.better, .better b { color: var(--good); }
td.worse, .worse b { color: var(--bad); }
.note, .verdict { padding: .5rem 1rem; margin: .5rem 0; border-left: 4px solid var(--soft); }
.note { background: var(--note); } .verdict { background: var(--box); }
.verdict.better { border-color: var(--good); } .verdict.worse { border-color: var(--bad); }
a { color: inherit; } svg { max-width: 100%; height: auto; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; }
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


def verdict(title: str, text: str, style: str = "") -> str:
    """Returns what a report has to say in a sentence; ``style`` is ``better``, ``worse`` or ""."""
    return (
        f'<p class="{" ".join(filter(None, ("verdict", style)))}">'
        f"<b>{html.escape(title)}</b> {html.escape(text)}</p>"
    )


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
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{name}</title>"
        f"<style>{STYLE}</style></head><body><h1>{name}</h1>{''.join(body)}</body></html>\n"
    )
