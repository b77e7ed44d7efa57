"""Takes in what users do and are shown: into the event log, then into the history store.

The log comes first: what is acknowledged is durable there, and what a crash kept from the store
is applied to it again at the next start. Both know an event by its id, so twice is once.
"""

import json
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

from absl import logging

from serving import event_segments
from serving.event_log import EventLog
from serving.events import Event, NewUser
from serving.live_state import LiveState
from serving.user_history import Applied, HistoryStore

_REPLAY_BATCH = 2000


class Recorder:
    """Writes to one event log and one history store; safe for threads."""

    def __init__(self, history: HistoryStore, log: EventLog, live: LiveState | None = None) -> None:
        """Puts the parts together.

        Args:
            history: Store.
            log: Event log.
            live: Learns of every new event within the call that reports it; None for no live
                sources.
        """
        self._history = history
        self._log = log
        self._live = live

    def record(self, events: Sequence[Event], profiles: Mapping[str, Mapping[str, Any]]) -> Applied:
        """Records events that someone reported; durable when this returns.

        Args:
            events: In any order, possibly seen before.
            profiles: Of users who may be new.

        Returns:
            How many were new. ``duplicates`` counts the others.

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
        applied = self._history.append(impressions, profiles={user_id: profile})
        if applied.new_users:
            self._log.append_page([NewUser(user_id=user_id, profile=profile)])

    def waiting_s(self) -> float:
        """Returns the age of the oldest record that the tables do not have yet, seconds."""
        found = event_segments.segments(self._log.logs_dir)
        waiting = [s.start_s for s in found if s.stream != event_segments.EVIDENCE and s.size]
        return max(time.time() - min(waiting), 0.0) if waiting else 0.0


def replay(history: HistoryStore, logs_dir: str | os.PathLike[str]) -> int:
    """Applies what the event log holds and the tables do not have yet; returns what was new.

    Before it, a store may lack what was logged just before a crash, or, where the store is new,
    everything that was not compacted when it was filled from the tables.
    """
    applied = 0
    events: list[Event] = []
    profiles: dict[str, Mapping[str, Any]] = {}
    for record in event_segments.pending(logs_dir):
        if record.get("kind") == "user":
            profiles[record["user_id"]] = json.loads(record.get("profile") or "{}")
            continue
        events.append(Event.from_record(record))
        if len(events) >= _REPLAY_BATCH:
            applied += history.append(events, profiles=profiles).accepted
            events = []
    applied += history.append(events, profiles=profiles).accepted
    if applied:
        logging.info("Applied %d events of the event log to the history store.", applied)
    return applied
