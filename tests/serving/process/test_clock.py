"""A simulated clock: one number in a file, the same for all who read it; never by accident."""

import os
import subprocess
import sys
import time

import pytest

from features import command
from serving.events.event import Event, Kind
from serving.events.log import EventLog
from serving.events.segments import segments
from serving.process import clock

DAY_IN_2022 = 1_651_363_200.0


def test_all_who_read_the_file_see_the_moment_that_one_writes(tmp_path):
    writer = clock.SharedClock.create(tmp_path / "clock", DAY_IN_2022)
    reader = clock.simulated(tmp_path / "clock")
    assert reader.now() == reader.wall() == DAY_IN_2022
    writer.set(DAY_IN_2022 + 0.5)
    assert reader.now() == DAY_IN_2022 + 0.5
    clock.SharedClock.create(tmp_path / "clock", 7.0)  # Moved, not replaced: readers follow.
    assert reader.now() == writer() == 7.0


def test_another_process_sees_it_too(tmp_path):
    clock.SharedClock.create(tmp_path / "clock", DAY_IN_2022)
    code = "import sys; from serving.process import clock; print(clock.SharedClock(sys.argv[1])())"
    line = [sys.executable, "-c", code, str(tmp_path / "clock")]
    done = subprocess.run(line, capture_output=True, text=True, check=True)
    assert float(done.stdout) == DAY_IN_2022


@pytest.mark.parametrize("content", [None, b"", b"12:30\n", b"x" * 40])
def test_what_is_no_simulated_clock_is_refused(tmp_path, content):
    if content is not None:
        (tmp_path / "clock").write_bytes(content)
    with pytest.raises(command.InputError, match="simulated clock"):
        clock.simulated(tmp_path / "clock")


def test_a_file_of_something_else_is_not_overwritten(tmp_path):
    (tmp_path / "clock").write_text("mine")
    with pytest.raises(command.InputError, match="no simulated clock"):
        clock.SharedClock.create(tmp_path / "clock", 0.0)
    assert (tmp_path / "clock").read_text() == "mine"


def test_without_one_it_is_the_machines_clock_or_one_that_runs_like_it():
    assert abs(clock.machine().now() - time.time()) < 60
    shifted = clock.machine(starts_at=1_000_000, since_s=time.time())
    assert 1_000_000 <= shifted.now() < 1_000_060
    assert abs(shifted.wall() - time.time()) < 60  # The event log ages as the machine does.


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--host=0.0.0.0", "--clock=CLOCK"), "--clock is for simulations on this machine"),
        (("--now=2022-05-01", "--clock=CLOCK"), "--clock and --now are two clocks"),
        (("--clock=nowhere",), "must be the file of a simulated clock"),
    ],
)
def test_a_server_is_not_given_one_by_accident(tmp_path, run_command, flags, said):
    clock.SharedClock.create(tmp_path / "clock", DAY_IN_2022)
    given = [flag.replace("CLOCK", str(tmp_path / "clock")) for flag in flags]
    done = run_command("serving.serve", f"--serving_root={tmp_path}", *given)
    assert done.returncode == 2
    assert said in done.stderr


def test_the_event_log_ages_by_it(tmp_path):
    now = [DAY_IN_2022]
    log = EventLog(tmp_path, wall=lambda: now[0])
    shown = {"kind": Kind.IMPRESSION, "user_id": "u", "video_id": "v", "page_id": "p"}
    log.append_page([Event(event_id="e", time=int(now[0]), **shown)])
    assert log.compact() == {}  # A click may still come.
    (waiting,) = [s for s in segments(tmp_path) if s.size]
    assert waiting.end_s == os.stat(waiting.path).st_mtime == DAY_IN_2022
    now[0] += 3600
    assert log.compact() == {"impressions": 1, "users": 0} or log.compact() == {}
    assert not [s for s in segments(tmp_path) if s.stream == "pages" and s.size]
    log.close()


def test_the_log_is_compacted_when_its_clock_says_so(tmp_path):
    now = [DAY_IN_2022]
    log = EventLog(tmp_path, wall=lambda: now[0], compaction_period_s=600.0)
    log.start()
    watch = {"kind": Kind.WATCH, "user_id": "u", "video_id": "v", "watch_time_s": 3.0}
    log.append([Event(event_id="e", time=int(now[0]), **watch)])
    now[0] += 600
    until = time.monotonic() + 300
    while not list(tmp_path.glob("watches/**/*.parquet")):
        assert time.monotonic() < until
        time.sleep(0.05)
    log.close()
