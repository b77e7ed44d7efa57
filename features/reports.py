"""HTML reports, each one self-contained page: Jinja2 templates, in which every value is escaped.

A package keeps its templates in ``templates/`` beside its code; they extend ``report.html`` of this
package, which has the page and its style, and take from ``parts.html`` what draws a :class:`Table`
and the charts of :mod:`features.charts`.
"""

import dataclasses
import datetime
import functools
import math
import pathlib
import subprocess
from collections.abc import Sequence
from typing import Any

import jinja2

from features.charts import Drawing, Interval


@dataclasses.dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        text: What it says.
        below: Smaller, in a line of its own below; "" for nothing.
        style: ``better``, ``worse`` or ``words`` (running text), or "".
        drawing: A drawing in place of text.
    """

    text: str = ""
    below: str = ""
    style: str = ""
    drawing: Drawing | None = None


@dataclasses.dataclass(frozen=True)
class Table:
    """A table; its first column stays where the others scroll.

    Attributes:
        header: Titles of the columns.
        rows: Cells of each row.
        styles: Style of each row, ``model`` or ``warn`` or ""; empty for none.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    styles: Sequence[str] = ()


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


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Returns a table of plain texts."""
    return Table(header, [[Cell(text) for text in row] for row in rows])


@functools.cache
def _templates(package: str) -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.ChoiceLoader(
            [jinja2.PackageLoader(package), jinja2.PackageLoader("features")]
        ),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def render(
    package: str, template: str, *, contents: Sequence[tuple[str, str]] = (), **values: Any
) -> str:
    """Returns a page, which says when it was made and by which code.

    Args:
        package: Package whose ``templates/`` holds the template, as ``models.evaluation``.
        template: Name of its file.
        contents: Anchors of its parts and what these are called, to be linked at its head.
        values: What the template names; one that it names and that is not given is an error.
    """
    by = stamp()
    made = f"Made {by['date']}" + (f" by commit {by['commit']}." if by["commit"] else ".")
    page = _templates(package).get_template(template)
    return page.render(contents=contents, made=made, **values) + "\n"


def stamp() -> dict[str, str]:
    """Returns the date, UTC, as ``date``, and the commit of the checkout as ``commit``.

    The commit has a ``+`` behind it where tracked files differ from it, and is "" where the code is
    no git checkout.
    """
    date = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d")
    commit = _git("rev-parse", "--short=7", "HEAD")
    is_changed = bool(commit) and _git("status", "--porcelain", "--untracked-files=no") != ""
    return {"date": date, "commit": commit + ("+" if is_changed else "")}


def _git(*arguments: str) -> str:
    """Returns what git says of this checkout; "" where there is no git, or no checkout."""
    directory = pathlib.Path(__file__).resolve().parent.parent
    if not (directory / ".git").exists():  # Installed: any repository around it is another one.
        return ""
    try:
        said = subprocess.run(
            ["git", "-C", str(directory), *arguments], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return said.stdout.strip()
