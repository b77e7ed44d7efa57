"""Incremental preprocessing: cached days and a replayed one equal a replay of everything."""

import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from features import command, dataset, spec
from features.as_of import replay
from features.durations import DAY_S
from features.tables import logs
from pipeline.preprocessing import job as preprocessing_job
from pipeline.preprocessing import periods, raw_examples
from pipeline.preprocessing.config import PreprocessConfig
from pipeline.steps import work_lock
from tests.pipeline import runner_outputs

T0 = 1_650_000_000 // DAY_S * DAY_S
USERS, VIDEOS, DAYS = 20, 15, 6


def site(seed=0):
    """Six days of a small site; events reach over midnight, and users come and go."""
    random = np.random.default_rng(seed)

    def events(count):
        return {
            "user_id": [f"u{i}" for i in random.integers(USERS, size=count)],
            "video_id": [f"v{i}" for i in random.integers(VIDEOS, size=count)],
            "time": np.sort(random.integers(T0, T0 + DAYS * DAY_S, count)),
        }

    clicked = random.random(600) < 0.4
    seconds = np.where(clicked, random.integers(1, 90, 600), 0).astype(float)
    searches = events(60)
    del searches["video_id"]
    return {
        "videos": pa.table(
            {
                "video_id": [f"v{i}" for i in range(VIDEOS)],
                "upload_time": random.integers(T0 - 9 * DAY_S, T0, VIDEOS),
                "channel_id": [f"c{i % 4}" for i in range(VIDEOS)],
            }
        ),
        "users": pa.table(
            {"user_id": [f"u{i}" for i in range(USERS)], "region": ["eu", "us"] * (USERS // 2)}
        ),
        "watches": pa.table(
            {**events(500), "watch_time_s": random.random(500) * 60, "completed": [True] * 500}
        ),
        "searches": pa.table({**searches, "query": [f"q{i % 7}" for i in range(60)]}),
        "impressions": pa.table({**events(600), "clicked": clicked, "watch_time_s": seconds}),
    }


def write(directory, tables):
    with logs.LogWriter(directory) as writer:
        for name, table in tables.items():
            writer.write(name, table)
    return directory


@pytest.fixture
def run(tmp_path):
    """Makes raw examples; returns what was made and (model, split) -> sorted rows."""
    number = iter(range(100))

    def make(logs_dir, days, *, cache="cache", **settings):
        output = tmp_path / f"out{next(number)}"
        output.mkdir()
        config = PreprocessConfig(
            until_s=int(T0 + days * DAY_S),
            cache=cache and str(tmp_path / cache),
            **{"examples_per_user": 8, **settings},
        )
        made = raw_examples.RawExamples(
            logs_dir=pathlib.Path(logs_dir),
            output=output,
            config=config,
            options=PipelineOptions(["--runner=FnApiRunner"]),
            tables={p.name for p in pathlib.Path(logs_dir).iterdir() if p.is_dir()},
        ).make()
        rows = {}
        for model in spec.MODELS:
            for split in raw_examples.SPLITS:
                table = pq.read_table(raw_examples.directory_of(output, model, split))
                order = [(c, "ascending") for c in ("user_id", "time", "label_video_id")]
                rows[model, split] = table.sort_by(order).to_pylist()
        return made, rows

    return make


@pytest.fixture
def preprocess(tmp_path):
    """Starts the command; ``wait`` on what it returns gives the examples directory."""

    class Run:
        def __init__(self, name, logs_dir, days, *flags):
            self.examples = tmp_path / name
            until = command.format_time(T0 + days * DAY_S)
            self.line = [
                *(sys.executable, "-m", "pipeline.preprocess", f"--logs={logs_dir}"),
                *(f"--examples={self.examples}", f"--until={until}", "--examples_per_user=8"),
                *flags,
            ]
            self.process = subprocess.Popen(self.line, stderr=subprocess.PIPE, text=True)

        def wait(self):
            errors = self.process.communicate()[1]
            assert self.process.returncode == 0, errors
            return self.examples

    return Run


def with_late_watch(tables):
    late = {"user_id": "u3", "video_id": "v1", "time": T0 + 3 * DAY_S + 7}
    row = pa.table({n: [v] for n, v in late.items()} | {"watch_time_s": [5.0], "completed": [True]})
    return {**tables, "watches": pa.concat_tables([tables["watches"], row])}


def test_the_command_again_and_again_over_one_cache_writes_what_it_writes_without(
    preprocess, tmp_path
):
    logs_dir = write(tmp_path / "logs", site())
    mended_dir = write(tmp_path / "mended", with_late_watch(site()))
    cache = tmp_path / "cache"
    # Two of them side by side, since the machine waits for each one's start.
    plain, plain_mended = preprocess("a", logs_dir, 5), preprocess("b", mended_dir, 6)
    expected, expected_mended = plain.wait(), plain_mended.wait()

    first = preprocess("first", logs_dir, 5, f"--cache={cache}").wait()
    runner_outputs.assert_equal(expected, first)
    # What a run leaves that was killed while it wrote its entries.
    entry = next(cache.glob("*-key-*"))
    leftover = shutil.copytree(entry, cache / f".{entry.name}.999999999-0a1b2c3d.tmp")

    second = preprocess("second", logs_dir, 5, f"--cache={cache}").wait()
    assert dataset.info(second)["cache"]["replayed"] == 0
    runner_outputs.assert_equal(expected, second)
    assert not leftover.exists()

    # A day later, into the same directory, and the fourth day has one more event.
    third = preprocess("second", mended_dir, 6, f"--cache={cache}").wait()
    assert dataset.info(third)["cache"]["replayed"] == 3
    runner_outputs.assert_equal(expected_mended, third)


def test_a_cache_that_another_run_uses_is_refused_by_its_flag(preprocess, tmp_path):
    logs_dir = write(tmp_path / "logs", site())
    with work_lock.held(tmp_path / "cache", flag="--cache"):
        run = preprocess("examples", logs_dir, 5, f"--cache={tmp_path / 'cache'}")
        errors = run.process.communicate()[1]
    assert run.process.returncode == 75
    assert "in use by process" in errors
    assert "another --cache" in errors


def test_a_cache_that_the_run_itself_would_replace_or_cannot_write_is_refused(tmp_path):
    logs_dir = write(tmp_path / "logs", site())
    (tmp_path / "file").write_text("")
    for cache, says in (
        (tmp_path / "examples" / "cache", "lies in --examples"),
        (tmp_path / "file", "--cache=.* cannot be used"),
    ):
        config = PreprocessConfig(until_s=T0 + 5 * DAY_S, cache=str(cache))
        with pytest.raises(command.InputError, match=says):
            preprocessing_job.run(str(logs_dir), str(tmp_path / "examples"), config, [])
    assert not (tmp_path / "examples").exists()


def assert_same(first, second):
    assert first.keys() == second.keys()
    for key, rows in first.items():
        assert str(rows) == str(second[key]), key  # as text, since NaN is not itself


def test_a_new_day_is_all_that_is_replayed_and_the_outcome_is_the_same(run, tmp_path):
    logs_dir = write(tmp_path / "logs", site())
    made, _ = run(logs_dir, 5)
    assert made.cache == {"periods": 5, "replayed": 5, "cached_examples": 0}
    made, rows = run(logs_dir, 6)
    assert (made.cache["periods"], made.cache["replayed"]) == (6, 1)
    _, expected = run(logs_dir, 6, cache=None)
    assert_same(rows, expected)
    # The day that was the holdout trains now, with example ages from the new end.
    assert {r["time"] // DAY_S for r in rows[spec.CANDIDATE, replay.TRAIN]} >= {T0 // DAY_S + 4}
    examples = sum(len(part) for part in expected.values())
    newest = sum(len(expected[m, replay.HOLDOUT]) for m in spec.MODELS)
    assert made.cache["cached_examples"] == examples - newest


def test_nothing_is_replayed_twice_and_an_older_end_asks_for_what_later_runs_left_out(
    run, tmp_path
):
    logs_dir = write(tmp_path / "logs", site())
    run(logs_dir, 6)
    made, rows = run(logs_dir, 6)
    assert made.cache["replayed"] == 0
    # Days of the later run that trained hold only its choice of each user's examples.
    made, rows = run(logs_dir, 4)
    assert made.cache["replayed"] == 4
    assert_same(rows, run(logs_dir, 4, cache=None)[1])


def test_a_late_event_has_its_day_and_all_later_ones_replayed(run, tmp_path):
    tables = site()
    run(write(tmp_path / "logs", tables), 6)
    logs_dir = write(tmp_path / "mended", with_late_watch(tables))
    made, rows = run(logs_dir, 6)
    assert made.cache["replayed"] == 3
    assert_same(rows, run(logs_dir, 6, cache=None)[1])


def test_a_changed_video_counts_from_its_first_event_and_a_new_one_for_nothing(run, tmp_path):
    tables = site()
    run(write(tmp_path / "logs", tables), 6)
    new = pa.table({"video_id": ["new"], "upload_time": [T0], "channel_id": ["c1"]})
    tables["videos"] = pa.concat_tables([tables["videos"], new])
    made, _ = run(write(tmp_path / "grown", tables), 6)
    assert made.cache["replayed"] == 0
    channels = tables["videos"]["channel_id"].to_pylist()
    tables["videos"] = tables["videos"].set_column(2, "channel_id", pa.array(["c9", *channels[1:]]))
    logs_dir = write(tmp_path / "moved", tables)
    made, rows = run(logs_dir, 6)
    seen = pc.filter(tables["watches"]["time"], pc.equal(tables["watches"]["video_id"], "v0"))
    assert made.cache["replayed"] >= 6 - (pc.min(seen).as_py() - T0) // DAY_S
    assert_same(rows, run(logs_dir, 6, cache=None)[1])


def test_other_settings_have_other_entries_and_old_ones_go(run, tmp_path):
    logs_dir = write(tmp_path / "logs", site())
    run(logs_dir, 6)
    before = {path.name for path in (tmp_path / "cache").iterdir()}
    made, rows = run(logs_dir, 6, seed=1)
    assert made.cache["replayed"] == 6
    after = {path.name for path in (tmp_path / "cache").iterdir()}
    assert len(after) == 6 and not after & before
    assert_same(rows, run(logs_dir, 6, cache=None, seed=1)[1])


def test_days_are_counted_back_from_the_end_and_not_from_midnight(run, tmp_path):
    logs_dir = write(tmp_path / "logs", site())
    run(logs_dir, 4.5)
    made, rows = run(logs_dir, 5.5)
    assert made.cache["replayed"] == 1
    assert_same(rows, run(logs_dir, 5.5, cache=None)[1])


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({}, "--until"),
        ({"until_s": T0, "holdout_days": 0.5}, "whole days"),
        ({"until_s": T0, "label": replay.HELD_OUT}, "--label=held_out"),
    ],
)
def test_settings_under_which_days_would_differ_are_refused(settings, says):
    with pytest.raises(command.InputError, match=says):
        PreprocessConfig(cache="x", **settings)


def test_a_watch_past_midnight_tells_of_the_day_whose_feedback_it_explains():
    midnight = T0 + 3 * DAY_S
    row = {"user_id": ["u1"], "video_id": ["v1"], "time": [midnight + 60]}
    said = pa.table({**row, "kind": ["like"]})
    watched = pa.table({**row, "watch_time_s": [5.0]})

    def days(**tables):
        found = periods.digests(tables, {}, until_s=T0 + 6 * DAY_S)
        return [(start - T0) // DAY_S for start in found["start"].to_pylist()], found

    assert days(feedback=said)[0] == [2, 3]
    assert days(watches=watched)[0] == [3]
    assert days(watches=watched, feedback=said.slice(0, 0))[0] == [3]
    both, found = days(watches=watched, feedback=said)
    assert both == [2, 3]
    assert found["rows"].to_pylist() == [2, 2]


def test_digests_do_not_depend_on_how_a_log_is_cut(tmp_path):
    tables = {n: t for n, t in site().items() if n in ("watches", "impressions", "searches")}
    hashes = {"video_id": periods.row_hashes(site()["videos"], "video_id", ["channel_id"])}
    whole = periods.digests(tables, hashes, until_s=T0 + 6 * DAY_S)
    mine = {n: t.filter(pc.equal(t["user_id"], "u1")) for n, t in tables.items()}
    others = {n: t.filter(pc.not_equal(t["user_id"], "u1")) for n, t in tables.items()}
    # A bucket of users whose files do not have a column at all.
    others["watches"] = (
        others["watches"]
        .drop_columns(["completed"])
        .append_column("completed", others["watches"]["completed"])
    )
    parts = [periods.digests(part, hashes, until_s=T0 + 6 * DAY_S) for part in (others, mine)]
    assert periods.merge(parts).equals(whole)
    assert whole["rows"].to_pylist() == [
        sum(
            pc.sum(pc.equal(pc.divide(pc.subtract(t["time"], T0), DAY_S), day)).as_py()
            for t in tables.values()
        )
        for day in range(DAYS)
    ]
