"""What users did and were shown, made durable at once and handed on to the raw logs.

Records are appended as JSON lines to segment files below ``<logs>/.event_log/``:

    pages-<start>-<store>-<random>.jsonl    impressions, served or reported
    events-<start>-<store>-<random>.jsonl   watches, searches, clicks, new users
    evidence-...                            events that are in the logs already, kept for a while
                                            because a click may still meet its impression
    owed-...                                what is in the logs, but maybe not in that history store

:mod:`serving.events.compaction` moves them into the Parquet tables of the logs. Several
processes may log into one directory: each writes its own segments, and holds a lock on them for
as long as it lives, which is how a dead process's segments are told from a live one's.

What is promised:

* ``append`` returns after an fsync, which concurrent callers share. What it acknowledged
  survives a power cut, and reaches the tables exactly once.
* ``append_page`` returns after the write: that survives a killed process, and a power cut from
  ``SYNC_PERIOD_S`` later on. A page must not wait for a disk.
* A failed write (disk full) leaves no half line behind and is not acknowledged. After a failed
  sync the segment is given up: nothing that waited for it is acknowledged, and what follows goes
  into another.
"""

import contextlib
import dataclasses
import fcntl
import functools
import json
import os
import pathlib
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence

from absl import logging

from features import files
from serving import errors
from serving.events import compaction
from serving.events import segments as event_segments
from serving.events.event import Event, Kind, NewUser

SYNC_PERIOD_S = 1.0
COMPACTION_PERIOD_S = 300.0
_MAX_SEGMENT_BYTES = 64 << 20
_ENCODER = json.JSONEncoder(separators=(",", ":"), allow_nan=False)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Disk:
    """What the log asks of a file; tests give one that fails."""

    write: Callable[[int, memoryview], int] = os.write
    fsync: Callable[[int], None] = os.fsync
    truncate: Callable[[int, int], None] = os.ftruncate


class EventLog:
    """Appends records for one process; safe for threads."""

    def __init__(
        self,
        logs_dir: str | os.PathLike[str],
        *,
        compaction_period_s: float = COMPACTION_PERIOD_S,
        wall: Callable[[], float] = time.time,
        store: str = event_segments.ANY,
        bring: Callable[[Sequence[event_segments.Segment]], object] | None = lambda _: None,
        disk: Disk | None = None,
    ) -> None:
        """Opens the log.

        Args:
            logs_dir: Raw logs to add to; created where it does not exist.
            compaction_period_s: Seconds of ``wall`` between two compactions of :meth:`start`.
            wall: Clock by which records age, Unix seconds.
            store: Id of the history store beside it.
            bring: Function that makes sure that this store has what segments hold, durably; raises
                HistoryUnavailableError where it may not. Asked before they leave the log. None
                where the store is another process's, to which what leaves the log is owed.
            disk: Way in which files are written; None for that of the system.

        Raises:
            EventLogError: The directory cannot be written.
        """
        self.logs_dir = pathlib.Path(logs_dir)
        self._wall = wall
        self._period_s = compaction_period_s
        self._store = store
        self._bring = bring
        self._owes = False
        directory = self.logs_dir / event_segments.DIRECTORY
        with _explained(directory):
            directory.mkdir(parents=True, exist_ok=True)
            probe = directory / f".probe-{uuid.uuid4().hex}"
            probe.write_bytes(b"")
            probe.unlink()
        kept = functools.partial(_Stream, directory, store=store, wall=wall, disk=disk or Disk())
        self._events = kept(event_segments.EVENTS)
        self._pages = kept(event_segments.PAGES)
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def wrote(self, segment: str) -> bool:
        """Returns whether this process wrote the segment of this file name."""
        _, _, name = segment.partition("-")
        return name in self._events.names or name in self._pages.names

    def now(self) -> float:
        """Returns the moment by the clock of the log, Unix seconds."""
        return self._wall()

    def append(self, records: Sequence[Event | NewUser]) -> None:
        """Makes records durable.

        Raises:
            EventLogError: They may not be acknowledged.
        """
        for stream, segment, position in self._write(records):
            stream.sync(segment, position)

    def append_page(self, records: Sequence[Event | NewUser]) -> None:
        """Writes what a page showed, and to whom, without waiting for the disk.

        Raises:
            EventLogError: It is not in the log.
        """
        self._write(records)

    def _write(self, records: Sequence[Event | NewUser]) -> list[tuple["_Stream", "_Segment", int]]:
        shown = [r for r in records if isinstance(r, Event) and r.kind is Kind.IMPRESSION]
        others = [r for r in records if not (isinstance(r, Event) and r.kind is Kind.IMPRESSION)]
        streams = ((self._events, others), (self._pages, shown))
        return [(stream, *stream.write(self._lines(part))) for stream, part in streams if part]

    def sync(self) -> None:
        """Makes everything written so far durable."""
        self._pages.sync_all()
        self._events.sync_all()

    def compact(self, *, flush: bool = False) -> dict[str, int]:
        """Moves what is ripe into the tables of the logs.

        Args:
            flush: Whether to move also impressions whose click may still come, as not clicked.

        Returns:
            Rows written by table.
        """
        with _explained(self.logs_dir):
            self._events.seal()
            self._pages.seal()
            bring = None if self._bring is None else self._bring_what_may_lack
            return compaction.compact(self.logs_dir, wall_s=self._wall(), flush=flush, bring=bring)

    def _bring_what_may_lack(
        self, segments: Sequence[event_segments.Segment]
    ) -> list[event_segments.Segment]:
        """The store got what this process wrote, unless it said otherwise, and has to keep it."""
        mine = [s for s in segments if event_segments.owed_to(self._store, s)]
        owes, self._owes = self._owes, False
        may_lack = [
            segment
            for segment in mine
            if owes or segment.stream == event_segments.OWED or not self.wrote(segment.path.name)
        ]
        assert self._bring is not None
        try:
            self._bring(may_lack)
        except BaseException:
            self._owes = owes
            raise
        return mine

    @contextlib.contextmanager
    def owing(self) -> Iterator[None]:
        """Remembers, where the block fails, that the history store lacks what was logged."""
        try:
            yield
        except BaseException:
            self._owes = True
            raise

    def start(self) -> None:
        """Starts to sync and compact from time to time, until :meth:`close`."""
        self._thread = threading.Thread(target=self._maintain, name="event-log", daemon=True)
        self._thread.start()

    def _maintain(self) -> None:
        last = self._wall()
        while not self._stop.wait(SYNC_PERIOD_S):
            try:
                self.sync()
                # Also of a clock that was set back.
                if abs(self._wall() - last) >= self._period_s:
                    last = self._wall()
                    self.compact()
            except Exception:
                # Nothing is lost: segments stay, and the next round tries again.
                logging.exception("The event log could not be synced or compacted.")

    def close(self) -> None:
        """Stops, seals the segments, and compacts what is ripe."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        try:
            self.compact()
        except Exception:
            logging.exception("The last compaction failed; the next start does it again.")
        finally:
            self._events.seal()
            self._pages.seal()

    def _lines(self, records: Sequence[Event | NewUser]) -> bytes:
        received = int(self._wall())
        texts = []
        for record in records:
            content = record.to_record()
            content["received"] = received
            texts.append(_ENCODER.encode(content))
        return ("\n".join(texts) + "\n").encode()


class _Segment:
    """A segment file while it may grow.

    Attributes:
        descriptor: Descriptor of the open and locked file; None once the segment has ended.
        written: Number of bytes up to the last whole record.
        synced: Number of bytes that are durable.
        failure: Reason why what lies beyond ``synced`` never will be; "" while it still can.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor: int | None = descriptor
        self.written = 0
        self.synced = 0
        self.failure = ""


class _Stream:
    """Appends lines to a segment file that is locked for as long as it may grow."""

    def __init__(
        self,
        directory: pathlib.Path,
        name: str,
        *,
        store: str,
        wall: Callable[[], float],
        disk: Disk,
    ) -> None:
        self._directory = directory
        self._name = name
        self._store = store
        self._wall = wall
        self._disk = disk
        self._segment: _Segment | None = None
        self.names: set[str] = set()  # of all segments, without the stream's
        self._write_lock = threading.Lock()
        self._sync_lock = threading.Lock()

    def write(self, lines: bytes) -> tuple[_Segment, int]:
        """Appends whole lines; returns what :meth:`sync` must make durable for them."""
        if (full := self._segment) is not None and full.written >= _MAX_SEGMENT_BYTES:
            self.seal()
        with self._write_lock, _explained(self._directory):
            if self._segment is None:
                self._segment = _Segment(self._new_segment())
            segment = self._segment
            assert segment.descriptor is not None
            try:
                rest = memoryview(lines)
                while rest:
                    rest = rest[self._disk.write(segment.descriptor, rest) :]
                if self._wall is not time.time:  # The time of a file tells its last write.
                    os.utime(segment.descriptor, (self._wall(), self._wall()))
            except OSError:
                self._take_back(segment)
                raise
            segment.written += len(lines)
            return segment, segment.written

    def sync(self, segment: _Segment, position: int) -> None:
        """Returns once the segment is durable up to ``position``.

        One caller syncs for all that wrote before it began; the others find their work done.

        A sync that failed is never tried again: the system may have dropped what it could not
        write, and would report the next one as a success. The segment ends there, whoever waits
        for it is refused, and the next record begins another. Only one thread syncs a segment at
        a time, since an error is told to one alone.
        """
        if segment.synced >= position:
            return
        with self._sync_lock, _explained(self._directory):
            if segment.synced >= position:
                return
            with self._write_lock:
                if segment.failure or segment.descriptor is None:
                    raise OSError(f"it could not be made durable: {segment.failure}")
                written = segment.written
                descriptor = os.dup(segment.descriptor)
            try:
                self._disk.fsync(descriptor)
            except OSError as error:
                with self._write_lock:
                    segment.failure = str(error)
                    self._drop(segment)
                raise
            finally:
                os.close(descriptor)
            segment.synced = max(segment.synced, written)

    def sync_all(self) -> None:
        """Makes everything written so far durable."""
        with self._write_lock:
            segment = self._segment
        if segment is not None:
            self.sync(segment, segment.written)

    def seal(self) -> None:
        """Ends the segment: durable, unlocked, ready to be compacted."""
        with self._sync_lock, self._write_lock, _explained(self._directory):
            self._end()

    def _end(self) -> None:
        segment = self._segment
        if segment is None or segment.descriptor is None:
            return
        try:
            self._disk.fsync(segment.descriptor)
            segment.synced = segment.written
        except OSError as error:
            segment.failure = str(error)
            raise
        finally:
            self._drop(segment)

    def _drop(self, segment: _Segment) -> None:
        """Closes a segment, which lets go of its lock."""
        if segment.descriptor is not None:
            os.close(segment.descriptor)
            segment.descriptor = None
        if self._segment is segment:
            self._segment = None

    def _take_back(self, segment: _Segment) -> None:
        """Cuts off a half-written record; where that fails too, the segment is given up."""
        assert segment.descriptor is not None
        try:
            self._disk.truncate(segment.descriptor, segment.written)
        except OSError as error:
            segment.failure = str(error)
            self._drop(segment)

    def _new_segment(self) -> int:
        """Creates and locks a file before it gets the name by which compaction finds it."""
        start = int(self._wall())
        suffix = f"{os.getpid()}-{uuid.uuid4().hex[:8]}"
        name = event_segments.segment_name(self._name, start, self._store, suffix)
        self.names.add(name.partition("-")[2])
        temporary = self._directory / f".{name}.tmp"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        descriptor = os.open(temporary, flags, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            temporary.rename(self._directory / name)
            files.fsync_directory(self._directory)
        except OSError:
            os.close(descriptor)
            temporary.unlink(missing_ok=True)
            raise
        return descriptor


@contextlib.contextmanager
def _explained(path: pathlib.Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        message = f"the event log in {path} cannot be written: {error}."
        raise errors.EventLogError(message) from error
