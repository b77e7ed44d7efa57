"""What a history store holds of a user, and the interface of the stores.

Events are applied once (by :attr:`serving.events.event.Event.key`), in any order, and the next read
sees them, from any thread and any replica that shares the store. Impressions get their outcome
when they are read, from the clicks and watches that are there by then
(:mod:`serving.events.attribution`), so the order of arrival cannot matter.

Bound: the last ``MAX_EVENTS`` events per user and kind, which is all that features look at
(:mod:`features.event_columns`), and ``PRUNE_SLACK`` more in place of those that do not count
(:mod:`features.as_of.history`: copies, videos outside the catalogue). Identities are forgotten
with their events: an event that old, sent again, would be taken for a new one.
"""

import contextlib
import dataclasses
import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from features import event_columns
from features import feedback as feedback_kinds
from features.as_of.event_tables import KeptColumns
from features.clicks import with_moments
from features.durations import DAY_S
from serving import errors
from serving.events.event import Event, Kind
from serving.history.tables import KINDS

MAX_EVENTS = event_columns.MAX_EVENTS
# Rows that are kept beyond those that are looked at. As many again are kept for a while: deleting a
# few rows at each write would cost more.
PRUNE_SLACK = 500


@dataclasses.dataclass(frozen=True, kw_only=True)
class Blocked:
    """What a viewer does not want to see.

    Attributes:
        videos: Ids of videos.
        channels: Ids of channels.
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


def hidden_by(feedback: pa.Table) -> Blocked:
    """Returns what a user hid and did not take back.

    Args:
        feedback: ``video_id``, ``channel_id``, ``kind`` and ``value`` of one user, sorted by time.
    """
    if not feedback.num_rows:
        return NOTHING_BLOCKED
    rows = feedback.filter(pc.equal(feedback["kind"], feedback_kinds.HIDE))
    last = {(row["video_id"], row["channel_id"]): row["value"] for row in rows.to_pylist()}
    hidden = [target for target, value in last.items() if value != feedback_kinds.TAKEN_BACK]
    return Blocked(
        videos=tuple(video for video, _ in hidden if video),
        channels=tuple(channel for video, channel in hidden if channel and not video),
    )


# Rows of each kind as they are read: those of a store, and of impressions the moments of clicks.
NO_ROWS: Mapping[Kind, pa.Table] = {kind: KINDS[kind].nothing for kind in Kind} | {
    Kind.IMPRESSION: with_moments(KINDS[Kind.IMPRESSION].nothing, None)
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class UserHistory:
    """All that is known of one user.

    Attributes:
        user_id: Id of the user.
        is_known: Whether the store has met the user.
        profile: Columns of the users table.
        watches: ``user_id, video_id, time, watch_time_s, completed, source``, sorted by time.
        searches: ``user_id, time, query``, sorted by time.
        impressions: ``user_id, video_id, time, clicked, watch_time_s, clicked_at``, sorted by time.
        feedback: ``user_id, video_id, time, kind, channel_id, value``, sorted by time.
        kept: What features made of these tables, and of those of the same user before.
        newest_s: Time of the newest event, Unix seconds; 0 without any.
        blocked: Videos and channels that the user does not want to see.
    """

    user_id: str
    is_known: bool
    profile: Mapping[str, Any]
    watches: pa.Table
    searches: pa.Table
    impressions: pa.Table
    newest_s: int
    blocked: Blocked = NOTHING_BLOCKED
    feedback: pa.Table = dataclasses.field(default_factory=lambda: NO_ROWS[Kind.FEEDBACK])
    kept: KeptColumns = dataclasses.field(default_factory=KeptColumns, compare=False, repr=False)

    @functools.cached_property
    def hidden(self) -> Blocked:
        """Videos and channels that the user hid and did not take back."""
        return hidden_by(self.feedback)

    def with_session(self, video_ids: Sequence[str], *, now: int) -> "UserHistory":
        """Returns the history with videos watched lately that it lacks, newest last.

        They count as watched to the end, in the last seconds before ``now``, Unix seconds.
        """
        recent = self.watches.filter(pc.greater_equal(self.watches["time"], now - DAY_S))
        known = set(recent["video_id"].to_pylist())
        missing = [video_id for video_id in dict.fromkeys(video_ids) if video_id not in known]
        rows = [
            {
                "user_id": self.user_id,
                "video_id": video_id,
                "time": now - place,
                "watch_time_s": 0.0,
                "completed": True,
                "source": "",
            }
            for place, video_id in zip(range(len(missing), 0, -1), missing, strict=True)
        ]
        watches = pa.Table.from_pylist(rows, schema=self.watches.schema)
        return dataclasses.replace(self, watches=pa.concat_tables([self.watches, watches]))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Applied:
    """What an append did.

    Attributes:
        accepted: Number of events that are new.
        duplicates: Number of events that the store already had.
        new_users: Ids of users met for the first time.
    """

    accepted: int
    duplicates: int
    new_users: tuple[str, ...] = ()


class Filling(Protocol):
    """Takes rows of the logs into an empty store, all or none; see :mod:`serving.history.seed`."""

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
    """The keeper of what users did; safe for threads and, by its medium, for processes."""

    max_events: int
    store_id: str  # Of letters and digits; the same wherever the store is opened.

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

    def known(self, events: Sequence[Event]) -> tuple[set[tuple[str, str, str]], set[str]]:
        """Returns the keys of events, and the user ids, that the store already has."""

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

    def sync(self) -> None:
        """Returns when what was applied survives a power cut, as far as the medium can promise.

        Raises:
            HistoryUnavailableError: It may not.
        """

    def ping(self) -> None:
        """Raises HistoryUnavailableError where the store does not answer, or lost everything."""

    def holder(self) -> str:
        """Returns the name of the process that holds it; the next one may lack the last moments.

        "" where that cannot be. Raises HistoryUnavailableError where it does not answer.
        """

    def close(self) -> None:
        """Lets go of files and connections."""


def by_user(events: Sequence[Event]) -> dict[str, list[Event]]:
    """Returns the events of each user, in the order in which they came."""
    grouped: dict[str, list[Event]] = {}
    for event in events:
        grouped.setdefault(event.user_id, []).append(event)
    return grouped


@contextlib.contextmanager
def explained(store: str, what: str, failure: type[Exception]) -> Iterator[None]:
    """Makes failures of a database one error that names the store.

    Args:
        store: Its path or address, as it may be shown.
        what: What was tried: ``read``, ``written``.
        failure: What its client raises.

    Raises:
        HistoryUnavailableError: One of them, or the system, failed.
    """
    try:
        yield
    except (failure, OSError) as error:
        raise errors.HistoryUnavailableError(
            f"the history store {store} cannot be {what}: {error}."
        ) from error


def unknown_user(user_id: str) -> UserHistory:
    """Returns what is known of somebody whom no store has met."""
    return dataclasses.replace(history_of(user_id, NO_ROWS), is_known=False)


def history_of(
    user_id: str,
    rows: Mapping[Kind, pa.Table],
    *,
    profile: str | bytes = "{}",
    blocked: str | bytes = "{}",
    newest: int = 0,
    most: int = MAX_EVENTS + PRUNE_SLACK,
    before: tuple[Mapping[Kind, pa.Table], UserHistory] | None = None,
) -> UserHistory:
    """Returns the history of a user that a store has met.

    Args:
        user_id: Id of the user.
        rows: Rows of each kind, sorted by time; impressions with their outcomes.
        profile: Columns of the users table, as JSON.
        blocked: Record of what the user does not want to see, as JSON.
        newest: Time of the newest event.
        most: Number of newest rows of a kind that are looked at.
        before: Rows of the same user and the history that was made of them: its tables are taken
            where the rows are the same ones.
    """
    tables = {}
    for kind, (name, dropped) in _READ_AS.items():
        if before is not None and before[0][kind] is rows[kind]:
            tables[name] = getattr(before[1], name)
        else:
            last = rows[kind].slice(max(rows[kind].num_rows - most, 0))
            tables[name] = last.drop_columns(dropped) if dropped else last
    return UserHistory(
        user_id=user_id,
        is_known=True,
        profile=json.loads(profile),
        newest_s=newest,
        blocked=Blocked.from_record(json.loads(blocked)),
        kept=KeptColumns() if before is None else before[1].kept,
        **tables,
    )


# What a history calls the rows of a kind, and the columns that it does without.
_READ_AS = {
    Kind.WATCH: ("watches", ["page_id"]),
    Kind.SEARCH: ("searches", []),
    Kind.IMPRESSION: ("impressions", ["page_id", "surface", "is_open", "click_time"]),
    Kind.FEEDBACK: ("feedback", []),
}
