"""What other processes record arrives once, whatever compaction does meanwhile."""

import collections
import dataclasses
import threading

import hypothesis
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import strategies as st

from features.catalogue import Catalogue
from serving.events import compaction
from serving.events.event import CLICK_WINDOW_S, Event, Kind, NewUser
from serving.events.following import Follower
from serving.events.log import EventLog
from serving.funnel import recorder
from serving.history.sqlite_store import SqliteHistoryStore
from serving.live.view import LiveView
from serving.servables.embedded import EmbeddedBackend
from serving.server.live_service import LiveParts

NOW = 1_700_000_000
STEPS = ("write", "shown", "other", "compact", "late", "follow")


def happened(number, kind=Kind.WATCH, user="u"):
    return Event(
        event_id=f"e{number}", kind=kind, user_id=user, time=NOW, video_id="v1", watch_time_s=9
    )


def news(follower):
    with follower.new_records() as records:
        return list(records)


def ids(records):
    return [record["event_id"] for record in records]


@hypothesis.settings(max_examples=30, deadline=None)
@hypothesis.given(st.lists(st.sampled_from(STEPS), max_size=25))
def test_each_record_of_others_comes_once(tmp_path_factory, steps):
    logs_dir = tmp_path_factory.mktemp("following")
    now = [float(NOW)]
    mine, others = (EventLog(logs_dir, wall=lambda: now[0]) for _ in range(2))
    others.append([happened("before")])
    others.compact()
    others.append([happened("waiting")])
    follower = Follower(logs_dir, is_own=mine.wrote)
    found, written = ids(news(follower)), ["waiting"]
    for number, step in enumerate(steps):
        if step == "write":
            mine.append([happened(number)])
        elif step == "other":
            others.append([happened(number)])
            written.append(str(number))
        elif step == "shown":
            others.append_page([happened(number, Kind.IMPRESSION)])
            written.append(str(number))
            found += ids(news(follower))  # Within half an hour there are many calls.
        elif step == "compact":
            others.compact()
        elif step == "late":
            found += ids(news(follower))
            now[0] += 2 * CLICK_WINDOW_S
            mine.compact()
        else:
            found += ids(news(follower))
    found += ids(news(follower))
    assert collections.Counter(found) == collections.Counter(f"e{name}" for name in written)
    assert news(follower) == []
    for log in (mine, others):
        log.close()


def test_a_half_written_line_is_read_when_it_is_whole(tmp_path):
    log = EventLog(tmp_path)
    log.append([happened(1)])
    follower = Follower(tmp_path)
    assert ids(news(follower)) == ["e1"]
    (path,) = (tmp_path / ".event_log").glob("events-*")
    with path.open("a") as file:
        file.write('{"kind":"watch","user_id":"u","video_id":"v","time":1,"event')
        file.flush()
        assert news(follower) == []
        file.write('_id":"e2"}\n')
    assert ids(news(follower)) == ["e2"]
    log.close()


def test_a_state_starts_between_compactions_and_counts_each_event_once(tmp_path):
    """What moved from one to the other while both are read would be missed, or count twice."""
    others = EventLog(tmp_path)
    others.append([NewUser(user_id="u", profile={"region": "de"}), happened(1)])
    parts = LiveParts(tmp_path, tmp_path, EmbeddedBackend(), clock=lambda: NOW + 60.0)
    starting = threading.Thread(target=parts.seed)
    with compaction.paused(tmp_path):
        starting.start()
        starting.join(0.2)
        assert starting.is_alive()
    starting.join()
    # The first one again, as a client sends it that another server has not answered.
    others.append([happened(1), happened(2)])
    others.compact()
    parts.follow()
    parts.follow()
    parts.state.apply([happened(2), happened(3)])
    catalogue = Catalogue(pa.table({"video_id": ["v1"], "upload_time": pa.array([0], pa.int64())}))
    columns = LiveView(parts.state, catalogue).columns(np.array([0]), np.array([NOW + 120]))
    assert columns["video_live_watches_10m"].tolist() == [3]
    others.close()


def test_block_that_fails_is_given_its_records_again(tmp_path):
    log = EventLog(tmp_path)
    follower = Follower(tmp_path)
    assert news(follower) == []
    log.append([happened(1)])
    for _ in range(2):
        with pytest.raises(RuntimeError, match="no room"), follower.new_records() as records:
            assert ids(records) == ["e1"]
            raise RuntimeError("no room")
    assert ids(news(follower)) == ["e1"]
    assert news(follower) == []
    log.close()


def test_segment_that_goes_while_the_directory_is_read_loses_nothing_of_the_others(tmp_path):
    log = EventLog(tmp_path)
    follower = Follower(tmp_path)
    assert news(follower) == []
    directory = tmp_path / ".event_log"
    # In the listing, but gone: what compaction does between the two.
    for name in ("events-000000000000-1-a.jsonl", "pages-999999999999-1-z-held-1.jsonl"):
        (directory / name).symlink_to("gone")
    log.append([happened(1)])
    assert ids(news(follower)) == ["e1"]
    log.close()


# Each is no record, for a reason of its own.
DAMAGED = (
    b"[]",
    b"7",
    b"garbage",
    b"[" * 100_000,
    b"\xff\xfe",
    b'{"kind":"watch","user_id":"u","video_id":"v","time":1}',
    b'{"kind":"watch","user_id":"u","event_id":"x","time":1}',
    b'{"kind":"watch","user_id":"u","event_id":"x","video_id":"v"}',
    b'{"kind":"watch","user_id":7,"event_id":"x","video_id":"v","time":1}',
    b'{"kind":"watch","user_id":"u","event_id":"x","video_id":"v","time":"soon"}',
    b'{"kind":"watch","user_id":"u","event_id":"x","video_id":"v","time":1e30}',
    b'{"kind":"watch","user_id":"u","event_id":"x","video_id":"v","time":-1}',
    b'{"kind":"watch","user_id":"u","event_id":"x","video_id":"\\ud800","time":1}',
    b'{"kind":"watch","user_id":"u","event_id":"x","video_id":"v","time":1,"watch_time_s":"9"}',
    b'{"kind":"watch","user_id":"u","event_id":"x","video_id":"v","time":1,"watch_time_s":NaN}',
    b'{"kind":"search","user_id":"u","event_id":"x","time":1}',
    b'{"kind":"dance","user_id":"u","event_id":"x","video_id":"v","time":1}',
    b'{"user_id":"u","event_id":"x","video_id":"v","time":1}',
    b'{"kind":"user","profile":"{}"}',
    b'{"kind":"user","user_id":"n","profile":"[]"}',
    b'{"kind":"user","user_id":"n","profile":{}}',
)


@pytest.mark.parametrize("damaged", DAMAGED, ids=lambda line: line[:90].decode(errors="replace"))
def test_damaged_record_costs_itself_alone_whoever_reads_it(tmp_path, damaged):
    log = EventLog(tmp_path / "logs")
    follower = Follower(log.logs_dir)
    assert news(follower) == []
    log.append([happened(1)])
    (path,) = (log.logs_dir / ".event_log").glob("events-*")
    with path.open("ab") as file:
        file.write(damaged + b"\n")
    log.append([happened(2)])
    assert ids(news(follower)) == ["e1", "e2"]
    assert follower.damaged == 1
    history = SqliteHistoryStore(tmp_path / "history.sqlite")
    assert recorder.catch_up(history, log.logs_dir) == 2
    assert log.compact() == {"watches": 2}
    assert [p.read_bytes() for p in path.parent.glob("*.damaged")] == [damaged + b"\n"]
    log.close()
    history.close()


def test_events_of_another_clock_are_counted_and_change_nothing(tmp_path):
    """A host whose clock is a day ahead would make all that happens now look long gone."""
    others = EventLog(tmp_path)
    parts = LiveParts(tmp_path, tmp_path, EmbeddedBackend(), clock=lambda: NOW + 60.0)
    parts.seed()
    wrong = [
        dataclasses.replace(happened(number), time=time)
        for number, time in enumerate((NOW + 2 * 86400, 1, NOW - 31 * 86400))
    ]
    others.append([*wrong, happened("late", user="w")])
    parts.follow()
    assert parts.misdated == 3
    catalogue = Catalogue(pa.table({"video_id": ["v1"], "upload_time": pa.array([0], pa.int64())}))
    columns = LiveView(parts.state, catalogue).columns(np.array([0]), np.array([NOW + 120]))
    assert columns["video_live_watches_1d"].tolist() == [1]
    others.close()
