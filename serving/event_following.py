"""What other processes append to the event log of one directory, read as it comes.

A segment is known by its name without the stream, which stays the same when compaction turns
events into evidence. How far each was read is remembered, so nothing is read twice, whatever
compaction moves meanwhile; and what it removed was ripe, so it had been read long before.
"""

import contextlib
import json
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

from serving import event_segments

_HELD = "-held-"  # Impressions that compaction put back: other segments had them before.


class Follower:
    """Reads what is new since the last call. For one thread."""

    def __init__(
        self, logs_dir: str | os.PathLike[str], *, is_own: Callable[[str], bool] = lambda _: False
    ) -> None:
        """Starts before the first record that the tables of the logs do not have.

        Args:
            logs_dir: Raw logs with an event log inside.
            is_own: Whether this process wrote the segment of this name, so knows its content.
        """
        self._directory = pathlib.Path(logs_dir) / event_segments.DIRECTORY
        self._is_own = is_own
        self._is_first = True
        self._read: dict[str, int] = {}  # Bytes, by name without stream.
        self._listed: set[str] = set()

    def new_records(self) -> list[dict[str, Any]]:
        """Returns what was appended by others; the first time, all that waits for compaction.

        Exact where no compaction runs during the first call.
        """
        records: list[dict[str, Any]] = []
        names = set()
        for path in sorted(self._directory.glob("*.jsonl")):
            stream, _, name = path.name.partition("-")
            names.add(name)
            if self._is_own(path.name) and not self._is_first:
                continue
            if name not in self._read and not self._is_news(stream, name):
                self._read[name] = path.stat().st_size
                continue
            records.extend(self._rest_of(path, name))
        # A name may hide from one listing, while it is renamed.
        for name in self._read.keys() - names - self._listed:
            del self._read[name]
        self._listed = names
        self._is_first = False
        return records

    def _is_news(self, stream: str, name: str) -> bool:
        if self._is_first:
            return stream != event_segments.EVIDENCE  # That is in the tables.
        return _HELD not in name

    def _rest_of(self, path: pathlib.Path, name: str) -> Iterator[dict[str, Any]]:
        start = self._read.get(name, 0)
        try:
            size = path.stat().st_size
            if size <= start:
                self._read[name] = size  # Smaller: a write that failed was taken back.
                return
            with path.open("rb") as file:
                file.seek(start)
                content = file.read(size - start)
        except FileNotFoundError:  # Renamed just now: the next call finds it.
            return
        content = content[: content.rfind(b"\n") + 1]
        self._read[name] = start + len(content)
        for line in content.splitlines():
            with contextlib.suppress(ValueError):  # Compaction names it and keeps it aside.
                record = json.loads(line)
                if isinstance(record, dict):
                    yield record
