"""The two binaries as an operator meets them: subprocesses, one of them killed on its way."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from models.training import saved

_CANDIDATE = [
    "-m",
    "models.train_candidate",
    "--embedding_dim=8",
    "--depth=1",
    "--negatives=16",
    "--batch_size=100",
    "--epochs=3",
    "--patience=9",
]


def run(*arguments):
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=False, timeout=300
    )


def test_training_that_was_killed_continues_and_ends_complete(small_examples, tmp_path):
    model = tmp_path / "model"
    arguments = [*_CANDIDATE, f"--examples={small_examples}", f"--model={model}"]
    # Pauses after the first checkpoint, so that the kill falls into the second epoch.
    slow = (
        "import sys, time, runpy\n"
        "from models.training import checkpoints\n"
        "save = checkpoints.Checkpoints.save\n"
        "def pause(self):\n"
        "    save(self)\n"
        "    time.sleep(600)\n"
        "checkpoints.Checkpoints.save = pause\n"
        "sys.argv = sys.argv[1:]\n"
        "runpy.run_module('models.train_candidate', run_name='__main__')\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", slow, "train_candidate", *arguments[2:]],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    latest = tmp_path / "model.training" / "latest" / "checkpoint"
    try:
        deadline = time.monotonic() + 300
        while not latest.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        assert latest.exists()
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert not model.exists()

    done = run(*arguments)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Continuing from step 20" in done.stderr
    assert "Next: python -m models.train_ranker" in done.stdout
    info = saved.open_directory(model, kind="candidate", examples_dir=small_examples).info
    assert info["lineage"]["steps"] == 60
    assert info["metrics"]["map_at_100"] > 0.2
    training = json.loads((model / "config.json").read_text())["training"]
    assert training["epochs"] == 3


@pytest.mark.parametrize("binary", ["models.train_candidate", "models.train_ranker"])
def test_a_feature_to_leave_out_that_there_is_not_is_refused(small_examples, tmp_path, binary):
    model = tmp_path / "model"
    done = run(
        *("-m", binary, f"--examples={small_examples}", f"--model={model}"),
        "--exclude=region,watched_video_id",
    )
    assert done.returncode == 2
    assert "--exclude names no feature: 'watched_video_id'" in done.stderr
    assert "watched_video_ids" in done.stderr
    assert not model.exists()


def test_ranker_is_trained_from_the_command_line(small_examples, tmp_path):
    model = tmp_path / "ranker"
    done = run(
        *("-m", "models.train_ranker", f"--examples={small_examples}", f"--model={model}"),
        *("--hidden=none", "--epochs=1", "--loss=weighted"),
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "click rate is" in done.stderr
    assert "Next: python -m models.evaluate" in done.stdout
    opened = saved.open_directory(model, kind="ranker", examples_dir=small_examples)
    assert opened.configs["model"]["hidden"] == []


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--depth=9", "depth must be in [0, 4], got 9"),
        ("--loss=hinge", "loss"),
        ("--layers=3", "Unknown command line flag 'layers'"),
        ("--examples=/nowhere", "/nowhere should hold examples"),
    ],
)
def test_bad_flags_end_in_one_message_and_code_2(tmp_path, flag, message):
    model = tmp_path / "model"
    done = run("-m", "models.train_candidate", "--examples=/none", f"--model={model}", flag)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not model.exists()
