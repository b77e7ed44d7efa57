"""What each user did, ready for the next request: an interface, and SQLite behind it.

Events are applied once (an event id of a user counts one time), in any order, and the next read
sees them, from any thread and any process on the machine. Impressions get their outcome when
they are read, from the clicks and watches that are there by then (:mod:`serving.attribution`),
so the order of arrival cannot matter.

Bound: the last ``MAX_EVENTS`` events per user and kind, which is all that features look at
(:mod:`features.event_columns`). Event ids are forgotten with their events: an event that old, sent
again, would be taken for a new one.
"""

import collections
import contextlib
import dataclasses
import json
import pathlib
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from features import event_columns
from serving import attribution, errors, history_schema
from serving.events import Event, Kind
from serving.history_schema import KINDS

MAX_EVENTS = event_columns.MAX_EVENTS
# Deleting a few rows at each write would cost more than keeping some too many for a while.
_PRUNE_SLACK = 500
_BUSY_TIMEOUT_S = 5.0
_CACHE_BYTES = 256 << 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class UserHistory:
    """All that is known of one user.

    Attributes:
        user_id: Who.
        is_known: Whether the store has met the user.
        profile: Columns of the users table.
        watches: ``user_id, video_id, time, watch_time_s, completed, source``, sorted by time.
        searches: ``user_id, time, query``, sorted by time.
        impressions: ``user_id, video_id, time, clicked, watch_time_s``, sorted by time.
        newest_s: Time of the newest event, Unix seconds; 0 without any.
    """

    user_id: str
    is_known: bool
    profile: Mapping[str, Any]
    watches: pa.Table
    searches: pa.Table
    impressions: pa.Table
    newest_s: int

    @property
    def nbytes(self) -> int:
        """Memory of the tables, about."""
        return 2000 + self.watches.nbytes + self.searches.nbytes + self.impressions.nbytes


@dataclasses.dataclass(frozen=True, kw_only=True)
class Applied:
    """What an append did.

    Attributes:
        accepted: Events that are new.
        duplicates: Events that the store already had.
        new_users: Users met for the first time.
    """

    accepted: int
    duplicates: int
    new_users: tuple[str, ...] = ()


class HistoryStore(Protocol):
    """Where the funnel keeps what users did. Safe for threads and, by its medium, processes."""

    def append(
        self, events: Sequence[Event], *, profiles: Mapping[str, Mapping[str, Any]] | None = None
    ) -> Applied:
        """Applies events, all or none; ``profiles`` are those of users not met before.

        Raises:
            HistoryUnavailableError: Nothing was applied.
        """

    def known(self, events: Sequence[Event]) -> tuple[set[tuple[str, str]], set[str]]:
        """Returns the (user id, event id) pairs, and the user ids, that the store already has."""

    def read(self, user_id: str) -> UserHistory:
        """Returns all that is known of a user; an unknown user has empty tables."""

    def user_ids(self, limit: int) -> list[str]:
        """Returns some users who have watched something."""

    def watch_counts(self, since_s: int) -> pa.Table:
        """Returns ``region, video_id, watches`` counted over watches at or after ``since_s``."""

    def ping(self) -> None:
        """Raises HistoryUnavailableError where the store does not answer."""

    def close(self) -> None:
        """Lets go of files and connections."""


class SqliteHistoryStore:
    """A history store in one SQLite file, in write-ahead mode."""

    def __init__(self, path: str | pathlib.Path, *, max_events: int = MAX_EVENTS) -> None:
        """Opens or creates the file.

        Args:
            path: Its directory is created. The file must be on a local disk.
            max_events: Events to keep per user and kind.

        Raises:
            HistoryUnavailableError: The file cannot be opened, or is something else.
        """
        self.path = pathlib.Path(path)
        self.max_events = max_events
        self._local = threading.local()
        self._connections: list[tuple[threading.Thread, sqlite3.Connection]] = []
        self._connections_lock = threading.Lock()
        self._write_lock = threading.Lock()
        self._cache: collections.OrderedDict[str, tuple[int, UserHistory]] = (
            collections.OrderedDict()
        )
        self._cache_bytes = 0
        self._cache_lock = threading.Lock()
        with self._explained("opened"):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            history_schema.create(self._connection())

    @property
    def is_empty(self) -> bool:
        """Whether no user is there."""
        with self._explained("read"):
            return self._connection().execute("SELECT 1 FROM users LIMIT 1").fetchone() is None

    # ---- writing -----------------------------------------------------------------------------

    def append(
        self, events: Sequence[Event], *, profiles: Mapping[str, Mapping[str, Any]] | None = None
    ) -> Applied:
        """See :class:`HistoryStore`."""
        if not events:
            return Applied(accepted=0, duplicates=0)
        by_user: dict[str, list[Event]] = {}
        for event in events:
            by_user.setdefault(event.user_id, []).append(event)
        accepted, new_users = 0, []
        with self.transaction() as connection:
            for user_id, user_events in by_user.items():
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
            connection.execute(
                history_schema.TOUCH_USER, (newest, *(added[kind] for kind in Kind), user)
            )
            counts = connection.execute(history_schema.COUNTS_OF_USER, (user,)).fetchone()
            for kind, count in zip(Kind, counts, strict=True):
                if count > self.max_events + _PRUNE_SLACK:
                    self._prune(connection, user, kind, count - self.max_events)
        return total

    @staticmethod
    def _prune(connection: sqlite3.Connection, user: int, kind: Kind, excess: int) -> None:
        connection.execute(KINDS[kind].delete_oldest, (user, excess))
        connection.execute(
            f"UPDATE users SET {KINDS[kind].table} = {KINDS[kind].table} - ? WHERE id = ?",
            (excess, user),
        )

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Yields the writing connection; what was written in the block is there as a whole."""
        with self._explained("written"), self._write_lock:
            connection = self._connection()
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")

    # ---- reading -----------------------------------------------------------------------------

    def known(self, events: Sequence[Event]) -> tuple[set[tuple[str, str]], set[str]]:
        """See :class:`HistoryStore`."""
        pairs, users = set(), set()
        with self._explained("read"):
            connection = self._connection()
            for user_id in {event.user_id for event in events}:
                row = connection.execute(history_schema.FIND_USER, (user_id,)).fetchone()
                if row is None:
                    continue
                users.add(user_id)
                for event in events:
                    if event.user_id == user_id:
                        key = (row[0], event.event_id)
                        if connection.execute(KINDS[event.kind].find, key).fetchone():
                            pairs.add((user_id, event.event_id))
        return pairs, users

    def read(self, user_id: str) -> UserHistory:
        """See :class:`HistoryStore`."""
        with self._explained("read"):
            connection = self._connection()
            connection.execute("BEGIN")  # One snapshot for the version and the rows.
            try:
                row = connection.execute(history_schema.FIND_USER, (user_id,)).fetchone()
                if row is None:
                    return unknown_user(user_id)
                user, profile, version, newest = row
                with self._cache_lock:
                    cached = self._cache.get(user_id)
                if cached is not None and cached[0] == version:
                    return cached[1]
                columns = {
                    kind: KINDS[kind].read(connection, user, self.max_events) for kind in Kind
                }
            finally:
                connection.execute("COMMIT")
        found = _history(user_id, json.loads(profile), columns, newest)
        self._remember(user_id, version, found)
        return found

    def _remember(self, user_id: str, version: int, found: UserHistory) -> None:
        with self._cache_lock:
            self._forget(user_id)
            self._cache[user_id] = (version, found)
            self._cache_bytes += found.nbytes
            while self._cache_bytes > _CACHE_BYTES:
                self._forget(next(iter(self._cache)))

    def _forget(self, user_id: str) -> None:
        if user_id in self._cache:
            self._cache_bytes -= self._cache.pop(user_id)[1].nbytes

    def user_ids(self, limit: int) -> list[str]:
        """See :class:`HistoryStore`."""
        with self._explained("read"):
            rows = self._connection().execute(
                "SELECT user_id FROM users WHERE watches > 0 ORDER BY id LIMIT ?", (limit,)
            )
            return [user_id for (user_id,) in rows]

    def watch_counts(self, since_s: int) -> pa.Table:
        """See :class:`HistoryStore`."""
        with self._explained("read"):
            rows = self._connection().execute(history_schema.WATCH_COUNTS, (since_s,)).fetchall()
        return pa.table(
            {
                "region": pa.array([row[0] or "" for row in rows], pa.string()),
                "video_id": pa.array([row[1] for row in rows], pa.string()),
                "watches": pa.array([row[2] for row in rows], pa.int64()),
            }
        )

    def ping(self) -> None:
        """See :class:`HistoryStore`."""
        with self._explained("read"):
            self._connection().execute("SELECT 1 FROM users LIMIT 1").fetchone()

    def close(self) -> None:
        """See :class:`HistoryStore`."""
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
            for pragma in history_schema.PRAGMAS:
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

    @contextlib.contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise errors.HistoryUnavailableError(
                f"the history store {self.path} cannot be {what}: {error}."
            ) from error


def _user_key(
    connection: sqlite3.Connection, user_id: str, profile: Mapping[str, Any]
) -> tuple[int, bool]:
    """Returns the number of a user, and whether the user was made now."""
    row = connection.execute(history_schema.FIND_USER, (user_id,)).fetchone()
    if row is not None:
        return row[0], False
    text = json.dumps(dict(profile), allow_nan=False)
    cursor = connection.execute(history_schema.INSERT_USER, (user_id, text))
    return int(cursor.lastrowid or 0), True


def unknown_user(user_id: str) -> UserHistory:
    """Returns what is known of somebody whom no store has met."""
    nothing: dict[Kind, pa.Table] = {kind: KINDS[kind].nothing for kind in Kind}
    found = _history(user_id, {}, nothing, 0)
    return dataclasses.replace(found, is_known=False)


def _history(
    user_id: str, profile: Mapping[str, Any], rows: Mapping[Kind, pa.Table], newest: int
) -> UserHistory:
    watches, impressions = rows[Kind.WATCH], rows[Kind.IMPRESSION]
    user = {
        kind: pa.repeat(pa.scalar(user_id, pa.string()), t.num_rows) for kind, t in rows.items()
    }
    return UserHistory(
        user_id=user_id,
        is_known=True,
        profile=profile,
        watches=watches.drop_columns(["page_id"]).add_column(0, "user_id", user[Kind.WATCH]),
        searches=rows[Kind.SEARCH].add_column(0, "user_id", user[Kind.SEARCH]),
        impressions=_with_outcomes(
            impressions.add_column(0, "user_id", user[Kind.IMPRESSION]),
            watches.add_column(0, "user_id", user[Kind.WATCH]),
            rows[Kind.CLICK].add_column(0, "user_id", user[Kind.CLICK]),
        ),
        newest_s=newest,
    )


def _with_outcomes(impressions: pa.Table, watches: pa.Table, clicks: pa.Table) -> pa.Table:
    """Fills ``clicked`` and ``watch_time_s`` of the impressions whose outcome was open."""
    is_open = impressions["is_open"]
    shown = impressions.select(["user_id", "video_id", "time", "clicked", "watch_time_s"])
    if not pc.any(is_open).as_py():
        return shown
    names = ["user_id", "video_id", "time", "page_id", "source", "watch_time_s"]
    engagements = pa.concat_tables([watches.select(names), clicks.select(names)])
    open_rows = impressions.filter(is_open)
    clicked, seconds = attribution.attribute(open_rows, engagements)
    for name, values in (("clicked", pa.array(clicked)), ("watch_time_s", pa.array(seconds))):
        filled = pc.replace_with_mask(
            shown[name].combine_chunks(), is_open.combine_chunks(), values
        )
        shown = shown.set_column(shown.column_names.index(name), name, filled)
    return shown
