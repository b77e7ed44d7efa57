"""Days of a tiny living site with a real server, killed on their way."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import pyarrow.parquet as pq
import pytest

from features.tables import logs
from tests.pipeline.living import killing
from tests.pipeline.living.killing import SERVER, Point

_CHECKOUT = pathlib.Path(__file__).resolve().parents[3]


def run(output, *, days, until=None):
    """Runs the command to its end, or kills it when a file appears; returns what it said."""
    line = [sys.executable, "-m", "pipeline.living_site", f"--output={output}", "--preset=tiny"]
    line += [f"--days={days}", "--seed=3"]
    with subprocess.Popen(
        line, cwd=_CHECKOUT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        if until is not None:
            deadline = time.monotonic() + 300
            while not until():
                assert process.poll() is None, process.stderr.read()
                assert time.monotonic() < deadline
                time.sleep(0.02)
            process.send_signal(signal.SIGKILL)
        said, complaints = process.communicate()
    assert until is not None or process.returncode == 0, complaints
    return said


def started_of(output):
    """Pids of the processes that work for a run."""
    found = []
    for entry in pathlib.Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and str(output).encode() in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue
    return [pid for pid in found if pid != os.getpid()]


def happened(output):
    directory = output / "snapshots" / "00-visits-1" / "happened"
    return {path.stem: pq.read_table(path) for path in sorted(directory.glob("*.parquet"))}


@pytest.fixture(scope="module")
def lived(tmp_path_factory):
    """Two runs of a day: one to its end, one that was killed in the day and went on."""
    root = tmp_path_factory.mktemp("living")
    whole, site = root / "whole", killing.LivingSite(root / "killed", days=1, seed=3)
    killed = site.output
    said = run(whole, days=1)
    run(killed, days=1, until=lambda: list(killed.glob("site/logs/watches/**/*.parquet")))
    assert not list(killed.glob("snapshots/[0-9]*"))
    deadline = time.monotonic() + 300
    while started_of(killed):  # The server ends with it.
        assert time.monotonic() < deadline
        time.sleep(0.1)
    for path in ("*/commit-*", "*/site/logs/[iw]*/*.parquet"):  # Decided, or half carried out.
        assert site.run(Point(during="visits 1", module=SERVER, path=path))
        acknowledged, lost, twice = site.acknowledged()
        assert acknowledged > 0
        assert (lost, twice) == (0, 0)
        assert not site.broken
        assert site.asked
    run(killed, days=1)
    return whole, killed, said


def test_the_same_seed_gives_the_same_day_also_to_a_run_that_was_killed(lived):
    whole, killed, said = lived
    tables = happened(whole)
    assert set(tables) == {"feedback", "impressions", "looks", "searches", "watches"}
    assert tables["watches"].num_rows > 300
    assert tables == happened(killed)
    assert re.search(r"\n  all +\d", said)
    report = json.loads((whole / "report.json").read_text())
    assert set(report["visits"]["1"]["answers"]) == {"0 popular"}
    assert "<svg" in (whole / "report.html").read_text()


def test_the_logs_have_what_was_shown_and_done_each_once(lived):
    whole, _, _ = lived
    in_logs = {name: logs.read_table(whole / "site/logs", name) for name in ("watches", "users")}
    shown = logs.read_table(whole / "site/logs", "impressions")
    tables = happened(whole)
    # Watches that went on for more than an hour after midnight are reported on the next day.
    told = in_logs["watches"]
    assert 0.97 * tables["watches"].num_rows <= told.num_rows <= tables["watches"].num_rows
    columns = (told[name].to_pylist() for name in ("user_id", "video_id", "time"))
    keys = list(zip(*columns, strict=True))
    assert len(keys) == len(set(keys))
    assert abs(shown.num_rows - tables["impressions"].num_rows) <= 24  # Clicked at midnight.
    clicked = sum(shown["clicked"].to_pylist())
    assert abs(clicked - sum(tables["impressions"]["clicked"].to_pylist())) <= 5
    arms = {arm for exposed in shown["exposures"].to_pylist() for arm in exposed}
    assert arms == {"living/popularity", "living/ours"}
    assert in_logs["users"].num_rows == 160


def test_another_run_does_not_go_on_from_it(lived, run_command):
    whole, _, _ = lived
    done = run_command(
        "pipeline.living_site", f"--output={whole}", "--preset=tiny", "--days=1", "--seed=4"
    )
    assert done.returncode == 2
    assert "a living site with other settings" in done.stderr
