"""What each user did, shared by the replicas of a funnel: the history store in Redis.

What a store promises is told in :mod:`serving.history.user_history`. Here a server-side script
applies the events of a call, so that two writers cannot get between each other's steps, and an
event that is there already changes nothing. Reads are cached by a version that every write renews.

Keys, all below ``watchnext:`` (``<kind>`` is one of watch, search, impression, click, feedback):

    user:<user id>              hash: profile, version, newest, blocked, number
    <kind>:<user id>            hash: identity -> row, a JSON list that begins with its version
    <kind>_order:<user id>      sorted set by time: arrival number and identity
    watched:<hour>              hash: region and video -> watches; gone nine days after the last
    watchers                    sorted set: users who watched something, in the order of meeting
    met, arrivals               counters
    filling                     held while a server fills the store from the logs
    filled                      id of that filling; who finds another one, or none, knows that
                                everything was lost since

The scripts name their keys themselves, which one server allows and a Redis Cluster does not. What a
restart of Redis keeps is a matter of its own settings (``appendonly yes``; after each, and after a
failover, servers apply again what their event logs hold), and so is whether it
drops what it acknowledged when its memory is full (``maxmemory-policy noeviction``: never). What is
gone nevertheless is left out of what is read; when all is gone the store fails, until it is filled
anew.
"""

import contextlib
import hashlib
import itertools
import json
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import redis
from absl import logging

from features.durations import HOUR_S
from serving import errors
from serving.events.event import Event, Kind
from serving.history import redis_connection, redis_scripts
from serving.history.cache import NO_ROWS, HistoryCache, Remembered, grown
from serving.history.redis_filling import LOCK_S, RedisFilling
from serving.history.redis_scripts import KEPT_HOURS_S, PREFIX, ROW_VERSION, packed_row
from serving.history.tables import KINDS
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

# A page must not wait long for a server that hangs; a local Redis answers in a millisecond.
_TIMEOUT_S = 0.5
_FILL_TIMEOUT_S = 30.0
_WAIT_MS = 300
# Where the first alone was dropped, the second says that the rest is there.
_FILLING = (PREFIX + "filled", PREFIX + "met")
_UNNAMED = "?"


class RedisHistoryStore:
    """A history store in one Redis database."""

    def __init__(
        self, url: str, *, password: str | None = None, max_events: int = MAX_EVENTS
    ) -> None:
        """Connects; a connection that breaks later is made again at the next call.

        Args:
            url: Address of the server, see :func:`serving.history.redis_connection.connect`.
            password: Password of the server.
            max_events: Number of events to keep per user and kind.

        Raises:
            InputError: It is no such URL.
            HistoryUnavailableError: The server cannot be reached.
        """
        self.max_events = max_events
        self.path = redis_connection.shown(url)
        self.store_id = hashlib.sha256(self.path.encode()).hexdigest()[:8]
        self._client, self._filler = (
            redis_connection.connect(
                url, password, timeout_s=timeout_s, connect_timeout_s=_TIMEOUT_S
            )
            for timeout_s in (_TIMEOUT_S, _FILL_TIMEOUT_S)
        )
        self._append = self._client.register_script(redis_scripts.APPEND)
        self._read = self._client.register_script(redis_scripts.READ)
        self._set_blocked = self._client.register_script(redis_scripts.SET_BLOCKED)
        # Of the filling that all that was read and written belongs to; "" before there is any.
        self._filled = ""
        self._cache = HistoryCache()
        self._run = ""
        self._has_told = False  # Of rows that are gone.
        self.ping()
        with self._explained("read"):
            redis_connection.warn_of_eviction(self._client, self.path)

    @property
    def is_empty(self) -> bool:
        """Whether no user is there; waits while it is filled.

        Where it is not, what is there counts from now on, whatever was lost before.
        """
        with self._explained("read"):
            self._wait_for_filling()
            filled = self._client.get(PREFIX + "filled")
            if filled is None and self._client.exists(PREFIX + "met"):
                # Of an earlier version, or the id alone was dropped: what is there stays.
                self._client.set(PREFIX + "filled", uuid.uuid4().hex, nx=True)
                filled = self._client.get(PREFIX + "filled")
            if filled is not None:
                self._begin(filled.decode())
        return filled is None

    def _begin(self, filled: str) -> None:
        if filled != self._filled:
            self._cache = HistoryCache()
            self._filled = filled

    def _require(self, filled: bytes | None, *, is_done: bool = True) -> None:
        """Raises HistoryLostError where the filling in Redis is not the one that was there."""
        filling = (filled or b"").decode()
        if filling == _UNNAMED and is_done:
            return
        if is_done and not self._filled:
            self._filled = filling
        elif not is_done or filling != self._filled:
            raise errors.HistoryLostError(
                f"the history store {self.path} has lost what it held: it was emptied, or "
                "restarted without its data. It is filled again from the logs."
            )

    # ---- writing -----------------------------------------------------------------------------

    def append(
        self, events: Sequence[Event], *, profiles: Mapping[str, Mapping[str, Any]] | None = None
    ) -> Applied:
        """Applies events in one step of Redis."""
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
        settings = [self.max_events + PRUNE_SLACK, PRUNE_SLACK, KEPT_HOURS_S]
        with self._explained("written"):
            filled, *done = self._append(args=[*self._stamp(), *settings, *users])
        self._require(filled, is_done=bool(done))
        accepted, *new_users = done
        return Applied(
            accepted=accepted,
            duplicates=len(events) - accepted,
            new_users=tuple(user_id.decode() for user_id in new_users),
        )

    def set_blocked(self, user_id: str, blocked: Blocked) -> None:
        """Replaces what a user does not want to see."""
        text = json.dumps(blocked.to_record())
        with self._explained("written"):
            filled, *done = self._set_blocked(args=[*self._stamp(), user_id, text])
        self._require(filled, is_done=bool(done))

    def _stamp(self) -> tuple[str, str, str]:
        """Returns what every script that writes is given first; the last is a new version."""
        return PREFIX, self._filled, uuid.uuid4().hex

    # ---- reading -----------------------------------------------------------------------------

    def known(self, events: Sequence[Event]) -> tuple[set[tuple[str, str, str]], set[str]]:
        """Returns the keys of events and the user ids that are there."""
        users = list(dict.fromkeys(event.user_id for event in events))
        with self._explained("read"):
            pipeline = self._client.pipeline(transaction=False)
            pipeline.mget(*_FILLING)
            for user_id in users:
                pipeline.exists(f"{PREFIX}user:{user_id}")
            for event in events:
                pipeline.hexists(f"{PREFIX}{event.kind.value}:{event.user_id}", event.identity)
            filling, *replies = pipeline.execute()
        self._require(_named(*filling))
        keys = {e.key for e, there in zip(events, replies[len(users) :], strict=True) if there}
        return keys, {user_id for user_id, there in zip(users, replies, strict=False) if there}

    def read(self, user_id: str) -> UserHistory:
        """Returns all that is known of a user; rows that the cache has are not read again."""
        cache = self._cache
        before = cache.get(user_id)
        with self._explained("read"):
            filled, *answer = self._read(args=[PREFIX, user_id, *_known(before)])
        self._require(filled)
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
                for kind, (_, _, _, *packed) in zip(Kind, kinds, strict=True)
            },
        )
        marks = {kind: tuple(mine[:3]) for kind, mine in zip(Kind, kinds, strict=True)}
        return cache.remember(
            user_id,
            rows,
            version=version,
            marks=marks,
            most=self.max_events + PRUNE_SLACK,
            profile=profile,
            blocked=blocked,
            newest=int(newest),
        )

    def _rows(self, packed: Sequence[bytes | None]) -> list[list[Any]]:
        """Returns rows, which come newest first, oldest first; without those that are gone."""
        there = [row for row in reversed(packed) if row is not None]
        if len(there) < len(packed) and not self._has_told:
            self._has_told = True
            logging.error(
                "%s has dropped rows of histories; pages are made of what is left. Give it more "
                "memory, and maxmemory-policy noeviction.",
                self.path,
            )
        rows = json.loads(b"[" + b",".join(there) + b"]")
        unknown = {row[0] for row in rows} - {ROW_VERSION}
        if unknown:
            raise errors.HistoryUnavailableError(
                f"the history store {self.path} has rows of version {sorted(unknown)}, this server "
                f"reads version {ROW_VERSION}: a newer server writes them, update this one."
            )
        return [row[1:] for row in rows]

    def user_ids(self, limit: int) -> list[str]:
        """Returns some users who have watched something."""
        with self._explained("read"):
            pipeline = self._client.pipeline(transaction=False)
            pipeline.mget(*_FILLING).zrange(PREFIX + "watchers", 0, limit - 1)
            filling, ids = pipeline.execute()
        self._require(_named(*filling))
        return [user_id.decode() for user_id in ids]

    def watch_counts(self, since_s: int) -> pa.Table:
        """Returns watches by region and video, from the full hour before ``since_s``."""
        self.ping()
        first = since_s // HOUR_S
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

    def sync(self) -> None:
        """Returns when a replica has it too, where there are any; else its settings decide."""
        with self._explained("written"):
            if not self._client.info("replication").get("connected_slaves"):
                return
            # On one connection: what is waited for is the last write of that, and all before it.
            pipeline = self._client.pipeline(transaction=False)
            pipeline.set(PREFIX + "synced", uuid.uuid4().hex)
            pipeline.execute_command("WAIT", 1, _WAIT_MS)
            _, replicas = pipeline.execute()
        if not replicas:
            raise errors.HistoryUnavailableError(
                f"no replica of {self.path} has what was written within {_WAIT_MS} ms."
            )

    def holder(self) -> str:
        """Returns the id of the run of Redis; another one may be a replica that lagged behind."""
        with self._explained("reached"):
            run = str(self._client.info("server")["run_id"])
        if run != self._run:
            self._run, self._cache = run, HistoryCache()
        return run

    def ping(self) -> None:
        """Raises HistoryUnavailableError where Redis does not answer, or lost everything."""
        with self._explained("reached"):
            filling = self._client.mget(*_FILLING)
        self._require(_named(*filling))

    def close(self) -> None:
        """Lets go of the connections."""
        self._client.close()
        self._filler.close()

    # ---- filling from the logs ---------------------------------------------------------------

    @contextlib.contextmanager
    def filling(self) -> Iterator["RedisFilling | None"]:
        """Fills Redis in a block; yields None where it is not empty.

        One server fills; the others wait. What a killed one left is removed by the next.
        """
        lock, mine = PREFIX + "filling", uuid.uuid4().hex
        with self._explained("written"):
            while not self._filler.set(lock, mine, nx=True, ex=LOCK_S):
                time.sleep(0.2)
            try:
                filled = self._filler.get(PREFIX + "filled")
                if filled is not None:
                    self._begin(filled.decode())
                    yield None
                    return
                self._remove_all_but(lock)
                filling = RedisFilling(self._filler, lock, mine)
                yield filling
                filling.finish()
                self._begin(mine)
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

    def _explained(self, what: str) -> contextlib.AbstractContextManager[None]:
        return explained(str(self.path), what, redis.RedisError)


def _named(filled: bytes | None, met: bytes | None) -> bytes | None:
    """Returns the id of a filling, ``?`` where it alone is gone, None where everything is."""
    return filled if filled is not None or met is None else _UNNAMED.encode()


def _known(before: Remembered | None) -> list[Any]:
    """Returns what the script must know of what is here: version, and three values of each kind."""
    if before is None:
        return ["", *(0, "", "") * len(Kind)]
    return [before.version, *itertools.chain.from_iterable(before.marks[kind] for kind in Kind)]


def _packed(event: Event) -> list[Any]:
    """Returns what the script needs of an event: kind, id, time, row, hour, video."""
    row = packed_row(KINDS[event.kind].values(event))
    # Numbers as text: the script's own are floating point.
    return [
        event.kind.value,
        event.identity,
        str(event.time),
        row,
        str(event.time // HOUR_S),
        event.video_id,
    ]


def _in_batches(keys: Iterator[bytes], size: int) -> Iterator[list[bytes]]:
    while batch := list(itertools.islice(keys, size)):
        yield batch
