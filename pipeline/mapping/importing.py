"""Sources to logs, as a mapping file says: all that is wrong with it at once, or whole logs."""

import collections
import contextlib
import dataclasses
import json
import pathlib
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.compute as pc

from features import command, declarations
from features.catalogue import combined
from features.config import Bounds
from features.screen import progress
from features.tables import casts, log_writer, raw_tables, schema, time_windows
from features.tables.time_windows import Window
from pipeline.mapping import engine as engines
from pipeline.mapping import mapping_file, values
from pipeline.mapping.engine import Engine
from pipeline.mapping.mapping_file import ColumnMapping, MappingFile, TableMapping
from pipeline.mapping.tallies import UNREADABLE, Tally
from pipeline.preprocessing.config import PreprocessConfig
from pipeline.preprocessing.log_tallies import RejectedRows

_ROW = "row of the batch"  # Not a name that SQL would give a column by accident.
_SPANS = ("INTERVAL", "TIME")  # Of DuckDB; Arrow has no number for them.


@dataclasses.dataclass(frozen=True, kw_only=True)
class MappingConfig(Window):
    """What of the sources is kept.

    Attributes:
        max_rejected_fraction: Share of the rows of a table that may be set aside, and of the values
            of an optional column that may be unreadable.
        now_s: The clock, Unix seconds: what lies after it cannot have happened.
    """

    max_rejected_fraction: Annotated[float, Bounds(ge=0, le=1)] = (
        PreprocessConfig.max_rejected_fraction
    )
    now_s: int


def import_mapping(
    mapping: MappingFile,
    writer: log_writer.LogWriter,
    config: MappingConfig,
    *,
    rejected: RejectedRows,
) -> list[str]:
    """Reads all sources and writes all tables.

    Returns:
        Notes that a user of the logs should know, one clause each.

    Raises:
        command.InputError: Something of the mapping or of the sources cannot be used; it names all
            that is known by then: first what the mapping says, then what the rows hold.
    """
    with writer.scratch() as scratch, contextlib.closing(Engine(scratch)) as engine:
        importer = _Import(mapping, engine, writer=writer, config=config, rejected=rejected)
        return importer.run(scratch)


def select(table: TableMapping, *, spans: set[str]) -> str:
    """Returns the query that makes a table of ours.

    Args:
        table: Mapping of the table.
        spans: Names of the columns whose expression is an interval or a time of day.
    """
    columns = ", ".join(
        f"{'epoch' * (c.name in spans)}{engines.bracketed(c.sql)} AS {_quoted(c.name)}"
        for c in table.columns
    )
    where = f" WHERE {engines.bracketed(table.where)}" if table.where else ""
    return f'SELECT {columns} FROM "{table.source}"{where}'


class _Import:
    """One import; every step adds to the problems."""

    def __init__(
        self,
        mapping: MappingFile,
        engine: Engine,
        *,
        writer: log_writer.LogWriter,
        config: MappingConfig,
        rejected: RejectedRows,
    ) -> None:
        self._mapping = mapping
        self._engine = engine
        self._writer = writer
        self._config = config
        self._rejected = rejected
        self._problems: list[str] = []
        self._notes: list[str] = []
        self._lost: set[str] = set()  # Sources that cannot be asked.
        self._spans: dict[str, set[str]] = collections.defaultdict(set)
        self._types: dict[str, dict[str, pa.DataType]] = {}
        self._tables: dict[str, TableMapping] = {}
        self._known: dict[str, pa.Array | None] = {"videos": None, "users": None}

    def run(self, scratch: pathlib.Path) -> list[str]:
        self._open_sources()
        for table in self._mapping.tables:
            self._check_table(table)
        self._check_features(scratch)
        self._refuse()
        for name, text in self._engine.fetch().items():
            self._problems.append(f"sources.{name}: {text}")
        self._refuse()
        for table in self._tables.values():
            self._read_table(table)
        self._rejected.close()
        self._refuse()
        if self._mapping.features:
            self._writer.write_features(self._mapping.features)
        return self._notes

    def _refuse(self) -> None:
        mapping_file.refuse(self._problems, str(self._mapping.path))

    # ---- what the mapping says -----------------------------------------------------------------

    def _open_sources(self) -> None:
        directory = self._mapping.path.parent
        # What a query asks is there before it.
        in_order = sorted(self._mapping.sources.values(), key=lambda s: s.kind == "query")
        for source in in_order:
            words = set(re.findall(r"\w+", source.location)) if source.kind == "query" else set()
            if words & self._lost:
                self._lost.add(source.name)  # The fault of another, which is told.
                continue
            try:
                self._engine.open(source, directory)
            except command.InputError as error:
                self._lost.add(source.name)
                self._problems.append(f"sources.{source.name}: {error}")

    def _check_table(self, table: TableMapping) -> None:
        """Looks at every expression by itself, so that one that is wrong hides no other."""
        if table.source in self._lost:
            return
        columns = self._engine.columns(table.source)
        table = self._tables[table.name] = _with_names(table, columns)
        before = len(self._problems)
        types = {
            column.name: self._check_column(table, column, columns) for column in table.columns
        }
        where = f'SELECT 1 FROM "{table.source}" WHERE {engines.bracketed(table.where)} LIMIT 0'
        for query, what in (
            (where if table.where else "", f"{table.name}.where"),
            (select(table, spans=self._spans[table.name]), table.name),
        ):
            if query and len(self._problems) == before:
                try:
                    self._engine.check(query)
                except command.InputError as error:
                    self._add_sql(what, error, columns)
        self._types[table.name] = {name: kind for name, kind in types.items() if kind is not None}

    def _check_column(
        self, table: TableMapping, column: ColumnMapping, columns: Mapping[str, str]
    ) -> pa.DataType | None:
        what = f"{table.name}.{column.name}"
        contract = raw_tables.table_of(table.name).column(column.name)
        if problem := values.unit_problem(column.form, contract):
            self._problems.append(f"{what}: {problem}")
        try:
            name, kind = self._engine.type_of(table.source, column.sql)
        except command.InputError as error:
            self._add_sql(what, error, columns)
            return None
        if name in _SPANS and (contract is None or values.is_span(contract)):
            self._spans[table.name].add(column.name)
            kind = pa.float64()
        nothing = pa.chunked_array([pa.array([], kind)])
        try:
            converted = values.convert(nothing, column.form, contract).values.type
        except casts.UnfitError as error:
            assert contract is not None
            expected = "a time" if contract.is_time else casts.describe(contract.type)
            self._problems.append(
                f"{what}: expected {expected}, but {column.sql.strip()} is {name}{error}."
            )
            return None
        plain = casts.plain_type(converted, column.name)
        if contract is None and plain is None:
            self._problems.append(f"{what}: nothing here can use its type, {name}. Leave it out.")
        return contract.type if contract else plain

    def _add_sql(self, what: str, error: Exception, columns: Mapping[str, str]) -> None:
        text = str(error)
        hint = ""
        if missing := re.search(r'column "([^"]+)" not found', text):
            hint = mapping_file.alike(missing[1], columns)
            text = f"the source has no column {missing[1]!r}"
        elif "explicit type cast" in text or "No function matches" in text:
            hint = " Columns of CSV are text: write Minutes::DOUBLE to calculate with one."
        self._problems.append(f"{what}: {text}.{hint}")

    def _check_features(self, scratch: pathlib.Path) -> None:
        if not self._mapping.features or self._problems:
            return  # What columns there are is not known yet.
        path = scratch / log_writer.FEATURES_FILE
        path.write_text(json.dumps([dict(entry) for entry in self._mapping.features], default=str))
        try:
            declarations.resolve(self._types, path)
        except command.InputError as error:
            self._problems.append(str(error).replace(str(path), "[[features]]"))

    # ---- what the rows hold --------------------------------------------------------------------

    def _read_table(self, table: TableMapping) -> None:
        tally = Tally(table.name, self._config.max_rejected_fraction)
        ids: list[pa.Array] = []
        try:
            for rows in self._accepted(table, tally):
                self._writer.write(table.name, rows)
                if key := raw_tables.table_of(table.name).key:
                    ids += rows[key].chunks
        except command.InputError as error:
            self._problems.append(f"{table.name}: {error}.")
            return
        if ids:
            self._known[table.name] = combined(pa.chunked_array(ids))
        problems, notes = tally.verdict()
        self._problems += problems
        self._notes += notes

    def _accepted(self, table: TableMapping, tally: Tally) -> Iterator[pa.Table]:
        progress.at(f"writing {table.name}", unit="rows")
        for raw in self._engine.batches(select(table, spans=self._spans[table.name])):
            converted, is_unreadable = self._converted(table, raw, tally)
            rows = schema.conform(table.name, converted)
            time = raw_tables.table_of(table.name).time_column
            if time is not None:
                keep = time_windows.inside(rows[time], self._config.from_s, self._config.until_s)
                rows, is_unreadable = rows.filter(keep), is_unreadable.filter(keep)
            unreadable = rows.filter(is_unreadable)
            reason = pa.repeat(UNREADABLE, unreadable.num_rows)
            accepted, rejected = schema.validate(
                table.name,
                rows.filter(pc.invert(is_unreadable)),
                known_video_ids=self._known["videos"],
                known_user_ids=self._known["users"],
                now_s=self._config.now_s,
            )
            every = [(unreadable[_ROW], reason), (rejected[_ROW], rejected["reason"])]
            for places, reasons in every:
                if len(places):
                    aside = raw.take(places).append_column("reason", reasons)
                    tally.add_rejected(aside)
                    self._rejected.add(table.name, aside)
            tally.read += rows.num_rows
            progress.add(rows.num_rows)
            yield accepted.drop_columns([_ROW])

    def _converted(
        self, table: TableMapping, raw: pa.Table, tally: Tally
    ) -> tuple[pa.Table, pa.ChunkedArray]:
        """Returns the columns of ours, and where a required value cannot be read."""
        contract = raw_tables.table_of(table.name)
        is_unreadable = pa.chunked_array([pa.repeat(False, raw.num_rows)])
        columns: dict[str, Any] = {}
        for column in table.columns:
            ours = contract.column(column.name)
            try:
                converted = values.convert(raw[column.name], column.form, ours)
            except casts.UnfitError as error:
                raise command.InputError(f"{column.name} = {column.sql}{error}") from error
            columns[column.name] = converted.values
            if ours is not None and ours.required:
                is_unreadable = pc.or_(is_unreadable, converted.is_unreadable)
            tally.add_column(column.name, raw[column.name], converted.is_unreadable)
        columns[_ROW] = pa.array(range(raw.num_rows), pa.int64())
        return pa.table(columns), is_unreadable


def _with_names(table: TableMapping, columns: Collection[str]) -> TableMapping:
    """Returns a table whose expressions that are the name of a column are in quotes.

    People call columns ``user``, ``when`` and ``Started At``: the first is a function of SQL, the
    second a word of it, and the third is two.
    """
    by_lower = {name.lower(): name for name in columns}
    return dataclasses.replace(
        table,
        columns=tuple(
            dataclasses.replace(column, sql=_quoted(by_lower[column.sql.strip().lower()]))
            if column.sql.strip().lower() in by_lower
            else column
            for column in table.columns
        ),
    )


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
