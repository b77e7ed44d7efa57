"""Messages of a topic to events: JSON or Avro, names and units as the topic has them.

What a message may say, and what it must, is what ``POST /v1/events`` takes
(:class:`serving.server.schema.EventIn`): both ways into the event log have one rule. Fields that
it does not know are ignored, since a topic is written for others too.
"""

import io
import json
from collections.abc import Callable, Mapping
from typing import Any

import pydantic
from absl import logging

from features import command
from pipeline.kafka.reading import AVRO_REGISTRY, UNITS, Reading
from serving import errors
from serving.events.event import Event, NewUser
from serving.server import answers
from serving.server.schema import EventIn

# A zero byte and the number of a schema, before what a registry's serialisers write.
_REGISTRY_BYTES = 5
_KNOWN = frozenset(EventIn.model_fields)


class BadMessageError(ValueError):
    """A message that holds no event; the text says why."""


class Reader:
    """Turns messages into events."""

    def __init__(self, reading: Reading) -> None:
        """Reads the schema.

        Raises:
            InputError: There is none that Avro can read, or Avro is not installed; a field is
                given another name that no event has.
        """
        unknown = sorted(set(reading.fields) - _KNOWN)
        if unknown:
            raise command.InputError(
                f"--fields names {', '.join(unknown)}; an event has {', '.join(sorted(_KNOWN))}."
            )
        self._reading = reading
        self._decode = _decoder(reading)
        self._ignored: set[str] = set()

    def events(
        self, topic: str, value: bytes | None, *, sent_s: int | None, now: int
    ) -> list[Event | NewUser]:
        """Returns the event of a message, after what it says of its user.

        Args:
            topic: Topic of the message.
            value: Content of the message.
            sent_s: Time of the message, Unix seconds; that of the event where it names none.
            now: Clock of the machine, Unix seconds.

        Raises:
            BadMessageError: It holds no event.
        """
        if value is None:
            raise BadMessageError("it is empty (a tombstone)")
        try:
            decoded = self._decode(value)
        except Exception as error:  # Whatever a decoder of foreign bytes finds.
            raise BadMessageError(f"it is no {self._reading.format}: {error}") from None
        if not isinstance(decoded, dict):
            raise BadMessageError(f"it is no object but {type(decoded).__name__}")
        try:
            reported = EventIn.model_validate(self._named(topic, decoded, sent_s=sent_s))
            event = answers.event_of(reported, now=now)
        except pydantic.ValidationError as error:
            faults = (f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()[:3])
            raise BadMessageError("; ".join(faults)) from None
        except (errors.InvalidRequestError, ValueError) as error:
            raise BadMessageError(str(error)) from None
        if reported.user is None:
            return [event]
        return [NewUser(user_id=event.user_id, profile=reported.user.known()), event]

    def _named(
        self, topic: str, decoded: Mapping[str, Any], *, sent_s: int | None
    ) -> dict[str, Any]:
        """Returns what a message says under our names."""
        elsewhere = self._reading.fields
        used = {path.partition(".")[0] for path in elsewhere.values()}
        unknown = set(decoded) - _KNOWN - used - self._ignored
        if unknown:
            self._ignored |= unknown
            logging.warning("Messages of %s have %s, which is ignored.", topic, sorted(unknown))
        named = {name: decoded.get(name) for name in _KNOWN if name not in elsewhere}
        named |= {name: _at(decoded, path) for name, path in elsewhere.items()}
        named = {name: value for name, value in named.items() if value is not None}
        if self._reading.kinds.get(topic):
            named["type"] = self._reading.kinds[topic]
        time = named.get("time")
        if isinstance(time, int | float) and not isinstance(time, bool):
            named["time"] = int(time // UNITS[self._reading.time_unit])
        elif time is None and sent_s is not None:
            named["time"] = sent_s
        return named


def _at(value: Any, path: str) -> Any:
    for name in path.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _decoder(reading: Reading) -> Callable[[bytes], Any]:
    if reading.avro_schema is None:
        return json.loads
    try:
        import fastavro
    except ImportError:
        raise command.InputError(
            "Avro needs an extra that is not installed: pip install '.[kafka]' in the checkout."
        ) from None
    try:
        schema = fastavro.parse_schema(json.loads(reading.avro_schema.read_text()))
    except (OSError, ValueError, KeyError, fastavro.schema.SchemaParseException) as error:
        raise command.InputError(
            f"--avro_schema={reading.avro_schema} must be the Avro schema of the messages, as "
            f"JSON: {error}"
        ) from None
    skipped = _REGISTRY_BYTES if reading.format == AVRO_REGISTRY else 0

    def decode(value: bytes) -> Any:
        if skipped and (len(value) < skipped or value[0] != 0):
            raise ValueError("it does not begin as a registry's serialiser writes")
        stream = io.BytesIO(value[skipped:])
        decoded = fastavro.schemaless_reader(stream, schema, schema)
        if stream.read(1):
            raise ValueError("it goes on after the record: it has another schema")
        return decoded

    return decode
