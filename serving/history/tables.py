"""What the history stores keep of each kind of event, and the statements of the one in SQLite."""

import dataclasses
import functools
import itertools
import sqlite3
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from serving.events.event import Event, Kind

# Commits survive a killed process at once; after a power cut the event log has what the last
# ones wrote, and is applied again at the next start.
PRAGMAS = (
    "PRAGMA journal_mode=WAL",
    "PRAGMA synchronous=NORMAL",
    "PRAGMA temp_store=MEMORY",
    "PRAGMA mmap_size=268435456",
    # A checkpoint waits for the disk, and would do so within some request's commit: the store makes
    # them on a thread of its own, and this is for when it cannot keep up (pages of 4 KiB).
    "PRAGMA wal_autocheckpoint=25000",
)


@dataclasses.dataclass(frozen=True)
class Column:
    """A column of an event table.

    Attributes:
        name: Name of the column, and of the attribute of the event.
        sql: Type in SQLite.
        arrow: Type after reading.
    """

    name: str
    sql: str
    arrow: pa.DataType


_VIDEO = Column("video_id", "TEXT NOT NULL", pa.string())
_TIME = Column("time", "INTEGER NOT NULL", pa.int64())
_SECONDS = Column("watch_time_s", "REAL NOT NULL", pa.float64())
_PAGE = Column("page_id", "TEXT NOT NULL", pa.string())
_SOURCE = Column("source", "TEXT NOT NULL", pa.string())


@dataclasses.dataclass(frozen=True)
class KindTable:
    """The table of one kind of event, with its statements.

    Attributes:
        table: Name; also the column of ``users`` that counts its rows.
        columns: Without the key columns ``user`` and ``event_id``.
    """

    table: str
    columns: tuple[Column, ...]

    @functools.cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the columns."""
        return tuple(column.name for column in self.columns)

    def row(self, user: int, event: Event) -> tuple[Any, ...]:
        """Returns the values of :attr:`insert`."""
        return (user, event.identity, *self.values(event))

    def values(self, event: Event) -> tuple[Any, ...]:
        """Returns the values of :attr:`columns`."""
        return tuple(_value(event, name) for name in self.names)

    @functools.cached_property
    def insert(self) -> str:
        """Adds a row unless the user has the event."""
        marks = ", ".join("?" * (len(self.columns) + 2))
        names = ", ".join(("user", "event_id", *self.names))
        return f"INSERT OR IGNORE INTO {self.table} ({names}) VALUES ({marks})"

    @functools.cached_property
    def find(self) -> str:
        """Looks for the event of a user, by its identity."""
        return f"SELECT 1 FROM {self.table} WHERE user = ? AND event_id = ?"

    @functools.cached_property
    def delete_oldest(self) -> str:
        """Removes a user's oldest rows."""
        return (
            f"DELETE FROM {self.table} WHERE rowid IN "
            f"(SELECT rowid FROM {self.table} WHERE user = ? ORDER BY time, rowid LIMIT ?)"
        )

    @functools.cached_property
    def _select(self) -> str:
        names = ", ".join(self.names)
        # Ties in time are broken by arrival, newest last. Rows that arrived late are mostly the
        # newest too: looking from there, the limit ends the search soon.
        which = "WHERE user = ? AND rowid > ? ORDER BY time DESC, rowid DESC LIMIT ?"
        return f"SELECT rowid, {names} FROM {self.table} {which}"

    def read(
        self, connection: sqlite3.Connection, user: int, *, after: int, limit: int
    ) -> tuple[int, list[tuple[Any, ...]]]:
        """Reads the rows of a user that arrived after one.

        Args:
            connection: Connection to the file.
            user: Number of the user.
            after: Row id; 0 for all.
            limit: Number of newest rows to read.

        Returns:
            The row id of the one that arrived last, and the rows, sorted by time.
        """
        if not limit:
            return after, []
        rows = connection.execute(self._select, (user, after, limit)).fetchall()
        rows.reverse()
        return max(row[0] for row in rows), [row[1:] for row in rows]

    def arrow(self, user_id: str, rows: Sequence[Sequence[Any]]) -> pa.Table:
        """Returns rows with the columns of :attr:`nothing`.

        What a row has beyond is left out, what it lacks at its end is null.
        """
        if not rows:
            return self.nothing
        columns = list(itertools.zip_longest(*rows))
        columns += [(None,) * len(rows)] * (len(self.columns) - len(columns))
        return pa.table(
            [
                pa.repeat(pa.scalar(user_id, pa.string()), len(rows)),
                *(
                    _array(values, column.arrow)
                    for column, values in zip(self.columns, columns, strict=False)
                ),
            ],
            self.nothing.schema,
        )

    @functools.cached_property
    def nothing(self) -> pa.Table:
        """No rows; ``user_id`` and all columns."""
        fields = [(column.name, column.arrow) for column in self.columns]
        return pa.schema([("user_id", pa.string()), *fields]).empty_table()

    def create(self) -> tuple[str, ...]:
        """Statements that make the table and its indexes."""
        columns = ", ".join(f"{column.name} {column.sql}" for column in self.columns)
        return (
            f"CREATE TABLE IF NOT EXISTS {self.table} "
            f"(user INTEGER NOT NULL, event_id TEXT, {columns})",
            f"CREATE INDEX IF NOT EXISTS {self.table}_by_time ON {self.table} (user, time)",
            # Rows of the logs have no event id and cost nothing here.
            f"CREATE UNIQUE INDEX IF NOT EXISTS {self.table}_once ON {self.table} "
            "(user, event_id) WHERE event_id IS NOT NULL",
        )

    def drop_indexes(self) -> tuple[str, ...]:
        """Statements that make a bulk load fast."""
        return (f"DROP INDEX {self.table}_by_time", f"DROP INDEX {self.table}_once")


KINDS: Mapping[Kind, KindTable] = {
    Kind.WATCH: KindTable(
        "watches",
        (
            _VIDEO,
            _TIME,
            _SECONDS,
            Column("completed", "INTEGER", pa.bool_()),
            _SOURCE,
            _PAGE,
        ),
    ),
    Kind.SEARCH: KindTable("searches", (_TIME, Column("query", "TEXT NOT NULL", pa.string()))),
    Kind.IMPRESSION: KindTable(
        "impressions",
        (
            _VIDEO,
            _TIME,
            Column("clicked", "INTEGER NOT NULL", pa.bool_()),
            _SECONDS,
            _PAGE,
            Column("surface", "TEXT NOT NULL", pa.string()),
            # Whether later clicks and watches decide the outcome; not so for those of the logs.
            Column("is_open", "INTEGER NOT NULL", pa.bool_()),
            # When it was clicked, where the logs tell it.
            Column("click_time", "INTEGER", pa.int64()),
        ),
    ),
    Kind.CLICK: KindTable("clicks", (_VIDEO, _TIME, _SECONDS, _SOURCE, _PAGE)),
    Kind.FEEDBACK: KindTable(
        "feedback",
        (
            _VIDEO,
            _TIME,
            Column("kind", "TEXT NOT NULL", pa.string()),
            Column("channel_id", "TEXT NOT NULL", pa.string()),
            Column("value", "REAL", pa.float64()),
        ),
    ),
}

_COUNTS = tuple(KINDS[kind].table for kind in Kind)
# A user's version counts writes. Removing rows adds this much, so that whoever has seen an earlier
# version knows whether the rows of then are all still there.
PRUNED = 1 << 32
FIND_USER = "SELECT id FROM users WHERE user_id = ?"
READ_USER = (
    "SELECT id, version, profile, newest, blocked, "
    + ", ".join(_COUNTS)
    + " FROM users WHERE user_id = ?"
)
INSERT_USER = "INSERT INTO users (user_id, profile) VALUES (?, ?)"
TOUCH_USER = (
    "UPDATE users SET version = version + 1, newest = max(newest, ?), "
    + ", ".join(f"{table} = {table} + ?" for table in _COUNTS)
    + " WHERE id = ?"
)
SET_BLOCKED = "UPDATE users SET version = version + 1, blocked = ? WHERE id = ?"
COUNTS_OF_USER = f"SELECT {', '.join(_COUNTS)} FROM users WHERE id = ?"
WATCH_COUNTS = """
    SELECT json_extract(users.profile, '$.region'), watches.video_id, count(*)
    FROM watches JOIN users ON users.id = watches.user
    WHERE watches.time >= ? GROUP BY 1, 2
"""
_CREATE_USERS = f"""
    CREATE TABLE IF NOT EXISTS users (
        id INTEGER PRIMARY KEY,
        user_id TEXT NOT NULL UNIQUE,
        profile TEXT NOT NULL DEFAULT '{{}}',
        version INTEGER NOT NULL DEFAULT 0,
        newest INTEGER NOT NULL DEFAULT 0,
        blocked TEXT NOT NULL DEFAULT '{{}}',
        {", ".join(f"{table} INTEGER NOT NULL DEFAULT 0" for table in _COUNTS)}
    )
"""


def create(connection: sqlite3.Connection) -> str:
    """Makes the tables where they are not there yet; returns the id of the store."""
    connection.execute("BEGIN IMMEDIATE")
    connection.execute(_CREATE_USERS)
    columns = {row[1] for row in connection.execute("PRAGMA table_info(users)")}
    added = {"blocked": "TEXT NOT NULL DEFAULT '{}'"} | dict.fromkeys(
        _COUNTS, "INTEGER NOT NULL DEFAULT 0"
    )
    for name, kind in added.items():
        if name not in columns:  # A file of an earlier version.
            connection.execute(f"ALTER TABLE users ADD COLUMN {name} {kind}")
    for event_kind in Kind:
        for statement in KINDS[event_kind].create():
            connection.execute(statement)
    columns = {row[1] for row in connection.execute("PRAGMA table_info(impressions)")}
    if "click_time" not in columns:
        connection.execute("ALTER TABLE impressions ADD COLUMN click_time INTEGER")
    connection.execute("CREATE TABLE IF NOT EXISTS store (id TEXT NOT NULL)")
    new_id = uuid.uuid4().hex[:8]
    connection.execute(
        "INSERT INTO store SELECT ? WHERE NOT EXISTS (SELECT 1 FROM store)", (new_id,)
    )
    (store_id,) = connection.execute("SELECT id FROM store").fetchone()
    connection.execute("COMMIT")
    return str(store_id)


def _value(event: Event, name: str) -> Any:
    if name == "is_open":
        return not event.clicked and event.watch_time_s == 0
    if name == "watch_time_s" and event.kind is Kind.CLICK:
        return 0.0
    if name == "click_time":
        return None
    if name == "kind":
        return event.feedback
    return getattr(event, name)


def _array(values: tuple[Any, ...], kind: pa.DataType) -> pa.Array:
    if pa.types.is_boolean(kind):  # SQLite keeps them as 0 and 1.
        values = tuple(None if value is None else bool(value) for value in values)
    return pa.array(values, kind)
