"""Databases and lakes, each the real thing, on the same rows with the same result."""

import contextlib
import datetime
import decimal
import os
import pathlib
import shutil
import socket
import sqlite3
import subprocess
import uuid

import pyarrow as pa
import pytest

from features import command

UTC = datetime.timezone.utc
AT = datetime.datetime(2026, 11, 3, 10, tzinfo=UTC)
ROWS = pa.table(
    {
        "film": pa.array([1, 2, 3], pa.int64()),
        "who": pa.array(["a", "b", "gone"]),
        "at": pa.array([AT, AT, AT], pa.timestamp("us", "UTC")),
        "secs": pa.array([30.0, 40.0, 50.0]),
        "tags": pa.array([["x", "y"], [], None], pa.list_(pa.string())),
    }
)
MAPPING = """
[sources]
rows = {source}

[videos]
source = "rows"
[videos.columns]
video_id = "film"
upload_time = "at"
topics = {topics}

[watches]
source = "rows"
[watches.columns]
user_id = "who"
video_id = "film"
time = "at"
watch_time_s = "secs"
"""


def mapping(source, topics='"tags"'):
    return MAPPING.format(source=source, topics=topics)


def check(tables, who=("a", "b")):
    watches = tables["watches"].to_pylist()
    assert [row["user_id"] for row in watches] == list(who)
    assert {row["time"] for row in watches} == {int(AT.timestamp())}
    assert [row["watch_time_s"] for row in watches] == [30.0, 40.0, 50.0][: len(who)]
    assert [row["video_id"] for row in tables["videos"].to_pylist()] == ["1", "2", "3"][: len(who)]
    assert tables["videos"]["topics"].to_pylist()[0] == ["x", "y"]


def refusal(imported, source, topics='"tags"'):
    with pytest.raises(command.InputError) as caught:
        imported(mapping(source, topics))
    return str(caught.value)


def test_delta_lake_is_read_without_the_rows_that_it_removed(imported, tmp_path, needs_module):
    deltalake = needs_module("deltalake")
    lake = str(tmp_path / "lake")
    deltalake.write_deltalake(lake, ROWS)
    deltalake.DeltaTable(lake).delete("who = 'gone'")
    check(imported(mapping('"lake"'))[0])
    first = imported(mapping('{ delta = "lake", version = 0 }'))[0]
    check(first, who=("a", "b", "gone"))
    assert "rows: " in refusal(imported, '{ delta = "nowhere" }')
    assert "rows: " in refusal(imported, '{ delta = "lake", version = 9 }')


def test_iceberg_is_read_by_its_catalog_or_its_metadata(imported, tmp_path, needs_module):
    catalogs = needs_module("pyiceberg.catalog")
    properties = {
        "type": "sql",
        "uri": f"sqlite:///{tmp_path}/catalog.db",
        "warehouse": f"file://{tmp_path}/warehouse",
    }
    (tmp_path / "warehouse").mkdir()
    catalog = catalogs.load_catalog("default", **properties)
    with contextlib.closing(catalog):
        catalog.create_namespace("site")
        table = catalog.create_table("site.rows", schema=ROWS.schema)
        table.append(ROWS)
        table.delete("who == 'gone'")
    given = ", ".join(f'{key} = "{value}"' for key, value in properties.items())
    source = f'{{ iceberg = "site.rows", catalog = {{ {given} }} }}'
    check(imported(mapping(source))[0])
    check(imported(mapping(f'{{ iceberg = "{table.metadata_location}" }}'))[0])
    message = refusal(imported, source.replace("site.rows", "site.nothing"))
    assert "Table does not exist: site.nothing" in message


def test_sqlite_is_read_whatever_type_each_value_has(imported, tmp_path):
    with contextlib.closing(sqlite3.connect(tmp_path / "site.db")) as connection:
        connection.execute("CREATE TABLE rows (film, who, at TEXT, secs, tags TEXT)")
        at = "2026-11-03 10:00:00"
        rows = [(1, "a", at, 30, "x,y"), ("2", "b", at, 40.0, None)]
        connection.executemany("INSERT INTO rows VALUES (?, ?, ?, ?, ?)", rows)
        connection.commit()
    topics = '{ sql = "tags", separator = "," }'
    check(imported(mapping('{ database = "site.db", table = "rows" }', topics))[0])
    sql = "SELECT * FROM rows WHERE who < 'c';"
    check(imported(mapping(f'{{ database = "sqlite:///site.db", sql = "{sql}" }}', topics))[0])
    message = refusal(imported, '{ database = "site.db", table = "nope" }')
    assert "no such table: nope" in message
    with contextlib.closing(sqlite3.connect(tmp_path / "site.db")) as connection:
        connection.executemany("INSERT INTO rows VALUES (?, ?, ?, ?, ?)", rows * 1_000)
        connection.commit()
    whole = (tmp_path / "site.db").read_bytes()
    (tmp_path / "torn.db").write_bytes(whole[: len(whole) // 2])
    message = refusal(imported, '{ database = "torn.db", table = "rows" }', topics)
    assert "malformed" in message


def test_a_duckdb_file_is_read(imported, tmp_path, duckdb):
    with duckdb.connect(str(tmp_path / "site.duckdb")) as connection:
        connection.register("given", ROWS.slice(0, 2))
        connection.execute("CREATE TABLE rows AS SELECT * FROM given")
    check(imported(mapping('{ database = "site.duckdb", table = "rows" }'))[0])
    message = refusal(imported, '{ database = "site.duckdb", sql = "SELEC 1" }')
    assert "syntax error" in message
    (tmp_path / "other.duckdb").write_bytes(b"no database" * 100)
    message = refusal(imported, '{ database = "other.duckdb", table = "rows" }')
    assert "is no database of SQLite or DuckDB" in message


def _as_owner(directory: pathlib.Path, *command_line: str) -> None:
    """Runs a program of PostgreSQL, which refuses to be root."""
    line = list(command_line)
    if os.getuid() == 0:
        shutil.chown(directory, "nobody")
        line = ["runuser", "-u", "nobody", "--", *line]
    subprocess.run(line, check=True, stdout=subprocess.DEVNULL, cwd=directory)


@pytest.fixture(scope="module")
def postgresql(needs_program, needs_module, tmp_path_factory):
    """A server with a table ``site.rows``; gives its address, user and password included."""
    driver = needs_module("adbc_driver_postgresql.dbapi")
    debian = sorted(pathlib.Path("/usr/lib/postgresql").glob("*/bin"))
    names = [str(directory / "initdb") for directory in debian]
    programs = pathlib.Path(needs_program("postgresql", "initdb", *names)).resolve().parent
    root = pathlib.Path("/tmp") / f"postgresql-{uuid.uuid4().hex}"  # Sockets have short paths.
    root.mkdir()
    (root / "password").write_text("secret")
    (root / "password").chmod(0o644)
    with contextlib.closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    data, log = root / "data", root / "log"
    settings = f"-p {port} -k {root} -c listen_addresses=127.0.0.1 -c fsync=off"
    try:
        _as_owner(
            root,
            *(str(programs / "initdb"), "-D", str(data), "-U", "reader", "-A", "scram-sha-256"),
            f"--pwfile={root / 'password'}",
        )
        start = (str(programs / "pg_ctl"), "-D", str(data), "-w")
        _as_owner(root, *start, "-o", settings, "-l", str(log), "start")
        try:
            address = f"postgresql://reader:secret@127.0.0.1:{port}/postgres"
            with (
                driver.connect(address, autocommit=True) as connection,
                connection.cursor() as cursor,
            ):
                for statement in TYPED.split(";"):
                    cursor.execute(statement)
            yield address
        finally:
            _as_owner(root, *start, "-m", "immediate", "stop")
    finally:
        shutil.rmtree(root, ignore_errors=True)


# Every type as PostgreSQL has it: exact numbers come as text, intervals as no number at all.
TYPED = """
CREATE SCHEMA site;
CREATE TYPE site.kind AS ENUM ('play', 'skip');
CREATE TABLE site.rows (film bigint, who uuid, at timestamptz, secs numeric(8, 2), took interval,
                        tags text[], kind site.kind, done boolean, extra jsonb, local timestamp);
INSERT INTO site.rows VALUES
  (1, 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '2026-11-03 10:00+00', 30.00, '4 minutes 13 seconds',
   '{x,y}', 'play', true, '{"row": 1}', '2026-11-03 11:00'),
  (2, 'b0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '2026-11-03 12:00+02', 40.00, '1 hour',
   '{}', 'play', false, NULL, '2026-11-03 11:00')
"""
USERS = [f"{letter}0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11" for letter in "ab"]


def test_postgresql_is_read_in_all_its_types(imported, postgresql, monkeypatch):
    monkeypatch.setenv("SHOP", postgresql)
    source = '{ database = "${SHOP}", table = "site.rows" }'
    check(imported(mapping(source))[0], who=USERS)
    text = (
        mapping(source)
        .replace('"secs"', '"took"')
        .replace('time = "at"', 'time = { sql = "local", time_zone = "Europe/Berlin" }')
    )
    more = 'completed = "done"\nkind = "kind"\nplace = "extra->>\'row\'"\n'
    watches = imported(text + more)[0]["watches"].to_pylist()
    assert [row["watch_time_s"] for row in watches] == [253.0, 3600.0]
    assert {row["time"] for row in watches} == {int(AT.timestamp())}
    assert [row["completed"] for row in watches] == [True, False]
    assert [(row["kind"], row["place"]) for row in watches] == [("play", "1"), ("play", None)]


def test_postgresql_that_refuses_is_one_message_without_the_password(imported, postgresql):
    wrong = postgresql.replace("secret", "wrong")
    message = refusal(imported, f'{{ database = "{wrong}", table = "site.rows" }}')
    assert "password authentication failed" in message
    assert "wrong@" not in message and "***" in message
    nothing = refusal(imported, f'{{ database = "{postgresql}", table = "site.nope" }}')
    assert "does not exist" in nothing and "secret" not in nothing
    empty = f'{{ database = "{postgresql}", sql = "SELECT * FROM site.rows WHERE false" }}'
    assert "its source has no rows" in refusal(imported, empty)


def test_any_other_database_is_read_by_connectorx(imported, postgresql, needs_module, monkeypatch):
    needs_module("connectorx")
    # PostgreSQL's dialect under another of its names, which our own driver does not take.
    address = postgresql.replace("postgresql://", "redshift://")
    sql = "SELECT film, who::text AS who, at, secs, tags FROM site.rows"
    check(imported(mapping(f'{{ database = "{address}", sql = "{sql}" }}'))[0], who=USERS)


def test_a_missing_variable_or_library_is_said(imported, monkeypatch, tmp_path):
    monkeypatch.delenv("NO_SUCH", raising=False)
    message = refusal(imported, '{ database = "${NO_SUCH}", table = "t" }')
    assert "NO_SUCH is not set" in message
    monkeypatch.setitem(__import__("sys").modules, "deltalake", None)
    message = refusal(imported, '{ delta = "lake" }')
    assert "needs deltalake" in message and "[delta]" in message


def test_decimals_of_a_database_are_numbers(imported, tmp_path, duckdb):
    exact = pa.array([decimal.Decimal("30.00"), decimal.Decimal("40.00")])
    rows = ROWS.slice(0, 2).set_column(3, "secs", exact)
    with duckdb.connect(str(tmp_path / "site.duckdb")) as connection:
        connection.register("given", rows)
        connection.execute("CREATE TABLE rows AS SELECT * FROM given")
    check(imported(mapping('{ database = "site.duckdb", table = "rows" }'))[0])
