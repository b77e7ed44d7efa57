r"""Events of Kafka's topics -> the event log of the raw logs, each exactly once.

    python -m pipeline.follow_kafka --brokers=HOST:9092 --topics=events --logs=logs
    python -m pipeline.follow_kafka --brokers=HOST:9092 --logs=logs --until_caught_up \
        --topics=plays=watch,searches=search --fields=video_id=item.id,time=at_ms --time_unit=ms

A message says what ``POST /v1/events`` takes: ``event_id``, ``type``, ``user_id``, ``time``,
``video_id`` and so on. One that holds no such event is kept aside and counted. Offsets are
committed when the events are durable; a process that was killed goes on where it stopped. It
follows until SIGTERM or Ctrl-C, and waits for brokers that are gone.
"""

import contextlib
import pathlib
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence

from absl import flags

from features import command, config_flags
from features.stores import locations
from pipeline.kafka import reading as reading_settings
from serving.events import stored_logs

_BROKERS = flags.DEFINE_string("brokers", None, "HOST:PORT of brokers, with commas.", required=True)
_TOPICS = flags.DEFINE_list(
    "topics",
    None,
    "Topics; TOPIC=watch (or search, click, impression) where all events of one are of that type.",
    required=True,
)
_LOGS = config_flags.path("logs", "itself", "Raw logs to add events to.", required=True)
_STATE = flags.DEFINE_string(
    "state",
    None,
    "Where --logs are in an object store: directory on this machine, of this process alone, that "
    "keeps events until they are there. Must outlive the process.",
)
_GROUP = flags.DEFINE_string("group", "watchnext", "Group of consumers; members share partitions.")
_FORMAT = flags.DEFINE_enum(
    "format",
    reading_settings.JSON,
    reading_settings.FORMATS,
    "Form of the messages; avro_registry has a schema registry's five bytes before the record.",
)
_AVRO_SCHEMA = config_flags.path(
    "avro_schema", "reads", "File with the Avro schema that messages are written with."
)
_FIELDS = flags.DEFINE_list(
    "fields", [], "Names in the messages that differ from ours: video_id=item.id,time=at_ms."
)
_TIME_UNIT = flags.DEFINE_enum("time_unit", "s", list(reading_settings.UNITS), "Unit of the time.")
_SETTINGS = config_flags.path(
    "settings",
    "reads",
    "File of lines name=value for Kafka's client (librdkafka), such as security.protocol, "
    "sasl.username and sasl.password.",
)
_UNTIL_CAUGHT_UP = flags.DEFINE_bool(
    "until_caught_up", False, "Ends when it has what the topics had at the start."
)
_WAIT_S = flags.DEFINE_float("wait_s", 60.0, "How long brokers may not answer at the start.", 0.0)
_COMPACTION_S = flags.DEFINE_float(
    "compaction_s", 300.0, "Seconds between two moves of events into the tables.", 0.1
)


def main() -> None:
    """Turns flags into a source, and follows it."""
    from pipeline.kafka import following

    reading = reading_settings.Reading(
        kinds=_pairs(_TOPICS.value, "--topics", one_is_enough=True),
        format=_FORMAT.value,
        avro_schema=pathlib.Path(_AVRO_SCHEMA.value) if _AVRO_SCHEMA.value else None,
        fields=_pairs(_FIELDS.value, "--fields"),
        time_unit=_TIME_UNIT.value,
    )
    source = following.Source(
        brokers=_BROKERS.value,
        group=_GROUP.value,
        settings=following.read_settings(
            pathlib.Path(_SETTINGS.value) if _SETTINGS.value else None
        ),
        reading=reading,
        wait_s=_WAIT_S.value,
    )
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    with contextlib.ExitStack() as stack:
        logs_dir = _logs_dir(stack)
        follower = stack.enter_context(
            following.Follower(source, logs_dir, compaction_period_s=_COMPACTION_S.value)
        )
        counts = follower.run(until_caught_up=_UNTIL_CAUGHT_UP.value, is_stopped=stop.is_set)
    rows = ", ".join(f"{n:,} {table}" for table, n in sorted(counts.rows.items())) or "none yet"
    sys.stdout.write(
        f"Read {counts.messages:,} messages: {counts.events:,} events, {counts.dead:,} that hold "
        f"none. Moved into the tables of {_LOGS.value}: {rows}.\n"
    )


def _logs_dir(stack: contextlib.ExitStack) -> pathlib.Path:
    """Returns the directory of this machine that events are written to."""
    if not locations.is_remote(_LOGS.value):
        return pathlib.Path(_LOGS.value)
    if not _STATE.value:
        raise command.InputError(
            f"--logs={_LOGS.value} needs --state=DIRECTORY: events are kept there until they are "
            "in the store. It must be on a disk of this machine and outlive the process."
        )
    # Only what is appended matters here, and the users that are known.
    return stack.enter_context(
        stored_logs.synced(
            _LOGS.value, pathlib.Path(_STATE.value) / "logs", now_s=time.time(), days=0
        )
    )


def _pairs(given: Sequence[str], flag: str, *, one_is_enough: bool = False) -> Mapping[str, str]:
    pairs = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not name or not (value or (one_is_enough and not equals)):
            raise command.InputError(f"{flag} must be NAME=VALUE with commas, got {text!r}.")
        pairs[name] = value
    return pairs


if __name__ == "__main__":
    command.run(main)
