"""A real broker, and followers that are killed: each event is in the tables once.

``make kafka`` fetches the broker; the long form of the proof is WATCHNEXT_EVENTS=100000.
"""

import importlib.util
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time

import pytest

from features import command
from features.tables import logs
from pipeline.kafka.reading import Reading
from tests.pipeline.kafka.broker import KAFKA, Broker

EVENTS = int(os.environ.get("WATCHNEXT_EVENTS", "6000"))
KILLS = 3
_LIMIT_S = 300


@pytest.fixture(scope="module")
def broker(tmp_path_factory):
    lacking = KAFKA.missing()
    if not lacking and importlib.util.find_spec("confluent_kafka") is None:
        lacking = "pip install '.[kafka]'"
    if lacking:
        pytest.skip(f"missing part kafka: {lacking}")
    with Broker(tmp_path_factory.mktemp("kafka")) as started:
        yield started


def make_topic(broker, name, partitions=3):
    from confluent_kafka.admin import AdminClient, NewTopic

    admin = AdminClient({"bootstrap.servers": broker.address})
    admin.create_topics([NewTopic(name, partitions, 1)])[name].result(30)


def event(number, now):
    return {
        "event_id": f"e{number}",
        "type": "watch",
        "user_id": f"u{number % 97}",
        "video_id": f"v{number}",
        "time": now - 3600,
        "watch_time_s": 1.0,
    }


def send(broker, topic, messages):
    from confluent_kafka import Producer

    producer = Producer(
        {"bootstrap.servers": broker.address, "queue.buffering.max.messages": 1_000_000}
    )
    for number, message in enumerate(messages):
        producer.produce(topic, message, key=str(number % 7))
        if number % 1000 == 0:
            producer.poll(0)
    assert producer.flush(60) == 0


def line(broker, topic, directory, *flags):
    return [
        *(sys.executable, "-m", "pipeline.follow_kafka", f"--brokers={broker.address}"),
        *(f"--topics={topic}", f"--logs={directory}", "--until_caught_up", "--compaction_s=0.5"),
        *flags,
    ]


def follow(broker, topic, directory, *flags):
    return subprocess.run(
        line(broker, topic, directory, *flags),
        capture_output=True,
        text=True,
        timeout=_LIMIT_S,
        check=False,
    )


def watched(directory):
    return logs.read_table(directory, "watches")["video_id"].to_pylist()


def kill_while_it_reads(command_line, directory, *, after_s):
    """Kills a follower soon after it has written something."""
    reached = directory / ".event_log" / "kafka-watchnext.json"
    before = reached.read_text() if reached.exists() else ""
    with subprocess.Popen(command_line, stderr=subprocess.DEVNULL) as child:
        until = time.monotonic() + _LIMIT_S
        while child.poll() is None and time.monotonic() < until:
            segments = directory.glob(".event_log/events-*.jsonl")
            if any(path.stat().st_size for path in segments):
                break
            if reached.exists() and reached.read_text() != before:
                break
            time.sleep(0.005)
        time.sleep(after_s)
        child.send_signal(signal.SIGKILL)


def test_each_event_is_there_once_though_followers_are_killed(broker, tmp_path):
    now = int(time.time())
    make_topic(broker, "plays")
    messages = []
    for number in range(EVENTS):
        messages.append(json.dumps(event(number, now)).encode())
        if number % 10 == 0:
            messages.append(messages[-1])  # A producer that tried again.
        if number % 1000 == 500:
            messages.append(b"garbage %d" % number)
    send(broker, "plays", messages)
    directory = tmp_path / "logs"
    moments = random.Random(5)
    for _ in range(KILLS):
        kill_while_it_reads(
            line(broker, "plays", directory), directory, after_s=moments.random() * 0.2
        )
    done = follow(broker, "plays", directory)
    assert done.returncode == 0, done.stderr
    found = watched(directory)
    assert len(found) == EVENTS
    assert set(found) == {f"v{number}" for number in range(EVENTS)}
    letters = (directory / ".event_log" / "dead-letters-watchnext.ndjson").read_text().splitlines()
    assert len(letters) == sum(1 for message in messages if message.startswith(b"garbage"))
    assert "it is no json" in json.loads(letters[0])["reason"]
    again = follow(broker, "plays", directory)
    assert again.stdout.startswith("Read 0 messages")


def test_what_the_log_has_is_not_read_again_though_kafka_forgot_the_group(broker, tmp_path):
    now = int(time.time())
    make_topic(broker, "forgotten", 1)
    send(broker, "forgotten", [json.dumps(event(n, now)).encode() for n in range(50)])
    assert follow(broker, "forgotten", tmp_path / "logs", "--group=lost").returncode == 0
    log = tmp_path / "logs" / ".event_log"
    # A group that Kafka does not know, with what the other one had read.
    (log / "kafka-lost.json").rename(log / "kafka-unknown.json")
    for path in log.glob("keys-*"):
        path.unlink()  # As after a day.
    done = follow(broker, "forgotten", tmp_path / "logs", "--group=unknown")
    assert done.stdout.startswith("Read 0 messages"), done.stdout + done.stderr
    assert len(watched(tmp_path / "logs")) == 50


def test_a_broker_that_goes_is_waited_for(broker, tmp_path):
    now = int(time.time())
    make_topic(broker, "away", 1)
    send(broker, "away", [json.dumps(event(n, now)).encode() for n in range(10)])
    flags = line(broker, "away", tmp_path / "logs", "--group=away")
    flags.remove("--until_caught_up")
    with subprocess.Popen(
        flags, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        until = time.monotonic() + _LIMIT_S
        reached = tmp_path / "logs" / ".event_log" / "kafka-away.json"
        while not reached.exists():
            assert child.poll() is None and time.monotonic() < until
            time.sleep(0.05)
        broker.stop(signal.SIGKILL)
        time.sleep(1)
        broker.start()
        send(broker, "away", [json.dumps(event(n, now)).encode() for n in range(10, 20)])
        while json.loads(reached.read_text())[0][2] < 20:
            assert child.poll() is None and time.monotonic() < until
            time.sleep(0.05)
        child.terminate()
        said, errors = child.communicate(timeout=_LIMIT_S)
    assert child.returncode == 0, errors
    assert "Going on as soon as it answers" in errors
    assert "20 events" in said
    assert sorted(watched(tmp_path / "logs")) == sorted(f"v{n}" for n in range(20))


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--topics=nowhere"], "there is no topic nowhere"),
        (["--topics=a==b", "--fields=x"], "--fields must be NAME=VALUE"),
        (["--settings=SETTINGS"], "Kafka's client refuses its settings"),
    ],
)
def test_what_cannot_be_followed_is_one_message(broker, tmp_path, flags, said):
    (tmp_path / "settings").write_text("# wrong\nno.such.setting=1\n")
    flags = [flag.replace("SETTINGS", str(tmp_path / "settings")) for flag in flags]
    done = follow(broker, "plays", tmp_path / "logs", *flags)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "logs" / "watches").exists()


def test_a_broker_that_never_answers_is_given_up(tmp_path):
    pytest.importorskip("confluent_kafka")
    from pipeline.kafka import following

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        source = following.Source(
            brokers=f"127.0.0.1:{taken.getsockname()[1]}",
            group="g",
            settings={},
            reading=Reading(kinds={"t": ""}),
            wait_s=0.0,
        )
        with pytest.raises(command.InputError, match="no broker of --brokers=.* answers"):
            following.Follower(source, tmp_path)
    # What was opened is let go of: another can follow.
    with pytest.raises(command.InputError, match="no broker"):
        following.Follower(source, tmp_path)
