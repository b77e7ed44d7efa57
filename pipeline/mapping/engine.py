"""The one engine of a mapping: DuckDB, in which every source is a table that SQL can ask.

Why DuckDB: it reads CSV, JSON and Parquet itself, in parallel and without holding them, spills to
disk, takes Arrow streams of whatever else has rows, and its SQL is what people would write anyway.
Its own readers of databases and lakes are extensions from a server of its own, which a machine
behind a firewall cannot reach; so those rows come by the libraries of their own
(:mod:`pipeline.mapping.streams`) and are put into a database file beside the logs first: read once,
of one moment, and there for every query that asks again.
"""

import contextlib
import functools
import pathlib
import re
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pyarrow as pa

from features import command
from features.screen import progress
from pipeline.mapping import file_sources, streams
from pipeline.mapping.mapping_file import Source

BATCH_ROWS = 131_072
MEMORY_LIMIT = "2GB"
# What follows is advice about DuckDB's options, which is not ours to follow.
_ADVICE = re.compile(r"Possible (fixes|solution)|Candidate functions|LINE \d+:", re.IGNORECASE)


def library() -> ModuleType:
    """Returns DuckDB, or raises InputError where it is not installed."""
    try:
        import duckdb
    except ModuleNotFoundError:
        raise command.InputError(
            "--mapping and --propose need DuckDB: pip install '.[mapping]' in the checkout."
        ) from None
    return duckdb


def reason(error: Exception) -> str:
    """Returns what DuckDB says is wrong, in one line."""
    text = _ADVICE.split(str(error))[0]
    return re.sub(r"^[A-Z][\w-]*( \w+)? Error: ", "", " ".join(text.split())).rstrip(". ")


class Engine:
    """Sources as tables, and queries over them."""

    def __init__(self, scratch: pathlib.Path) -> None:
        """Makes a database file that holds what cannot be read twice.

        Args:
            scratch: Directory for it and for what does not fit in memory.
        """
        self.errors = library().Error
        self._connection = library().connect(
            str(scratch / "sources.duckdb"),
            config={"memory_limit": MEMORY_LIMIT, "temp_directory": str(scratch / "spilled")},
        )
        # Clocks of the machine do not matter: zones are of the mapping.
        self._connection.execute("SET TimeZone='UTC'")
        self._streams: dict[str, streams.Stream] = {}

    def close(self) -> None:
        """Gives back connections and files."""
        for stream in self._streams.values():
            stream.close()
        self._connection.close()

    def open(self, source: Source, directory: pathlib.Path) -> None:
        """Makes a source known under its name; reads no more of it than its columns.

        Args:
            source: Source to open; a query after the sources that it asks.
            directory: Directory at which relative paths begin.

        Raises:
            command.InputError: It cannot be opened.
        """
        name = f'"{source.name}"'
        try:
            if source.kind == "files":
                files = file_sources.find(source.location, directory, source.options)
                read = file_sources.relation(files, source.options, self._connection.cursor())
                self._execute(f"CREATE VIEW {name} AS SELECT * FROM {read}")
            elif source.kind == "query":
                query = source.location.strip().rstrip(";")
                self._execute(f"CREATE VIEW {name} AS SELECT * FROM (\n{query}\n)")
            else:
                stream = streams.open_source(source, directory)
                self._streams[source.name] = stream
                self._insert(f"CREATE TABLE {name} AS", stream.reader.schema.empty_table())
        except self.errors as error:
            raise command.InputError(reason(error)) from error

    def fetch(self, *, max_rows: int | None = None) -> dict[str, str]:
        """Reads the streams that were opened into their tables.

        Args:
            max_rows: About how many rows of each, at least; None for all.

        Returns:
            Name of the source to what failed, of those that failed.
        """
        failed = {}
        for name, stream in self._streams.items():
            try:
                with streams.explained(name):
                    self._insert(f'INSERT INTO "{name}"', _reporting(name, stream.reader, max_rows))
            except command.InputError as error:
                failed[name] = str(error)
            stream.close()
        self._streams = {}
        return failed

    def columns(self, source: str) -> dict[str, str]:
        """Returns name -> DuckDB's type of the columns of a source."""
        relation = self._connection.cursor().sql(f'SELECT * FROM "{source}"')
        return dict(zip(relation.columns, map(str, relation.types), strict=True))

    def type_of(self, source: str, sql: str) -> tuple[str, pa.DataType]:
        """Returns the type of an expression over a source: DuckDB's name and Arrow's type.

        Raises:
            command.InputError: It is none, or names what there is not.
        """
        relation = self._sql(f'SELECT {bracketed(sql)} AS x FROM "{source}" LIMIT 0')
        return str(relation.types[0]), relation.to_arrow_table().schema.types[0]

    def check(self, query: str) -> None:
        """Raises InputError for a query that cannot be asked."""
        self._sql(query)

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """Returns all rows of a query."""
        try:
            return list(self._connection.cursor().sql(query).fetchall())
        except self.errors as error:
            raise command.InputError(reason(error)) from error

    def batches(self, query: str) -> Iterator[pa.Table]:
        """Yields the rows of a query in the order of its source, a bounded number at a time.

        Raises:
            command.InputError: A value or a file turns out to be unreadable, also half way.
        """
        try:
            reader = self._connection.cursor().sql(query).to_arrow_reader(BATCH_ROWS)
            for batch in reader:
                yield pa.table(batch)
        except (self.errors, pa.ArrowException, OSError) as error:
            raise command.InputError(reason(error)) from error

    def _sql(self, query: str) -> Any:
        try:
            return self._connection.cursor().sql(query)
        except self.errors as error:
            raise command.InputError(reason(error)) from error

    def _execute(self, statement: str) -> None:
        self._connection.execute(statement)

    def _insert(self, statement: str, rows: pa.Table | pa.RecordBatchReader) -> None:
        cursor = self._connection.cursor()
        with contextlib.closing(cursor):
            cursor.register("arriving", rows)
            cursor.execute(f"{statement} SELECT * FROM arriving")


def bracketed(sql: str) -> str:
    """Returns an expression in brackets; a comment at its end does not take them along."""
    return f"(\n{sql}\n)"


@functools.cache
def _keywords() -> frozenset[str]:
    rows = library().connect().sql("SELECT keyword_name FROM duckdb_keywords()").fetchall()
    return frozenset(name for (name,) in rows)


def is_keyword(name: str) -> bool:
    """Says whether a name is a word of SQL, which stands in quotes where it is a column."""
    return name.lower() in _keywords()


def _reporting(
    name: str, reader: pa.RecordBatchReader, max_rows: int | None
) -> pa.RecordBatchReader:
    def batches() -> Iterator[pa.RecordBatch]:
        progress.at(f"reading {name}", unit="rows")
        rows = 0
        for batch in reader:
            yield batch
            rows += batch.num_rows
            progress.add(batch.num_rows)
            if max_rows is not None and rows >= max_rows:
                break

    return pa.RecordBatchReader.from_batches(reader.schema, batches())
