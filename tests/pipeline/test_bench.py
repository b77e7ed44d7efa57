import importlib.util
import json
import pathlib
import re
import subprocess
import sys

import pytest

from features import command
from pipeline import bench, commands

PEAK_KB = r"int(__import__('re').search(r'VmHWM:\s+(\d+)', open('/proc/self/status').read())[1])"


def test_figures_of_other_groups_stay():
    earlier = {"preprocess.seconds": 9.0, "preprocess.gone": 1.0, "ranker.p50_ms": 3.0}
    text = bench.merged(earlier, "preprocess", {"preprocess.seconds": 8.0})
    assert json.loads(text) == {"preprocess.seconds": 8.0, "ranker.p50_ms": 3.0}


def test_every_group_has_its_module():
    for group in bench.GROUPS:
        assert importlib.util.find_spec(f"pipeline.bench_{group}") is not None, group


def test_an_unknown_group_is_refused(run_command):
    done = run_command("pipeline.bench", "--groups=speed")
    assert done.returncode == 2
    assert "'speed'" in done.stderr


def peak_mb():
    """Returns the most memory that this process has had so far."""
    return int(re.search(r"VmHWM:\s+(\d+)", pathlib.Path("/proc/self/status").read_text())[1]) >> 10


def test_what_a_process_of_its_own_needed_is_never_ours():
    before = peak_mb()
    text = f"len(b'x' * (500 << 20)) and {PEAK_KB} >> 10"
    assert commands.in_own_process(eval, text) >= 500
    assert peak_mb() - before < 100


def test_an_error_of_a_process_of_its_own_is_raised_here():
    with pytest.raises(command.InputError, match="must be an ISO 8601 time"):
        commands.in_own_process(command.parse_time, "soon")


def test_a_benchmark_of_servers_holds_no_tensorflow_beside_them():
    """Its site is built elsewhere; even the library alone is hundreds of megabytes."""
    code = "import sys, pipeline.bench, pipeline.bench_funnel; print('tensorflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
