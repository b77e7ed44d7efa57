"""Takes in what users do and are shown: into the event log, then into the history store.

The log comes first: what is acknowledged is durable there, and what a crash kept from the store
is applied to it again at the next start. Both know an event by its key, so twice is once.

What is promised of an acknowledged event, in whatever order servers are killed, tables compacted,
events sent again and the power cut: it is in the history store and in the tables, once.

* The store gets it first from :meth:`Recorder.record`. What a crash kept from it stays in the event
  log until a server of that store has brought it up (:func:`bring`), for as long as
  :data:`serving.events.compaction.OWED_S` and whoever compacts meanwhile: nothing leaves the log
  before the store has it on disk.
* Sent again, it is recognised by the store for as long as that keeps it (the last ``MAX_EVENTS`` of
  its user and kind), and by compaction for a day (:mod:`serving.events.keys`).
* A store that was lost is filled from the tables, which know no event ids: an event from before,
  sent again, then counts twice in the history, and for a day still once in the tables.
"""

import json
import os
import pathlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from absl import logging

from serving.events import segments as event_segments
from serving.events.event import Event, Kind, NewUser
from serving.events.log import EventLog
from serving.events.segments import Segment
from serving.history.user_history import Applied, HistoryStore
from serving.live.state import LiveState

_CATCH_UP_BATCH = 2000


class Recorder:
    """Writes to one event log and one history store; safe for threads."""

    def __init__(self, history: HistoryStore, log: EventLog, live: LiveState | None = None) -> None:
        """Puts the parts together.

        Args:
            history: Store of what users did.
            log: Log that makes events durable.
            live: State that learns of every new event within the call that reports it; None for no
                live sources.
        """
        self._history = history
        self._log = log
        self._live = live

    def record(self, events: Sequence[Event], profiles: Mapping[str, Mapping[str, Any]]) -> Applied:
        """Records events that someone reported; durable when this returns.

        Args:
            events: Events in any order, possibly seen before.
            profiles: User id to columns of the users table, for users who may be new.

        Returns:
            Number of new events, of the others as ``duplicates``, and the ids of new users.

        Raises:
            EventLogError, HistoryUnavailableError: They are not acknowledged; sending them again
                is safe.
        """
        known, users = self._history.known(events)
        fresh: dict[tuple[str, str, str], Event] = {}
        for event in events:
            if event.key not in known:
                fresh.setdefault(event.key, event)
        met = dict.fromkeys(event.user_id for event in fresh.values() if event.user_id not in users)
        newcomers = [NewUser(user_id=u, profile=profiles.get(u, {})) for u in met]
        self._log.append([*newcomers, *fresh.values()])
        with self._log.owing():
            applied = self._history.append(list(fresh.values()), profiles=profiles)
        if self._live is not None:
            for user_id, profile in profiles.items():
                self._live.meet(user_id, str(profile.get("region") or ""))
            self._live.apply(list(fresh.values()))
        return Applied(
            accepted=applied.accepted,
            duplicates=len(events) - applied.accepted,
            new_users=applied.new_users,
        )

    def record_page(self, impressions: Sequence[Event], profile: Mapping[str, Any]) -> None:
        """Records what one page showed to one user, without waiting for the disk.

        Raises:
            EventLogError, HistoryUnavailableError: The page is not recorded, or only in part.
        """
        if not impressions:
            return
        self._log.append_page(impressions)
        user_id = impressions[0].user_id
        if self._live is not None:
            self._live.meet(user_id, str(profile.get("region") or ""))
            self._live.apply(impressions)
        with self._log.owing():
            applied = self._history.append(impressions, profiles={user_id: profile})
        if applied.new_users:
            self._log.append_page([NewUser(user_id=user_id, profile=profile)])

    def waiting_s(self) -> float:
        """Returns the age of the oldest record that the tables do not have yet, seconds."""
        segments = event_segments.segments(self._log.logs_dir)
        waiting = [
            s.start_s for s in segments if s.stream not in event_segments.IN_TABLES and s.size
        ]
        return max(self._log.now() - min(waiting), 0.0) if waiting else 0.0


def catch_up(history: HistoryStore, logs_dir: str | os.PathLike[str]) -> int:
    """Applies what the event log holds and the store may not have; returns what was new.

    That is what no table has yet, what is owed to this store, and clicks, which are in no table.
    Of what a server has moved the store has the rest.
    """
    segments = event_segments.segments(pathlib.Path(logs_dir))
    evidence = [s for s in segments if s.stream == event_segments.EVIDENCE]
    owed = [s for s in segments if s.stream == event_segments.OWED]
    owed = [s for s in owed if event_segments.owed_to(history.store_id, s)]
    waiting = [s for s in segments if s.stream not in event_segments.IN_TABLES]
    applied = bring(history, [*owed, *waiting]) + bring(history, evidence, kinds=(Kind.CLICK,))
    if applied:
        logging.info("Applied %d events of the event log to the history store.", applied)
    return applied


def bring(
    history: HistoryStore, segments: Sequence[Segment], *, kinds: Collection[Kind] = tuple(Kind)
) -> int:
    """Makes sure that a store has what segments hold, durably; returns how much was new.

    Raises:
        HistoryUnavailableError: It has only a part, or has it only until the power goes.
    """
    applied = 0
    profiles: dict[str, Mapping[str, Any]] = {}
    events: list[Event] = []
    for record in _records(segments):
        if record["kind"] == NewUser.KIND:
            profiles[record["user_id"]] = json.loads(record.get("profile") or "{}")
        elif Kind(record["kind"]) in kinds:
            events.append(Event.from_record(record))
        if len(events) >= _CATCH_UP_BATCH:
            applied += _apply_unknown(history, events, profiles)
            events = []
    applied += _apply_unknown(history, events, profiles)
    history.sync()
    return applied


def _records(segments: Sequence[Segment]) -> Iterator[dict[str, Any]]:
    for segment in segments:
        yield from event_segments.records(segment.path)


def _apply_unknown(
    history: HistoryStore, events: Sequence[Event], profiles: Mapping[str, Mapping[str, Any]]
) -> int:
    """Applies what the store does not have; nearly always that is nothing, and reads are cheap."""
    known, _ = history.known(events)
    unknown = [event for event in events if event.key not in known]
    return history.append(unknown, profiles=profiles).accepted if unknown else 0
