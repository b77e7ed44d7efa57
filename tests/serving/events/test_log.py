import dataclasses
import errno
import json
import os
import pathlib
import resource
import signal
import subprocess
import sys
import threading
import time

import pyarrow as pa
import pytest

from features.tables import logs
from serving import errors
from serving.events import attribution, compaction
from serving.events import keys as event_keys
from serving.events import segments as event_segments
from serving.events.event import CLICK_WINDOW_S, WATCH_WINDOW_S, Event, Kind, NewUser
from serving.events.log import Disk, EventLog

ROOT = pathlib.Path(__file__).resolve().parents[3]
T = 1_700_000_000


class Wall:
    """A clock that a test moves; it starts at the real time, like the times of files."""

    def __init__(self):
        self.now = time.time()

    def __call__(self):
        return self.now


@pytest.fixture
def wall():
    return Wall()


@pytest.fixture
def log(tmp_path, wall):
    opened = EventLog(tmp_path / "logs", wall=wall)
    yield opened
    opened.close()


def impression(video="v", page="p", at=T, user="u", **more):
    return Event(
        event_id=f"{page}/{video}",
        kind=Kind.IMPRESSION,
        user_id=user,
        time=at,
        video_id=video,
        page_id=page,
        position=0,
        surface="home",
        **more,
    )


def watch(event_id, video="v", at=T + 60, seconds=30.0, user="u", **more):
    return Event(
        event_id=event_id,
        kind=Kind.WATCH,
        user_id=user,
        time=at,
        video_id=video,
        watch_time_s=seconds,
        **more,
    )


def click(event_id, video="v", at=T + 50, user="u", **more):
    return Event(event_id=event_id, kind=Kind.CLICK, user_id=user, time=at, video_id=video, **more)


def rows(log, table):
    if table not in logs_there(log):
        return []
    return logs.read_table(log.logs_dir, table).to_pylist()


def logs_there(log):
    return {p.name for p in log.logs_dir.iterdir() if not p.name.startswith(".")}


def test_watches_and_searches_reach_the_tables_at_the_first_compaction(log):
    log.append(
        [
            watch("w1", completed=True, source="search", device="tv"),
            Event(
                event_id="s1", kind=Kind.SEARCH, user_id="u", time=T, query='cats "and" ünïcode\n'
            ),
        ]
    )
    assert log.compact() == {"watches": 1, "searches": 1}
    (row,) = rows(log, "watches")
    assert row == {
        "user_id": "u",
        "video_id": "v",
        "time": T + 60,
        "watch_time_s": 30.0,
        "completed": True,
        "source": "search",
        "device": "tv",
    }
    assert rows(log, "searches")[0]["query"] == 'cats "and" ünïcode\n'
    assert log.compact() == {}


def test_impression_waits_for_its_click_and_is_written_with_it(log, wall):
    log.append_page([impression("a"), impression("b")])
    wall.now += CLICK_WINDOW_S - 5
    log.append([watch("w", "a", seconds=42, page_id="p")])
    assert log.compact() == {"watches": 1}
    wall.now += 10
    assert log.compact() == {"impressions": 2}
    found = {r["video_id"]: (r["clicked"], r["watch_time_s"]) for r in rows(log, "impressions")}
    assert found == {"a": (True, 42.0), "b": (False, 0.0)}


def test_row_of_an_impression_tells_when_it_was_clicked(log):
    log.append_page([impression("a"), impression("b"), impression("c")])
    log.append([watch("w1", "a", at=T + 60, page_id="p"), click("c1", "a", at=T + 50)])
    log.append([watch("w2", "b", at=T + 70)])
    log.compact(flush=True)
    found = {row["video_id"]: row["click_time"] for row in rows(log, "impressions")}
    assert found == {"a": T + 50, "b": T + 70, "c": None}


def test_click_later_than_the_window_is_none_whenever_the_row_is_written(log):
    log.append_page([impression("a")])
    log.append([watch("w1", "a", at=T + CLICK_WINDOW_S + 1, page_id="p")])
    log.compact(flush=True)
    (row,) = rows(log, "impressions")
    assert (row["clicked"], row["watch_time_s"], row["click_time"]) == (False, 0.0, None)


def test_watch_of_a_younger_impression_that_still_waits_is_not_the_older_ones():
    def shown(at):
        columns = {"user_id": ["u"], "video_id": ["v"], "time": [at], "page_id": [str(at)]}
        more = {"surface": [""], "clicked": [False], "watch_time_s": [0.0]}
        return pa.table(columns | more)

    watched = pa.table(
        {
            "user_id": ["u"],
            "video_id": ["v"],
            "time": [T + 100],
            "page_id": [""],
            "source": [""],
            "watch_time_s": [5.0],
        }
    )
    younger = shown(T + 60)
    clicked, seconds, _ = attribution.attribute(shown(T), watched, beside=younger)
    assert (clicked.tolist(), seconds.tolist()) == ([False], [0.0])
    clicked, seconds, moment = attribution.attribute(shown(T), watched, beside=younger.slice(1))
    assert (clicked.tolist(), seconds.tolist(), moment.tolist()) == ([True], [5.0], [T + 100])


def test_served_impression_keeps_how_it_was_chosen(log):
    log.append_page(
        [
            impression(
                candidate_sources=("retrieval", "fresh"),
                retrieval_score=1.5,
                release_id="7",
                device="phone",
            )
        ]
    )
    log.compact(flush=True)
    (row,) = rows(log, "impressions")
    assert row["candidate_sources"] == ["retrieval", "fresh"]
    assert (row["retrieval_score"], row["release_id"], row["device"]) == (1.5, "7", "phone")
    assert (row["page_id"], row["position"], row["surface"]) == ("p", 0, "home")


def test_clicked_impression_waits_longer_for_its_watch(log, wall):
    log.append_page([impression("a"), impression("b")])
    log.append([click("c", "a", page_id="p")])
    wall.now += CLICK_WINDOW_S + 5
    assert log.compact() == {"impressions": 1}
    wall.now += 3600
    log.append([watch("w", "a", at=T + 5000, seconds=4000, page_id="p")])
    assert log.compact() == {"watches": 1, "impressions": 1}
    found = {r["video_id"]: (r["clicked"], r["watch_time_s"]) for r in rows(log, "impressions")}
    assert found == {"a": (True, 4000.0), "b": (False, 0.0)}


def test_clicked_impression_without_a_watch_is_written_in_the_end(log, wall):
    log.append_page([impression("a")])
    log.append([click("c", "a", page_id="p")])
    wall.now += WATCH_WINDOW_S + 5
    assert log.compact() == {"impressions": 1}
    assert rows(log, "impressions")[0]["clicked"] is True


def test_flush_writes_impressions_that_are_not_ripe(log):
    log.append_page([impression()])
    assert log.compact() == {}
    assert log.compact(flush=True) == {"impressions": 1}


def test_event_sent_twice_is_one_row_across_compactions(log):
    log.append([watch("w1"), watch("w1")])
    log.compact()
    log.append([watch("w1"), watch("w2")])
    log.compact()
    assert len(rows(log, "watches")) == 2


def test_same_event_id_of_another_user_is_another_event(log):
    log.append([watch("w1"), watch("w1", user="someone else")])
    assert log.compact() == {"watches": 2}


def test_impression_reported_by_the_client_for_a_served_page_is_the_same_impression(log):
    log.append_page([impression("a")])
    reported = Event(
        event_id="client", kind=Kind.IMPRESSION, user_id="u", time=T, video_id="a", page_id="p"
    )
    log.append([reported])
    assert log.compact(flush=True) == {"impressions": 1}


def test_old_evidence_is_removed(log, wall):
    log.append([watch("w1")])
    log.compact()
    directory = log.logs_dir / event_segments.DIRECTORY
    assert len(list(directory.glob("evidence-*"))) == 1
    wall.now += CLICK_WINDOW_S + 60
    log.compact()
    assert list(directory.glob("*.jsonl")) == []
    assert len(list(directory.glob("keys-*"))) == 1
    wall.now += event_keys.KEPT_S
    log.compact()
    assert list(directory.glob("keys-*")) == []


@pytest.mark.parametrize("later_s", [0, CLICK_WINDOW_S + 60, 23 * 3600])
def test_event_that_comes_again_within_a_day_is_one_row(log, wall, later_s):
    seen = impression("a", page="")
    log.append([watch("w1"), Event(event_id="s", kind=Kind.SEARCH, user_id="u", time=T, query="q")])
    log.append([seen])
    log.append_page([impression("b")])
    assert log.compact(flush=True) == {"watches": 1, "searches": 1, "impressions": 2}
    wall.now += later_s
    log.append([watch("w1"), watch("w2"), seen])
    log.append([Event(event_id="s", kind=Kind.SEARCH, user_id="u", time=T, query="q")])
    # Told of by the client what was served here: known by page and video.
    log.append([dataclasses.replace(impression("b"), event_id="client", release_id="")])
    assert log.compact(flush=True) == {"watches": 1}


def test_impression_that_is_told_of_again_takes_no_click_from_the_first(log, wall, tmp_path):
    log.append_page([impression("a")])
    log._pages.seal()
    wall.now += CLICK_WINDOW_S + 60
    other = EventLog(log.logs_dir, wall=wall)  # Of a server that was told when another had died.
    other.append([dataclasses.replace(impression("a", at=T + 2), event_id="client")])
    other.append([click("c", "a", at=T + 3, page_id="p"), watch("w", "a", at=T + 3, page_id="p")])
    log.compact()
    assert [row["clicked"] for row in rows(log, "impressions")] == [True]
    other.compact(flush=True)
    assert len(rows(log, "impressions")) == 1
    other.close()


def test_damaged_keys_are_named_and_lose_no_event(log):
    log.append([watch("w1")])
    log.compact()
    (keys,) = (log.logs_dir / event_segments.DIRECTORY).glob("keys-*")
    keys.write_bytes(b"garbage")
    log.append([watch("w2")])
    assert log.compact() == {"watches": 1}


def test_watch_that_came_twice_is_watched_once(log):
    log.append_page([impression("a")])
    for _ in range(2):
        log.append([watch("w1", "a", seconds=40, page_id="p")])
        log.compact()
    assert log.compact(flush=True) == {"impressions": 1}
    assert rows(log, "impressions")[0]["watch_time_s"] == 40.0


def test_new_users_are_added_where_the_logs_have_users(log):
    logs.append(
        log.logs_dir, "users", pa.table({"user_id": ["old"], "region": ["fr"], "age": [30]})
    )
    log.append(
        [
            NewUser(user_id="new", profile={"region": "de", "age": "not a number", "hat": 1}),
            NewUser(user_id="new", profile={}),
        ]
    )
    assert log.compact() == {"users": 1}
    found = {row["user_id"]: row for row in rows(log, "users")}
    assert found["new"]["region"] == "de"
    assert found["new"]["age"] is None


def test_users_that_the_logs_know_are_not_written_again_by_a_store_that_is_new(log):
    # The newest row of a user counts, and this one would know less.
    logs.append(log.logs_dir, "users", pa.table({"user_id": ["old"], "region": ["fr"]}))
    log.append([NewUser(user_id="old", profile={}), NewUser(user_id="new", profile={})])
    assert log.compact() == {"users": 1}
    assert sorted(row["user_id"] for row in rows(log, "users")) == ["new", "old"]


def test_users_table_is_not_begun_for_new_users_alone(log):
    # It would make all other users of the logs unknown.
    log.append([NewUser(user_id="new", profile={"region": "de"}), watch("w", user="new")])
    assert log.compact() == {"watches": 1}
    assert "users" not in logs_there(log)


def test_torn_last_line_is_dropped_and_damaged_line_kept_aside(log):
    log.append([watch("w1")])
    log.close()
    directory = log.logs_dir / event_segments.DIRECTORY
    (segment,) = directory.glob("evidence-*.jsonl")
    line = segment.read_text()
    path = directory / segment.name.replace("evidence", "events").replace("000", "001")
    path.write_text(
        line.replace("w1", "w2") + "\x00\x00garbage\n" + line.replace("w1", "w3") + '{"kind": "wat'
    )
    assert log.compact() == {"watches": 2}
    assert [p.read_bytes() for p in directory.glob("*.damaged")] == [b"\x00\x00garbage\n"]


def test_segments_of_a_living_process_are_left_to_it_but_count_as_evidence(tmp_path, wall):
    mine, other = EventLog(tmp_path / "logs", wall=wall), EventLog(tmp_path / "logs", wall=wall)
    mine.append_page([impression("a")])
    other.append([watch("w", "a", seconds=9, page_id="p")])
    assert mine.compact(flush=True) == {"impressions": 1}
    assert rows(mine, "impressions")[0]["watch_time_s"] == 9.0
    other.close()
    assert len(rows(mine, "watches")) == 1
    mine.close()


def waiting(log):
    found = event_segments.segments(log.logs_dir)
    paths = (s.path for s in found if s.stream not in event_segments.IN_TABLES)
    return [record for path in paths for record in event_segments.records(path)]


def test_what_is_pending_can_be_read_back(log):
    log.append([watch("w1")])
    log.append_page([impression("a")])
    found = [Event.from_record(r) for r in waiting(log)]
    assert {e.event_id for e in found} == {"w1", "p/a"}
    assert impression("a") in found
    log.compact()
    assert {r["event_id"] for r in waiting(log)} == {"p/a"}


def test_threads_share_one_file_without_mixing_lines(log):
    def work(number):
        for i in range(50):
            log.append([watch(f"{number}-{i}", user=f"user {number}")])

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert log.compact() == {"watches": 400}


def test_full_disk_is_an_error_and_leaves_no_half_line(log):
    log.append([watch("w1")])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, hard))
    try:
        with pytest.raises(errors.EventLogError, match="cannot be written"):
            log.append([watch(f"long-{i}") for i in range(20)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    log.append([watch("w2")])
    assert log.compact() == {"watches": 2}


class FailingDisk:
    """A disk whose next writes, syncs or cuts fail; ``fails`` says how often each still does."""

    def __init__(self):
        self.fails = {"write": 0, "fsync": 0, "truncate": 0}

    def disk(self):
        names = {"write": os.write, "fsync": os.fsync, "truncate": os.ftruncate}
        return Disk(**{name: self._maybe(name, call) for name, call in names.items()})

    def _maybe(self, name, call):
        def made(*arguments):
            if self.fails[name]:
                self.fails[name] -= 1
                if name == "write":  # Some of it had room.
                    os.write(arguments[0], arguments[1][:10])
                raise OSError(errno.ENOSPC if name == "write" else errno.EIO, "no luck")
            return call(*arguments)

        return made


@pytest.fixture
def failing(tmp_path, wall):
    disk = FailingDisk()
    opened = EventLog(tmp_path / "failing", wall=wall, disk=disk.disk())
    yield disk, opened
    opened.close()


def test_after_a_failed_sync_nothing_that_waited_for_it_is_ever_acknowledged(failing):
    disk, log = failing
    log.append([watch("before")])
    disk.fails["fsync"] = 1
    ((stream, segment, position),) = log._write([watch("waits")])
    with pytest.raises(errors.EventLogError, match="no luck"):
        log.append([watch("lost")])
    # The disk works again, and would call what it dropped written.
    for _ in range(2):
        with pytest.raises(errors.EventLogError, match="could not be made durable"):
            stream.sync(segment, position)
    log.append([watch("after")])
    directory = log.logs_dir / event_segments.DIRECTORY
    assert len(list(directory.glob("events-*"))) == 2  # What follows is in another segment.
    log.append([watch("lost"), watch("waits")])  # The clients send them again.
    assert log.compact() == {"watches": 4}


def test_failed_sync_of_a_sealed_segment_acknowledges_nothing(failing):
    disk, log = failing
    ((stream, segment, position),) = log._write([watch("waits")])
    disk.fails["fsync"] = 1
    with pytest.raises(errors.EventLogError, match="no luck"):
        log.compact()
    with pytest.raises(errors.EventLogError, match="could not be made durable"):
        stream.sync(segment, position)
    log.append([watch("after")])
    log.sync()


def test_full_disk_that_cannot_be_cut_back_ends_the_segment(failing):
    disk, log = failing
    ((stream, segment, position),) = log._write([watch("waits")])
    disk.fails |= {"write": 1, "truncate": 1}
    with pytest.raises(errors.EventLogError, match="no luck"):
        log.append([watch("half")])
    with pytest.raises(errors.EventLogError, match="could not be made durable"):
        stream.sync(segment, position)
    log.append([watch("half"), watch("waits")])
    assert log.compact() == {"watches": 2}


def test_page_is_refused_by_a_full_disk_and_written_when_there_is_room(failing):
    disk, log = failing
    disk.fails["write"] = 1
    with pytest.raises(errors.EventLogError, match="no luck"):
        log.append_page([impression("a")])
    log.append_page([impression("a")])
    assert log.compact(flush=True) == {"impressions": 1}


_WRITER = """
import sys
from serving.events.log import EventLog
from serving.events.event import Event, Kind
log = EventLog(sys.argv[1])
for i in range(100_000):
    log.append([Event(event_id=f"{sys.argv[2]}-{i}", kind=Kind.WATCH, user_id="u",
                      time=1_700_000_000 + i, video_id=f"{sys.argv[2]}-{i}", watch_time_s=1.0)])
    print(i, flush=True)
    if i % 37 == 0:
        log.compact()
"""


def start(script, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_all_that_a_killed_process_acknowledged_is_there_exactly_once(tmp_path):
    acknowledged = {}
    writers = {name: start(_WRITER, tmp_path / "logs", name) for name in ("a", "b")}
    for name, process in writers.items():
        lines = (process.stdout.readline() for _ in range(150))
        acknowledged[name] = [int(line) for line in lines][-1]
    for name, process in writers.items():
        process.send_signal(signal.SIGKILL)
        rest = process.stdout.read().split("\n")
        acknowledged[name] = max([acknowledged[name], *(int(x) for x in rest[:-1] if x)])
        process.wait()
        process.stdout.close()
    compaction.compact(tmp_path / "logs", wall_s=time.time())
    watched = logs.read_table(tmp_path / "logs", "watches")["video_id"].to_pylist()
    assert len(watched) == len(set(watched))
    for name, last in acknowledged.items():
        assert {f"{name}-{i}" for i in range(last + 1)} <= set(watched)


# For each directory n: a child that kills itself at its nth change to the file system.
_KILLED = """
import os, pathlib, sys, time
from serving.events import compaction as event_compaction
left = 0
def counted(function):
    def call(*arguments, **options):
        global left
        left -= 1
        if left == 0:
            os._exit(9)
        return function(*arguments, **options)
    return call
for name in ("replace", "rename", "unlink", "rmdir", "mkdir", "fsync"):
    setattr(os, name, counted(getattr(os, name)))
for directory in pathlib.Path(sys.argv[1]).iterdir():
    child = os.fork()
    if not child:
        left = int(directory.name)
        event_compaction.compact(directory / "logs", wall_s=time.time() + 3600)
        os._exit(0)
    print(directory.name, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_compaction_killed_at_any_step_loses_nothing_and_doubles_nothing(tmp_path):
    opened = {step: EventLog(tmp_path / str(step) / "logs") for step in range(2, 102, 11)}
    for log in opened.values():
        log.append_page([impression("a"), impression("b", at=T + 86400)])
        log.append([watch("1", "a", page_id="p"), watch("2", "b", at=T + 2 * 86400), watch("3")])
        log._events.seal()
        log._pages.seal()
    process = start(_KILLED, tmp_path)
    codes = [line.split()[1] for line in process.communicate(timeout=60)[0].splitlines()]
    assert process.returncode == 0
    assert set(codes) == {"9", "0"}  # Some were killed, and some steps lie beyond the end.
    for step, log in opened.items():
        compaction.compact(log.logs_dir, wall_s=time.time() + 3600)
        found = {table: rows(log, table) for table in ("watches", "impressions")}
        assert sorted(r["video_id"] for r in found["watches"]) == ["a", "b", "v"], step
        clicked = {r["video_id"]: r["clicked"] for r in found["impressions"]}
        assert clicked == {"a": True, "b": False}, step
        assert len(found["impressions"]) == 2, step


def test_segment_lines_are_plain_json(log):
    log.append([watch("w1")])
    (segment,) = (log.logs_dir / event_segments.DIRECTORY).glob("events-*.jsonl")
    record = json.loads(segment.read_text())
    assert record["event_id"] == "w1"
    assert record["kind"] == "watch"


def test_directory_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(errors.EventLogError, match="cannot be written"):
        EventLog(tmp_path / "file" / "logs")
    assert os.path.exists(tmp_path / "file")
