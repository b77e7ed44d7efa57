"""Raw logs in an object store, beside a directory of this machine that is written first.

Events are durable on this machine before they are acknowledged, and moved into tables there, as
with logs that are local; each file of a table, which never changes once it is there, is then
written to the store, whole. So a store that is out of reach delays what the next training reads,
and nothing else. What is in the store already is remembered in ``.stored``; when that is lost, a
file with the same name in the store is the same file.

At the start the directory gets what the store has and it lacks, of the last days, since an empty
history store is filled from there, and popularity.
"""

import contextlib
import fcntl
import pathlib
import threading
from collections.abc import Iterator

from absl import logging

from features import command
from features.durations import DAY_S
from features.stores import cache, directories, door, locations, objects
from features.stores.clients import ConflictError, Meta
from features.stores.locations import Location

_STORED = ".stored"
_PARTITION = "date="
PERIOD_S = 15.0


class StoredLogs:
    """A directory of logs and its place in a store. For one process at a time.

    Attributes:
        directory: Directory of this machine.
    """

    def __init__(self, url: str, directory: pathlib.Path) -> None:
        """Takes the directory.

        Raises:
            InputError: It belongs to other logs, or cannot be written.
        """
        self.directory = directory
        self._location: Location = locations.parse(url)
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._log = (directory / _STORED).open("a+")
        except OSError as error:
            raise command.InputError(f"{directory} cannot be written: {error}.") from None
        try:
            self._stored = self._claim()
        except BaseException:
            self._log.close()
            raise
        door.stands_for(directory, self._location)

    def _claim(self) -> set[str]:
        """Locks the directory for this process; returns what the store has of it."""
        try:
            fcntl.flock(self._log, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise command.InputError(
                f"{self.directory} is in use by another process: give each server a directory of "
                "its own."
            ) from None
        self._log.seek(0)
        place, *names = self._log.read().splitlines() or [""]
        if not place:
            self._log.write(f"{self._location}\n")
        elif place != str(self._location):
            raise command.InputError(
                f"{self.directory} holds events of {place}, not of {self._location}: give a "
                "directory of its own."
            )
        return set(names)

    def pull(self, *, from_s: int | None = None) -> None:
        """Copies what the store has and the directory lacks.

        Args:
            from_s: Start of the first day of events to copy, Unix seconds; None for all.
        """
        prefix = f"{self._location.key}/" if self._location.key else ""
        first = "" if from_s is None else command.format_time(from_s)[:10]
        bucket = objects.at(self._location)
        for meta in bucket.list(prefix):
            name = meta.key.removeprefix(prefix)
            parts = name.split("/")
            date = parts[1].removeprefix(_PARTITION) if len(parts) > 2 else ""
            is_old = parts[0] != "" and len(parts) > 2 and date[:1].isdigit() and date < first
            if is_old or any(part[:1] in {"", "."} for part in parts):
                continue
            if not (self.directory / name).exists():
                self._copy(meta, name)
            if name not in self._stored:
                self._remember(name)

    def _copy(self, meta: Meta, name: str) -> None:
        bucket = objects.at(self._location)
        blob = cache.blob(self._location, meta)
        cache.add(
            blob,
            meta.size,
            lambda new: bucket.download(meta, new),
            modified_ns=int(meta.modified_s * 1e9),
        )
        cache.put_in_place(blob, self.directory / name)

    def push(self) -> int:
        """Writes what the store lacks; returns how many files that were."""
        bucket = objects.at(self._location)
        written = 0
        for name, path in directories.files_of(self.directory).items():
            if name in self._stored or path.suffix != ".parquet":
                continue
            try:
                bucket.write((self._location / name).key, path, mode="create")
            except ConflictError:
                stored = bucket.head((self._location / name).key)
                if stored is None or stored.size != path.stat().st_size:
                    logging.error("%s is in the store with other content; kept here.", path)
            self._remember(name)
            written += 1
        return written

    def _remember(self, name: str) -> None:
        self._log.write(f"{name}\n")
        self._log.flush()
        self._stored.add(name)

    def close(self) -> None:
        """Lets go of the directory."""
        self._log.close()


@contextlib.contextmanager
def synced(
    url: str, directory: pathlib.Path, *, now_s: float, days: int, period_s: float = PERIOD_S
) -> Iterator[pathlib.Path]:
    """Gives a directory of logs whose tables go to a store during the block, and at its end.

    Args:
        url: Logs in a store.
        directory: Directory of this machine, which lasts.
        now_s: Time now, Unix seconds.
        days: Number of days of events to copy at the start.
        period_s: Seconds between two looks at what is new.

    Raises:
        InputError: The directory or the store cannot be used.
    """
    directory.mkdir(parents=True, exist_ok=True)
    logs = StoredLogs(url, directory)
    logs.pull(from_s=int(now_s) - days * DAY_S)
    stop = threading.Event()

    def follow() -> None:
        while not stop.wait(period_s):
            _pushed(logs)

    thread = threading.Thread(target=follow, name="logs-to-store", daemon=True)
    thread.start()
    try:
        yield directory
    finally:
        stop.set()
        thread.join()
        _pushed(logs)
        logs.close()


def _pushed(logs: StoredLogs) -> None:
    try:
        written = logs.push()
        if written:
            logging.info("Wrote %d files of events to the store.", written)
    except (command.InputError, OSError) as error:
        # They are safe on this machine; the next look tries again.
        logging.error("Events wait on this machine, in %s: %s", logs.directory, error)
