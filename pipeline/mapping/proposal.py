"""A first mapping of sources that nobody has described: what was guessed, and why."""

import contextlib
import dataclasses
import datetime
import pathlib
import re
import tempfile
from collections.abc import Sequence

import pyarrow as pa

from features import command
from features.tables import casts, raw_tables
from features.tables.text_values import Form
from pipeline.mapping import engine as engines
from pipeline.mapping import evidence, mapping_file, mapping_text, names, streams
from pipeline.mapping.engine import Engine
from pipeline.mapping.evidence import Evidence
from pipeline.mapping.mapping_file import Source
from pipeline.mapping.mapping_text import Line, ProposedTable

SAMPLE_ROWS = 20_000
_LEAST = 0.5  # Of a name's score.
_STAND_IN_S = "60"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Proposal:
    """A mapping file that was guessed.

    Attributes:
        text: Content of the file.
        summary: What stands in it, and what has to be looked at, a line each.
    """

    text: str
    summary: tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Seen:
    """One source that was looked at."""

    source: Source
    columns: tuple[Evidence, ...]


def propose(locations: Sequence[str], *, directory: pathlib.Path) -> Proposal:
    """Looks at sources and writes a mapping of them.

    Args:
        locations: Paths of files and directories, and addresses of databases (all their tables).
        directory: Directory in which the mapping file will stand.

    Raises:
        command.InputError: A source cannot be opened, or nothing looks like a table of ours.
    """
    if not locations:
        raise command.InputError(
            "--propose needs --source: files and databases, commas between them."
        )
    here = pathlib.Path.cwd()
    problems: list[str] = []
    sources: list[Source] = []
    for location in locations:
        try:
            sources += _sources_at(location, here, directory, taken={s.name for s in sources})
        except command.InputError as error:
            problems.append(str(error))
    with (
        tempfile.TemporaryDirectory() as scratch,
        contextlib.closing(Engine(pathlib.Path(scratch))) as engine,
    ):
        seen = []
        for source in sources:
            try:
                engine.open(source, directory)
                failed = engine.fetch(max_rows=SAMPLE_ROWS)
                problems += failed.values()
                seen += [] if failed else [_look(engine, source)]
            except command.InputError as error:
                problems.append(f"{source.location}: {error}")
    mapping_file.refuse(problems, "--source")
    return _Proposer(seen).run()


def _sources_at(
    location: str, here: pathlib.Path, directory: pathlib.Path, taken: set[str]
) -> list[Source]:
    """Returns what lies at a place, with paths as the mapping file will have them."""
    kind = mapping_file.kind_of(location, here)
    if "://" not in location:
        path = (here / location).resolve()
        base = directory.resolve()
        location = str(path.relative_to(base) if path.is_relative_to(base) else path)
    if kind != "database":
        name = _name(pathlib.PurePath(location).name.partition(".")[0], taken)
        return [Source(name=name, kind=kind, location=location, options={})]
    sources: list[Source] = []
    for table in streams.tables_of(location, directory):
        name = _name(table.rpartition(".")[2], taken | {source.name for source in sources})
        options = {"table": table}
        sources.append(Source(name=name, kind=kind, location=location, options=options))
    if not sources:
        raise command.InputError(f"{streams.shown(location)} has no tables.")
    return sources


def _name(text: str, taken: set[str]) -> str:
    plain = re.sub(r"^(?=\d)", "t", names.snake(re.sub(r"[*?]", "", text)))
    return next(
        name for name in (plain, *(f"{plain}_{n}" for n in range(2, 1_000))) if name not in taken
    )


def _look(engine: Engine, source: Source) -> _Seen:
    types = engine.columns(source.name)
    parts = list(engine.batches(f'SELECT * FROM "{source.name}" LIMIT {SAMPLE_ROWS}'))
    if not parts:
        return _Seen(source=source, columns=())
    rows = pa.concat_tables(parts)
    columns = (evidence.look(name, types[name], rows[name]) for name in types)
    return _Seen(source=source, columns=tuple(columns))


class _Proposer:
    """Decides which source is which table, and which column which."""

    def __init__(self, seen: Sequence[_Seen]) -> None:
        self._seen = seen
        self._tables: dict[str, ProposedTable] = {}
        self._left_out: list[str] = []

    def run(self) -> Proposal:
        for seen in self._seen:
            proposed = self._tables_of(seen)
            if not proposed:
                self._left_out.append(f"{seen.source.name}: looks like none of the tables")
            for table in proposed:
                self._keep(table)
        if not {"watches", "impressions"} & self._tables.keys():
            held = "; ".join(
                f"{s.source.name} has {', '.join(c.name for c in s.columns)}" for s in self._seen
            )
            raise command.InputError(
                "nothing looks like watches: a user, a video and a time in one table. Write the "
                f"mapping by hand, as pipeline/mapping/mapping_file.py shows. {held}."
            )
        self._fill_watches()
        self._fill_upload_times()
        tables = [self._tables[name] for name in raw_tables.TABLES if name in self._tables]
        sources = [seen.source for seen in self._seen]
        text = mapping_text.written(sources, tables, self._left_out)
        return Proposal(text=text, summary=tuple(mapping_text.summary(tables, self._left_out)))

    def _keep(self, table: ProposedTable) -> None:
        other = self._tables.get(table.name)
        if other is not None and len(other.columns) >= len(table.columns):
            table, other = other, table
        self._tables[table.name] = table
        if other is not None:
            self._left_out.append(
                f"{other.source}: {table.name} is made of {table.source}; a query with UNION ALL "
                "BY NAME puts two together"
            )

    # ---- which table ---------------------------------------------------------------------------

    def _tables_of(self, seen: _Seen) -> list[ProposedTable]:
        events = self._event_types(seen)
        if events:
            return events
        made = {name: self._table(seen, name) for name in raw_tables.TABLES}

        def has(table: str, *columns: str) -> bool:
            return set(columns) <= made[table].names

        if has("impressions", "user_id", "video_id", "time", "clicked"):
            return [made["impressions"]]
        if has("watches", "user_id", "video_id", "time"):
            return [made["watches"]]
        if has("searches", "user_id", "time", "query"):
            return [made["searches"]]
        entities = [
            (names.table_score(seen.source.name, name) * 2 + len(made[name].names), name)
            for name, key in (("videos", "video_id"), ("users", "user_id"))
            if has(name, key)
        ]
        return [made[max(entities)[1]]] if entities else []

    def _event_types(self, seen: _Seen) -> list[ProposedTable]:
        """Returns tables of one source whose rows say what kind of event they are."""
        tables = []
        for column in seen.columns:
            if names.plain(column.name) not in names.EVENT_COLUMNS:
                continue
            for table, words in names.EVENTS.items():
                kinds = [kind for kind in column.few if kind.lower() in words]
                made = self._table(seen, table, leave_out=column.name)
                if table == "feedback":
                    sql = f"lower({_sql(column.name)})"
                    line = Line("kind", sql, Form(), why="what happened")
                    made = dataclasses.replace(made, columns=(*made.columns, line))
                if not kinds or not {"user_id", "time"} <= made.names:
                    continue
                condition = f"{_sql(column.name)} IN ({', '.join(map(_literal, kinds))})"
                others = [kind for kind in column.few if kind not in kinds]
                why = f"other values are {', '.join(map(repr, others))}" if others else ""
                tables.append(dataclasses.replace(made, where=condition, where_why=why))
        return tables

    def _table(self, seen: _Seen, name: str, leave_out: str = "") -> ProposedTable:
        """Returns a table of ours as if a source were it."""
        contract = raw_tables.table_of(name)
        columns = [column for column in seen.columns if column.name != leave_out]
        scored = sorted(
            (
                (_score(column, ours.name, contract), place, ours)
                for place, column in enumerate(columns)
                for ours in contract.columns
            ),
            key=lambda scored_pair: -scored_pair[0],
        )
        lines: dict[str, Line] = {}
        used: set[int] = set()
        for score, place, ours in scored:
            if score < _LEAST or place in used or ours.name in lines:
                continue
            fit = evidence.fit(columns[place], ours)
            if fit is not None:
                used.add(place)
                lines[ours.name] = Line(
                    ours.name,
                    _sql(columns[place].name),
                    fit.form,
                    why=fit.why if score == 1 else f"its name; {fit.why}",
                    is_sure=fit.is_sure,
                )
        rest = [column for place, column in enumerate(columns) if place not in used]
        if contract.time_column and "time" not in lines:
            rest = self._find_time(rest, lines, contract)
        if name == "users" and "age" not in lines:
            rest = _find_age(rest, lines)
        in_order = [lines[c.name] for c in contract.columns if c.name in lines]
        extras = [line for column in rest if (line := _extra(column, contract))]
        return ProposedTable(
            name=name, source=seen.source.name, columns=tuple(in_order), extras=tuple(extras)
        )

    def _find_time(
        self, rest: list[Evidence], lines: dict[str, Line], contract: raw_tables.Table
    ) -> list[Evidence]:
        """Takes the first column whose values are times, whatever its name is."""
        ours = contract.column("time")
        assert ours is not None
        for column in rest:
            is_number = evidence.is_number(column) or column.kind.endswith(("INT", "DOUBLE"))
            if not is_number and (fit := evidence.fit(column, ours)):
                why = f"the only times; {fit.why}"
                lines["time"] = Line("time", _sql(column.name), fit.form, why=why, is_sure=False)
                return [other for other in rest if other is not column]
        return rest

    # ---- what nothing tells --------------------------------------------------------------------

    def _fill_watches(self) -> None:
        """Makes watches of clicked impressions where there are no others, and fills their time."""
        if "watches" not in self._tables:
            shown = self._tables["impressions"]
            wanted = raw_tables.table_of("watches")
            lines = tuple(line for line in shown.columns if wanted.column(line.name))
            clicked = next(line for line in shown.columns if line.name == "clicked")
            self._tables["watches"] = ProposedTable(
                name="watches",
                source=shown.source,
                columns=lines,
                where=f"TRY_CAST({clicked.sql} AS BOOLEAN)",
                where_why="there are no other watches: clicked impressions. CHECK",
            )
        for name in ("watches", "impressions"):
            table = self._tables.get(name)
            if table is not None and "watch_time_s" not in table.names:
                sql = _STAND_IN_S
                if name == "impressions":
                    clicked = next(line for line in table.columns if line.name == "clicked")
                    sql = f"CASE WHEN TRY_CAST({clicked.sql} AS BOOLEAN) THEN {sql} ELSE 0 END"
                why = f"nothing says how long: {_STAND_IN_S} s stand in, which teach nothing"
                line = Line("watch_time_s", sql, Form(), why=why, is_sure=False)
                self._tables[name] = dataclasses.replace(table, columns=(*table.columns, line))

    def _fill_upload_times(self) -> None:
        """Takes the first watch for the upload where a table of videos does not say when."""
        videos = self._tables.get("videos")
        if videos is None or "upload_time" in videos.names:
            return
        watches = self._tables["watches"]
        lines = {line.name: line for line in watches.columns}
        video, time = lines["video_id"].sql, lines["time"].sql
        key = next(line.sql for line in videos.columns if line.name == "video_id")
        first = f'SELECT min({time}) FROM "{watches.source}" AS w'
        sql = (
            f'coalesce(({first} WHERE w.{video} = "{videos.source}".{key}), '
            f'(SELECT min({time}) FROM "{watches.source}"))'
        )
        why = "nothing says when: the first watch stands in"
        line = Line("upload_time", sql, lines["time"].form, why=why, is_sure=False)
        columns = (videos.columns[0], line, *videos.columns[1:])
        self._tables["videos"] = dataclasses.replace(videos, columns=columns)


def _score(column: Evidence, ours: str, contract: raw_tables.Table) -> float:
    """Returns how surely the name of a column is one of ours; that of a key may say no more."""
    if ours == contract.key and names.plain(column.name) in {"id", "uuid", "guid", "key"}:
        return 0.9
    return names.score(column.name, ours)


def _find_age(rest: list[Evidence], lines: dict[str, Line]) -> list[Evidence]:
    year = datetime.datetime.now(tz=datetime.timezone.utc).year
    forms = {
        "birthyear": f"{year} - TRY_CAST({{}} AS INTEGER)",
        "yearofbirth": f"{year} - TRY_CAST({{}} AS INTEGER)",
        "birthdate": "date_diff('year', TRY_CAST({} AS DATE), current_date)",
        "dateofbirth": "date_diff('year', TRY_CAST({} AS DATE), current_date)",
        "birthday": "date_diff('year', TRY_CAST({} AS DATE), current_date)",
    }
    for column in rest:
        if sql := forms.get(names.plain(column.name)):
            sql, why = sql.format(_sql(column.name)), f"of {column.name}"
            lines["age"] = Line("age", sql, Form(), why=why, is_sure=False)
            return [other for other in rest if other is not column]
    return rest


def _extra(column: Evidence, contract: raw_tables.Table) -> Line | None:
    """Returns a line that keeps a column which the contract does not name."""
    if not len(column.values) or casts.plain_type(column.values.type, column.name) is None:
        return None
    sql, why = _sql(column.name), f"{column.fill:.0%} have a value"
    if evidence.is_number(column):
        sql = f"TRY_CAST({sql} AS DOUBLE)"
    if column.few:
        why += f", one of {len(column.few)}"
    name = names.snake(column.name)
    if contract.column(name) or name == raw_tables.PARTITION:
        name = f"other_{name}"
    return Line(name, sql, Form(), why=why, is_category=bool(column.few) and column.fill > 0)


def _sql(name: str) -> str:
    """Returns the name of a column as SQL, in quotes where it might be a word of SQL."""
    is_plain = re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) and not engines.is_keyword(name)
    return name if is_plain else '"' + name.replace('"', '""') + '"'


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
