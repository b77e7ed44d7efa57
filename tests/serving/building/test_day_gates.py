"""A bad day is refused by a gate that names the cause; a usual one is not."""

import json

import numpy as np
import pyarrow as pa
import pytest

from features import files, spec
from features.tables import logs
from pipeline.preprocessing import log_days
from serving.building import day_gates
from serving.building.config import DayLimits
from serving.building.gates import FAIL, NOT_CHECKED, PASS
from serving.release import manifest as release
from serving.release import publication

DAY = 86_400
END = 1_700_006_400  # 2023-11-15, midnight.
DAYS, ROWS = 8, 1500


def times(rng, day):
    """Moments of a day of which the evening is ten times as busy as the night."""
    hours = np.arange(24)
    shape = 1 + 0.9 * np.cos((hours - 20) / 24 * 2 * np.pi)
    hour = rng.choice(24, ROWS, p=shape / shape.sum())
    return np.sort(END - (DAYS - day) * DAY + hour * 3600 + rng.integers(0, 3600, ROWS))


def write(directory, change=lambda day, table: table):
    """Writes a log of days, each of which ``change`` may break."""
    rng = np.random.default_rng(0)
    for day in range(DAYS):
        at = times(rng, day)
        table = pa.table(
            {
                "user_id": [f"u{n}" for n in rng.integers(0, 100, ROWS)],
                "video_id": [f"v{n}" for n in rng.integers(0, 50, ROWS)],
                "time": at,
                "watch_time_s": rng.exponential(60, ROWS),
                "device": ["tv"] * ROWS,
            }
        )
        table = change(day, table)
        if table.num_rows:
            logs.append(directory, "watches", table)
    return directory


class Place:
    """Examples as preprocessing leaves them of such a log, as far as the gates look."""

    def __init__(self, directory):
        self.directory = directory
        self.features = ("device", "region")
        self.counts = {"candidate_holdout": 90, "candidate_train": 900}
        self.missing = {"device": 0}

    def examples(self, name, change=lambda day, table: table, *, until_s=END, **info):
        made, log = self.directory / name / "examples", self.directory / name / "logs"
        made.mkdir(parents=True)
        write(log, change)
        days = log_days.of_logs(log, {"watches"}, from_s=None, until_s=until_s)
        (made / "days.json").write_text(json.dumps(days))
        held_out = {n: {"rows": 1000, "missing": of} for n, of in self.missing.items()}
        train = {n: {"rows": 9000, "missing": 0} for n in self.missing}
        features = {"candidate_train": train, "candidate_holdout": held_out}
        (made / "statistics.json").write_text(json.dumps({"features": features}))
        tables = {"users": ["user_id", *self.features], "videos": ["video_id"]}
        spec.resolve({"watches": [], "searches": [], "context": [], **tables}).save(made)
        known = {"holdout_days": 1.0, "counts": self.counts, "until_s": until_s}
        files.mark_complete(made, {**known, "train_until_s": until_s - DAY, **info})
        return made

    def serve(self, examples):
        """Publishes a release of examples, which then serves."""
        root = self.directory / "serving_root"
        info = json.loads((examples / "COMPLETE").read_text())
        days = json.loads((examples / "days.json").read_text())
        with publication.building(root) as build:
            for name in release.COMPONENTS:
                (build.directory(name) / "file").write_text("x")
            files.link_tree(examples / "spec.json", build.directory("videos") / "spec.json")
            lineage = {"examples": {"info": info}, "days": days}
            build.publish(metrics={}, gates=[], lineage=lineage)
        return root


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


def judged(examples, root=None, verdict=FAIL, **limits):
    gates = day_gates.of_examples(examples, DayLimits(**limits), root)
    return [f"{gate.rule}: {gate.value}" for gate in gates if gate.verdict == verdict]


def only_last(change):
    return lambda day, table: change(table) if day == DAYS - 1 else table


def test_a_usual_day_passes_every_gate_also_beside_the_release_that_serves(place):
    root = place.serve(place.examples("yesterday", until_s=END - DAY))
    examples = place.examples("today")
    assert judged(examples, root) == []
    assert judged(examples, root, NOT_CHECKED) == []
    assert len(judged(examples, root, PASS)) >= 8


def test_a_day_with_a_tenth_of_its_events_is_refused(place):
    examples = place.examples("x", only_last(lambda table: table.take(list(range(0, ROWS, 10)))))
    (cause,) = judged(examples, least_rows=100)
    assert "watches: rows of the last day" in cause
    assert "90% fewer than usual" in cause


def test_watch_time_that_was_doubled_is_refused(place):
    def doubled(table):
        twice = pa.array(2 * np.asarray(table["watch_time_s"]))
        return table.set_column(3, "watch_time_s", twice)

    (cause,) = judged(place.examples("x", only_last(doubled)))
    assert "mean watch time" in cause
    assert "times the usual, is it counted wrongly?" in cause


@pytest.mark.parametrize(("hours", "said"), [(8, "about 8 h ahead"), (-6, " h behind")])
def test_a_clock_that_was_wrong_is_refused(place, hours, said):
    def shifted(table):
        return table.set_column(2, "time", pa.array(np.asarray(table["time"]) + hours * 3600))

    late = max(hours, 0) * 3600
    causes = judged(place.examples("x", only_last(shifted), until_s=END + late))
    assert any("its clock is" in cause and said in cause for cause in causes)


def test_logs_that_were_cut_off_are_refused_and_the_hours_are_told(place):
    def cut(table):
        return table.filter(pa.compute.less(table["time"], END - 5 * 3600))

    causes = judged(place.examples("x", only_last(cut)))
    assert any("silent where others are not" in c and "2023-11-14T19:00:00Z" in c for c in causes)
    assert all("are logs missing" in cause for cause in causes)


def test_a_column_that_went_missing_is_refused_by_its_name(place):
    (cause,) = judged(place.examples("x", only_last(lambda table: table.drop(["device"]))))
    assert "the column device went missing" in cause
    assert "100.0% of the rows" in cause


def test_a_feature_that_the_holdout_lacks_is_refused_by_its_name(place):
    place.missing = {"device": 40, "video_topics": 950}
    (cause,) = judged(place.examples("x"))
    assert "video_topics (candidate): missing in 95.0%, in training in 0.0%" in cause


def test_an_empty_holdout_is_refused_and_says_where_the_logs_end(place):
    place.counts = {"candidate_holdout": 0, "candidate_train": 900}
    causes = judged(place.examples("x", until_s=END + 2 * DAY))
    assert any(
        "the holdout has examples: 0 watches to predict; it begins at 2023-11-16T00:00:00Z, "
        "watches end about 2023-11-15T00:00:00Z" in cause
        for cause in causes
    )
    none = judged(place.examples("y", holdout_days=0.0), verdict=NOT_CHECKED)
    assert any("the holdout has examples" in one for one in none)


def test_logs_that_end_before_what_serves_or_lost_its_days_are_refused(place):
    root = place.serve(place.examples("served"))
    (cause,) = judged(place.examples("older", until_s=END - DAY), root)
    assert "their end: they end at 2023-11-14T00:00:00Z: the newest logs are missing" in cause

    def truncated(day, table):
        return table.slice(0, ROWS // 10) if day < DAYS - 2 else table

    causes = judged(place.examples("cut", truncated), root)
    assert any("watches of days that it has learnt" in c and "were truncated" in c for c in causes)


def test_a_feature_that_the_release_that_serves_reads_is_missed(place):
    root = place.serve(place.examples("yesterday", until_s=END - DAY))
    place.features = ("device",)
    (cause,) = judged(place.examples("today"), root)
    assert "went missing: region" in cause


def test_a_young_log_is_not_judged_by_days_that_it_does_not_have(place):
    examples = place.examples(
        "x", lambda day, table: table if day >= DAYS - 3 else table.slice(0, 0)
    )
    assert judged(examples) == []
    assert any("2 days before" in one or "1 days before" in one
               for one in judged(examples, verdict=NOT_CHECKED))  # fmt: skip


def test_the_command_refuses_a_bad_day_with_a_code_of_its_own_unless_it_is_forced(
    place, tmp_path, run_command
):
    place.counts = {"candidate_holdout": 0, "candidate_train": 900}
    examples = place.examples("x")
    line = ("serving.judge_examples", f"--examples={examples}", f"--output={tmp_path / 'judged'}")
    done = run_command(*line)
    assert done.returncode == 3
    assert "the holdout has examples" in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "judged").exists()
    done = run_command(*line, "--force_publish=a holiday")
    assert done.returncode == 0, done.stderr
    recorded = files.read_complete(tmp_path / "judged")
    assert recorded["forced"] == "a holiday"
    assert FAIL in {gate["verdict"] for gate in recorded["gates"]}
