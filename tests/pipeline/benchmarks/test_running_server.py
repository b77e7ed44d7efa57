import pathlib
import subprocess
import sys

from pipeline.benchmarks import running_server

ASKED = "import time, ours; print(time.time(), time.time(), ours.NAME, time.monotonic() > 0)"


def test_a_clock_stands_still_for_any_checkout(tmp_path):
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    (checkout / "ours.py").write_text("NAME = 'theirs'")
    environment = running_server.environment_of(pathlib.Path(checkout))
    environment = running_server.with_frozen_clock(environment, tmp_path / "frozen", 1_700_000_000)
    done = subprocess.run(
        [sys.executable, "-c", ASKED], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stdout.split() == ["1700000000.0", "1700000000.0", "theirs", "True"]
