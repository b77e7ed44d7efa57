"""What a history store holds of a user, and the interface of the stores.

Events are applied once (an event id of a user counts one time), in any order, and the next read
sees them, from any thread and any replica that shares the store. Impressions get their outcome
when they are read, from the clicks and watches that are there by then
(:mod:`serving.attribution`), so the order of arrival cannot matter.

Bound: the last ``MAX_EVENTS`` events per user and kind, which is all that features look at
(:mod:`features.event_columns`). Event ids are forgotten with their events: an event that old, sent
again, would be taken for a new one.
"""

import collections
import contextlib
import dataclasses
import threading
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from features import event_columns
from serving import attribution
from serving.events import Event, Kind
from serving.history_schema import KINDS

MAX_EVENTS = event_columns.MAX_EVENTS
# Deleting a few rows at each write would cost more than keeping some too many for a while.
PRUNE_SLACK = 500
_CACHE_BYTES = 256 << 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Blocked:
    """What a viewer does not want to see.

    Attributes:
        videos: Video ids.
        channels: Channel ids.
    """

    videos: tuple[str, ...] = ()
    channels: tuple[str, ...] = ()

    def __or__(self, other: "Blocked") -> "Blocked":
        return Blocked(
            videos=(*self.videos, *other.videos), channels=(*self.channels, *other.channels)
        )

    def to_record(self) -> dict[str, list[str]]:
        """Returns a form for JSON; :meth:`from_record` is its inverse."""
        return {"videos": list(self.videos), "channels": list(self.channels)}

    @classmethod
    def from_record(cls, record: Mapping[str, Sequence[str]]) -> "Blocked":
        """Inverse of :meth:`to_record`."""
        return cls(
            videos=tuple(record.get("videos", ())), channels=tuple(record.get("channels", ()))
        )


NOTHING_BLOCKED = Blocked()


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
        blocked: What the user does not want to see.
    """

    user_id: str
    is_known: bool
    profile: Mapping[str, Any]
    watches: pa.Table
    searches: pa.Table
    impressions: pa.Table
    newest_s: int
    blocked: Blocked = NOTHING_BLOCKED

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


class Filling(Protocol):
    """Takes the rows of the logs into an empty store, all or nothing; see ``history_seed``."""

    def add_users(self, rows: Sequence[tuple[int, str, str]]) -> None:
        """Adds users: their number from 1 on, user id, profile as JSON."""

    def add_events(
        self, kind: Kind, users: Sequence[int], columns: Sequence[Sequence[Any]]
    ) -> None:
        """Adds events of users, sorted by user and time: the columns of ``KINDS[kind]``."""

    def set_counts(
        self, newest: Mapping[int, int], counts: Mapping[Kind, Mapping[int, int]]
    ) -> None:
        """Notes the time of the newest event, and the number of events, of each user's number."""


class HistoryStore(Protocol):
    """Where the funnel keeps what users did. Safe for threads and, by its medium, processes."""

    max_events: int

    @property
    def is_empty(self) -> bool:
        """Whether no user is there, so that it may be filled from the logs."""

    def filling(self) -> contextlib.AbstractContextManager[Filling | None]:
        """Fills the store in a block, all or nothing; None where it is not empty."""

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

    def set_blocked(self, user_id: str, blocked: Blocked) -> None:
        """Replaces what a user does not want to see; the user may be new."""

    def user_ids(self, limit: int) -> list[str]:
        """Returns some users who have watched something."""

    def watch_counts(self, since_s: int) -> pa.Table:
        """Returns ``region, video_id, watches`` counted over watches at or after ``since_s``.

        A store may begin to count at the full hour before.
        """

    def ping(self) -> None:
        """Raises HistoryUnavailableError where the store does not answer."""

    def close(self) -> None:
        """Lets go of files and connections."""


class HistoryCache:
    """Histories that were read, bounded by their memory; the store says whether one is current."""

    def __init__(self, max_bytes: int = _CACHE_BYTES) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._found: collections.OrderedDict[str, tuple[Any, UserHistory]] = (
            collections.OrderedDict()
        )
        self._lock = threading.Lock()

    def get(self, user_id: str) -> tuple[Any, UserHistory] | None:
        """Returns the version and the history that were remembered last."""
        with self._lock:
            return self._found.get(user_id)

    def put(self, user_id: str, version: Any, found: UserHistory) -> None:
        """Remembers a history, and forgets the oldest ones where there are too many."""
        with self._lock:
            self._forget(user_id)
            self._found[user_id] = (version, found)
            self._bytes += found.nbytes
            while self._bytes > self._max_bytes:
                self._forget(next(iter(self._found)))

    def _forget(self, user_id: str) -> None:
        if user_id in self._found:
            self._bytes -= self._found.pop(user_id)[1].nbytes


def by_user(events: Sequence[Event]) -> dict[str, list[Event]]:
    """Returns the events of each user, in the order in which they came."""
    grouped: dict[str, list[Event]] = {}
    for event in events:
        grouped.setdefault(event.user_id, []).append(event)
    return grouped


def unknown_user(user_id: str) -> UserHistory:
    """Returns what is known of somebody whom no store has met."""
    nothing: dict[Kind, pa.Table] = {kind: KINDS[kind].nothing for kind in Kind}
    found = history_of(user_id, {}, nothing, newest=0)
    return dataclasses.replace(found, is_known=False)


def history_of(
    user_id: str,
    profile: Mapping[str, Any],
    rows: Mapping[Kind, pa.Table],
    *,
    newest: int,
    blocked: Blocked = NOTHING_BLOCKED,
) -> UserHistory:
    """Returns a user's history from the rows of each kind as they are stored, sorted by time."""
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
        blocked=blocked,
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
