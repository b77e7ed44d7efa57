"""The binary: its flags become commands, and a bad flag one message."""

import subprocess
import sys

import pytest


@pytest.fixture
def logs(tmp_path):
    directory = tmp_path / "logs" / "impressions"
    directory.mkdir(parents=True)
    (directory / "part.parquet").write_text("rows")
    return directory.parent


def retrain(tmp_path, logs, *flags):
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "pipeline.retrain",
            f"--logs={logs}",
            f"--serving_root={tmp_path}/serving_root",
            *flags,
        ],
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_dry_run_prints_the_line_of_each_step_and_writes_nothing(tmp_path, logs):
    done = retrain(
        tmp_path,
        logs,
        "--dry_run",
        "--until=2022-05-08",
        "--preprocess_flags=--holdout_days=2 --runner=DirectRunner",
        "--candidate_flags=--epochs=2",
        "--force_publish=known bad day",
    )
    assert done.returncode == 0, done.stderr
    commands = [line for line in done.stdout.splitlines() if not line.startswith("#")]
    python, work = sys.executable, tmp_path / "work"
    assert commands[0] == (
        f"{python} -m pipeline.preprocess --logs={logs} --examples={work}/examples "
        "--holdout_days=2 --runner=DirectRunner --until=2022-05-08"
    )
    assert commands[1] == (
        f"{python} -m models.train_candidate --examples={work}/examples "
        f"--model={work}/candidate_model --epochs=2"
    )
    assert [line.split()[2] for line in commands] == [
        "pipeline.preprocess",
        "models.train_candidate",
        "models.train_ranker",
        "models.evaluate",
        "serving.learn_order",
        "models.refit",
        "serving.build_release",
    ]
    # An order of pages is learned from watches that its models have not learnt, and published.
    assert f"--candidate_model={work}/candidate_model" in commands[4]
    assert f"--candidate_model={work}/final_candidate_model" in commands[6]
    assert f"--page_order={work}/page_order" in commands[6]
    assert "'--force_publish=known bad day'" in commands[6]
    assert not work.exists()


def test_a_time_that_is_none_is_refused_before_anything_runs(tmp_path, logs):
    done = retrain(tmp_path, logs, "--until=yesterday")
    assert done.returncode == 2
    assert "--until must be an ISO 8601 time" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "work").exists()


def test_an_unclosed_quote_in_the_flags_of_a_step_is_refused(tmp_path, logs):
    done = retrain(tmp_path, logs, "--candidate_flags='--epochs=2")
    assert done.returncode == 2
    assert "--candidate_flags" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_failing_step_ends_with_the_lines_to_type_next(tmp_path, logs):
    done = retrain(tmp_path, logs)  # These logs are no Parquet.
    assert done.returncode != 0
    assert "error: preprocess failed (exit code" in done.stderr
    assert "This step alone:" in done.stderr
    assert f"-m pipeline.retrain --logs={logs}" in done.stderr
    assert not (tmp_path / "work" / "steps" / "preprocess.json").exists()
