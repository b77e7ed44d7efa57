"""Databases, Delta Lake and Iceberg tables as streams of Arrow batches.

Each wants a library of its own, an optional extra of the distribution, and says which is missing.
"""

import contextlib
import dataclasses
import importlib
import pathlib
import re
import sqlite3
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from types import ModuleType
from typing import Any

import pyarrow as pa

from features import command
from pipeline.mapping.mapping_file import Source

_BATCH_ROWS = 65_536
# What the files of a database have, and at which byte.
_MAGIC = {"sqlite": (0, b"SQLite format 3"), "duckdb": (8, b"DUCK")}
_SQLITE_TYPES = {"integer": pa.int64(), "real": pa.float64(), "text": pa.string()}


@dataclasses.dataclass
class Stream:
    """Rows on their way.

    Attributes:
        reader: Batches of rows, read once; its schema is known before the first.
        close: Function that gives back connections.
    """

    reader: pa.RecordBatchReader
    close: Callable[[], None]


def open_source(source: Source, directory: pathlib.Path) -> Stream:
    """Opens a source of kind database, delta or iceberg.

    Raises:
        command.InputError: A library is missing, or the source cannot be opened.
    """
    opens = {"database": _open_database, "delta": _open_delta, "iceberg": _open_iceberg}
    return opens[source.kind](source, directory)


def tables_of(address: str, directory: pathlib.Path) -> list[str]:
    """Returns the names of the tables in a database, as ``table =`` takes them."""
    by_scheme = {
        "sqlite": "SELECT name FROM sqlite_master WHERE type IN ('table', 'view')"
        " AND name NOT LIKE 'sqlite_%'",
        "duckdb": "SELECT table_name FROM information_schema.tables",
    }
    standard = (
        "SELECT table_schema || '.' || table_name FROM information_schema.tables "
        "WHERE table_schema NOT IN ('pg_catalog', 'information_schema')"
    )
    scheme, _ = _scheme(address, directory)
    sql = by_scheme.get(scheme, standard)
    source = Source(name="tables", kind="database", location=address, options={"sql": sql})
    stream = open_source(source, directory)
    with contextlib.closing(stream), explained(address):
        return sorted(str(name) for name in stream.reader.read_all().column(0).to_pylist())


@contextlib.contextmanager
def explained(location: str) -> Iterator[None]:
    """Says of what failed in another library which source it was, without its password."""
    try:
        yield
    except command.InputError:
        raise
    except Exception as error:  # Each driver has its own, and some share nothing but this.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise command.InputError(f"{shown(location)}: {shown(reason)}") from error


def shown(text: str) -> str:
    """Returns a text without the passwords of the addresses in it."""
    return re.sub(r"(://[^:/@\s]*):[^@/\s]+@", r"\1:***@", text)


def _library(name: str, extra: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise command.InputError(
            f"this source needs {error.name}, which is not installed: "
            f"pip install '.[{extra}]' in the checkout."
        ) from None


# ---- databases ---------------------------------------------------------------------------------


def _open_database(source: Source, directory: pathlib.Path) -> Stream:
    options = source.options
    sql = str(options.get("sql", "")).strip().rstrip(";") or (
        f"SELECT * FROM {_identifier(str(options['table']))}"
    )
    scheme, place = _scheme(source.location, directory)
    with explained(source.location):
        if scheme == "sqlite":
            return _open_sqlite(place, sql)
        if scheme == "duckdb":
            return _open_duckdb(place, sql)
        if scheme in {"postgresql", "postgres"}:
            return _open_adbc("adbc_driver_postgresql", "postgresql", source.location, sql)
        connectorx = _library("connectorx", "databases")
        reader = connectorx.read_sql(source.location, sql, return_type="arrow_stream")
        return Stream(reader, close=lambda: None)


def _scheme(address: str, directory: pathlib.Path) -> tuple[str, str]:
    """Returns what a database is, and where: its own word for it, or a path."""
    scheme, _, rest = address.partition("://")
    if not rest:
        path = directory / address
        if not path.is_file():
            state = "is a directory" if path.is_dir() else "does not exist"
            raise command.InputError(f"{path} {state}; it should be a database file.")
        with path.open("rb") as file:
            head = file.read(64)
        for kind, (place, magic) in _MAGIC.items():
            if head[place:].startswith(magic):
                return kind, str(path)
        raise command.InputError(f"{path} is no database of SQLite or DuckDB.")
    if scheme in {"sqlite", "duckdb"}:
        # sqlite:///site.db is relative and sqlite:////data/site.db absolute, as SQLAlchemy has it.
        return _scheme(urllib.parse.unquote(rest).removeprefix("/"), directory)
    return scheme, address


def _identifier(table: str) -> str:
    return ".".join('"' + part.strip('"') + '"' for part in table.split("."))


def _open_adbc(driver: str, extra: str, address: str, sql: str) -> Stream:
    connection = _library(f"{driver}.dbapi", extra).connect(address)
    cursor = connection.cursor()
    try:
        cursor.execute(sql)
        reader = cursor.fetch_record_batch()
    except BaseException:
        cursor.close()
        connection.close()
        raise

    def close() -> None:
        cursor.close()
        connection.close()

    return Stream(reader, close)


def _open_duckdb(path: str, sql: str) -> Stream:
    duckdb = _library("duckdb", "mapping")
    connection = duckdb.connect(path, read_only=True)
    try:
        return Stream(connection.sql(sql).to_arrow_reader(_BATCH_ROWS), connection.close)
    except BaseException:
        connection.close()
        raise


def _open_sqlite(path: str, sql: str) -> Stream:
    """Opens a query of SQLite, where each value has a type of its own.

    So all values are asked first which types a column has; one that mixes them is text.
    """
    connection = sqlite3.connect(
        f"file:{urllib.parse.quote(path)}?mode=ro", uri=True, check_same_thread=False
    )
    try:
        described = connection.execute(f"SELECT * FROM ({sql}) LIMIT 0").description
        names = [column[0] for column in described]
        quoted = [_quoted(name) for name in names]
        expressions = ", ".join(f"group_concat(DISTINCT typeof({name}))" for name in quoted)
        kinds = connection.execute(f"SELECT {expressions} FROM ({sql})").fetchone()
        types = [_sqlite_type(str(storage or "")) for storage in kinds]
        read = ", ".join(
            f"CAST({name} AS TEXT) AS {name}" if pa.types.is_string(kind) else name
            for name, kind in zip(quoted, types, strict=True)
        )
        cursor = connection.execute(f"SELECT {read} FROM ({sql})")
    except BaseException:
        connection.close()
        raise
    schema = pa.schema(list(zip(names, types, strict=True)))

    def batches() -> Iterator[pa.RecordBatch]:
        while rows := cursor.fetchmany(_BATCH_ROWS):
            columns = zip(*rows, strict=True)
            arrays = [pa.array(c, kind) for c, kind in zip(columns, types, strict=True)]
            yield pa.RecordBatch.from_arrays(arrays, schema=schema)

    return Stream(pa.RecordBatchReader.from_batches(schema, batches()), connection.close)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _sqlite_type(storage: str) -> pa.DataType:
    kinds = set(storage.split(",")) - {"null", ""}
    if kinds == {"blob"}:
        return pa.binary()
    if kinds == {"integer", "real"}:
        return pa.float64()
    return _SQLITE_TYPES[next(iter(kinds))] if len(kinds) == 1 else pa.string()


# ---- lakes -------------------------------------------------------------------------------------


def _place(location: str, directory: pathlib.Path) -> str:
    return location if "://" in location else str(directory / location)


def _open_delta(source: Source, directory: pathlib.Path) -> Stream:
    deltalake = _library("deltalake", "delta")
    options: Mapping[str, Any] = source.options
    place = _place(source.location, directory)
    with explained(place):
        table = deltalake.DeltaTable(
            place, version=options.get("version"), storage_options=options.get("options")
        )
        # Its own engine: it leaves out what deletion vectors took away.
        query = deltalake.QueryBuilder().register("rows", table).execute("SELECT * FROM rows")
        return Stream(pa.RecordBatchReader.from_stream(query), close=lambda: None)


def _open_iceberg(source: Source, directory: pathlib.Path) -> Stream:
    options = source.options
    with explained(source.location):
        if "catalog" in options:
            catalogs = _library("pyiceberg.catalog", "iceberg")
            properties = {str(key): str(value) for key, value in options["catalog"].items()}
            name = properties.pop("name", "default")
            table = catalogs.load_catalog(name, **properties).load_table(source.location)
        else:
            tables = _library("pyiceberg.table", "iceberg")
            table = tables.StaticTable.from_metadata(_place(source.location, directory))
        scan = table.scan(snapshot_id=options.get("snapshot"))
        return Stream(scan.to_arrow_batch_reader(), close=lambda: None)
