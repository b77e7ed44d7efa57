"""Events are durable before they are acknowledged, and whatever is killed they are there once."""

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

import pytest

from features.tables import logs
from serving import errors
from serving.events import compaction
from serving.events import segments as event_segments
from serving.events.event import Event
from serving.events.log import Disk, EventLog
from tests.serving.events.logs_of_events import T, impression, rows, watch

ROOT = pathlib.Path(__file__).resolve().parents[3]


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
