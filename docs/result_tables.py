"""Hook of MkDocs: ``{{ table FILE.NAME }}`` becomes that table, rendered from committed JSON.

Figures stand once, in docs/results/*.json, with their settings; pages name them. A page that names
a table that is not there fails the build.
"""

import json
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

_RESULTS = pathlib.Path(__file__).parent / "results"
_NAMED = re.compile(r"^\{\{ table ([a-z0-9_-]+)\.([a-z0-9_-]+) \}\}$", re.MULTILINE)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Returns the page with its tables in place."""
    return _NAMED.sub(lambda named: rendered(named[1], named[2]), markdown)


def rendered(file: str, name: str) -> str:
    """Returns a table as Markdown, its setting behind it.

    Args:
        file: The stem of a file of docs/results.
        name: The table's key in it.

    Raises:
        KeyError: There is no such table.
    """
    table = json.loads((_RESULTS / f"{file}.json").read_text(encoding="utf-8"))[name]
    return "\n".join(
        [
            *_rows(table["columns"], table["rows"]),
            "",
            f"*{_setting(table['setting'])}{_origin(table)}*",
            "",
        ]
    )


def _rows(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [columns, ["---"] * len(columns), *rows]
    if any(len(row) != len(columns) for row in rows):
        raise ValueError(f"each row must have the {len(columns)} columns {list(columns)}.")
    return ["| " + " | ".join(row) + " |" for row in lines]


def _setting(setting: Mapping[str, str]) -> str:
    return "; ".join(f"{what}: {value}" for what, value in setting.items()) + "."


def _origin(table: Mapping[str, Any]) -> str:
    """Returns that a table was typed, where no command wrote it."""
    if "written_by" in table:
        return ""
    return " Carried over from the notes of that measurement: typed, not written by a command."
