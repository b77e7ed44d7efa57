"""What was measured becomes a table of the docs, figure for figure."""

import importlib.util
import json
import pathlib
import re

import pytest

from features import command, reports
from models.evaluation.evaluation import Evaluation
from models.evaluation.intervals import Figure
from models.paper.experiments import Experiment, Row
from pipeline.benchmarks import results

ROOT = pathlib.Path(__file__).resolve().parents[3]
NAN = float("nan")


@pytest.fixture
def rendered(monkeypatch, tmp_path):
    """Renders a table as the documentation does, from the tables of this test."""
    spec = importlib.util.spec_from_file_location("result_tables", ROOT / "docs/result_tables.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "_RESULTS", tmp_path / "results")
    return lambda table: module.on_page_markdown(f"{{{{ table {table} }}}}").splitlines()


@pytest.fixture
def evaluation(tmp_path):
    """The metrics.json of an evaluation of eight queries."""
    figures = {
        "candidate.model.all.recall_at_10": Figure(value=0.4625, low=0.4, high=0.5, n=8),
        "candidate.model.all.map": Figure(value=0.1, low=0.05, high=0.15, n=8),
        "candidate.popularity.all.recall_at_10": Figure(value=0.25, low=0.2, high=0.3, n=8),
        "candidate.popularity.all.map": Figure(value=0.03, low=NAN, high=NAN, n=8),
        "candidate.model.new_users.map": Figure(value=0.9, low=0.8, high=1.0, n=2),
    }
    data = {
        "videos": 1200, "candidate_queries": 8, "candidate_holdout_examples": 8,
        "candidate_users": 5,
    }  # fmt: skip
    settings = {"k": [10], "replicates": 50, "seed": 0, "exclude_watched": True}
    path = tmp_path / "metrics.json"
    path.write_text(Evaluation(settings=settings, data=data, figures=figures).to_json())
    return path


def recorded(tmp_path, path, part, table, *, metrics=(), **told):
    results.record(tmp_path / "results", table, results.read(path, part, metrics), told)


def test_an_evaluation_becomes_a_table_with_its_intervals_and_its_setting(
    tmp_path, evaluation, rendered
):
    recorded(tmp_path, evaluation, "candidate", "candidate.tiny", data="a tiny site", seed="3")
    header, _, *rows, _, setting = rendered("candidate.tiny")
    assert header == "|  | recall@10 | MAP |"
    assert rows == [
        "| model | .463 [.400, .500] | .100 [.050, .150] |",
        "| popularity | .250 [.200, .300] | .030 |",
    ]
    assert "data: a tiny site;" in setting
    assert "8 holdout watches of 5 users" in setting
    assert "seed: 3; interval: 95 % in brackets, paired bootstrap over users, 50 r" in setting
    stamp = reports.stamp()
    assert re.search(rf"measured: {stamp['date']}", setting)


def test_a_table_may_have_some_of_the_metrics(tmp_path, evaluation, rendered):
    recorded(tmp_path, evaluation, "candidate", "a.b", metrics=["map"], data="d", seed="1")
    assert rendered("a.b")[2] == "| model | .100 [.050, .150] |"


def test_an_experiment_becomes_a_table_with_a_row_for_each_setting_and_seed(tmp_path, rendered):
    rows = [
        Row(setting=f"depth {depth}", metric=metric, value=depth + seed / 10, seed=seed)
        for depth in (0, 1)
        for seed in (1, 2)
        for metric in ("map_at_100", "recall_at_100")
    ]
    experiment = Experiment(
        name="figure_6", title="t", question="Does depth help?", paper="", settings={}, rows=rows
    )
    path = tmp_path / "results.json"
    document = {
        "format": 1,
        "measured": {"date": "2026-11-30", "commit": "abc1234"},
        "settings": {"mode": "short", "seeds": [1, 2], "simulated_with": "--preset=tiny"},
        "experiments": [json.loads(experiment.to_json())],
    }
    path.write_text(json.dumps(document))
    recorded(tmp_path, path, "figure_6", "figures.figure_6")
    header, _, *shown, _, setting = rendered("figures.figure_6")
    assert header == "|  | map@100 | recall@100 |"
    assert shown[0] == "| depth 0, seed 1 | .100 | .100 |"
    assert shown[3] == "| depth 1, seed 2 | 1.20 | 1.20 |"
    assert "data: pipeline.simulate --preset=tiny; protocol: Does depth help?;" in setting
    assert "seed: 1, 2;" in setting
    assert "again: models.reproduce --mode=short --experiments=figure_6" in setting
    assert "measured: 2026-11-30, abc1234." in setting


def test_benchmarks_become_a_table_of_their_group(tmp_path, rendered):
    path = tmp_path / "bench.json"
    path.write_text(json.dumps({"index.mean_ms": 1.234, "index.recall_at_200": 0.97, "x.y": 1}))
    recorded(tmp_path, path, "index", "vector-index.index", data="vectors", measured="2026-11-30")
    assert rendered("vector-index.index")[2:4] == ["| mean ms | 1.23 |", "| recall at 200 | .970 |"]


def test_a_new_measurement_replaces_its_table_and_no_other(tmp_path, evaluation, rendered):
    for name, seed in (("one", "1"), ("two", "2"), ("one", "3")):
        recorded(tmp_path, evaluation, "candidate", f"candidate.{name}", data=name, seed=seed)
    assert "seed: 3;" in rendered("candidate.one")[-1]
    assert "seed: 2;" in rendered("candidate.two")[-1]


def test_a_result_without_its_setting_is_refused_and_nothing_is_written(tmp_path, evaluation):
    with pytest.raises(command.InputError, match="give --data and --seed"):
        recorded(tmp_path, evaluation, "candidate", "candidate.tiny")
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("text", "part", "message"),
    [
        ("no json", "candidate", "cannot be read as JSON"),
        ("[]", "candidate", "must hold a JSON object"),
        ("{}", "index", "no figures of --part=index"),
        ('{"settings": {}, "experiments": []}', "figure_7", "no figures of --part=figure_7"),
    ],
)
def test_a_file_without_the_figures_is_refused(tmp_path, text, part, message):
    path = tmp_path / "measured.json"
    path.write_text(text)
    with pytest.raises(command.InputError, match=message):
        results.read(path, part)


def test_a_part_that_was_not_measured_is_refused(evaluation):
    with pytest.raises(command.InputError, match="no figures of --part=ranker"):
        results.read(evaluation, "ranker")


@pytest.mark.parametrize("table", ["candidate", "../evil.x", "A.b", "a.b.c"])
def test_a_name_that_no_page_could_ask_for_is_refused(tmp_path, evaluation, table):
    with pytest.raises(command.InputError, match="FILE.NAME"):
        recorded(tmp_path, evaluation, "candidate", table, data="d", seed="1")


def test_the_command_writes_the_table(tmp_path, evaluation, rendered, run_command):
    done = run_command(
        "pipeline.record_results",
        f"--measured={evaluation}",
        "--part=candidate",
        "--table=candidate.tiny",
        f"--results={tmp_path / 'results'}",
        "--data=a tiny site",
        "--seed=1",
    )
    assert done.returncode == 0, done.stderr
    assert "2 rows" in done.stdout
    assert rendered("candidate.tiny")[2].startswith("| model | .463")


def test_code_that_is_no_checkout_has_a_date_and_no_commit(monkeypatch, tmp_path):
    monkeypatch.setattr(reports, "__file__", str(tmp_path / "features" / "reports.py"))
    assert set(reports.stamp()) == {"date", "commit"}
    assert reports.stamp()["commit"] == ""
