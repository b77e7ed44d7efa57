"""The model card of a release as Markdown, see ``templates/card.md``."""

import functools
import json
import math
from collections.abc import Mapping
from typing import Any

import jinja2


def text(made: Mapping[str, Any]) -> str:
    """Returns a card as Markdown."""
    return _template().render(made)


@functools.cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("serving.building"),
        finalize=_escaped,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "figure": figure,
        "json": functools.partial(json.dumps, indent=1, sort_keys=True),
    }
    return environment.get_template("card.md")


def _escaped(value: object) -> str:
    """Returns what Markdown takes for text: names come from the data; a dash for nothing."""
    if hasattr(value, "__html__"):  # What the template calls safe.
        return str(value)
    one_line = "" if value is None else " ".join(str(value).split())
    return "".join(f"\\{c}" if c in "\\`*_[]<>|#" else c for c in one_line) or "-"


def figure(measured: Mapping[str, Any]) -> str:
    """Returns a figure with its interval, in four digits."""
    value = measured.get("value")
    if value is None or not math.isfinite(value):
        return "not measured"
    ends = measured.get("low"), measured.get("high")
    interval = "" if None in ends else f" [{ends[0]:.4g}, {ends[1]:.4g}]"
    return f"{value:.4g}{interval}"
