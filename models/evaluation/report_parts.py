"""Parts of a report: tables as text, learning curves."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from features import charts
from features.charts import Drawing, Plot, Series
from models.training import collapse


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


def learning_curves(rounds: Sequence[Mapping[str, Any]]) -> list[Drawing]:
    """Draws the loss and the holdout metrics of a training, each in a chart of its own."""
    if not rounds:
        return []
    names = dict.fromkeys(name for one in rounds for name in one["holdout"])
    curves = {"training loss, mean of the round": [one["train_loss"] for one in rounds]}
    for name in names:
        if name not in collapse.NAMES:
            curves[f"holdout {name.replace('_at_', '@').replace('_', ' ')}"] = [
                one["holdout"].get(name) for one in rounds
            ]
    epochs = [one["epoch"] for one in rounds]
    looks = f"{len(rounds)} looks at the holdout, or at the part of it that training looks at."
    return [
        charts.draw(
            Plot(
                kind=charts.LINES,
                x_label="passes over the examples",
                y_label=name,
                series=[Series(name=name, x=epochs, y=[_or_nan(value) for value in values])],
                title=looks if name.startswith("holdout") else "",
            )
        )
        for name, values in curves.items()
    ]


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value
