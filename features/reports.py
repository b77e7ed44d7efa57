"""HTML reports, each one self-contained page: Jinja2 templates, in which every value is escaped.

A package keeps its templates in ``templates/`` beside its code; they extend ``report.html`` of this
package, which has the page, its style and the macro that draws a :class:`Table`.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jinja2


@dataclasses.dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        text: What it says.
        below: Smaller, in a line of its own below; "" for nothing.
        style: ``better`` or ``worse``, or "".
        svg: A drawing in place of text; made here, so it is not escaped.
    """

    text: str = ""
    below: str = ""
    style: str = ""
    svg: str = ""


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


def render(package: str, template: str, **values: Any) -> str:
    """Returns a page.

    Args:
        package: Package whose ``templates/`` holds the template, as ``models.evaluation``.
        template: Name of its file.
        values: What the template names; one that it names and that is not given is an error.
    """
    return _templates(package).get_template(template).render(values) + "\n"
