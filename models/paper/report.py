"""Experiments as text for the terminal and as one self-contained HTML page."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from features import reports
from features.reports import Cell, Table
from models.evaluation import report_parts
from models.evaluation.intervals import Interval
from models.paper.experiments import BARS, LINES, Experiment, Plot, Row, Series

_COLOURS = ("#1a56db", "#b45309", "#0f766e", "#7c3aed", "#9ca3af", "#be123c", "#4b5563", "#65a30d")


def text(outcomes: Sequence[Experiment]) -> str:
    """Returns the conclusions."""
    return "\n\n".join(f"{one.title}\n  {one.conclusion}" for one in outcomes)


def html_page(outcomes: Sequence[Experiment], facts: Mapping[str, Any]) -> str:
    """Returns the whole report, plots as inline SVG; it needs no other file."""
    return reports.render(
        "models.paper",
        "paper.html",
        title="The paper again",
        experiments=[_section(one) for one in outcomes],
        left_out=facts.get("left_out", {}),
        facts=json.dumps(facts, indent=1),
    )


def _section(one: Experiment) -> dict[str, Any]:
    return {
        "name": one.name,
        "title": one.title,
        "question": one.question,
        "paper": one.paper,
        "conclusion": one.conclusion,
        "plots": [_drawn(plot) for plot in one.plots],
        "table": _rows_table(one.rows),
        "settings": json.dumps({**one.settings, "seconds": one.seconds}, indent=1),
    }


def _rows_table(rows: Sequence[Row]) -> Table:
    """Returns a line for each setting and seed, a column for each metric."""
    metrics = list(dict.fromkeys(row.metric for row in rows))
    lines: dict[tuple[str, int | None], dict[str, Row]] = {}
    for row in rows:
        lines.setdefault((row.setting, row.seed), {})[row.metric] = row
    shown = []
    for (setting, seed), by_metric in lines.items():
        seconds = max((row.seconds for row in by_metric.values()), key=_or_zero)
        shown.append(
            [
                Cell(setting),
                Cell("" if seed is None else str(seed)),
                *(_row_cell(by_metric.get(metric)) for metric in metrics),
                Cell("" if math.isnan(seconds) else f"{seconds:,.0f}"),
            ]
        )
    return Table(["", "seed", *metrics, "training, s"], shown)


def _or_zero(value: float) -> float:
    return 0.0 if math.isnan(value) else value


def _row_cell(row: Row | None) -> Cell:
    if row is None:
        return Cell()
    return report_parts.figure_cell(Interval(value=row.value, low=row.low, high=row.high))


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
