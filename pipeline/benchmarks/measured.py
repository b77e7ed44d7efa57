"""A table of docs/results before it is written down, and how its cells are written."""

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence

from models.evaluation.intervals import Interval

# What each table says of itself, in this order.
SETTING = ("data", "protocol", "seed", "interval", "again", "measured")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measured:
    """A table, and what the measurement itself says of its setting.

    Attributes:
        columns: Titles of the columns.
        rows: Cells of each row.
        facts: Parts of :data:`SETTING` that the measurement knows.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    facts: Mapping[str, str]


def measured_on(stamp: Mapping[str, str]) -> str:
    """Returns date and commit of a :func:`features.reports.stamp`, as far as it has them."""
    return ", ".join(filter(None, (stamp.get("date"), stamp.get("commit"))))


def cell(figure: Interval | None) -> str:
    """Returns a figure with its interval, where it has one, as the tables write it."""
    if figure is None or math.isnan(figure.value):
        return "–"
    if math.isnan(figure.low):
        return number(figure.value)
    return f"{number(figure.value)} [{number(figure.low)}, {number(figure.high)}]"


def number(value: float) -> str:
    """Returns a number as the tables write it.

    Example:
        >>> [number(value) for value in (0.4625, -0.03, 3.7, 41.234, 123456.7)]
        ['.463', '-.030', '3.70', '41.2', '123,457']
    """
    size = abs(value)
    digits = 3 if size < 1 else 2 if size < 10 else 1 if size < 100 else 0
    text = f"{value:,.{digits}f}"
    return re.sub(r"^(-?)0\.", r"\1.", text)
