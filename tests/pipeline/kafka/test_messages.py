"""Messages of topics to events, in the forms that topics have."""

import io
import json
import pathlib

import pytest

from features import command
from pipeline.kafka.messages import BadMessageError, Reader
from pipeline.kafka.reading import Reading
from serving.events.event import Kind, NewUser

NOW = 1_800_000_000
WATCH = {
    "event_id": "e1",
    "type": "watch",
    "user_id": "u",
    "video_id": "v",
    "time": NOW - 5,
    "watch_time_s": 12.5,
}


def read(message, *, sent_s=None, **settings):
    reader = Reader(Reading(**{"kinds": {"t": ""}, **settings}))
    value = message if isinstance(message, bytes) else json.dumps(message).encode()
    return reader.events("t", value, sent_s=sent_s, now=NOW)


def test_a_message_of_our_own_form_is_the_event_that_the_api_would_make():
    (event,) = read(WATCH)
    assert (event.kind, event.event_id, event.user_id) == (Kind.WATCH, "e1", "u")
    assert (event.video_id, event.time, event.watch_time_s) == ("v", NOW - 5, 12.5)


def test_names_and_units_of_the_topic_are_understood():
    message = {"id": 7, "who": {"id": "u"}, "item": {"id": 9}, "at": (NOW - 5) * 1000 + 999, "s": 3}
    (event,) = read(
        message,
        kinds={"t": "watch"},
        fields={
            "event_id": "id",
            "user_id": "who.id",
            "video_id": "item.id",
            "time": "at",
            "watch_time_s": "s",
        },
        time_unit="ms",
    )
    assert (event.event_id, event.user_id, event.video_id) == ("7", "u", "9")
    assert (event.time, event.watch_time_s) == (NOW - 5, 3.0)


def test_without_a_time_it_is_that_of_the_message():
    timeless = {name: value for name, value in WATCH.items() if name != "time"}
    assert read(timeless, sent_s=NOW - 60)[0].time == NOW - 60
    assert read(timeless)[0].time == NOW


def test_what_is_said_of_a_user_comes_before_the_event():
    user, event = read({**WATCH, "user": {"region": "DE"}})
    assert user == NewUser(user_id="u", profile={"region": "DE"})
    assert event.event_id == "e1"


def test_fields_that_no_event_has_are_ignored_and_named_once(caplog):
    reader = Reader(Reading(kinds={"t": ""}))
    for _ in range(2):
        reader.events("t", json.dumps({**WATCH, "extra": 1}).encode(), sent_s=None, now=NOW)
    assert caplog.text.count("extra") == 1


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (b"no json", "it is no json"),
        (b"[1]", "no object but list"),
        ({**WATCH, "type": "like?"}, "type"),
        ({**WATCH, "watch_time_s": -1}, "watch_time_s"),
        ({**WATCH, "user_id": ""}, "user_id"),
        ({**WATCH, "time": NOW * 1000}, "time"),
        ({**WATCH, "time": NOW - 90 * 86_400}, "must not be before"),
        ({"event_id": "e"}, "user_id"),
    ],
)
def test_what_holds_no_event_says_why(message, said):
    with pytest.raises(BadMessageError, match=said):
        read(message)


def test_a_tombstone_holds_none():
    with pytest.raises(BadMessageError, match="tombstone"):
        Reader(Reading(kinds={"t": ""})).events("t", None, sent_s=None, now=NOW)


SCHEMA = {
    "type": "record",
    "name": "Watch",
    "fields": [
        {"name": "event_id", "type": "string"},
        {"name": "user_id", "type": "string"},
        {"name": "video_id", "type": "string"},
        {"name": "time", "type": "long"},
        {"name": "watch_time_s", "type": ["null", "float"], "default": None},
    ],
}


@pytest.fixture
def schema(tmp_path) -> pathlib.Path:
    (tmp_path / "watch.avsc").write_text(json.dumps(SCHEMA))
    return tmp_path / "watch.avsc"


def avro(record):
    fastavro = pytest.importorskip("fastavro")
    out = io.BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(SCHEMA), record)
    return out.getvalue()


def test_avro_is_read_with_and_without_a_registrys_bytes(schema):
    record = {name: value for name, value in WATCH.items() if name != "type"}
    for form, head in (("avro", b""), ("avro_registry", b"\0\0\0\0\7")):
        (event,) = read(head + avro(record), kinds={"t": "watch"}, format=form, avro_schema=schema)
        assert (event.video_id, event.watch_time_s) == ("v", 12.5)
    with pytest.raises(BadMessageError, match="registry"):
        read(b"\1" + avro(record), kinds={"t": "watch"}, format=form, avro_schema=schema)
    with pytest.raises(BadMessageError, match="another schema"):
        read(avro(record) + b"\0", kinds={"t": "watch"}, format="avro", avro_schema=schema)


def test_half_a_message_of_avro_is_none(schema):
    record = {name: value for name, value in WATCH.items() if name != "type"}
    with pytest.raises(BadMessageError, match="it is no avro"):
        read(avro(record)[:7], kinds={"t": "watch"}, format="avro", avro_schema=schema)


def test_settings_that_do_not_go_together_are_refused(tmp_path, schema):
    with pytest.raises(command.InputError, match="--avro_schema goes with"):
        Reading(kinds={}, format="avro")
    with pytest.raises(command.InputError, match="--fields names item"):
        Reader(Reading(kinds={}, fields={"item": "video_id"}))
    (tmp_path / "broken.avsc").write_text('{"type": "nothing"}')
    with pytest.raises(command.InputError, match="must be the Avro schema"):
        Reader(Reading(kinds={}, format="avro", avro_schema=tmp_path / "broken.avsc"))
