"""Experiments as text for the terminal and as one self-contained HTML page."""

import html
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from models import report_parts
from models.experiments import BARS, LINES, Experiment, Plot, Row, Series
from models.intervals import Interval

_COLOURS = ("#1a56db", "#b45309", "#0f766e", "#7c3aed", "#9ca3af", "#be123c", "#4b5563", "#65a30d")


def text(outcomes: Sequence[Experiment]) -> str:
    """Returns the conclusions."""
    return "\n\n".join(f"{one.title}\n  {one.conclusion}" for one in outcomes)


def html_page(outcomes: Sequence[Experiment], facts: Mapping[str, Any]) -> str:
    """Returns the whole report, plots as inline SVG; it needs no other file."""
    body = [_summary(outcomes)] if outcomes else []
    body += [
        "<p>Brackets are 95% intervals of a paired bootstrap over users; they tell how far other "
        "users would have moved a figure, not how far another training would have. A row without "
        "a seed needed no training.</p>"
    ]
    for name, reason in facts.get("left_out", {}).items():
        body.append(f'<p class="note">{html.escape(name)} was left out: {html.escape(reason)}</p>')
    for one in outcomes:
        body.append(_section(one))
    body.append(f"<h2>Settings</h2><pre>{html.escape(json.dumps(facts, indent=1))}</pre>")
    return report_parts.page("The paper again", body)


def _summary(outcomes: Sequence[Experiment]) -> str:
    """Returns what came out, a line for each experiment, which leads to it."""
    lines = (
        f'<li><a href="#{html.escape(one.name)}">{html.escape(one.title)}</a>: '
        f"{html.escape(one.conclusion)}</li>"
        for one in outcomes
    )
    return f'<div class="verdict"><b>What came out</b><ul>{"".join(lines)}</ul></div>'


def _section(one: Experiment) -> str:
    name = html.escape(one.name)
    parts = [
        f'<h2 id="{name}">{html.escape(one.title)}</h2>',
        f"<p>{html.escape(one.question)}</p>",
    ]
    if one.paper:
        parts.append(f"<p><b>The paper:</b> {html.escape(one.paper)}</p>")
    parts.append(f"<p><b>Here:</b> {html.escape(one.conclusion)}</p>")
    parts += [_drawn(plot) for plot in one.plots]
    parts.append(_rows_table(one.rows))
    settings = html.escape(json.dumps({**one.settings, "seconds": one.seconds}, indent=1))
    parts.append(f"<details><summary>settings</summary><pre>{settings}</pre></details>")
    return "".join(parts)


def _rows_table(rows: Sequence[Row]) -> str:
    """Returns a line for each setting and seed, a column for each metric."""
    metrics = list(dict.fromkeys(row.metric for row in rows))
    lines: dict[tuple[str, int | None], dict[str, Row]] = {}
    for row in rows:
        lines.setdefault((row.setting, row.seed), {})[row.metric] = row
    shown = []
    for (setting, seed), by_metric in lines.items():
        cells = [report_parts.cell(html.escape(setting))]
        cells.append(report_parts.cell("" if seed is None else str(seed)))
        cells += [_row_cell(by_metric.get(metric)) for metric in metrics]
        seconds = max((row.seconds for row in by_metric.values()), key=_or_zero)
        cells.append(report_parts.cell("" if math.isnan(seconds) else f"{seconds:,.0f}"))
        shown.append(("", cells))
    return report_parts.table(["", "seed", *metrics, "training, s"], shown)


def _or_zero(value: float) -> float:
    return 0.0 if math.isnan(value) else value


def _row_cell(row: Row | None) -> str:
    if row is None:
        return report_parts.cell("")
    if math.isnan(row.low):
        return report_parts.cell(report_parts.number(row.value))
    low, high = report_parts.number(row.low), report_parts.number(row.high)
    return report_parts.cell(f"{report_parts.number(row.value)} <small>[{low}, {high}]</small>")


def _drawn(plot: Plot) -> str:
    figure, axes = report_parts.axes(9, 4)
    for place, series in enumerate(plot.series):
        colour = _COLOURS[place % len(_COLOURS)]
        errors = _errors(series)
        if plot.kind == BARS:
            count = len(plot.series)
            names = list(dict.fromkeys(x for one in plot.series for x in one.x))
            shift = (place - (count - 1) / 2) * 0.8 / count
            axes.bar(
                [names.index(x) + shift for x in series.x],
                series.y,
                width=0.76 / count,
                yerr=errors,
                color=colour,
                label=series.name,
                capsize=2,
                error_kw={"linewidth": 1},
            )
            axes.set_xticks(range(len(names)), [str(name) for name in names])
        else:
            axes.errorbar(
                series.x,
                series.y,
                yerr=errors,
                fmt="o-" if plot.kind == LINES else "o",
                markersize=4,
                color=colour,
                label=series.name,
                capsize=2,
            )
    axes.set_xlabel(plot.x_label)
    axes.set_ylabel(plot.y_label)
    if len(plot.series) > 1:
        axes.legend(frameon=False)
    return report_parts.svg(figure)


def _errors(series: Series) -> list[list[float]] | None:
    if not series.low:
        return None
    ends = zip(series.y, series.low, series.high, strict=True)
    return report_parts.error_bars([Interval(value=y, low=lo, high=hi) for y, lo, hi in ends])
