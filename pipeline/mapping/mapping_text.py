"""Writes a mapping file as people read it: every line with the reason for it."""

import dataclasses
import re
from collections.abc import Iterator, Sequence

from features.tables import raw_tables, text_values
from features.tables.text_values import Form
from pipeline.mapping.mapping_file import Source

CHECK = "CHECK"


@dataclasses.dataclass(frozen=True)
class Line:
    """A column of ours that was guessed.

    Attributes:
        name: Name of the column of ours.
        sql: Expression over the columns of the source.
        form: Form of its values.
        why: Reason for the guess.
        is_sure: Whether nobody need look at it.
        is_category: Whether it has few values, so that it can be a feature.
    """

    name: str
    sql: str
    form: Form
    why: str = ""
    is_sure: bool = True
    is_category: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProposedTable:
    """A table of ours that was guessed.

    Attributes:
        name: Name of the table.
        source: Name of the source.
        columns: Columns that the contract names.
        extras: Other columns, kept as they are.
        where: Condition of SQL; "" for all rows.
        where_why: Reason for the condition.
    """

    name: str
    source: str
    columns: tuple[Line, ...]
    extras: tuple[Line, ...] = ()
    where: str = ""
    where_why: str = ""

    @property
    def names(self) -> set[str]:
        """Names of the columns that the contract names."""
        return {line.name for line in self.columns}


def written(
    sources: Sequence[Source],
    tables: Sequence[ProposedTable],
    left_out: Sequence[str],
) -> str:
    """Returns the content of a mapping file."""
    lines = [
        "# Guessed from names, types and values of the first rows; each line says why.",
        f"# Lines with {CHECK} could mean something else: look at them.",
        "",
        "# Of times that name no zone.",
        'time_zone = "UTC"',
        "",
        "[sources]",
        *(f"{source.name} = {_source(source)}" for source in sources),
        *(f"# Left out: {text}." for text in left_out),
    ]
    for table in tables:
        lines += ["", *_table(table)]
    features = [line for table in tables for line in _features(table)]
    if features:
        lines += ["", "# Columns that could become features, with the reasons in docs/features.md:"]
        lines += features
    return "\n".join(lines) + "\n"


def summary(tables: Sequence[ProposedTable], left_out: Sequence[str]) -> Iterator[str]:
    """Yields what was guessed, a line for each table and each thing to look at."""
    for table in tables:
        columns = ", ".join(line.name for line in table.columns)
        yield f"{table.name} from {table.source}: {columns}"
        for line in table.columns:
            if not line.is_sure:
                yield f"  {CHECK} {line.name} = {line.sql}: {line.why}"
        if table.where:
            yield f"  {CHECK} where {table.where}: {table.where_why or 'all that there is'}"
    for text in left_out:
        yield f"left out: {text}"


def _source(source: Source) -> str:
    if source.kind == "files":
        return _text(source.location)
    options = "".join(f", {key} = {_text(str(value))}" for key, value in source.options.items())
    return f"{{ {source.kind} = {_text(source.location)}{options} }}"


def _table(table: ProposedTable) -> Iterator[str]:
    yield f"[{table.name}]"
    yield f"source = {_text(table.source)}"
    if table.where:
        why = f"  # {table.where_why}" if table.where_why else ""
        yield f"where = {_text(table.where)}{why}"
    yield ""
    yield f"[{table.name}.columns]"
    for line in table.columns:
        mark = "" if line.is_sure else f"{CHECK}: "
        yield f"{line.name} = {_value(line)}  # {mark}{line.why}"
    absent = [
        column.name
        for column in raw_tables.table_of(table.name).columns
        if column.name not in table.names
    ]
    if absent:
        yield f"# Nothing looks like {', '.join(absent)}."
    if table.extras:
        yield "# Not of the contract; kept, so that they can become features."
    for line in table.extras:
        yield f"{line.name} = {_value(line)}  # {line.why}"


def _features(table: ProposedTable) -> Iterator[str]:
    side = {"users": "query", "videos": "candidate"}.get(table.name)
    for line in table.extras:
        if side is not None and line.is_category and line.sql[:8] != "TRY_CAST":
            yield "# [[features]]"
            yield f'# name = "{line.name}"'
            yield '# kind = "univalent"'
            yield f'# side = "{side}"'
            yield '# models = ["candidate", "ranker"]'
            yield f'# source = "{table.name}.{line.name}"'


def _value(line: Line) -> str:
    form, default = line.form, text_values.PLAIN
    given = {
        "unit": form.unit if form.unit != default.unit else None,
        "format": form.time_format,
        "separator": form.separator,
    }
    options = "".join(f", {key} = {_text(text)}" for key, text in given.items() if text)
    name = re.fullmatch(r'"([^"]+)"', line.sql)  # Alone it needs no quotes.
    sql = _text(name[1] if name else line.sql)
    return f"{{ sql = {sql}{options} }}" if options else sql


def _text(text: str) -> str:
    """Returns a string of TOML: literal where that saves a backslash."""
    if ('"' in text or "\\" in text) and "'" not in text:
        return f"'{text}'"
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
