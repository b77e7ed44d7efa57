"""The binary: its flags become commands, and a bad flag one message."""

import datetime
import json
import subprocess
import sys
import time

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
        "--learn_order",
    )
    assert done.returncode == 0, done.stderr
    commands = [line for line in done.stdout.splitlines() if not line.startswith("#")]
    python, work = sys.executable, tmp_path / "work"
    assert commands[0] == (
        f"{python} -m pipeline.preprocess --logs={logs} --examples={work}/examples "
        "--holdout_days=2 --runner=DirectRunner --until=2022-05-08"
    )
    assert commands[1] == (
        f"{python} -m serving.judge_examples --examples={work}/examples "
        f"--output={work}/judged_examples --serving_root={tmp_path}/serving_root "
        "'--force_publish=known bad day'"
    )
    assert commands[2] == (
        f"{python} -m models.train_candidate --examples={work}/examples "
        f"--model={work}/candidate_model --epochs=2"
    )
    assert [line.split()[2] for line in commands] == [
        "pipeline.preprocess",
        "serving.judge_examples",
        "models.train_candidate",
        "models.train_ranker",
        "models.evaluate",
        "serving.learn_order",
        "pipeline.join_holdout",
        "models.refit",
        "serving.build_release",
    ]
    # An order of pages is learned from watches that its models have not learnt, and published.
    assert f"--candidate_model={work}/candidate_model" in commands[5]
    assert f"--candidate_model={work}/final_candidate_model" in commands[8]
    assert f"--examples={work}/final_examples" in commands[8]
    assert f"--page_order={work}/page_order" in commands[8]
    assert "'--force_publish=known bad day'" in commands[8]
    assert not work.exists()


def test_an_order_of_pages_is_learned_where_no_ranker_gives_one(tmp_path, logs):
    without = "# learn_order: skipped\n#   a ranker does it\n"
    ranked = retrain(tmp_path, logs, "--dry_run")
    assert without in ranked.stdout
    assert "page_order" not in ranked.stdout
    (logs / "impressions" / "part.parquet").unlink()
    (logs / "watches").mkdir()
    bare = retrain(tmp_path, logs, "--dry_run")
    assert "# learn_order: would run" in bare.stdout
    assert f"--page_order={tmp_path / 'work' / 'page_order'}" in bare.stdout


def test_a_hook_is_told_of_a_failure_and_a_window_begins_so_many_days_ago(tmp_path, logs):
    told = tmp_path / "told.json"
    done = retrain(tmp_path, logs, "--window_days=3", f"--hook=cp /dev/stdin {told}")
    assert done.returncode == 2, done.stderr
    news = json.loads(told.read_text())
    assert (news["event"], news["step"], news["release"]) == ("failed", "preprocess", None)
    (name,) = (tmp_path / "work" / "runs").iterdir()
    assert json.loads(name.read_text())["outcome"] == "failed"
    begin = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(days=3)
    assert f"--from={begin:%Y-%m-%d}T00:00:00Z" in done.stderr


def test_a_schedule_goes_on_after_a_failure_until_it_is_told_to_stop(tmp_path, logs):
    line = [sys.executable, "-m", "pipeline.retrain", f"--logs={logs}", "--every=1s"]
    told = tmp_path / "told"
    hook = f"--hook=tee -a {told}"
    process = subprocess.Popen(
        [*line, f"--serving_root={tmp_path}/serving_root", hook], stderr=subprocess.PIPE
    )
    end = time.monotonic() + 300
    while not (told.exists() and told.read_text().count('"event": "failed"') >= 2):
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.05)
    process.terminate()
    process.communicate()
    assert process.returncode == 143


@pytest.mark.parametrize(
    ("flag", "message"),
    [("--every=24", "--every must be"), ("--hook=no-such-program", "--hook must be"),
     ("--window_days=-1", "window_days"), ("--from=2022-05-01 --window_days=2", "give either")],
)  # fmt: skip
def test_a_schedule_that_cannot_be_is_refused_before_anything_runs(tmp_path, logs, flag, message):
    done = retrain(tmp_path, logs, *flag.split())
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "work").exists()


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
