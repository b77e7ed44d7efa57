"""The command ``python -m pipeline.simulate`` as its users meet it."""

import pathlib
import subprocess
import sys

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from features.tables.logs import read_table

_CHECKOUT = pathlib.Path(__file__).resolve().parents[2]
_MINI = ("--preset=tiny", "--users=40", "--videos=100", "--days=1", "--topics=4")


def _simulate(*flags):
    return subprocess.run(
        [sys.executable, "-m", "pipeline.simulate", *flags],
        cwd=_CHECKOUT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_it_says_what_it_wrote_and_what_to_run_next(tmp_path):
    logs = tmp_path / "logs"
    done = _simulate(f"--logs={logs}", *_MINI, "--start=2023-02-03", "--oracle_watches=20")
    assert done.returncode == 0, done.stderr
    assert {path.name for path in logs.iterdir()} == {
        "videos", "users", "watches", "searches", "impressions", "truth",
    }  # fmt: skip
    assert [path.name for path in (logs / "watches").iterdir()] == ["date=2023-02-03"]
    assert "Site of" in done.stderr
    assert f"Wrote {logs}" in done.stdout
    assert "oracle" in done.stdout
    assert f"Next: python -m pipeline.preprocess --logs={logs}" in done.stdout


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--preset=huge",), "preset"),
        (("--users=many",), "users"),
        (("--sise=3",), "sise"),
        (("--users=0",), "--users must be 1 or more, got 0"),
        (("--start=tomorrow",), "--start must be an ISO 8601 time"),
        (("--start=2022-05-01T10:00",), "must be a midnight UTC"),
        (("--start=2199-01-01",), "after the clock"),
        (("stray",), "unexpected arguments"),
    ],
)
def test_bad_flags_end_in_one_message_and_write_nothing(tmp_path, flags, message):
    done = _simulate(f"--logs={tmp_path / 'logs'}", *_MINI, *flags)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_logs_that_stand_are_replaced_only_when_asked(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    refused = _simulate(f"--logs={tmp_path}", *_MINI)
    assert refused.returncode == 2
    assert "--overwrite" in refused.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    replaced = _simulate(f"--logs={tmp_path}", *_MINI, "--overwrite")
    assert replaced.returncode == 0, replaced.stderr
    assert not (tmp_path / "mine.txt").exists()
    assert (tmp_path / "truth" / "site.json").is_file()


def test_the_oracle_ranks_completed_watches_from_a_moment_on(tmp_path):
    logs = tmp_path / "logs"
    assert _simulate(f"--logs={logs}", *_MINI, "--start=2023-02-03").returncode == 0
    output = tmp_path / "oracle.parquet"
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pipeline.measure_oracle",
            f"--logs={logs}",
            "--from=2023-02-03T12:00:00",
            f"--output={output}",
        ],
        cwd=_CHECKOUT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = pq.read_table(output)
    watches = read_table(logs, "watches")
    noon_s = 1_675_425_600
    wanted = watches.filter(
        pc.and_(watches["completed"], pc.greater_equal(watches["time"], noon_s))
    )
    assert found.num_rows == wanted.num_rows > 5
    assert pc.min(found["time"]).as_py() >= noon_s
    ranks = np.asarray(found["rank"])
    # Of 100 videos, chance would be 50.
    assert ranks.min() >= 1 and np.median(ranks) < 25
