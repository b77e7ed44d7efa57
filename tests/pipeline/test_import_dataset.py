import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

import pipeline
from features.durations import DAY_S
from features.tables import logs

REPOSITORY = pathlib.Path(pipeline.__file__).parents[1]
RATINGS_CSV = "userId,movieId,rating,timestamp\n1,10,4.0,1147880044\n2,10,1.5,1147868828\n"
MOVIES_CSV = "movieId,title,genres\n10,Heat (1995),Action|Crime\n"


def command_line(*flags):
    return [sys.executable, "-m", "pipeline.import_dataset", *flags]


def run(*flags):
    return subprocess.run(
        command_line(*flags), cwd=REPOSITORY, capture_output=True, text=True, check=False
    )


@pytest.fixture
def source(tmp_path):
    directory = tmp_path / "ml"
    directory.mkdir()
    (directory / "ratings.csv").write_text(RATINGS_CSV)
    (directory / "movies.csv").write_text(MOVIES_CSV)
    return directory


@pytest.fixture
def logs_dir(tmp_path):
    return tmp_path / "logs"


def refused(completed, logs_dir):
    """The message of a run that must have been refused in one line, leaving nothing."""
    assert completed.returncode == 2, completed.stderr
    assert "Traceback" not in completed.stderr
    assert completed.stdout == ""
    assert not logs_dir.exists()
    assert [path for path in logs_dir.parent.iterdir() if path.name.startswith(".")] == []
    return completed.stderr


def test_import_prints_rows_notes_and_what_to_run_next(source, logs_dir):
    completed = run("--format=movielens", f"--source={source}", f"--logs={logs_dir}")
    assert completed.returncode == 0, completed.stderr
    assert f"Wrote {logs_dir}" in completed.stdout
    assert "watches                 2 rows" in completed.stdout
    assert "NO IMPRESSIONS" in completed.stdout
    assert f"Next: python -m pipeline.preprocess --logs={logs_dir}" in completed.stdout
    assert logs.read_table(logs_dir, "watches").num_rows == 2


def test_real_data_set_is_imported_by_one_command(kuairand_dir, logs_dir):
    completed = run("--format=kuairand", f"--source={kuairand_dir}", f"--logs={logs_dir}")
    assert completed.returncode == 0, completed.stderr
    assert "impressions       185,177 rows" in completed.stdout
    assert "video_features_statistic_pure.parquet is not read" in completed.stderr


def test_until_leaves_later_events_out(source, logs_dir):
    window = ("--from=2006-05-17", "--until=2006-05-17T15:00:00")  # 12:27:08 and 15:34:04.
    completed = run("--format=movielens", f"--source={source}", f"--logs={logs_dir}", *window)
    assert completed.returncode == 0, completed.stderr
    assert logs.read_table(logs_dir, "watches")["user_id"].to_pylist() == ["2"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--format=netflix",), "netflix"),
        (("--format=movielens", "--until=yesterday"), "--until must be an ISO 8601 time"),
        (("--format=movielens", "--from=2030-01-01"), "no watch of"),
        (("--format=movielens", "--sauce=x"), "sauce"),
        (("--format=kuairand",), "lacks log_standard_*.csv"),
    ],
)
def test_bad_flags_end_in_one_message(source, logs_dir, flags, message):
    completed = run(f"--source={source}", f"--logs={logs_dir}", *flags)
    assert message in refused(completed, logs_dir)


def test_absent_source_ends_in_one_message(tmp_path, logs_dir):
    completed = run("--format=movielens", f"--source={tmp_path / 'none'}", f"--logs={logs_dir}")
    assert "does not exist" in refused(completed, logs_dir)


def test_truncated_file_ends_in_one_message(source, logs_dir):
    (source / "ratings.csv").write_text(RATINGS_CSV[:-12])
    completed = run("--format=movielens", f"--source={source}", f"--logs={logs_dir}")
    assert "ratings.csv cannot be read" in refused(completed, logs_dir)


def test_existing_logs_are_replaced_only_when_asked(source, logs_dir):
    flags = ("--format=movielens", f"--source={source}", f"--logs={logs_dir}")
    assert run(*flags).returncode == 0
    second = run(*flags)
    assert second.returncode == 2
    assert "not empty" in second.stderr
    (source / "ratings.csv").write_text(RATINGS_CSV + "3,10,5,1147868830\n")
    assert run(*flags, "--overwrite").returncode == 0
    assert logs.read_table(logs_dir, "watches").num_rows == 3


def test_a_proposed_mapping_is_imported_by_the_command_that_it_names(
    tmp_path, logs_dir, needs_module
):
    needs_module("duckdb")
    (tmp_path / "plays.csv").write_text("user,film,at,secs\n7,1,2022-05-01T00:00:00Z,30\n")
    mapping, source = tmp_path / "mapping.toml", tmp_path / "plays.csv"
    proposed = run(f"--propose={mapping}", f"--source={source}")
    assert proposed.returncode == 0, proposed.stderr
    assert "watches from plays: user_id, video_id, time, watch_time_s" in proposed.stdout
    assert f"--mapping={mapping} --logs=logs" in proposed.stdout
    again = run(f"--propose={mapping}", f"--source={source}")
    assert again.returncode == 2 and "exists" in again.stderr
    imported = run(f"--mapping={mapping}", f"--logs={logs_dir}")
    assert imported.returncode == 0, imported.stderr
    assert "watches                 1 rows" in imported.stdout
    assert f"Next: python -m pipeline.check_logs --logs={logs_dir}" in imported.stdout


def test_a_mapping_that_is_wrong_is_one_message_and_leaves_nothing(
    tmp_path, logs_dir, needs_module
):
    needs_module("duckdb")
    mapping = tmp_path / "mapping.toml"
    mapping.write_text('[sources]\nplays = "nothing.csv"\n[watches]\nsauce = 1\n')
    message = refused(run(f"--mapping={mapping}", f"--logs={logs_dir}"), logs_dir)
    assert "there is no key 'sauce'. Is it 'source'?" in message
    mapping.write_text("[sources")
    refusal = refused(run(f"--mapping={mapping}", f"--logs={logs_dir}"), logs_dir)
    assert "cannot be read as TOML" in refusal
    both = refused(run(f"--mapping={mapping}", "--format=movielens"), logs_dir)
    assert "give one of --format, --mapping and --propose" in both


def test_help_describes_the_flags():
    completed = run("--help")
    assert "--completed_rating" in completed.stdout + completed.stderr


def test_killed_import_leaves_nothing_visible_and_the_next_one_cleans_up(source, logs_dir):
    # A rating on each of 10,000 days: as many files, so that the kill falls among them.
    days = "".join(f"{day % 50},10,4,{day * DAY_S + 1}\n" for day in range(1, 10_000))
    (source / "ratings.csv").write_text(RATINGS_CSV + days)
    flags = ("--format=movielens", f"--source={source}", f"--logs={logs_dir}")
    process = subprocess.Popen(
        command_line(*flags), cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 300
        while len(list(logs_dir.parent.glob(".logs.*.tmp/watches/*/*.parquet"))) < 20:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert not logs_dir.exists()
    assert list(logs_dir.parent.glob(".logs.*.tmp"))
    completed = run(*flags, "--from=2006-01-01")
    assert completed.returncode == 0, completed.stderr
    assert logs.read_table(logs_dir, "watches")["user_id"].to_pylist() == ["2", "1"]
    assert sorted(path.name for path in logs_dir.parent.iterdir()) == ["logs", "ml"]
