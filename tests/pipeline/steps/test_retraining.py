"""The runner, with steps that take milliseconds in place of the real ones."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import textwrap
import time

import pytest

from features import command
from features.tables import logs as log_tables
from pipeline.steps import declared, retraining, step_records, work_lock

Outcome = retraining.Outcome

# Writes its output like a real binary: COMPLETE last. FAIL_<STEP> makes it fail before that.
STEP = """
import json, os, pathlib, sys, tempfile, time
flags = dict(argument[2:].split("=", 1) for argument in sys.argv[1:])
name = pathlib.Path(__file__).stem
with open(os.environ["TRACE"], "a") as trace:
    trace.write(json.dumps([name, flags]) + "\\n")
out = pathlib.Path(flags["out"])
out.mkdir(parents=True, exist_ok=True)
(out / "COMPLETE").unlink(missing_ok=True)
code = os.environ.get("FAIL_" + name.upper())
pathlib.Path(tempfile.gettempdir(), name).write_text("scratch")
if code == "hang":
    time.sleep(60)
while code == "wait" and not os.path.exists(os.environ["GO"]):
    time.sleep(0.02)
if code and code != "wait":
    sys.exit(int(code))
ranking = os.environ.get("RANKING", "1") == "1"
if os.environ.get("FORGETS") != name:
    made = {"has_ranking": ranking, "no_ranking": os.environ.get("NO_RANKING", "")}
    (out / "COMPLETE").write_text(json.dumps({**made, "ns": time.time_ns()}))
if os.environ.get("FAILS_LAST") == name:
    sys.exit(1)
pathlib.Path(os.environ["WATCHNEXT_DONE"]).touch()
"""

CHAIN = (
    declared.Step(
        name="prepare",
        binary="prepare",
        reads={"logs": declared.LOGS},
        writes=("out", declared.EXAMPLES),
        packages=(),
    ),
    declared.Step(
        name="rank",
        binary="rank",
        reads={"examples": declared.EXAMPLES},
        writes=("out", "ranker"),
        packages=(),
        needs_ranking=True,
    ),
    declared.Step(
        name="judge",
        binary="judge",
        reads={"examples": declared.EXAMPLES, "ranker": "ranker"},
        writes=("out", "verdict"),
        packages=(),
    ),
)


@pytest.fixture
def root():
    """A directory with a short path: that of the work directory decides where steps write."""
    with tempfile.TemporaryDirectory(prefix="site-", dir="/tmp") as directory:
        yield pathlib.Path(directory)


@pytest.fixture
def site(root, monkeypatch):
    """Logs, the three binaries, and ``site.job(**settings)``, ``site.ran()``."""
    binaries = root / "binaries"
    binaries.mkdir()
    for step in CHAIN:
        (binaries / f"{step.binary}.py").write_text(STEP)
    logs = root / "logs"
    (logs / "impressions").mkdir(parents=True)
    (logs / "impressions" / "part.parquet").write_text("rows")
    monkeypatch.setenv("PYTHONPATH", str(binaries), prepend=os.pathsep)
    monkeypatch.setenv("TRACE", str(root / "trace"))
    return Site(root)


class Site:
    def __init__(self, root):
        self.root = root
        self.logs = root / "logs"
        self.work = root / "work"

    def job(self, **settings):
        return retraining.Retraining(
            **{
                "logs": self.logs,
                "serving_root": self.root / "serving_root",
                "work": self.work,
                "chain": CHAIN,
                **settings,
            }
        )

    def outcomes(self, **settings):
        return [step.outcome for step in self.job(**settings).run()]

    def ran(self):
        """Returns the names of the steps that were started since the last call."""
        trace = self.root / "trace"
        lines = trace.read_text().splitlines() if trace.exists() else []
        trace.unlink(missing_ok=True)
        return [json.loads(line)[0] for line in lines]


def test_all_steps_run_in_order_and_are_reported(site):
    assert site.outcomes() == [Outcome.DONE] * 3
    assert site.ran() == ["prepare", "rank", "judge"]
    report = json.loads((site.work / "retrain.json").read_text())
    assert report["outcome"] == "done"
    assert [step["name"] for step in report["steps"]] == ["prepare", "rank", "judge"]
    assert all(step["seconds"] > 0 for step in report["steps"])


def test_a_second_run_runs_nothing(site):
    site.outcomes()
    site.ran()
    assert site.outcomes() == [Outcome.UP_TO_DATE] * 3
    assert site.ran() == []


def test_new_logs_redo_everything(site):
    site.outcomes()
    site.ran()
    (site.logs / "impressions" / "part2.parquet").write_text("more")
    site.outcomes()
    assert site.ran() == ["prepare", "rank", "judge"]


def test_new_logs_behind_a_link_redo_everything_and_loops_end(site):
    elsewhere = site.root / "other disk"
    elsewhere.mkdir()
    (site.logs / "impressions" / "date=2026-11-20").symlink_to(elsewhere)
    (site.logs / "impressions" / "loop").symlink_to(site.logs)
    (site.logs / "impressions" / "nothing").symlink_to("/nonexistent")
    site.outcomes()
    site.ran()
    (elsewhere / "part2.parquet").write_text("more")
    site.outcomes()
    assert site.ran() == ["prepare", "rank", "judge"]


def test_a_hidden_file_among_the_logs_is_no_change(site):
    site.outcomes()
    (site.logs / ".part.tmp").write_text("being written")
    assert site.outcomes() == [Outcome.UP_TO_DATE] * 3


def test_other_flags_of_a_step_redo_it_and_what_reads_it(site):
    site.outcomes()
    site.ran()
    site.outcomes(flags={"rank": ["--epochs=2"]})
    assert site.ran() == ["rank", "judge"]


def test_a_flag_that_changes_nothing_made_does_not_redo_a_step(site):
    site.outcomes()
    site.ran()
    site.outcomes(unrecorded_flags={"judge": ["--force_publish=why"]})
    assert site.ran() == []


def test_an_artefact_made_anew_by_hand_is_made_again_and_so_is_what_read_it(site):
    site.outcomes()
    site.ran()
    (site.work / "ranker" / "COMPLETE").write_text("{}")
    site.outcomes()
    assert site.ran() == ["rank", "judge"]


def test_an_artefact_that_was_removed_is_made_again(site):
    site.outcomes()
    site.ran()
    (site.work / "verdict" / "COMPLETE").unlink()
    site.outcomes()
    assert site.ran() == ["judge"]


def test_a_failed_step_stops_the_run_and_is_the_first_of_the_next(site, monkeypatch):
    monkeypatch.setenv("FAIL_RANK", "3")
    steps = site.job().run()
    assert [step.outcome for step in steps] == [Outcome.DONE, Outcome.FAILED]
    assert steps[-1].exit_code == 3
    assert json.loads((site.work / "retrain.json").read_text())["outcome"] == "failed"
    monkeypatch.delenv("FAIL_RANK")
    site.ran()
    site.outcomes()
    assert site.ran() == ["rank", "judge"]


def test_a_step_that_failed_after_it_had_once_succeeded_is_not_taken_for_complete(
    site, monkeypatch
):
    site.outcomes()
    monkeypatch.setenv("FAIL_RANK", "3")
    site.outcomes(flags={"rank": ["--epochs=2"]})
    monkeypatch.delenv("FAIL_RANK")
    site.ran()
    # With the first flags again: the failed step overwrote the artefact of then, and the verdict
    # of then is about that one.
    site.outcomes()
    assert site.ran() == ["rank", "judge"]


def test_a_step_that_ends_well_without_its_artefact_has_failed(site, monkeypatch):
    monkeypatch.setenv("FORGETS", "rank")
    steps = site.job().run()
    assert steps[-1].outcome is Outcome.FAILED
    assert "left nothing complete" in steps[-1].reason


def test_without_impressions_the_ranker_is_skipped_and_nobody_is_given_one(site, monkeypatch):
    monkeypatch.setenv("RANKING", "0")
    steps = site.job().run()
    assert [step.outcome for step in steps] == [Outcome.DONE, Outcome.SKIPPED, Outcome.DONE]
    assert "no impressions" in steps[1].reason
    assert "--ranker=" not in steps[2].command
    assert site.ran() == ["prepare", "judge"]


def test_why_there_is_no_ranker_is_what_preprocessing_says(site, monkeypatch):
    monkeypatch.setenv("RANKING", "0")
    monkeypatch.setenv("NO_RANKING", "nobody clicked")
    steps = site.job().run()
    assert steps[1].reason == "nobody clicked: there will be no ranker"


def test_the_plan_says_what_a_run_would_do_and_runs_nothing(site):
    assert [step.outcome for step in site.job().plan()] == [Outcome.DONE] * 3
    assert not site.work.exists()
    site.outcomes()
    site.ran()
    plan = site.job(flags={"rank": ["--epochs=2"]}).plan()
    assert [step.outcome for step in plan] == [Outcome.UP_TO_DATE, Outcome.DONE, Outcome.DONE]
    assert plan[1].command == (
        f"{sys.executable} -m rank --examples={site.work}/examples --out={site.work}/ranker "
        "--epochs=2"
    )
    assert site.ran() == []


def test_logs_that_are_not_there_are_refused_before_anything_is_made(site):
    with pytest.raises(command.InputError, match=r"holds no logs.*pipeline\.simulate"):
        site.job(logs=site.root / "nowhere").run()
    assert not site.work.exists()


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
        sys.path.insert(0, {str(os.path.dirname(__file__))!r})
        import test_retraining
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        test_retraining.Site(pathlib.Path({str(site.root)!r})).job().run()
    """)
    environment = {**os.environ, "FAIL_RANK": "hang", **environment}
    process = subprocess.Popen([sys.executable, "-c", text], env=environment)
    trace = site.root / "trace"
    deadline = time.monotonic() + 60
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
    deadline = time.monotonic() + 30
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
    deadline = time.monotonic() + 30
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
    deadline = time.monotonic() + 30
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
