"""The mapping file (TOML): which sources there are, and how they become the tables of a log.

    time_zone = "Europe/Berlin"                # of times that name none; UTC without this line

    [sources]
    plays = "export/plays_*.csv"               # CSV, JSON lines or Parquet: files, a directory
    films = { delta = "lake/films" }
    shop = { database = "postgresql://reader:${SHOP_PASSWORD}@db/shop", table = "public.people" }
    seen = { query = "SELECT p.*, f.Length FROM plays p JOIN films f ON p.Film = f.Id" }

    [watches]
    source = "seen"
    where = "Kind = 'play'"                    # SQL; optional

    [watches.columns]                          # column of ours = SQL over the columns of the source
    user_id = "UserID"
    video_id = "Film"
    time = { sql = "Played At", time_zone = "Asia/Tokyo" }
    watch_time_s = { sql = "Minutes", unit = "min" }
    completed = "Minutes * 60 >= 0.9 * Length"

The name of a column needs no quotes where it stands alone, inside of an expression as SQL has it.
Columns that the contract of a table does not name are welcome; ``[[features]]`` declares features
of them, each with the keys of an entry of features.json.
"""

import contextlib
import dataclasses
import difflib
import os
import pathlib
import re
import sys
import zoneinfo
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from features import command
from features.tables import raw_tables, text_values

if sys.version_info >= (3, 11):
    import tomllib
else:
    try:
        import tomli as tomllib
    except ModuleNotFoundError:  # Told by :func:`load`.
        tomllib = None

# What a source is, by the one of these keys that it has, and the other keys that go with it.
KINDS: Mapping[str, tuple[str, ...]] = {
    "files": ("format", "delimiter", "encoding", "missing"),
    "query": (),
    "database": ("table", "sql"),
    "delta": ("version", "options"),
    "iceberg": ("snapshot", "catalog"),
}
_TABLE_KEYS = ("source", "where", "columns")
_COLUMN_KEYS = ("sql", "unit", "time_zone", "format", "separator")
# A database needs the name of a table besides.
_DATABASES = (".sqlite", ".sqlite3", ".db", ".duckdb")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """One source of rows.

    Attributes:
        name: Name that SQL knows it by.
        kind: A key of ``KINDS``.
        location: Value of that key: paths, a query, the address of a database or of a table.
        options: Values of the other keys.
    """

    name: str
    kind: str
    location: str
    options: Mapping[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ColumnMapping:
    """How one column is made.

    Attributes:
        name: Name of the column in our table.
        sql: Expression of DuckDB's SQL over the columns of the source.
        form: Form of the values of the expression.
    """

    name: str
    sql: str
    form: text_values.Form


@dataclasses.dataclass(frozen=True, kw_only=True)
class TableMapping:
    """How one of our tables is made.

    Attributes:
        name: Name of our table, a key of ``raw_tables.TABLES``.
        source: Name of the source.
        where: Condition of SQL that rows of the source must fulfil; "" for all.
        columns: Columns in the order of the file.
    """

    name: str
    source: str
    where: str
    columns: tuple[ColumnMapping, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class MappingFile:
    """A whole mapping file.

    Attributes:
        path: Path of the file; relative paths in it begin at its directory.
        sources: Sources by name, in the order of the file.
        tables: Tables in the order of the contract: videos and users come before events.
        features: Declarations of extra features, as entries of ``features.json``.
    """

    path: pathlib.Path
    sources: Mapping[str, Source]
    tables: tuple[TableMapping, ...]
    features: tuple[Mapping[str, Any], ...]


def load(path: pathlib.Path) -> MappingFile:
    """Reads a mapping file.

    Raises:
        command.InputError: The file cannot be read, or says something that cannot be meant; it
            names all of that.
    """
    if tomllib is None:
        raise command.InputError("--mapping needs tomli on Python 3.10: pip install tomli")
    try:
        content = tomllib.loads(path.read_text("utf-8-sig"))
    except (OSError, ValueError) as error:
        raise command.InputError(
            f"{path} cannot be read as TOML: {error}. Write a first one with --propose."
        ) from None
    return _Reader(path).read(content)


def refuse(problems: Sequence[str], what: str) -> None:
    """Raises one InputError that names all problems, where there are any."""
    if problems:
        count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
        raise command.InputError(f"{what} has {count}:\n  " + "\n  ".join(problems))


def alike(name: str, names: Collection[str]) -> str:
    """Says which of some names was meant, and what there is; names are compared without case."""
    by_lower = {known.lower(): known for known in names}
    close = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.6)
    hint = f" Is it {by_lower[close[0]]!r}?" if close else ""
    return f"{hint} There is: {', '.join(names) or 'nothing'}."


class _Reader:
    """Reads one file; every step adds to the problems."""

    def __init__(self, path: pathlib.Path) -> None:
        self._path = path
        self._problems: list[str] = []

    def read(self, content: dict[str, Any]) -> MappingFile:
        known = ("time_zone", "sources", "features", *raw_tables.TABLES)
        self._require_known("", content, known)
        zone = self._zone(content.get("time_zone", "UTC"), "time_zone")
        given = self._table(content.get("sources", {}), "sources")
        sources = {name: self._source(name, value) for name, value in given.items()}
        if not sources:
            self._add('there is no [sources]: name at least one, such as plays = "plays.csv".')
        tables = [
            self._table_mapping(name, content[name], sources, zone)
            for name in raw_tables.TABLES
            if name in content
        ]
        if "watches" not in content:
            self._add("there is no [watches]: that table is needed.")
        features = content.get("features", [])
        if not isinstance(features, list) or not all(isinstance(f, dict) for f in features):
            self._add("features must be tables [[features]].")
            features = []
        refuse(self._problems, str(self._path))
        return MappingFile(
            path=self._path,
            sources={name: source for name, source in sources.items() if source},
            tables=tuple(table for table in tables if table),
            features=tuple(features),
        )

    def _add(self, text: str) -> None:
        self._problems.append(text)

    def _require_known(self, where: str, given: Mapping[str, Any], known: Collection[str]) -> None:
        for key in given:
            if key not in known:
                self._add(f"{where}there is no key {key!r}.{alike(key, known)}")

    def _table(self, value: Any, where: str) -> dict[str, Any]:
        if isinstance(value, dict):
            return value
        self._add(f"{where} must be a table of TOML, got {value!r}.")
        return {}

    def _text(self, value: Any, where: str) -> str:
        if isinstance(value, str) and value.strip():
            return value
        self._add(f"{where} must be text, got {value!r}.")
        return ""

    def _zone(self, value: Any, where: str) -> str:
        with contextlib.suppress(ValueError, OSError, TypeError, zoneinfo.ZoneInfoNotFoundError):
            zoneinfo.ZoneInfo(value)
            return str(value)
        self._add(f"{where} must be a zone such as Europe/Berlin or UTC, got {value!r}.")
        return "UTC"

    # ---- sources -------------------------------------------------------------------------------

    def _source(self, name: str, value: Any) -> Source | None:
        where = f"sources.{name}"
        if not _NAME.fullmatch(name):
            self._add(f"{where}: a name has letters, digits and _ alone, since SQL uses it.")
        if isinstance(value, str):
            value = {kind_of(value, self._path.parent): value}
        given = self._filled(self._table(value, where), where)
        kinds = [kind for kind in KINDS if kind in given]
        if len(kinds) != 1:
            self._add(f"{where} must have one of the keys {', '.join(KINDS)}, got {list(given)}.")
            return None
        kind = kinds[0]
        self._require_known(f"{where}: ", given, (kind, *KINDS[kind]))
        if kind == "database" and ("table" in given) == ("sql" in given):
            self._add(f"{where} must say which table = or which sql = of the database.")
        location = self._text(given.pop(kind), f"{where}.{kind}")
        return Source(name=name, kind=kind, location=location, options=given)

    def _filled(self, value: Any, where: str) -> Any:
        """Puts in what the environment holds for ``${NAME}``: passwords stay out of the file."""
        if isinstance(value, dict):
            return {key: self._filled(inner, f"{where}.{key}") for key, inner in value.items()}
        if not isinstance(value, str):
            return value
        for name in _VARIABLE.findall(value):
            if name not in os.environ:
                self._add(f"{where}: the environment variable {name} is not set. Set it.")
        return _VARIABLE.sub(lambda match: os.environ.get(match[1], ""), value)

    # ---- tables --------------------------------------------------------------------------------

    def _table_mapping(
        self, name: str, value: Any, sources: Collection[str], zone: str
    ) -> TableMapping | None:
        given = self._table(value, name)
        self._require_known(f"{name}: ", given, _TABLE_KEYS)
        source = self._text(given.get("source"), f"{name}.source")
        if source and source not in sources:
            self._add(f"{name}.source: there is no source {source!r}.{alike(source, sources)}")
        where = self._text(given["where"], f"{name}.where") if "where" in given else ""
        columns = self._table(given.get("columns", {}), f"{name}.columns")
        contract = raw_tables.table_of(name)
        have = ", ".join(columns) or "no columns"
        for column in contract.columns:
            if column.required and not column.is_filled and column.name not in columns:
                self._add(f"{name}.columns lacks {column.name!r}, which is required. Got: {have}.")
        if raw_tables.PARTITION in columns and contract.partitioned:
            self._add(f"{name}.columns: {raw_tables.PARTITION!r} names the partitions; rename it.")
        mapped = tuple(
            self._column(f"{name}.columns.{column}", column, columns[column], zone)
            for column in columns
        )
        return TableMapping(name=name, source=source, where=where, columns=mapped)

    def _column(self, where: str, name: str, value: Any, zone: str) -> ColumnMapping:
        if isinstance(value, str):
            value = {"sql": value}
        given = self._table(value, where)
        self._require_known(f"{where}: ", given, _COLUMN_KEYS)
        unit = given.get("unit", "s")
        if unit not in text_values.UNITS:
            self._add(f"{where}.unit must be in {list(text_values.UNITS)}, got {unit!r}.")
            unit = "s"
        texts = {key: given[key] for key in ("format", "separator") if key in given}
        for key, text in texts.items():
            if not isinstance(text, str) or not text:
                self._add(f"{where}.{key} must be text, got {text!r}.")
        form = text_values.Form(
            unit=unit,
            time_zone=self._zone(given.get("time_zone", zone), f"{where}.time_zone"),
            time_format=texts.get("format"),
            separator=texts.get("separator"),
        )
        return ColumnMapping(name=name, sql=self._text(given.get("sql"), f"{where}.sql"), form=form)


def kind_of(location: str, directory: pathlib.Path) -> str:
    """Returns the kind of a source that is given by its place alone."""
    if "://" in location or location.lower().endswith(_DATABASES):
        return "database"
    return "delta" if (directory / location / "_delta_log").is_dir() else "files"
