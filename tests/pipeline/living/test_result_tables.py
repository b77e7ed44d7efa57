"""What living sites of several seeds showed becomes tables."""

import json

import pytest

from features import command
from pipeline.benchmarks import results
from pipeline.living import result_tables


def figure(value, low=None, high=None):
    return {"value": value, "low": low, "high": high, "n": 10}


def made(paths, part, metrics=()):
    return result_tables.table([results.document_of(path) for path in paths], part, metrics)


def report(tmp_path, seed, change, *, outcome="published"):
    """The report.json of a run of two days."""
    figures = {
        f"{day}/{key}": figure(value, value - 0.5, value + 0.5)
        for day in (1, 2)
        for key, value in {
            "popularity/watch_min_per_user": 10.0,
            "ours/watch_min_per_user": 10.0 + change,
            "ours-popularity/watch_min_per_user": change,
        }.items()
    }
    step = {"name": "train_ranker", "cost": {"cpu_s": 10.0 * seed}}
    gates = [
        {"rule": "recall", "value": "0.5", "asked": "at least 0.1", "verdict": "pass"},
        {"rule": "overlap", "value": "0.99", "asked": "at most 0.9", "verdict": "FAIL"},
        {"rule": "order", "value": "none", "asked": "200", "verdict": "not checked"},
    ]
    skipped = {"name": "learn_order", "cost": {"cpu_s": 0.0}}
    night = {"outcome": outcome, "steps": [step, skipped], "gates": gates}
    night |= {"wall_s": 100.0, "cpu_s": 90.0, "peak_mib": 2000.0}
    visit = {"passed": {"seconds": 5.0}}
    document = {
        "run": {"site": {"seed": seed, "users": 1000, "videos": 900}, "days": 2, "share": 0.5},
        "figures": figures,
        "visits": {"1": visit, "2": visit},
        "nights": {"1": night},
        "provenance": {"date": "2026-12-01", "commit": "abc"},
    }
    path = tmp_path / f"report-{seed}.json"
    path.write_text(json.dumps(document))
    return path


def test_seeds_stand_side_by_side_and_together(tmp_path):
    paths = [report(tmp_path, 1, 2.0), report(tmp_path, 2, 4.0, outcome="refused")]
    table = made(paths, "days")
    rows = {row[0]: dict(zip(table.columns, row, strict=True)) for row in table.rows}
    assert rows["day 2, seed 1"]["difference"] == "2.00 [1.50, 2.50]"
    assert rows["day 2, seed 2"]["night before"] == "refused"
    # The mean of two independent figures: half of sqrt(2) times .5.
    assert rows["**day 2, together**"]["difference"] == "3.00 [2.65, 3.35]"
    assert rows["day 1, seed 1"]["difference, adjusted"] == "–"
    assert table.facts["seed"] == "1, 2"
    assert "1,000 users" in table.facts["data"]


def test_what_gates_said_and_what_steps_took_is_told(tmp_path):
    paths = [report(tmp_path, 1, 2.0), report(tmp_path, 2, 4.0)]
    nights = made(paths, "nights").rows
    assert nights[0][:4] == [
        "seed 1, night 1", "published", "1 of 2", "overlap: 0.99; needed: at most 0.9",
    ]  # fmt: skip
    cost = {row[0]: row[1] for row in made(paths, "cost").rows}
    assert cost["train ranker"] == cost["together"] == "15.0 [10.0, 20.0]"
    assert "learn order" not in cost  # What was skipped cost nothing.


def test_a_claim_has_one_row_over_the_seeds_that_tried_it(tmp_path):
    def tried(file, seed, change, against="control", text="no age"):
        arms = {
            "control": {"text": "the ranker", "against": "control"},
            "no_age": {"text": text, "against": against},
        }
        figures = {f"all/no_age-{against}/click_rate": figure(change, change - 0.02, change + 0.02)}
        figures[f"all/{against}/page_value_s"] = figure(100.0 * seed, 90.0 * seed, 110.0 * seed)
        document = json.loads(report(tmp_path, seed, 2.0).read_text())
        document |= {"arms": arms, "figures": figures, "split": {"users": dict.fromkeys(arms, 30)}}
        path = tmp_path / file
        path.write_text(json.dumps(document))
        return path

    runs = [
        tried("earlier", 1, -0.9), tried("one", 1, -0.1), tried("two", 2, -0.3, text="still none"),
        tried("elsewhere", 1, 0.2, against="retrieval"),
    ]  # fmt: skip
    table = made(runs, "claims", ["click_rate"])
    together, elsewhere = (dict(zip(table.columns, row, strict=True)) for row in table.rows)
    assert (together["arm"], together["against"]) == ("no_age: still none", "control")
    assert together["users exposed of either"] == "60 and 60"
    # Of seed 1 the later run counts; .02 over the square root of 2.
    assert together["clicks per impression: difference"] == "-.200 [-.214, -.186]"
    assert together["seeds"] == "1, 2"
    worth = "expected watch time of a home page by the truth, seconds: those"
    assert together[worth].startswith("150 ")
    assert (elsewhere["against"], elsewhere["seeds"]) == ("retrieval", "1")
    assert table.facts["seed"] == "1, 2"
    with pytest.raises(command.InputError, match="must be one of claims, got 'days'"):
        made(runs, "days")


def test_other_measurements_are_read_one_at_a_time(tmp_path, run_command):
    other = tmp_path / "bench.json"
    other.write_text('{"index.recall": 0.9}')
    done = run_command(
        "pipeline.record_results",
        f"--measured={report(tmp_path, 1, 2.0)},{other}",
        "--part=days",
        "--table=a.b",
    )
    assert done.returncode == 2
    assert "several files only of living sites" in done.stderr
