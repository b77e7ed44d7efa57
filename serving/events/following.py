"""What other processes append to the event log of one directory, read as it comes.

A segment is known by its name without the stream, which stays the same when compaction turns
events into evidence. How far each was read is remembered, so nothing is read twice, whatever
compaction moves meanwhile; and what it removed was ripe, so it had been read long before.
"""

import contextlib
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

from absl import logging

from serving.events import segments as event_segments

_HELD = f"-{event_segments.HELD}-"


class Follower:
    """Reads what is new since the last call. For one thread.

    Attributes:
        damaged: Lines that were no records, so far; each was left out, and named in the log.
    """

    def __init__(
        self, logs_dir: str | os.PathLike[str], *, is_own: Callable[[str], bool] = lambda _: False
    ) -> None:
        """Starts before the first record that the tables of the logs do not have.

        Args:
            logs_dir: Raw logs with an event log inside.
            is_own: Function that tells whether this process wrote the segment of this name, so
                knows its content.
        """
        self.damaged = 0
        self._directory = pathlib.Path(logs_dir) / event_segments.DIRECTORY
        self._is_own = is_own
        self._is_first = True
        self._read: dict[str, int] = {}  # Bytes, by name without stream.
        self._listed: set[str] = set()

    @contextlib.contextmanager
    def new_records(self) -> Iterator[list[dict[str, Any]]]:
        """Yields what was appended by others; the first time, all that waits for compaction.

        Exact where no compaction runs during the first call. What is yielded counts as read when
        the block succeeds: a block that fails is given it again.
        """
        records: list[dict[str, Any]] = []
        read = dict(self._read)
        names = set()
        for path in sorted(self._directory.glob("*.jsonl")):
            stream, _, name = path.name.partition("-")
            names.add(name)
            if self._is_own(path.name) and not self._is_first:
                continue
            start = read.get(name, 0)
            try:
                size = path.stat().st_size
                if name not in read and not self._is_news(stream, name):
                    read[name] = size
                    continue
                content = _from(path, start, size)
            except FileNotFoundError:  # Renamed or removed just now: the next call finds it.
                continue
            # Smaller: a write that failed was taken back.
            read[name] = start + len(content) if size > start else size
            records.extend(self._records(path, content))
        # A name may hide from one listing, while it is renamed.
        for name in read.keys() - names - self._listed:
            del read[name]
        yield records
        self._read, self._listed, self._is_first = read, names, False

    def _is_news(self, stream: str, name: str) -> bool:
        if self._is_first:
            return stream not in event_segments.IN_TABLES
        return _HELD not in name

    def _records(self, path: pathlib.Path, content: bytes) -> Iterator[dict[str, Any]]:
        for line in content.splitlines():
            record = event_segments.record_of(line)
            if record is None:
                self.damaged += 1
                logging.error("%s: a line is no record; it is left out: %r", path, line[:200])
            else:
                yield record


def _from(path: pathlib.Path, start: int, size: int) -> bytes:
    """Returns the whole lines between two places of a file."""
    if size <= start:
        return b""
    with path.open("rb") as file:
        file.seek(start)
        content = file.read(size - start)
    return content[: content.rfind(b"\n") + 1]
