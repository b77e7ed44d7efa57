"""What each user did, ready for the next request: the history store in SQLite, for one machine.

What a store promises is told in :mod:`serving.history.user_history`. Replicas on several machines
share :mod:`serving.history.redis_store` instead.
"""

import contextlib
import json
import pathlib
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
from absl import logging

from serving import errors
from serving.events.event import Event, Kind
from serving.history import tables
from serving.history.cache import NO_ROWS, HistoryCache, grown
from serving.history.tables import KINDS, PRUNED
from serving.history.user_history import (
    MAX_EVENTS,
    PRUNE_SLACK,
    Applied,
    Blocked,
    UserHistory,
    by_user,
    explained,
    unknown_user,
)

_BUSY_TIMEOUT_S = 5.0
CHECKPOINT_PERIOD_S = 10.0
_SYNC_TRIES = 100
_SYNC_PAUSE_S = 0.05


class SqliteHistoryStore:
    """A history store in one SQLite file, in write-ahead mode."""

    def __init__(self, path: str | pathlib.Path, *, max_events: int = MAX_EVENTS) -> None:
        """Opens or creates the file.

        Args:
            path: Path of the file, on a local disk; its directory is created.
            max_events: Number of events to keep per user and kind.

        Raises:
            HistoryUnavailableError: The file cannot be opened, or is something else.
        """
        self.path = pathlib.Path(path)
        self.max_events = max_events
        self._local = threading.local()
        self._connections: list[tuple[threading.Thread, sqlite3.Connection]] = []
        self._connections_lock = threading.Lock()
        self._write_lock = threading.Lock()
        self._cache = HistoryCache()
        self._closed = threading.Event()
        self._checkpoints: threading.Thread | None = None
        with self._explained("opened"):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.store_id = tables.create(self._connection())

    @property
    def is_empty(self) -> bool:
        """Whether no user is there."""
        with self._explained("read"):
            return self._connection().execute("SELECT 1 FROM users LIMIT 1").fetchone() is None

    # ---- writing -----------------------------------------------------------------------------

    def append(
        self, events: Sequence[Event], *, profiles: Mapping[str, Mapping[str, Any]] | None = None
    ) -> Applied:
        """Applies events in one transaction."""
        if not events:
            return Applied(accepted=0, duplicates=0)
        accepted, new_users = 0, []
        with self.transaction() as connection:
            for user_id, user_events in by_user(events).items():
                profile = (profiles or {}).get(user_id, {})
                user, is_new = _user_key(connection, user_id, profile)
                accepted += self._append_of_user(connection, user, user_events)
                if is_new:
                    new_users.append(user_id)
        return Applied(
            accepted=accepted, duplicates=len(events) - accepted, new_users=tuple(new_users)
        )

    def _append_of_user(
        self, connection: sqlite3.Connection, user: int, user_events: Sequence[Event]
    ) -> int:
        added = dict.fromkeys(Kind, 0)
        for kind in Kind:
            rows = [KINDS[kind].row(user, e) for e in user_events if e.kind is kind]
            if rows:
                cursor = connection.executemany(KINDS[kind].insert, rows)
                added[kind] = cursor.rowcount
        total = sum(added.values())
        if total:
            newest = max(event.time for event in user_events)
            connection.execute(tables.TOUCH_USER, (newest, *(added[kind] for kind in Kind), user))
            counts = connection.execute(tables.COUNTS_OF_USER, (user,)).fetchone()
            for kind, count in zip(Kind, counts, strict=True):
                kept = self.max_events + PRUNE_SLACK
                if count > kept + PRUNE_SLACK:
                    self._prune(connection, user, kind, count - kept)
        return total

    @staticmethod
    def _prune(connection: sqlite3.Connection, user: int, kind: Kind, excess: int) -> None:
        connection.execute(KINDS[kind].delete_oldest, (user, excess))
        connection.execute(
            f"UPDATE users SET version = version + {PRUNED}, "
            f"{KINDS[kind].table} = {KINDS[kind].table} - ? WHERE id = ?",
            (excess, user),
        )

    def set_blocked(self, user_id: str, blocked: Blocked) -> None:
        """Replaces what a user does not want to see."""
        with self.transaction() as connection:
            user, _ = _user_key(connection, user_id, {})
            text = json.dumps(blocked.to_record())
            connection.execute(tables.SET_BLOCKED, (text, user))
        self.sync()  # No event log has it.

    @contextlib.contextmanager
    def filling(self) -> Iterator["_Filling | None"]:
        """Fills the file in one transaction; yields None where it is not empty."""
        with self.transaction() as connection:
            if connection.execute("SELECT 1 FROM users LIMIT 1").fetchone():
                yield None
                return
            for kind in Kind:  # A bulk load is fast without them.
                for statement in KINDS[kind].drop_indexes():
                    connection.execute(statement)
            yield _Filling(connection)
            for kind in Kind:
                for statement in KINDS[kind].create():
                    connection.execute(statement)

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Yields the writing connection; what was written in the block is there as a whole."""
        with self._explained("written"), self._write_lock:
            if self._checkpoints is None:
                self._checkpoints = threading.Thread(target=self._keep_checkpointing, daemon=True)
                self._checkpoints.start()
            connection = self._connection()
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")

    def checkpoint(self) -> bool:
        """Moves what was written from the write-ahead log into the file; nobody waits for it.

        Returns:
            Whether all was moved, so is on the disk: a reader may still need the older pages.

        Raises:
            HistoryUnavailableError: It cannot be written.
        """
        with self._explained("written"):
            passive = "PRAGMA wal_checkpoint(PASSIVE)"
            busy, written, moved = self._connection().execute(passive).fetchone()
        return not busy and written == moved

    def sync(self) -> None:
        """Returns when the write-ahead log is in the file, on the disk."""
        for _ in range(_SYNC_TRIES):
            if self.checkpoint():
                return
            time.sleep(_SYNC_PAUSE_S)
        raise errors.HistoryUnavailableError(
            f"the history store {self.path} is read without a pause: its write-ahead log cannot be "
            "moved into the file."
        )

    def _keep_checkpointing(self) -> None:
        while not self._closed.wait(CHECKPOINT_PERIOD_S):
            try:
                self.checkpoint()
            except errors.HistoryUnavailableError:
                # Nothing is lost: the log grows until it works again.
                logging.exception("The history store's write-ahead log is not moved.")

    # ---- reading -----------------------------------------------------------------------------

    def known(self, events: Sequence[Event]) -> tuple[set[tuple[str, str, str]], set[str]]:
        """Returns the keys of events and the user ids that are there."""
        keys, users = set(), set()
        with self._explained("read"):
            connection = self._connection()
            for user_id in {event.user_id for event in events}:
                row = connection.execute(tables.FIND_USER, (user_id,)).fetchone()
                if row is None:
                    continue
                users.add(user_id)
                for event in events:
                    if event.user_id == user_id:
                        which = (row[0], event.identity)
                        if connection.execute(KINDS[event.kind].find, which).fetchone():
                            keys.add(event.key)
        return keys, users

    def read(self, user_id: str) -> UserHistory:
        """Returns all that is known of a user; rows that the cache has are not read again."""
        before = self._cache.get(user_id)
        with self._explained("read"):
            connection = self._connection()
            connection.execute("BEGIN")  # One snapshot for the version and the rows.
            try:
                row = connection.execute(tables.READ_USER, (user_id,)).fetchone()
                if row is None:
                    return unknown_user(user_id)
                user, version, profile, newest, blocked, *counts = row
                if before is not None and before.version == version:
                    return before.history
                known, last = NO_ROWS, dict.fromkeys(Kind, 0)
                if before is not None and before.version // PRUNED == version // PRUNED:
                    known, last = before.rows, dict(before.marks)
                new = {}
                for kind, count in zip(Kind, counts, strict=True):
                    missing = count - known[kind].num_rows
                    last[kind], new[kind] = KINDS[kind].read(
                        connection, user, after=last[kind], limit=missing
                    )
            finally:
                connection.execute("COMMIT")
        rows = grown(known, {kind: KINDS[kind].arrow(user_id, new[kind]) for kind in Kind})
        return self._cache.remember(
            user_id,
            rows,
            version=version,
            marks=last,
            most=self.max_events + PRUNE_SLACK,
            profile=profile,
            blocked=blocked,
            newest=newest,
        )

    def user_ids(self, limit: int) -> list[str]:
        """Returns some users who have watched something."""
        with self._explained("read"):
            rows = self._connection().execute(
                "SELECT user_id FROM users WHERE watches > 0 ORDER BY id LIMIT ?", (limit,)
            )
            return [user_id for (user_id,) in rows]

    def watch_counts(self, since_s: int) -> pa.Table:
        """Returns watches by region and video since a moment."""
        with self._explained("read"):
            rows = self._connection().execute(tables.WATCH_COUNTS, (since_s,)).fetchall()
        return pa.table(
            {
                "region": pa.array([row[0] or "" for row in rows], pa.string()),
                "video_id": pa.array([row[1] for row in rows], pa.string()),
                "watches": pa.array([row[2] for row in rows], pa.int64()),
            }
        )

    def ping(self) -> None:
        """Raises HistoryUnavailableError where the file cannot be read."""
        with self._explained("read"):
            self._connection().execute("SELECT 1 FROM users LIMIT 1").fetchone()

    def holder(self) -> str:
        """Returns nothing: a file loses nothing when its process ends."""
        return ""

    def close(self) -> None:
        """Lets go of threads and connections."""
        self._closed.set()
        if self._checkpoints is not None:
            self._checkpoints.join()
        with self._connections_lock:
            for _, connection in self._connections:
                connection.close()
            self._connections.clear()

    # ---- connections -------------------------------------------------------------------------

    def _connection(self) -> sqlite3.Connection:
        """Returns this thread's connection."""
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = sqlite3.connect(
                self.path,
                timeout=_BUSY_TIMEOUT_S,
                isolation_level=None,
                check_same_thread=False,  # Closed by whoever closes the store.
            )
            for pragma in tables.PRAGMAS:
                connection.execute(pragma)
            self._local.connection = connection
            with self._connections_lock:
                self._close_those_of_dead_threads()
                self._connections.append((threading.current_thread(), connection))
        return connection

    def _close_those_of_dead_threads(self) -> None:
        """Else a server that is probed from ever new threads runs out of files."""
        alive = []
        for thread, connection in self._connections:
            if thread.is_alive():
                alive.append((thread, connection))
            else:
                connection.close()
        self._connections = alive

    def _explained(self, what: str) -> contextlib.AbstractContextManager[None]:
        return explained(str(self.path), what, sqlite3.Error)


def _user_key(
    connection: sqlite3.Connection, user_id: str, profile: Mapping[str, Any]
) -> tuple[int, bool]:
    """Returns the number of a user, and whether the user was made now."""
    row = connection.execute(tables.FIND_USER, (user_id,)).fetchone()
    if row is not None:
        return row[0], False
    text = json.dumps(dict(profile), allow_nan=False)
    cursor = connection.execute(tables.INSERT_USER, (user_id, text))
    return int(cursor.lastrowid or 0), True


class _Filling:
    """A filling of SQLite, all within one transaction."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def add_users(self, rows: Sequence[tuple[int, str, str]]) -> None:
        """Writes users under numbers of the caller."""
        self._connection.executemany(
            "INSERT INTO users (id, user_id, profile, version) VALUES (?, ?, ?, 1)", rows
        )

    def add_events(
        self, kind: Kind, users: Sequence[int], columns: Sequence[Sequence[Any]]
    ) -> None:
        """Writes rows of events of users."""
        rows = zip(users, [None] * len(users), *columns, strict=True)
        self._connection.executemany(KINDS[kind].insert, rows)

    def set_counts(
        self, newest: Mapping[int, int], counts: Mapping[Kind, Mapping[int, int]]
    ) -> None:
        """Writes the newest time and the number of events of each user."""
        columns = ", ".join(f"{KINDS[kind].table} = ?" for kind in Kind)
        self._connection.executemany(
            f"UPDATE users SET newest = ?, {columns} WHERE id = ?",
            (
                (last, *(counts[kind].get(user, 0) for kind in Kind), user)
                for user, last in newest.items()
            ),
        )
