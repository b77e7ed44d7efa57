"""A tiny living site with a real server and a real retraining, killed on its way."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import pytest

from features.tables import logs

_CHECKOUT = pathlib.Path(__file__).resolve().parents[3]
_START = 1_651_363_200


def run(output, *, until=None):
    """Runs the command to its end, or kills it when a file appears; returns what it said."""
    line = [sys.executable, "-m", "pipeline.living_site", f"--output={output}", "--preset=tiny"]
    line += ["--days=2", "--seed=3"]
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


@pytest.fixture(scope="module")
def lived(tmp_path_factory):
    """The output of two days, and what was said; killed in the first day and in its night."""
    output = tmp_path_factory.mktemp("living") / "site"
    run(output, until=lambda: list(output.glob("site/logs/watches/**/*.parquet")))
    assert not list(output.glob("stages/[0-9]*"))
    run(output, until=(output / "work" / "retrain.json").exists)
    assert [path.name for path in output.glob("stages/[0-9]*")] == ["00-visits-1"]
    deadline = time.monotonic() + 60
    while started_of(output):  # Server and retraining end with it.
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return output, run(output)


def test_a_run_goes_on_where_it_was_killed_and_says_what_it_showed(lived):
    output, said = lived
    names = sorted(path.name for path in output.glob("stages/[0-9]*"))
    assert names == ["00-visits-1", "01-night-1", "02-visits-2"]
    assert re.search(r"\n  all +\d", said)
    report = json.loads((output / "report.json").read_text())
    assert report["visits"]["1"]["release"] == "0"
    assert set(report["visits"]["1"]["answers"]) == {"0 popular"}
    night = report["nights"]["1"]
    assert night["outcome"] in {"published", "refused"}, night["said"]
    assert {gate["verdict"] for gate in night["gates"]} <= {"pass", "FAIL", "not checked"}
    assert len(night["gates"]) > 4
    if night["outcome"] == "published":
        release = night["release"]
        assert report["visits"]["2"]["release"] == release
        assert {f"{release} full", f"{release} popular"} <= set(report["visits"]["2"]["answers"])
    page = (output / "report.html").read_text()
    assert "Gates of night 1" in page and "<svg" in page


def test_the_logs_are_of_the_funnel_alone_each_event_once(lived):
    output, _ = lived
    tables = {n: logs.read_table(output / "site/logs", n) for n in ("watches", "impressions")}
    happened = json.loads((output / "report.json").read_text())["visits"]
    for table in tables.values():
        times = table["time"].to_pylist()
        assert min(times) >= _START
        assert max(times) <= _START + 2 * 86400 + 3600
    shown = tables["impressions"]
    pages = [page for page in shown["page_id"].to_pylist() if page]
    # Those of what was killed are gone: as many pages as were asked for behind the last stage.
    asked = sum(sum(day["answers"].values()) for day in happened.values())
    assert 0.9 * asked <= len(set(pages)) <= asked
    arms = {arm for exposed in shown["exposures"].to_pylist() for arm in exposed}
    assert arms == {"living/popularity", "living/ours"}
    watches = tables["watches"]
    keys = list(
        zip(*(watches[n].to_pylist() for n in ("user_id", "video_id", "time")), strict=True)
    )
    assert len(keys) == len(set(keys))


def test_another_run_does_not_go_on_from_it(lived, run_command):
    output, _ = lived
    done = run_command(
        "pipeline.living_site", f"--output={output}", "--preset=tiny", "--days=2", "--seed=4"
    )
    assert done.returncode == 2
    assert "a living site with other settings" in done.stderr
