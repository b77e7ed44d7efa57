"""Commands keep what others say when they start off the screen, and nothing else."""

import os
import pathlib
import re
import subprocess
import sys

import pytest

from features.screen import quiet

ROOT = pathlib.Path(__file__).resolve().parents[3]
# As TensorFlow 2.21 wrote them.
NOISE = [
    "WARNING: All log messages before absl::InitializeLog() is called are written to STDERR",
    "I0000 00:00:1796023404.849586   31165 port.cc:153] oneDNN custom operations are on. You may",
    "I0000 00:00:1796023404.849942   31165 cudart_stub.cc:31] Could not find cuda drivers on your",
    "I0000 00:00:1796023405.191976   31165 cpu_feature_guard.cc:227] This TensorFlow binary is",
    "To enable the following instructions: AVX2 FMA, in other operations, rebuild TensorFlow with",
    "E0000 00:00:1796023426.680050   31165 cuda_platform.cc:52] failed call to cuInit: INTERNAL:",
    "E0000 00:00:1758131045.203198 3722035 cuda_dnn.cc:8579] Unable to register cuDNN factory: At",
    "E0000 00:00:1796027996.923908   32048 util.cc:131] oneDNN supports DT_HALF only on platforms",
    "2025-09-17 14:44:05.157831: I external/local_xla/xla/tsl/cuda/cudart_stub.cc:32] Could not",
]
REAL = [
    "F0000 00:00:1796023404.849586   31165 cpu_feature_guard.cc:90] The TensorFlow library was com",
    "E0000 00:00:1796023404.849586   31165 file_system.cc:1] No space left on device",
    "2025-09-17 14:44:05.176998: E external/local_xla/xla/client.cc:467] Out of memory",
    "Traceback (most recent call last):",
    "ImportError: libfoo.so: cannot open shared object file",
    "12:00:00 Epoch 1 of 3.",
]
# Stands for TensorFlow, which takes seconds to import.
TENSORFLOW = f"""
import os, types, warnings
for line in {[*NOISE[:3], "an error of the import"]!r}:
    os.write(2, (line + "\\n").encode())
warnings.warn("something of theirs is old")
if "DIES" in os.environ:
    os.write(2, b"last words\\n")
    os.abort()
def list_physical_devices():
    os.write(2, {NOISE[5]!r}.encode() + b"\\n")
config = types.SimpleNamespace(list_physical_devices=list_physical_devices)
"""
# A line that is logged in a file of the packages is ours.
COMMAND = f"""
import logging as python_logging, sys
from absl import logging
from features import command
from pipeline.steps import commands


def look():
    import tensorflow
    assert tensorflow.__spec__.loader is tensorflow.__loader__
    python_logging.getLogger("theirs").warning("a warning of theirs")
    exec(compile("logging.info('ours')", {str(ROOT / "features" / "x.py")!r}, "exec"))


def main():
    look()
    commands.in_own_process(look)


if __name__ == "__main__":
    command.run(main)
"""


@pytest.fixture
def run(tmp_path):
    """Runs a command beside a stand-in for TensorFlow."""
    (tmp_path / "tensorflow").mkdir()
    (tmp_path / "tensorflow" / "__init__.py").write_text(TENSORFLOW)
    program = tmp_path / "program.py"
    program.write_text(COMMAND)
    known = {k: v for k, v in os.environ.items() if k not in {quiet.VARIABLE, "PYTHONWARNINGS"}}
    environment = {**known, "PYTHONPATH": f"{tmp_path}:{ROOT}"}

    def run(*flags, **variables):
        return subprocess.run(
            [sys.executable, str(program), *flags],
            capture_output=True,
            text=True,
            check=False,
            env={**environment, **variables},
        )

    return run


@pytest.mark.parametrize("line", NOISE)
def test_a_start_up_line_is_known_to_mean_nothing(line):
    assert re.match("|".join(quiet.NOISE), line)


@pytest.mark.parametrize("line", REAL)
def test_any_other_line_is_not(line):
    assert not re.match("|".join(quiet.NOISE), line)


def test_a_command_and_what_it_starts_say_what_is_theirs_and_errors_alone(run):
    done = run()
    assert done.returncode == 0, done.stderr
    said = [line.partition(" ours")[1] or line for line in done.stderr.splitlines()]
    assert said == ["an error of the import", " ours"] * 2


@pytest.mark.parametrize("flags", [("--verbosity=0",), ("--verbosity=1",)])
def test_everything_is_shown_where_it_is_asked_for(run, flags):
    done = run(*flags)
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    for line in (*NOISE[:3], "an error of the import"):
        assert lines.count(line) == 2, line
    for words in ("something of theirs is old", "a warning of theirs", " ours"):
        assert sum(words in line for line in lines) >= 1, words
    assert sum("a warning of theirs" in line for line in lines) == 2


def test_the_verbosity_of_warnings_leaves_progress_out(run):
    done = run("--verbosity=-1")
    assert "a warning of theirs" in done.stderr
    assert " ours" not in done.stderr


def test_a_process_that_dies_in_the_import_has_its_last_words(run):
    done = run(DIES="1")
    assert done.returncode < 0
    assert done.stderr.splitlines()[:2] == ["an error of the import", "last words"]


def test_who_is_not_a_command_is_left_alone(tmp_path):
    code = (
        "import sys, warnings\nbefore = list(warnings.filters), list(sys.meta_path)\n"
        "import features, models, pipeline, serving\n"
        "assert before == (warnings.filters, sys.meta_path)"
    )
    environment = {k: v for k, v in os.environ.items() if k != quiet.VARIABLE}
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, env=environment)
