"""Experiments as text for the terminal and as one self-contained HTML page."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from features import charts, reports
from features.reports import Cell, Table
from models.paper.experiments import Experiment, Row


def text(outcomes: Sequence[Experiment]) -> str:
    """Returns the conclusions."""
    return "\n\n".join(f"{one.title}\n  {one.conclusion}" for one in outcomes)


def html_page(outcomes: Sequence[Experiment], facts: Mapping[str, Any]) -> str:
    """Returns the whole report, plots as inline SVG; it needs no other file."""
    return reports.render(
        "models.paper",
        "paper.html",
        contents=[*((one.name, one.title) for one in outcomes), ("settings", "Settings")],
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
        "plots": [charts.draw(plot) for plot in one.plots],
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
    return Table(["setting", "seed", *metrics, "training, s"], shown)


def _or_zero(value: float) -> float:
    return 0.0 if math.isnan(value) else value


def _row_cell(row: Row | None) -> Cell:
    if row is None:
        return Cell()
    return reports.figure_cell(row)
