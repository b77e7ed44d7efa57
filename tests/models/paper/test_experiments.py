"""The frame of models.reproduce: outcomes as data, kept as soon as they are there."""

import dataclasses
import json
import math
import pathlib

import numpy as np
import pytest

from features import command
from features.charts import BARS, Plot, Series
from models.paper import experiments, report
from models.paper.experiments import Experiment, NotApplicableError, Row, Setting

NAN = math.nan


def setting(directory, **changes):
    given = {"logs": directory / "logs", "examples": directory, "work": directory}
    return Setting(**{**given, "mode": "short", "seeds": (1, 2), **changes})


def outcome(name="one", value=0.25):
    return Experiment(
        name=name,
        title="Title & all",
        question="Is it so?",
        paper="",
        settings={"path": pathlib.Path("a"), "number": np.int64(3)},
        rows=[
            Row(setting="depth 1", metric="map", value=value, low=0.2, high=0.3, seed=1, seconds=2),
            Row(setting="depth 1", metric="age", value=NAN),
        ],
        plots=[
            Plot(
                kind=kind,
                x_label="x",
                y_label="y",
                series=[Series(name="s", x=x, y=[1, 2], low=[0.5, NAN], high=[1.5, NAN])],
            )
            for kind, x in (("lines", [1, 2]), ("bars", ["a", "b"]), ("scatter", [1, 2]))
        ],
        conclusion="So it is.",
    )


def test_an_outcome_survives_json_with_its_missing_numbers():
    back = Experiment.from_json(outcome().to_json())
    assert back.row("depth 1", "map", seed=1) == outcome().rows[0]
    age = back.row("depth 1", "age")
    assert math.isnan(age.value) and math.isnan(age.seconds) and age.seed is None
    assert back.settings == {"path": "a", "number": 3}
    assert math.isnan(back.plots[0].series[0].low[1])
    with pytest.raises(KeyError, match="no row"):
        back.row("depth 2", "map")


def test_bars_stand_in_the_order_of_the_names_and_each_is_the_first_row_of_its_metric():
    rows = [
        Row(setting="a", metric="map", value=0.1, low=0.0, high=0.2, seed=1),
        Row(setting="a", metric="map", value=0.9, seed=2),
        Row(setting="b", metric="recall", value=0.8),
        Row(setting="b", metric="map", value=0.3, low=0.25, high=0.4),
    ]
    plot = Plot.bars(rows, ["b", "a"], {"MAP@100": "map"}, y_label="MAP")
    assert (plot.kind, plot.y_label) == (BARS, "MAP")
    (series,) = plot.series
    assert (series.name, series.x, series.y) == ("MAP@100", ("b", "a"), (0.3, 0.1))
    assert (series.low, series.high) == ((0.25, 0.0), (0.4, 0.2))


def test_a_finished_experiment_is_not_run_again_unless_the_setting_is_another(tmp_path):
    runs = []

    def make(given):
        runs.append(given.seeds)
        return outcome(value=float(len(runs)))

    first, _ = experiments.run({"one": make}, setting(tmp_path), tmp_path / "out")
    again, _ = experiments.run({"one": make}, setting(tmp_path), tmp_path / "out")
    assert [one.rows[0].value for one in (*first, *again)] == [1.0, 1.0]
    other = setting(tmp_path, seeds=(7,))
    (changed,), _ = experiments.run({"one": make}, other, tmp_path / "out")
    assert changed.rows[0].value == 2.0
    assert runs == [(1, 2), (7,)]


def test_what_does_not_apply_is_left_out_with_its_reason_and_the_rest_goes_on(tmp_path):
    def refuse(given):
        raise NotApplicableError("no searches here.")

    both = {"refused": refuse, "one": lambda given: outcome()}
    found, left_out = experiments.run(both, setting(tmp_path), tmp_path / "out")
    assert [one.name for one in found] == ["one"]
    assert left_out == {"refused": "no searches here."}
    page = report.html_page(found, {"left_out": left_out})
    assert "no searches here." in page and "Title &amp; all" in page
    assert page.count("<svg") == 3
    assert "0.2500 <small>[0.2000, 0.3000]</small>" in page
    summary, first_section = page.index("What came out"), page.index("<h2 id=")
    assert summary < page.index("So it is.") < first_section
    assert page.index('<a href="#one">') < page.index('<h2 id="one">')
    assert "So it is." in report.text(found)


def test_an_experiment_that_fails_leaves_nothing_behind(tmp_path):
    def fail(given):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        experiments.run({"one": fail}, setting(tmp_path), tmp_path / "out")
    assert not list((tmp_path / "out").glob("*"))


def test_directories_are_named_by_what_is_made_in_them(tmp_path):
    here = setting(tmp_path)
    assert here.directory("model", 1, "a") == here.directory("model", 1, "a")
    names = {here.directory("model", 1), here.directory("model", 2)}
    names.add(dataclasses.replace(here, mode="full").directory("model", 1))
    assert len(names) == 3


def test_a_variant_is_made_once_from_the_parts_of_the_logs_that_are_wanted(tmp_path, monkeypatch):
    for name in ("watches", "impressions"):
        (tmp_path / "logs" / name).mkdir(parents=True)
    (tmp_path / "logs" / "features.json").write_text("[]")
    seen = []

    def run_command(module, *flags):
        given = dict(flag.removeprefix("--").split("=", 1) for flag in flags)
        view = pathlib.Path(given["logs"])
        seen.append((module, sorted(p.name for p in view.iterdir()), given.get("label")))
        experiments.files.mark_complete(given["examples"], {})
        return 0.0

    monkeypatch.setattr(experiments, "run_command", run_command)
    here = setting(tmp_path, preprocess_flags=("--holdout_days=2",))
    for _ in range(2):
        here.variant("x", "--label=held_out", candidate_only=True, features='[{"name": "f"}]')
    assert seen == [("pipeline.preprocess", ["features.json", "watches"], "held_out")]
    (view,) = tmp_path.glob("logs-of-*")
    assert json.loads((view / "features.json").read_text()) == [{"name": "f"}]


def test_a_command_that_fails_is_reported_with_its_own_words(tmp_path):
    with pytest.raises(command.InputError, match="should hold the truth"):
        experiments.run_command(
            "pipeline.measure_oracle",
            f"--logs={tmp_path}",
            "--from=0",
            f"--output={tmp_path / 'o.parquet'}",
        )


@pytest.mark.parametrize(
    ("changes", "named"), [({"mode": "long"}, "mode"), ({"seeds": ()}, "seeds")]
)
def test_a_setting_checks_itself(tmp_path, changes, named):
    with pytest.raises(ValueError, match=named):
        setting(tmp_path, **changes)
