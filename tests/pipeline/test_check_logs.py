"""What is wrong with a log is said at once, and by the code that preprocessing runs."""

import collections
import json
import re
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features import command, vectors
from features.durations import DAY_S
from pipeline.preprocessing import job as preprocessing_job
from pipeline.preprocessing import log_checks
from pipeline.preprocessing.config import PreprocessConfig

T0 = 1_795_132_800  # 2026-11-20T00:00:00Z
NOW_S = T0 + 10 * DAY_S
_HEAVY = "sorted({'tensorflow', 'apache_beam', 'tensorflow_transform'} & set(sys.modules))"


def good_tables():
    moments = [T0 + DAY_S * day + 3_600 * hour for day in range(4) for hour in range(5)]
    users = [f"u{n % 4}" for n in range(20)]
    videos = [f"v{n % 5}" for n in range(20)]
    return {
        "videos": {"video_id": [f"v{n}" for n in range(5)], "upload_time": [T0 - DAY_S] * 5},
        "users": {"user_id": [f"u{n}" for n in range(4)]},
        "watches": {
            "user_id": users,
            "video_id": videos,
            "time": moments,
            "watch_time_s": [60.0] * 20,
            "completed": [True, False] * 10,
        },
        "searches": {"user_id": users, "time": moments, "query": ["cats"] * 20},
        "impressions": {
            "user_id": users,
            "video_id": videos,
            "time": moments,
            "clicked": [True, False] * 10,
            "watch_time_s": [60.0, None] * 10,
        },
    }


def write(directory, tables):
    for name, columns in tables.items():
        path = directory / name / "part-0.parquet"
        path.parent.mkdir(parents=True)
        pq.write_table(pa.table(columns), path)
    return directory


def changed(**tables):
    """The good log with some columns of some tables replaced; None takes one away."""
    made = good_tables()
    for name, columns in tables.items():
        together = {**made[name], **columns}
        made[name] = {n: values for n, values in together.items() if values is not None}
    return made


def checked(tmp_path, tables, **settings):
    config = PreprocessConfig(**settings)
    return log_checks.check(write(tmp_path / "logs", tables), config, now_s=NOW_S)


def texts(findings, table=None):
    return [finding.text for finding in findings if table in {None, finding.table}]


def test_a_good_log_has_no_finding(tmp_path):
    report = checked(tmp_path, good_tables())
    assert report.findings == []
    assert report.rows["impressions", "accepted"] == 20


def test_everything_is_said_at_once(tmp_path):
    tables = changed(
        videos={"regions": ["us"] * 5, "min_age": ["18+"] * 5},
        users={"user_id": None, "userId": [1, 2, 3, 4]},
        watches={"completed": ["yes"] * 20, "time": [T0 * 1_000] * 5 + [T0] * 15},
        searches={"time": ["yesterday"] * 20},
        impressions={"video_id": ["gone"] * 15 + ["v0"] * 5},
    )
    report = checked(tmp_path, tables)
    said = "\n".join(f"{finding.table} {finding.text}" for finding in report.problems)
    for part in (
        "videos table videos, column 'regions': expected list<string>, found string",
        "column 'min_age': expected double, found string",
        "users table users lacks the required column 'user_id' (string). Is it 'userId'?",
        "column 'completed': expected bool, found string",
        "watches 5 of 20 rows are set aside as future_time",
        "df['time'] // 1000",
        "column 'time': expected int64, found string with a value it cannot hold",
        "'yesterday'",
        "impressions 15 of 20 rows are set aside as unknown_video",
        "impressions loses 15 of 20 rows, more than --max_rejected_fraction=0.1",
    ):
        assert part in said
    (bad,) = [f for f in report.problems if "future_time" in f.text]
    assert [row["time"] for row in bad.examples] == [T0 * 1_000] * 3


def test_the_reasons_and_counts_are_those_of_preprocessing(tmp_path):
    tables = good_tables()
    watches = {name: values * 2 for name, values in tables["watches"].items()}  # 20 exact copies.
    for column, values in {
        "user_id": [None, "two\nlines", "stranger"],
        "video_id": ["", "v" * 300, "gone"],
        "time": [0, -5, 4_000_000_000],
        "watch_time_s": [-1.0, float("nan"), 1e9],
    }.items():
        for value in values:
            for name, good in tables["watches"].items():
                watches[name].append(value if name == column else good[0])
    tables["watches"] = watches
    tables["videos"]["video_id"] += ["v0", None]
    tables["videos"]["upload_time"] += [T0, T0]
    logs_dir = write(tmp_path / "logs", tables)
    config = PreprocessConfig(max_rejected_fraction=0.9)
    report = log_checks.check(logs_dir, config, rejected_dir=tmp_path / "rejected")
    info = preprocessing_job.run(str(logs_dir), str(tmp_path / "examples"), config, [])
    found = collections.defaultdict(dict)
    for (table, reason), number in report.rows.items():
        found[table] |= {reason: number} if number else {}
    assert dict(found) == info["rows"]
    assert info["rows"]["watches"]["exact_duplicate"] == 20
    # Read, accepted and every reason but one: a video without a row exists from its first watch.
    assert len(info["rows"]["watches"]) == 2 + 9
    assert info["unlisted_videos"] == 1
    assert report.problems == []
    kept = pq.read_table(tmp_path / "rejected" / "watches")["reason"].to_pylist()
    assert collections.Counter(kept) == {
        reason: number
        for reason, number in info["rows"]["watches"].items()
        if reason not in {"read", "accepted", "exact_duplicate"}
    }


def test_a_needed_table_that_is_absent_is_a_problem(tmp_path):
    tables = good_tables()
    del tables["watches"]
    report = checked(tmp_path, tables)
    (text,) = texts(report.problems, "watches")
    assert "there is no such table" in text
    assert "watch_time_s" in text


def test_watches_need_no_table_of_videos(tmp_path):
    tables = good_tables()
    del tables["videos"]
    report = checked(tmp_path, tables)
    assert report.problems == []
    (text,) = texts(report.findings, "videos")
    assert "they exist from their first watch" in text or "from their first watch" in text


def test_some_watches_may_be_of_videos_without_a_row_but_not_most(tmp_path):
    tables = good_tables()
    tables["watches"]["video_id"][0] = "of today"
    report = checked(tmp_path / "few", tables)
    assert report.problems == []
    assert any("'of today'" in text for text in texts(report.findings, "watches"))
    tables["watches"]["video_id"] = [f"0{name}" for name in tables["watches"]["video_id"]]
    report = checked(tmp_path / "all", tables)
    assert any("more than --max_rejected_fraction" in t for t in texts(report.problems, "watches"))


def test_what_absent_tables_switch_off_is_a_warning(tmp_path):
    tables = {name: good_tables()[name] for name in ("videos", "watches")}
    report = checked(tmp_path, tables)
    assert report.problems == []
    said = {finding.table: finding.text for finding in report.findings}
    assert "no ranker" in said["impressions"]
    assert "no search features" in said["searches"]
    assert "user ids cannot be checked" in said["users"]


def test_bad_rows_below_the_limit_are_warnings_with_examples(tmp_path):
    tables = changed(watches={"watch_time_s": [-1.0] + [60.0] * 19})
    report = checked(tmp_path, tables)
    assert report.problems == []
    (finding,) = report.findings
    assert "1 of 20 rows are set aside as negative_watch_time" in finding.text
    assert [row["watch_time_s"] for row in finding.examples] == [-1.0]
    assert "for example {'user_id': 'u0'" in str(report)


@pytest.mark.parametrize(
    ("tables", "settings", "text"),
    [
        (changed(watches={"completed": [False] * 20}), {}, "none of the 20 usable rows has `com"),
        (good_tables(), {"holdout_days": 100}, "no watch before .* can be a training label"),
        (good_tables(), {"from_s": T0 + 30 * DAY_S}, "has no row between --from and --until"),
        (changed(videos={"upload_time": [0] * 5}), {}, "5 of 5 rows are set aside as bad_time"),
    ],
)
def test_what_leaves_nothing_to_learn_is_a_problem_that_names_the_cause(
    tmp_path, tables, settings, text
):
    report = checked(tmp_path, tables, **settings)
    assert [said for said in texts(report.problems) if re.search(text, said)]


def test_watches_that_are_not_completed_may_be_labels_when_that_is_asked_for(tmp_path):
    tables = changed(watches={"completed": [False] * 20})
    assert checked(tmp_path, tables, completed_only=False).problems == []


@pytest.mark.parametrize(
    ("tables", "table", "text"),
    [
        (changed(impressions={"clicked": [False] * 20}), "impressions", "will be no ranker"),
        (changed(watches={"user_id": ["u1"] * 20}), "watches", "all are of one user, 'u1'"),
        (changed(users={"user_id": ["u0", "u1", "u2", "u3", "u3"]}), "users", "1 older rows of an"),
    ],
)
def test_what_preprocessing_bears_is_a_warning(tmp_path, tables, table, text):
    report = checked(tmp_path, tables)
    assert report.problems == []
    assert any(text in said for said in texts(report.findings, table))


def test_a_declared_feature_without_its_column_is_a_problem(tmp_path):
    logs_dir = write(tmp_path / "logs", good_tables())
    declared = {"name": "mood", "kind": "univalent", "side": "query", "source": "users.mood"}
    (logs_dir / "features.json").write_text(json.dumps([{**declared, "models": ["ranker"]}]))
    report = log_checks.check(logs_dir, PreprocessConfig(), now_s=NOW_S)
    (text,) = texts(report.problems)
    assert "features.json" in text
    assert "feature 'mood' reads users.mood" in text


def test_files_that_cannot_be_read_and_others_that_disagree_are_problems(tmp_path):
    logs_dir = write(tmp_path / "logs", changed(watches={"mood": [1] * 20}))
    pq.write_table(
        pa.table(changed(watches={"mood": ["calm"] * 20})["watches"]),
        logs_dir / "watches" / "part-1.parquet",
    )
    (logs_dir / "searches" / "part-1.parquet").write_bytes(b"half a file")
    (logs_dir / "users" / "gone.parquet").symlink_to("/nonexistent")
    report = log_checks.check(logs_dir, PreprocessConfig(), now_s=NOW_S)
    said = "\n".join(texts(report.problems))
    assert "files of one table disagree about a column" in said
    assert "part-1.parquet (table searches) cannot be read as Parquet" in said
    assert "gone.parquet is a link to /nonexistent" in said


def test_one_problem_of_many_files_is_said_once(tmp_path):
    logs_dir = write(tmp_path / "logs", good_tables())
    for n in range(1, 30):
        late = changed(watches={"time": [f"moment {n}"] * 20})["watches"]
        pq.write_table(pa.table(late), logs_dir / "watches" / f"part-{n}.parquet")
    report = log_checks.check(logs_dir, PreprocessConfig(), now_s=NOW_S)
    (text,) = texts(report.problems, "watches")
    assert "(29 files, such as " in text


def run(*arguments):
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)


def test_the_command_ends_with_2_and_all_problems_or_with_0_and_what_to_run_next(tmp_path):
    good = write(tmp_path / "good", good_tables())
    done = run("-m", "pipeline.check_logs", f"--logs={good}")
    assert (done.returncode, done.stderr) == (0, "")
    assert "No problem, 0 warnings." in done.stdout
    assert "Next: python -m pipeline.retrain --logs=" in done.stdout
    bad = write(tmp_path / "bad", changed(videos={"regions": ["us"] * 5}, users={"age": ["x"] * 4}))
    done = run("-m", "pipeline.check_logs", f"--logs={bad}", f"--rejected={tmp_path / 'rejected'}")
    assert done.returncode == 2
    assert "2 problems, 0 warnings.\n" in done.stdout
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "rejected").exists()  # No row was set aside.
    done = run("-m", "pipeline.check_logs", f"--logs={tmp_path / 'nowhere'}")
    assert done.returncode == 2
    assert "nowhere should be a logs directory, but does not exist" in done.stderr


def test_bad_logs_are_refused_before_tensorflow_and_beam_are_imported(tmp_path):
    bad = write(tmp_path / "logs", changed(watches={"watch_time_s": [-1.0] * 20}))
    for module, more in (("check_logs", ""), ("preprocess", f", '--examples={tmp_path / 'ex'}'")):
        code = (
            "import runpy, sys\n"
            f"sys.argv = ['x', '--logs={bad}'{more}]\n"
            f"try: runpy.run_module('pipeline.{module}', run_name='__main__')\n"
            f"except SystemExit as end: print(end.code, {_HEAVY})\n"
        )
        done = run("-c", code)
        assert done.stdout.splitlines()[-1] == "2 []", done.stderr
    assert "negative_watch_time" in done.stderr
    # The rows to blame are where the message says.
    kept = pq.read_table(tmp_path / "ex.rejected" / "watches")
    assert kept["reason"].to_pylist() == ["negative_watch_time"] * 20
    assert f"are in {tmp_path / 'ex.rejected'}" in done.stderr
    assert not (tmp_path / "ex").exists()


def test_a_directory_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(command.InputError, match="does not exist"):
        log_checks.check(tmp_path / "nowhere", PreprocessConfig())


@pytest.mark.parametrize(
    ("width", "says"),
    [
        (2, []),
        (3, ["have another width than the declared 3"]),
        (0, ["names 1 ids more than once"]),
    ],
)
def test_vectors_beside_the_videos_are_looked_at(tmp_path, width, says):
    logs_dir = write(tmp_path / "logs", good_tables())
    declared = vectors.declarations_of("content", width or 2)
    (logs_dir / "features.json").write_text(json.dumps(declared))
    (logs_dir / "video_vectors").mkdir()
    ids = ["v0", "v0" if width == 0 else "v1"]
    np.savez(logs_dir / "video_vectors" / "content.npz", video_id=ids, vector=np.ones((2, 2)))
    report = log_checks.check(logs_dir, PreprocessConfig(), now_s=NOW_S)
    found = texts(report.problems, "videos")
    assert len(found) == len(says)
    for text, part in zip(found, says, strict=True):
        assert part in text
    assert report.rows["watches", "accepted"] == 20
