"""Fills an empty Redis from the logs; its keys: :mod:`serving.history.redis_store`."""

import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Any

from features.durations import HOUR_S
from serving.events.event import Kind
from serving.history.redis_scripts import KEPT_HOURS_S, PREFIX, packed_row
from serving.history.tables import KINDS

# Renewed with everything that is written: a server that is killed meanwhile lets go so soon.
LOCK_S = 60


class RedisFilling:
    """A filling of Redis; users are met once all is there."""

    def __init__(self, client: Any, lock: str, filled: str) -> None:
        """Prepares.

        Args:
            client: Client that waits long enough for many commands at once.
            lock: Key that others see meanwhile.
            filled: Id of this filling.
        """
        self._client = client
        self._lock = lock
        self._filled = filled
        self._names: dict[int, str] = {}
        self._regions: dict[int, str] = {}
        self._arrivals = 0

    def add_users(self, rows: Sequence[tuple[int, str, str]]) -> None:
        """Writes users, whom nobody meets before the end."""
        pipeline = self._client.pipeline(transaction=False)
        for number, user_id, profile in rows:
            self._names[number] = user_id
            self._regions[number] = str(json.loads(profile).get("region") or "")
            fields = {"profile": profile, "number": number, "newest": 0, "version": self._filled}
            pipeline.hset(f"{PREFIX}user:{user_id}", mapping=fields)
        self._run(pipeline)

    def add_events(
        self, kind: Kind, users: Sequence[int], columns: Sequence[Sequence[Any]]
    ) -> None:
        """Writes rows of events, and counts the watches of late."""
        names = KINDS[kind].names
        time_at = names.index("time")
        watched: dict[tuple[int, str], int] = {}
        pipeline = self._client.pipeline(transaction=False)
        rows = zip(users, *columns, strict=True)
        # Sorted by user: one command for all rows of one.
        for user, mine in itertools.groupby(rows, key=lambda row: row[0]):
            packed: dict[str, str] = {}
            order: dict[str, int] = {}
            for _, *values in mine:
                self._arrivals += 1
                event_id = f"log-{self._arrivals}"
                packed[event_id] = packed_row(values)
                order[f"{self._arrivals:016d}:{event_id}"] = values[time_at]
                if kind is Kind.WATCH:
                    hour = values[time_at] // HOUR_S
                    counted = json.dumps([self._regions[user], values[0]])
                    watched[hour, counted] = watched.get((hour, counted), 0) + 1
            name = self._names[user]
            pipeline.hset(f"{PREFIX}{kind.value}:{name}", mapping=packed)
            pipeline.zadd(f"{PREFIX}{kind.value}_order:{name}", order)
            if kind is Kind.WATCH:
                pipeline.zadd(PREFIX + "watchers", {name: user})
        oldest = max((hour for hour, _ in watched), default=0) - KEPT_HOURS_S // HOUR_S
        for (hour, counted), count in watched.items():
            if hour >= oldest:
                pipeline.hincrby(f"{PREFIX}watched:{hour}", counted, count)
                pipeline.expire(f"{PREFIX}watched:{hour}", KEPT_HOURS_S)
        self._run(pipeline)

    def set_counts(
        self, newest: Mapping[int, int], counts: Mapping[Kind, Mapping[int, int]]
    ) -> None:
        """Writes the newest times; Redis counts for itself."""
        del counts
        pipeline = self._client.pipeline(transaction=False)
        for user, last in newest.items():
            pipeline.hset(f"{PREFIX}user:{self._names[user]}", "newest", last)
        self._run(pipeline)

    def _run(self, pipeline: Any) -> None:
        pipeline.expire(self._lock, LOCK_S)
        pipeline.execute()

    def finish(self) -> None:
        """Lets others see that the store is not empty any more."""
        pipeline = self._client.pipeline(transaction=True)
        pipeline.set(PREFIX + "arrivals", self._arrivals)
        pipeline.set(PREFIX + "filled", self._filled)
        if self._names:
            pipeline.set(PREFIX + "met", max(self._names))
        pipeline.execute()
