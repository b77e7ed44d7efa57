"""How far topics were read, and messages that held no event; both beside the event log.

    <logs>/.event_log/kafka-<group>.json          next offset by topic and partition
    <logs>/.event_log/kafka-<group>.member        name of the follower here; locked while it lives
    <logs>/.event_log/dead-letters-<group>.ndjson one line a message: where, why, its bytes

Kafka's own offsets are committed after both are durable. They can be lost (a group that rested for
a week is forgotten), and committing them can fail; what stands here is what the log has.
"""

import base64
import fcntl
import json
import os
import pathlib
import re
import uuid
from collections.abc import Mapping, Sequence

from features import command, files
from serving.events import segments

Partition = tuple[str, int]


class Progress:
    """Positions of one group of consumers in one directory of logs.

    Attributes:
        member: Name of the follower of this directory, the same after each restart: Kafka then
            gives it its partitions back at once.
        dead_letters: File of messages that held no event.
    """

    def __init__(self, logs_dir: pathlib.Path, group: str) -> None:
        """Reads what earlier processes wrote.

        Raises:
            InputError: It is damaged, or in use; or the group's name is no file name.
        """
        if not re.fullmatch(r"[\w.-]{1,100}", group):
            raise command.InputError(f"--group must be of letters, digits, . _ -, got {group!r}.")
        directory = logs_dir / segments.DIRECTORY
        directory.mkdir(parents=True, exist_ok=True)
        self._path = directory / f"kafka-{group}.json"
        self.dead_letters = directory / f"dead-letters-{group}.ndjson"
        self._lock = (directory / f"kafka-{group}.member").open("a+")
        try:
            self.member = self._claim(logs_dir, group)
            self._next = self._read()
            self._lettered = self._mend()
        except BaseException:
            self.close()
            raise

    def next(self, partition: Partition) -> int | None:
        """Returns the first offset that the log lacks; None where nothing is known."""
        return self._next.get(partition)

    def bury(self, letters: Sequence[Mapping[str, object]]) -> int:
        """Keeps messages that held no event, durably, each once; returns how many were new."""
        new = []
        for letter in letters:
            partition = str(letter["topic"]), int(str(letter["partition"]))
            offset = int(str(letter["offset"]))
            if offset > self._lettered.get(partition, -1):
                self._lettered[partition] = offset
                new.append(json.dumps(letter))
        if new:
            with self.dead_letters.open("a") as file:
                file.write("".join(f"{line}\n" for line in new))
                file.flush()
                os.fsync(file.fileno())
        return len(new)

    def reached(self, positions: Mapping[Partition, int]) -> None:
        """Writes down that the log has everything before these offsets."""
        self._next.update(positions)
        rows = [[topic, number, at] for (topic, number), at in sorted(self._next.items())]
        files.atomic_write(self._path, json.dumps(rows) + "\n")

    def close(self) -> None:
        """Lets the next follower in."""
        self._lock.close()

    def _read(self) -> dict[Partition, int]:
        if not self._path.exists():
            return {}
        try:
            rows = json.loads(self._path.read_text())
            return {(topic, int(number)): int(offset) for topic, number, offset in rows}
        except (ValueError, TypeError) as error:
            raise command.InputError(
                f"{self._path} is damaged ({error}). Remove it to go on from the offsets that are "
                "committed in Kafka."
            ) from None

    def _claim(self, logs_dir: pathlib.Path, group: str) -> str:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise command.InputError(
                f"another process follows group {group} into {logs_dir}. Stop it; or give this one "
                "logs (in an object store: --state) of its own, then the two share the partitions."
            ) from None
        self._lock.seek(0)
        member = self._lock.read().strip()
        if not member:
            member = f"watchnext-{uuid.uuid4().hex}"
            self._lock.write(member)
            self._lock.flush()
        return member

    def _mend(self) -> dict[Partition, int]:
        """Cuts off half a line of a killed process; returns the last letter of each partition."""
        if not self.dead_letters.exists():
            return {}
        content = self.dead_letters.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            files.atomic_write(self.dead_letters, whole)
        last: dict[Partition, int] = {}
        for line in whole.splitlines():
            letter = json.loads(line)
            partition = letter["topic"], letter["partition"]
            last[partition] = max(letter["offset"], last.get(partition, -1))
        return last


def letter(
    topic: str, partition: int, offset: int, *, reason: str, value: bytes | None, at_s: int
) -> dict[str, object]:
    """Returns what is kept of a message that held no event."""
    return {
        "topic": topic,
        "partition": partition,
        "offset": offset,
        "at": command.format_time(at_s),
        "reason": reason,
        "value": None if value is None else base64.b64encode(value).decode(),
    }
