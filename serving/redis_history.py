"""What each user did, shared by the replicas of a funnel: the history store in Redis.

What a store promises is told in :mod:`serving.user_history`. Here a server-side script applies the
events of a call, so that two writers cannot get between each other's steps, and an event id that
is there already changes nothing. Reads are cached by a version that every write renews.

Keys, all below ``watchnext:`` (``<kind>`` is one of watch, search, impression, click):

    user:<user id>              hash: profile, version, newest, blocked, number
    <kind>:<user id>            hash: event id -> row, a JSON list that begins with its version
    <kind>_order:<user id>      sorted set by time: arrival number and event id
    watched:<hour>              hash: region and video -> watches; gone nine days after the last
    watchers                    sorted set: users who watched something, in the order of meeting
    met, arrivals               counters
    filling                     held while a server fills the store from the logs

The script names its keys itself, which one server allows and a Redis Cluster does not. What a
restart of Redis keeps is a matter of its own settings (``appendonly yes``).
"""

import contextlib
import itertools
import json
import time
import urllib.parse
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import redis
from absl import logging
from redis import backoff, retry

from features import command
from serving import errors, redis_scripts
from serving.events import Event, Kind
from serving.history_cache import NO_ROWS, HistoryCache, Remembered, grown
from serving.history_schema import KINDS, ROW_VERSION, packed_row
from serving.user_history import (
    MAX_EVENTS,
    PRUNE_SLACK,
    Applied,
    Blocked,
    UserHistory,
    by_user,
    history_of,
    unknown_user,
)

SCHEME = "redis://"
PREFIX = "watchnext:"
# A page must not wait long for a server that hangs; a local Redis answers in a millisecond.
_TIMEOUT_S = 0.5
_FILL_TIMEOUT_S = 30.0
_FILL_LOCK_S = 60
_HOUR_S = 3600
_KEPT_HOURS_S = 9 * 86400


class RedisHistoryStore:
    """A history store in one Redis database."""

    def __init__(self, url: str, *, max_events: int = MAX_EVENTS) -> None:
        """Connects; a connection that breaks later is made again at the next call.

        Args:
            url: ``redis://[:password@]host:port/database``.
            max_events: Events to keep per user and kind.

        Raises:
            InputError: It is no such URL.
            HistoryUnavailableError: The server cannot be reached.
        """
        self.max_events = max_events
        self.path = _without_password(url)
        self._client = self._connect(url, _TIMEOUT_S)
        self._filler = self._connect(url, _FILL_TIMEOUT_S)
        self._append = self._client.register_script(redis_scripts.APPEND)
        self._read = self._client.register_script(redis_scripts.READ)
        self._set_blocked = self._client.register_script(redis_scripts.SET_BLOCKED)
        self._cache = HistoryCache()
        self.ping()

    @staticmethod
    def _connect(url: str, timeout_s: float) -> Any:
        try:
            return redis.Redis.from_url(
                url,
                socket_timeout=timeout_s,
                socket_connect_timeout=_TIMEOUT_S,
                # A pooled connection may be to a server that was restarted: once more, at once.
                # Scripts that were run already find that their events are known.
                retry=retry.Retry(
                    backoff.NoBackoff(), 1, supported_errors=(redis.ConnectionError,)
                ),
            )
        except ValueError as error:
            raise command.InputError(
                f"the history store {_without_password(url)} must be redis://HOST:PORT/DATABASE: "
                f"{error}."
            ) from error

    @property
    def is_empty(self) -> bool:
        """See :class:`serving.user_history.HistoryStore`; waits for a server that is filling it."""
        with self._explained("read"):
            self._wait_for_filling()
            return not self._client.exists(PREFIX + "met")

    # ---- writing -----------------------------------------------------------------------------

    def append(
        self, events: Sequence[Event], *, profiles: Mapping[str, Mapping[str, Any]] | None = None
    ) -> Applied:
        """See :class:`serving.user_history.HistoryStore`."""
        if not events:
            return Applied(accepted=0, duplicates=0)
        users = [
            json.dumps(
                {
                    "id": user_id,
                    "profile": json.dumps(dict((profiles or {}).get(user_id, {})), allow_nan=False),
                    "newest": max(event.time for event in mine),
                    "events": [_packed(event) for event in mine],
                },
                allow_nan=False,
            )
            for user_id, mine in by_user(events).items()
        ]
        kept = self.max_events + PRUNE_SLACK
        settings = [PREFIX, kept, PRUNE_SLACK, _KEPT_HOURS_S, uuid.uuid4().hex]
        with self._explained("written"):
            accepted, *new_users = self._append(args=[*settings, *users])
        return Applied(
            accepted=accepted,
            duplicates=len(events) - accepted,
            new_users=tuple(user_id.decode() for user_id in new_users),
        )

    def set_blocked(self, user_id: str, blocked: Blocked) -> None:
        """See :class:`serving.user_history.HistoryStore`."""
        text = json.dumps(blocked.to_record())
        with self._explained("written"):
            self._set_blocked(args=[PREFIX, uuid.uuid4().hex, user_id, text])

    # ---- reading -----------------------------------------------------------------------------

    def known(self, events: Sequence[Event]) -> tuple[set[tuple[str, str]], set[str]]:
        """See :class:`serving.user_history.HistoryStore`."""
        users = list(dict.fromkeys(event.user_id for event in events))
        with self._explained("read"):
            pipeline = self._client.pipeline(transaction=False)
            for user_id in users:
                pipeline.exists(f"{PREFIX}user:{user_id}")
            for event in events:
                pipeline.hexists(f"{PREFIX}{event.kind.value}:{event.user_id}", event.event_id)
            found = pipeline.execute()
        return (
            {
                (event.user_id, event.event_id)
                for event, is_there in zip(events, found[len(users) :], strict=True)
                if is_there
            },
            {user_id for user_id, is_there in zip(users, found, strict=False) if is_there},
        )

    def read(self, user_id: str) -> UserHistory:
        """See :class:`serving.user_history.HistoryStore`."""
        before = self._cache.get(user_id)
        with self._explained("read"):
            answer = self._read(args=[PREFIX, user_id, *_known(before)])
        if not answer:
            return unknown_user(user_id)
        version, *rest = answer
        if before is not None and before.version == version:
            return before.history
        profile, newest, blocked, goes_on, *kinds = rest
        rows = grown(
            before.rows if before is not None and goes_on else NO_ROWS,
            {
                kind: KINDS[kind].arrow(user_id, self._rows(packed))
                for kind, (_, _, *packed) in zip(Kind, kinds, strict=True)
            },
        )
        marks = {kind: (mine[0], mine[1]) for kind, mine in zip(Kind, kinds, strict=True)}
        history = history_of(
            user_id,
            rows,
            profile=profile,
            blocked=blocked,
            newest=int(newest),
            most=self.max_events + PRUNE_SLACK,
        )
        found = Remembered(version=version, marks=marks, rows=rows, history=history)
        self._cache.put(user_id, found)
        return history

    def _rows(self, packed: Sequence[bytes]) -> list[list[Any]]:
        """Returns rows, which come newest first, oldest first."""
        rows = json.loads(b"[" + b",".join(reversed(packed)) + b"]")
        unknown = {row[0] for row in rows} - {ROW_VERSION}
        if unknown:
            raise errors.HistoryUnavailableError(
                f"the history store {self.path} has rows of version {sorted(unknown)}, this server "
                f"reads version {ROW_VERSION}: a newer server writes them, update this one."
            )
        return [row[1:] for row in rows]

    def user_ids(self, limit: int) -> list[str]:
        """See :class:`serving.user_history.HistoryStore`."""
        with self._explained("read"):
            found = self._client.zrange(PREFIX + "watchers", 0, limit - 1)
        return [user_id.decode() for user_id in found]

    def watch_counts(self, since_s: int) -> pa.Table:
        """See :class:`serving.user_history.HistoryStore`; begins at the full hour before."""
        first = since_s // _HOUR_S
        total: dict[tuple[str, str], int] = {}
        with self._explained("read"):
            for key in self._client.scan_iter(match=PREFIX + "watched:*", count=1000):
                if int(key.rpartition(b":")[2]) < first:
                    continue
                for field, count in self._client.hgetall(key).items():
                    region, video_id = json.loads(field)
                    total[region, video_id] = total.get((region, video_id), 0) + int(count)
        return pa.table(
            {
                "region": pa.array([region for region, _ in total], pa.string()),
                "video_id": pa.array([video_id for _, video_id in total], pa.string()),
                "watches": pa.array(list(total.values()), pa.int64()),
            }
        )

    def ping(self) -> None:
        """See :class:`serving.user_history.HistoryStore`."""
        with self._explained("reached"):
            self._client.ping()

    def close(self) -> None:
        """See :class:`serving.user_history.HistoryStore`."""
        self._client.close()
        self._filler.close()

    # ---- filling from the logs ---------------------------------------------------------------

    @contextlib.contextmanager
    def filling(self) -> Iterator["_Filling | None"]:
        """See :class:`serving.user_history.HistoryStore`.

        One server fills; the others wait. What a killed one left is removed by the next.
        """
        lock, mine = PREFIX + "filling", uuid.uuid4().hex
        with self._explained("written"):
            while not self._filler.set(lock, mine, nx=True, ex=_FILL_LOCK_S):
                time.sleep(0.2)
            try:
                if self._filler.exists(PREFIX + "met"):
                    yield None
                    return
                self._remove_all_but(lock)
                filling = _Filling(self._filler, lock)
                yield filling
                filling.finish()
            except BaseException:
                with contextlib.suppress(redis.RedisError):
                    self._remove_all_but(lock)
                raise
            finally:
                with contextlib.suppress(redis.RedisError):
                    self._filler.delete(lock)

    def _remove_all_but(self, kept: str) -> None:
        for keys in _in_batches(self._filler.scan_iter(match=PREFIX + "*", count=1000), 1000):
            self._filler.unlink(*(key for key in keys if key != kept.encode()), PREFIX + "nothing")

    def _wait_for_filling(self) -> None:
        while self._client.exists(PREFIX + "filling"):
            logging.log_every_n_seconds(logging.INFO, "Another server fills %s.", 10, self.path)
            time.sleep(0.2)

    @contextlib.contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        try:
            yield
        except (redis.RedisError, OSError) as error:
            raise errors.HistoryUnavailableError(
                f"the history store {self.path} cannot be {what}: {error}."
            ) from error


class _Filling:
    """See :class:`serving.user_history.Filling`. Users count as met only when all is there."""

    def __init__(self, client: Any, lock: str) -> None:
        self._client = client
        self._lock = lock
        self._names: dict[int, str] = {}
        self._regions: dict[int, str] = {}
        self._arrivals = 0

    def add_users(self, rows: Sequence[tuple[int, str, str]]) -> None:
        """See :class:`serving.user_history.Filling`."""
        pipeline = self._client.pipeline(transaction=False)
        for number, user_id, profile in rows:
            self._names[number] = user_id
            self._regions[number] = str(json.loads(profile).get("region") or "")
            fields = {"profile": profile, "number": number, "newest": 0, "version": "filled"}
            pipeline.hset(f"{PREFIX}user:{user_id}", mapping=fields)
        self._run(pipeline)

    def add_events(
        self, kind: Kind, users: Sequence[int], columns: Sequence[Sequence[Any]]
    ) -> None:
        """See :class:`serving.user_history.Filling`."""
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
                    hour = values[time_at] // _HOUR_S
                    counted = json.dumps([self._regions[user], values[0]])
                    watched[hour, counted] = watched.get((hour, counted), 0) + 1
            name = self._names[user]
            pipeline.hset(f"{PREFIX}{kind.value}:{name}", mapping=packed)
            pipeline.zadd(f"{PREFIX}{kind.value}_order:{name}", order)
            if kind is Kind.WATCH:
                pipeline.zadd(PREFIX + "watchers", {name: user})
        oldest = max((hour for hour, _ in watched), default=0) - _KEPT_HOURS_S // _HOUR_S
        for (hour, counted), count in watched.items():
            if hour >= oldest:
                pipeline.hincrby(f"{PREFIX}watched:{hour}", counted, count)
                pipeline.expire(f"{PREFIX}watched:{hour}", _KEPT_HOURS_S)
        self._run(pipeline)

    def set_counts(
        self, newest: Mapping[int, int], counts: Mapping[Kind, Mapping[int, int]]
    ) -> None:
        """See :class:`serving.user_history.Filling`; Redis counts for itself."""
        del counts
        pipeline = self._client.pipeline(transaction=False)
        for user, last in newest.items():
            pipeline.hset(f"{PREFIX}user:{self._names[user]}", "newest", last)
        self._run(pipeline)

    def _run(self, pipeline: Any) -> None:
        pipeline.expire(self._lock, _FILL_LOCK_S)
        pipeline.execute()

    def finish(self) -> None:
        """Lets others see that the store is not empty any more."""
        pipeline = self._client.pipeline(transaction=True)
        pipeline.set(PREFIX + "arrivals", self._arrivals)
        if self._names:
            pipeline.set(PREFIX + "met", max(self._names))
        pipeline.execute()


def _known(before: Remembered | None) -> list[Any]:
    """Returns what the script must know of what is here: version, and three values of each kind."""
    if before is None:
        return ["", *(0, "", "") * len(Kind)]
    marks = ((before.rows[kind].num_rows, *before.marks[kind]) for kind in Kind)
    return [before.version, *itertools.chain.from_iterable(marks)]


def _packed(event: Event) -> list[Any]:
    """Returns what the script needs of an event: kind, id, time, row, hour, video."""
    row = packed_row(KINDS[event.kind].values(event))
    # Numbers as text: the script's own are floating point.
    return [
        event.kind.value,
        event.event_id,
        str(event.time),
        row,
        str(event.time // _HOUR_S),
        event.video_id,
    ]


def _in_batches(keys: Iterator[bytes], size: int) -> Iterator[list[bytes]]:
    while batch := list(itertools.islice(keys, size)):
        yield batch


def _without_password(url: str) -> str:
    parts = urllib.parse.urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
