"""Topics of events into the event log, exactly once.

A batch of messages is handled in this order: its events are made durable in the log; messages that
hold none are kept aside; how far it was read is written beside the log; the offsets are committed.
A process that is killed anywhere leaves at most a batch that is read again, and its events have
the same ids: the log's compaction drops what the tables have already, within a day by their keys,
and what was read before that by the position beside the log. Several followers of a group share
the partitions; each has what it read in the log of its own machine or in one they share.
"""

import dataclasses
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from absl import logging

from features import command
from pipeline.kafka import messages, progress
from pipeline.kafka.progress import Partition
from pipeline.kafka.reading import Reading
from serving.events.event import Event, NewUser
from serving.events.log import COMPACTION_PERIOD_S, EventLog

_BATCH = 5000
_POLL_S = 1.0
_SAY_EVERY_S = 10.0
_ASK_S = 5.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """Where events come from.

    Attributes:
        brokers: ``HOST:PORT``, several with commas.
        group: Name of the group of consumers.
        settings: Further settings of the client (librdkafka), such as those of TLS and SASL.
        reading: Topics, and how their messages are read.
        wait_s: How long brokers may not answer at the start, seconds.
    """

    brokers: str
    group: str
    settings: Mapping[str, str]
    reading: Reading
    wait_s: float = 60.0


@dataclasses.dataclass
class Counts:
    """What was read.

    Attributes:
        messages: Number of messages.
        events: Number of those that hold an event.
        dead: Number of those that hold none, each counted once.
        rows: Rows that were moved into the tables, by table.
    """

    messages: int = 0
    events: int = 0
    dead: int = 0
    rows: dict[str, int] = dataclasses.field(default_factory=dict)


class Follower:
    """Reads topics into the event log of a directory; a context manager, for one thread."""

    def __init__(
        self,
        source: Source,
        logs_dir: pathlib.Path,
        *,
        wall: Callable[[], float] = time.time,
        compaction_period_s: float = COMPACTION_PERIOD_S,
    ) -> None:
        """Opens the log and the topics.

        Args:
            source: Topics.
            logs_dir: Raw logs to add to.
            wall: Clock of the machine, Unix seconds.
            compaction_period_s: Seconds between two compactions.

        Raises:
            InputError: The client is not installed, refuses its settings, or no broker answers;
                a topic does not exist.
        """
        self._source = source
        self._logs_dir = logs_dir
        self._wall = wall
        self._reader = messages.Reader(source.reading)
        self._progress = progress.Progress(logs_dir, source.group)
        self._log = EventLog(logs_dir, wall=wall, bring=None)
        self._period_s = compaction_period_s
        self._due = time.monotonic() + compaction_period_s
        self._told = self._warned = 0.0
        self._refusal = ""
        self._at: dict[Partition, int] = {}  # Of what is assigned: read, or known to hold nothing.
        self.counts = Counts()
        try:
            self._consumer = self._open()
        except BaseException:
            self._log.close()
            self._progress.close()
            raise

    def __enter__(self) -> "Follower":
        return self

    def __exit__(self, *_: object) -> None:
        self._consumer.close()
        self._log.close()
        self._progress.close()

    def run(self, *, until_caught_up: bool, is_stopped: Callable[[], bool]) -> Counts:
        """Reads until it is told to stop, or until it has what the topics have now.

        Args:
            until_caught_up: Whether to stop at what the topics have now.
            is_stopped: Function that tells whether to stop.

        Raises:
            InputError: The brokers refuse for good, for example these credentials.
        """
        ends = self._ends() if until_caught_up else None
        while not is_stopped() and (ends is None or self._is_before(ends)):
            batch = self._consumer.consume(_BATCH, timeout=_POLL_S)
            if self._refusal:
                raise command.InputError(self._refusal)
            self._append(batch)
            self._say()
            if time.monotonic() >= self._due:
                self.compact()
        self.compact()
        return self.counts

    def compact(self) -> None:
        """Moves what is ripe into the tables; a history store gets it from what stays behind."""
        self._due = time.monotonic() + self._period_s
        for table, rows in self._log.compact().items():
            self.counts.rows[table] = self.counts.rows.get(table, 0) + rows

    def _append(self, batch: Sequence[Any]) -> None:
        """Makes a batch durable, then says so to Kafka."""
        records: list[Event | NewUser] = []
        letters: list[Mapping[str, object]] = []
        reached: dict[Partition, int] = {}
        now = int(self._wall())
        for message in batch:
            if self._is_event(message):
                self._read(message, now, records, letters)
                reached[message.topic(), message.partition()] = message.offset() + 1
        if not reached:
            return
        if records:
            self._log.append(records)
        buried = self._progress.bury(letters)
        if buried:
            self.counts.dead += buried
            logging.warning(
                "%d messages hold no event, the last because %s; they are in %s.",
                *(buried, letters[-1]["reason"], self._progress.dead_letters),
            )
        self._progress.reached(reached)
        self._at.update(reached)
        self._commit(reached)

    def _is_event(self, message: Any) -> bool:
        """Returns whether a message is one; else it tells of an error, or of an end."""
        import confluent_kafka as kafka

        error = message.error()
        if error is None:
            return True
        if error.code() == kafka.KafkaError._PARTITION_EOF:
            self._at[message.topic(), message.partition()] = message.offset()
        else:
            self._on_error(error)
        return False

    def _read(
        self,
        message: Any,
        now: int,
        records: list[Event | NewUser],
        letters: list[Mapping[str, object]],
    ) -> None:
        """Adds a message's event to the records, or the message to the dead letters."""
        kind, sent_ms = message.timestamp()
        sent_s = min(sent_ms // 1000, now) if kind else None
        value = message.value()
        self.counts.messages += 1
        try:
            records += self._reader.events(message.topic(), value, sent_s=sent_s, now=now)
            self.counts.events += 1
        except messages.BadMessageError as error:
            place = message.topic(), message.partition(), message.offset()
            letters.append(progress.letter(*place, reason=str(error), value=value, at_s=now))

    def _commit(self, reached: Mapping[Partition, int]) -> None:
        import confluent_kafka as kafka

        offsets = [kafka.TopicPartition(topic, n, at) for (topic, n), at in reached.items()]
        try:
            self._consumer.commit(offsets=offsets, asynchronous=False)
        except kafka.KafkaException as error:
            # What the log has is written beside it: nothing is read twice.
            logging.warning("Offsets could not be committed, and will be: %s", error.args[0])

    # ---- the client --------------------------------------------------------------------------

    def _open(self) -> Any:
        try:
            import confluent_kafka as kafka
        except ImportError:
            raise command.InputError(
                "Kafka needs an extra that is not installed: pip install '.[kafka]' in the "
                "checkout."
            ) from None
        settings = {
            "group.instance.id": self._progress.member,
            **self._source.settings,
            "bootstrap.servers": self._source.brokers,
            "group.id": self._source.group,
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "error_cb": self._on_error,
        }
        try:
            consumer = kafka.Consumer(settings, logger=_quiet())
        except (kafka.KafkaException, TypeError, ValueError) as error:
            raise command.InputError(f"Kafka's client refuses its settings: {error}") from None
        try:
            self._require_topics(consumer)
            consumer.subscribe(list(self._source.reading.kinds), on_assign=self._assigned)
        except BaseException:
            consumer.close()
            raise
        return consumer

    def _require_topics(self, consumer: Any) -> None:
        """Looks whether the topics are there."""
        topics = self._topics(consumer)
        missing = [t for t in self._source.reading.kinds if t not in topics or topics[t].error]
        if missing:
            have = sorted(name for name in topics if not name.startswith("__"))
            raise command.InputError(
                f"there is no topic {', '.join(missing)} at {self._source.brokers}; there are: "
                f"{', '.join(have[:20]) or 'none'}."
            )

    def _topics(self, consumer: Any) -> Mapping[str, Any]:
        """Returns the topics that there are; waits for a broker."""
        import confluent_kafka as kafka

        begun = time.monotonic()
        while True:
            try:
                return consumer.list_topics(timeout=_ASK_S).topics
            except kafka.KafkaException as error:
                consumer.poll(0)
                if self._refusal:
                    raise command.InputError(self._refusal) from None
                waited = time.monotonic() - begun
                if waited >= self._source.wait_s:
                    raise command.InputError(
                        f"no broker of --brokers={self._source.brokers} answers: "
                        f"{error.args[0].str()}. Given up after {waited:.0f} s (--wait_s)."
                    ) from None
                logging.warning(
                    "No broker of %s answers yet, after %.0f s.", self._source.brokers, waited
                )

    def _assigned(self, consumer: Any, partitions: Sequence[Any]) -> None:
        """Starts each partition behind what the log has of it."""
        committed = consumer.committed(list(partitions), timeout=30.0)
        for partition, known in zip(partitions, committed, strict=True):
            ours = self._progress.next((partition.topic, partition.partition))
            theirs = known.offset if known.offset >= 0 else None
            low, high = consumer.get_watermark_offsets(partition, timeout=30.0)
            if ours is not None and ours > high:
                logging.warning(
                    "%s/%d ends at %d, and %d was read: it was made anew. Reading all of it.",
                    *(partition.topic, partition.partition, high, ours),
                )
                ours, theirs = low, None
            start = max((at for at in (ours, theirs) if at is not None), default=low)
            if start < low:
                logging.error(
                    "%s/%d begins at %d: the broker removed %d messages before they were read.",
                    *(partition.topic, partition.partition, low, low - start),
                )
            partition.offset = max(start, low)
            self._at[partition.topic, partition.partition] = partition.offset
        consumer.assign(list(partitions))

    def _ends(self) -> dict[Partition, int]:
        import confluent_kafka as kafka

        topics = self._consumer.list_topics(timeout=30.0).topics
        ends = {}
        for topic in self._source.reading.kinds:
            for number in topics[topic].partitions:
                place = kafka.TopicPartition(topic, number)
                ends[topic, number] = self._consumer.get_watermark_offsets(place, timeout=30.0)[1]
        return ends

    def _is_before(self, ends: Mapping[Partition, int]) -> bool:
        """Returns whether something before these offsets was not read; others read their part."""
        return not self._at or any(ends.get(place, 0) > at for place, at in self._at.items())

    def _on_error(self, error: Any) -> None:
        """Notes a refusal for good; what passes is said now and then, as the client goes on."""
        import confluent_kafka as kafka

        code = error.code()
        refusals = (
            kafka.KafkaError._AUTHENTICATION,
            kafka.KafkaError.TOPIC_AUTHORIZATION_FAILED,
            kafka.KafkaError.GROUP_AUTHORIZATION_FAILED,
            kafka.KafkaError._SSL,
        )
        if code in refusals or error.fatal():
            self._refusal = (
                f"{self._source.brokers} refuses: {error.str()}. Check --settings and the rights "
                "of its user."
            )
        elif time.monotonic() > self._warned + _SAY_EVERY_S:
            self._warned = time.monotonic()
            logging.warning("Kafka: %s. Going on as soon as it answers.", error.str())

    def _say(self) -> None:
        if time.monotonic() > self._told + _SAY_EVERY_S:
            self._told = time.monotonic()
            c = self.counts
            logging.info("%d messages: %d events, %d dead.", c.messages, c.events, c.dead)


def _quiet() -> Any:
    """Returns a logger that keeps the client's own lines back: what matters is told as errors."""
    import logging as std_logging

    logger = std_logging.getLogger("librdkafka")
    logger.setLevel(std_logging.CRITICAL)
    return logger


def read_settings(path: pathlib.Path | None) -> dict[str, str]:
    """Returns the settings of a file of lines ``name=value``.

    Raises:
        InputError: It cannot be read, or a line is none.
    """
    if path is None:
        return {}
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise command.InputError(f"--settings={path} cannot be read: {error}.") from None
    settings = {}
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise command.InputError(f"--settings={path}, line {number}: must be name=value.")
        settings[name.strip()] = value.strip()
    return settings
