"""Live events of replicas on several hosts: one Redis stream, which each adds to and reads.

A process publishes what it appended to its event log, and reads what processes of other logs
directories published; within one directory :mod:`serving.events.following` does. The hot path
knows nothing of it: what is published has been logged, and what cannot be published waits.

The stream is for what is live (trending, co-watch, counts of the last day), not for what must not
be lost: that is in logs and history store. A process that is killed keeps its last second from the
others. An entry is a batch of records, compressed; the stream holds a day, and no more than
``MOST_BYTES``. Redis gives each entry an id, by which a reader goes on, so it gets each once; a
batch of which nobody knows whether it arrived is sent again, and known again by its events.
"""

import contextlib
import json
import os
import pathlib
import time
import uuid
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import redis
from absl import logging

from features import files
from features.durations import HOUR_S, MINUTE_S
from serving import errors
from serving.events import segments as event_segments
from serving.events.event import Kind, NewUser
from serving.events.following import Follower
from serving.events.log import EventLog
from serving.history import redis_connection
from serving.history.redis_scripts import PREFIX

KEY = PREFIX + "live"
KEPT_S = 25 * HOUR_S
MOST_BYTES = 256 << 20
_BATCH = 1_000  # Records of an entry.
_PAGE = 20  # Entries that are read at a time.
_TIMEOUT_S = 2.0
_ORIGIN = "origin"  # File of the event log: its own name among all.
_KINDS = {Kind.WATCH.value, Kind.IMPRESSION.value, Kind.CLICK.value, NewUser.KIND}
_COLUMNS = ("kind", "event_id", "user_id", "time", "video_id", "page_id", "watch_time_s", "profile")


class RedisStream:
    """The stream as one process sees it, as the module tells. For one thread."""

    def __init__(self, address: str, log: EventLog, *, password: str | None = None) -> None:
        """Starts after all that the log holds now, and before all that others published.

        Args:
            address: Address of the server, as of the history store.
            log: Event log whose own records are published.
            password: Password of the server.

        Raises:
            InputError: It is no address.
            EventLogError: The event log has no name, and cannot be given one.
        """
        self._client = redis_connection.connect(
            address, password, timeout_s=_TIMEOUT_S, connect_timeout_s=_TIMEOUT_S
        )
        self._own = Follower(log.logs_dir, is_own=lambda name: not log.wrote(name))
        with self._own.new_records():
            pass  # What was there before is another process's, or was published.
        self._origin = origin_of(log.logs_dir)
        self._read_to: str | bytes = "0-0"
        self._looked_at = float("-inf")

    def publish(self) -> None:
        """Lets others have what was logged since the last call.

        Raises:
            HistoryUnavailableError: They do not get it yet; the next call tries again.
        """
        with self._explained("add to"), self._own.new_records() as records:
            live = [_trimmed(record) for record in records if record["kind"] in _KINDS]
            oldest_ms = int((time.time() - KEPT_S) * 1000)
            for start in range(0, len(live), _BATCH):
                fields = {"origin": self._origin, "records": packed(live[start : start + _BATCH])}
                self._client.xadd(KEY, fields, minid=oldest_ms, approximate=True)
            self._keep_small()

    def _keep_small(self) -> None:
        """Drops the older half where the stream is larger than it may be; looks each minute."""
        if time.monotonic() - self._looked_at < MINUTE_S:
            return
        self._looked_at = time.monotonic()
        if (self._client.memory_usage(KEY) or 0) > MOST_BYTES:
            entries = self._client.xlen(KEY)
            logging.warning("%s is above %d bytes: its older half is dropped.", KEY, MOST_BYTES)
            self._client.xtrim(KEY, maxlen=entries // 2, approximate=True)

    def pages(self) -> Iterator[list[dict[str, Any]]]:
        """Yields what others published since the last call; the first time, all that is there.

        A page counts as read when the next one is asked for: whoever fails is given it again.

        Raises:
            HistoryUnavailableError: Nothing can be read now.
        """
        while entries := self._page():
            ((_, page),) = entries
            yield [
                record
                for entry_id, fields in page
                if fields.get(b"origin", b"").decode() != self._origin
                for record in _unpacked(entry_id, fields.get(b"records", b""))
            ]
            self._read_to = page[-1][0]

    def _page(self) -> Any:
        with self._explained("read"):
            return self._client.xread({KEY: self._read_to}, count=_PAGE)

    def close(self) -> None:
        """Publishes what is left, and disconnects."""
        try:
            self.publish()
        except errors.HistoryUnavailableError as error:
            logging.warning("Others do not see the last second as live: %s", error)
        self._client.close()

    @contextlib.contextmanager
    def _explained(self, doing: str) -> Iterator[None]:
        try:
            yield
        except redis.RedisError as error:
            message = f"cannot {doing} the live events in Redis: {error}."
            raise errors.HistoryUnavailableError(message) from error


def origin_of(logs_dir: pathlib.Path) -> str:
    """Returns the name of a logs directory's event log, the same for all who write to it.

    Raises:
        EventLogError: It has none and cannot be given one.
    """
    path = logs_dir / event_segments.DIRECTORY / _ORIGIN
    try:
        if not path.exists():
            # Under a name of its own first: of several at once one wins, and all read the same.
            mine = path.with_name(f".{_ORIGIN}-{uuid.uuid4().hex}")
            files.atomic_write(mine, uuid.uuid4().hex)
            with contextlib.suppress(FileExistsError):
                os.link(mine, path)
            mine.unlink()
        return path.read_text()
    except OSError as error:
        raise errors.EventLogError(f"{path} cannot be written: {error}.") from error


def packed(records: Sequence[Mapping[str, Any]]) -> bytes:
    """Returns records as an entry holds them: JSON lines, compressed."""
    lines = (json.dumps(record, separators=(",", ":")) for record in records)
    return zlib.compress("\n".join(lines).encode(), 1)


def _trimmed(record: Mapping[str, Any]) -> dict[str, Any]:
    return {name: record[name] for name in _COLUMNS if record.get(name) is not None}


def _unpacked(entry_id: bytes, content: bytes) -> list[dict[str, Any]]:
    """Returns the records of an entry; none, and a log line, of one that holds something else."""
    try:
        records = [event_segments.record_of(line) for line in zlib.decompress(content).split(b"\n")]
    except zlib.error as error:
        records = [None]
        logging.debug("%r: %s", entry_id, error)
    if None in records:
        logging.error("%s has an entry, %r, with what is no record: left out.", KEY, entry_id)
    return [record for record in records if record is not None]
