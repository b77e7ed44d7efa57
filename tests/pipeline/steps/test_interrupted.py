"""Retrainings that are stopped, killed, doubled, or orphan a step."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from features import command
from features.tables import logs as log_tables
from pipeline.steps import step_records, work_lock
from tests.pipeline.steps import chains
from tests.pipeline.steps.chains import CHAIN, Outcome


def test_a_second_run_in_the_same_work_directory_is_told_who_holds_it(site):
    with (
        work_lock.held(site.work),
        pytest.raises(command.InputError, match=f"in use by process {os.getpid()} on"),
    ):
        site.job().run()
    assert site.ran() == []


def test_the_lock_is_free_again_after_a_run(site):
    site.outcomes()
    with work_lock.held(site.work):
        pass


def drive(site, **environment):
    """Starts a run in a process of its own, whose step `rank` hangs, and waits for that."""
    text = textwrap.dedent(f"""
        import pathlib, signal, sys
        sys.path.insert(0, {str(pathlib.Path(chains.__file__).parents[3])!r})
        from tests.pipeline.steps import chains
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        chains.Site(pathlib.Path({str(site.root)!r})).job().run()
    """)
    environment = {**os.environ, "FAIL_RANK": "hang", **environment}
    process = subprocess.Popen([sys.executable, "-c", text], env=environment)
    trace = site.root / "trace"
    deadline = time.monotonic() + 300
    while not (trace.exists() and '"rank"' in trace.read_text()):
        assert time.monotonic() < deadline, "the step did not start"
        assert process.poll() is None
        time.sleep(0.05)
    return process


def test_a_run_that_is_asked_to_stop_ends_its_step_and_leaves_it_undone(site):
    process = drive(site)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 143
    assert json.loads((site.work / "retrain.json").read_text())["outcome"] == "stopped"
    site.ran()
    assert site.outcomes() == [Outcome.UP_TO_DATE, Outcome.DONE, Outcome.DONE]


def test_a_killed_run_leaves_the_directory_locked_only_while_its_step_lives(site):
    process = drive(site)
    orphan = child_of(process.pid)
    process.kill()
    process.wait()
    with pytest.raises(command.InputError, match="has ended, but a step that it started"):
        site.job().run()
    os.kill(orphan, signal.SIGKILL)
    deadline = time.monotonic() + 300
    while True:  # The kernel frees the lock when the orphan is gone.
        try:
            outcomes = site.outcomes()
            break
        except command.InputError:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    assert outcomes == [Outcome.UP_TO_DATE, Outcome.DONE, Outcome.DONE]


def ended(site, orphan):
    """Waits until a step whose run was killed has ended, and with it the lock."""
    deadline = time.monotonic() + 300
    while os.path.exists(f"/proc/{orphan}"):
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def orphaned(site):
    """Kills a run alone; ``orphaned(**environment)`` lets its step ``rank`` come to its end."""

    def make(**environment):
        go = site.root / "go"
        process = drive(site, FAIL_RANK="wait", GO=str(go), **environment)
        orphan = child_of(process.pid)
        process.kill()
        process.wait()
        assert json.loads((site.work / "retrain.json").read_text())["outcome"] == "unfinished"
        go.touch()
        ended(site, orphan)
        assert site.ran() == ["prepare", "rank"]

    return make


def test_step_whose_run_was_killed_is_done_if_it_came_to_its_end(site, orphaned, caplog):
    orphaned()
    assert [step.outcome for step in site.job().plan()] == [
        Outcome.UP_TO_DATE,
        Outcome.UP_TO_DATE,
        Outcome.DONE,
    ]
    with caplog.at_level("WARNING"):
        assert site.outcomes() == [Outcome.UP_TO_DATE, Outcome.UP_TO_DATE, Outcome.DONE]
    assert "was killed during rank" in caplog.text
    assert site.ran() == ["judge"]
    assert json.loads((site.work / "retrain.json").read_text())["outcome"] == "done"
    assert site.outcomes() == [Outcome.UP_TO_DATE] * 3


def test_step_that_failed_after_its_run_was_killed_is_run_again(site, orphaned):
    orphaned(FAILS_LAST="rank")
    assert site.outcomes() == [Outcome.UP_TO_DATE, Outcome.DONE, Outcome.DONE]


def test_orphaned_step_of_other_flags_is_run_again(site, orphaned):
    orphaned()
    outcomes = site.outcomes(flags={"rank": ["--epochs=2"]})
    assert outcomes == [Outcome.UP_TO_DATE, Outcome.DONE, Outcome.DONE]


def test_artefact_that_was_changed_after_an_orphaned_step_is_made_again(site, orphaned):
    orphaned()
    (site.work / "ranker" / "COMPLETE").write_text("{}")
    assert site.outcomes() == [Outcome.UP_TO_DATE, Outcome.DONE, Outcome.DONE]


def test_finished_orphan_does_not_vouch_for_the_same_step_begun_again(site, orphaned):
    orphaned()
    steps = site.work / "steps"
    assert (steps / "rank.done").exists()
    begun = step_records.Record(fingerprint="of other flags", inputs={})
    step_records.write(site.work, CHAIN[1], begun)
    assert not (steps / "rank.done").exists()
    assert step_records.read(site.work, CHAIN[1], site.work / "ranker") is None


def test_temporary_files_of_killed_steps_are_removed_by_the_next_run(site):
    process = drive(site)
    orphan = child_of(process.pid)
    scratch = site.work / ".tmp"
    deadline = time.monotonic() + 300
    while not (scratch / "rank").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()
    process.wait()
    os.kill(orphan, signal.SIGKILL)
    ended(site, orphan)
    assert (scratch / "rank").exists()
    site.outcomes()
    assert not scratch.exists()


def test_path_that_is_too_long_for_sockets_leaves_temporary_files_to_the_system(site, caplog):
    deep = site.root / ("long" * 20)
    with caplog.at_level("INFO", logger="absl"):
        assert site.outcomes(work=deep) == [Outcome.DONE] * 3
    assert "too long a path" in caplog.text
    assert not (deep / ".tmp").exists()


def child_of(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as children:
        return int(children.read().split()[0])


# A server that acknowledges watches until somebody kills it; the last line may be half printed.
SERVER = """
import sys
from serving.events.log import EventLog
from serving.events.event import Event, Kind
log = EventLog(sys.argv[1])
number = 0
while True:
    event = Event(
        event_id=str(number), kind=Kind.WATCH, user_id="u", time=1_700_000_000 + number,
        video_id="v", watch_time_s=float(number),
    )
    log.append([event])
    print(number, flush=True)
    number += 1
"""


def test_what_a_killed_server_acknowledged_is_read_exactly_once(site):
    with subprocess.Popen(
        [sys.executable, "-c", SERVER, str(site.logs)], stdout=subprocess.PIPE, text=True
    ) as process:
        acknowledged = [int(process.stdout.readline()) for _ in range(20)]
        process.kill()
        acknowledged += [int(line) for line in process.stdout.read().split()[:-1]]
    assert site.outcomes() == [Outcome.DONE] * 3
    watched = log_tables.read_table(site.logs, "watches")["watch_time_s"].to_pylist()
    assert len(watched) == len(set(watched))
    assert {float(number) for number in acknowledged} <= set(watched)
    # They were moved before the fingerprints were taken: nothing is new for the next run.
    assert site.outcomes() == [Outcome.UP_TO_DATE] * 3


def test_a_run_waits_for_a_holder_that_gives_way_which_does_not_wait_itself(site):
    waiting = threading.Thread(target=site.outcomes)
    with work_lock.held(site.work, gives_way=True):
        with pytest.raises(command.InUseError), work_lock.held(site.work, gives_way=True):
            pass
        waiting.start()
        time.sleep(1)
        assert waiting.is_alive()
        assert site.ran() == []
    waiting.join(60)
    assert site.ran()


def test_artefact_that_stood_before_an_orphaned_step_began_is_not_what_it_made(site, orphaned):
    orphaned()
    begun = (site.work / "steps" / "rank.json").stat().st_mtime
    # As one that was put back from a backup.
    os.utime(site.work / "ranker" / "COMPLETE", (begun - 60, begun - 60))
    assert site.outcomes() == [Outcome.UP_TO_DATE, Outcome.DONE, Outcome.DONE]
