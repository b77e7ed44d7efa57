"""The demo on a tiny site: people visit, it learns over night, they visit again, it serves."""

import os
import pathlib
import re
import socket
import subprocess
import sys

# So few people may teach it so little that a gate refuses the release.
TINY = """
import dataclasses, sys
from features import command
from pipeline import demo
from pipeline.living import presets

tiny = presets.PRESETS["tiny"]
demo._DEMO = dataclasses.replace(tiny, retrain=(*tiny.retrain, "--force_publish=a tiny site"))
demo._PAST_DAYS = 3
command.run(demo.main)
"""


def run(output):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return subprocess.run(
        [sys.executable, "-c", TINY, f"--output={output}", f"--port={port}", "--once"],
        cwd=pathlib.Path(__file__).resolve().parents[2],
        env=os.environ,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_demo_shows_the_loop_and_a_second_one_serves_what_stands(tmp_path):
    done = run(tmp_path / "demo")
    assert done.returncode == 0, done.stderr[-3000:]
    steps = [line.split()[0] for line in done.stdout.splitlines() if re.match(r"\d+/\d+ ", line)]
    number = int(steps[0].partition("/")[2])
    assert steps == [f"{n}/{number}" for n in range(1, number + 1)]
    # Day 1 has no release; on day 2 the running server gives pages of the one of the night.
    first, second = re.findall(
        r"visits of day \d +\d+ s  [\d,]+ pages of release (.*);", done.stdout
    )
    version = re.search(r"Published release (\d+)", done.stdout)[1]
    assert (first, second) == ("0", version)
    assert re.search(r"\n  2 +\d.*published\n", done.stdout)  # Watch times of day 2, by arm.
    assert f"(release {version}, full)" in done.stdout
    assert "recall@100 of the next watch" in done.stdout
    again = run(tmp_path / "demo")
    assert again.returncode == 0, again.stderr[-3000:]
    assert f"(release {version}, full)" in again.stdout
    assert "visits of day" not in again.stdout
