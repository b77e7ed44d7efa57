"""Alerts and dashboard: they fit their schemas, and name metrics that a funnel has."""

import itertools
import json
import re
import subprocess

import pytest
import yaml

from serving.batch import health
from serving.funnel.rungs import RUNGS
from tests.serving.deployment_files import DEPLOYMENT, ROOT

MONITORING = DEPLOYMENT / "helm" / "monitoring"


def alerts():
    groups = yaml.safe_load((MONITORING / "alerts.yaml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def panels():
    return json.loads((MONITORING / "dashboard.json").read_text())["panels"]


def expressions():
    for rule in alerts():
        yield rule["alert"], rule["expr"]
    for panel in panels():
        for target in panel["targets"]:
            yield panel["title"], target["expr"].replace("$__rate_interval", "5m")


def exported():
    """Names of the samples that the code can export, with the labels that it gives them."""
    names = {}
    folders = ("server", "guard")
    source = "".join(p.read_text() for f in folders for p in (ROOT / "serving" / f).glob("*.py"))
    declared = re.findall(
        r"(Counter|Histogram)\(\s*\"(\w+)\",\s*\"[^\"]*\"(?:,\s*\[([^\]]*)\])?", source
    )
    for kind, name, labels in declared:
        suffixes = ["_total"] if kind == "Counter" else ["_bucket", "_sum", "_count"]
        for suffix in suffixes:
            known = set(re.findall(r"\w+", labels)) | ({"le"} if suffix == "_bucket" else set())
            names[name + suffix] = known
    for name in re.findall(r"gauge\(\s*\"(\w+)\"", source):
        names[f"watchnext_{name}"] = set()
    return names | {name: set() for name in health.METRICS} | {health.DRIFT: {"feature"}}


@pytest.mark.parametrize(("name", "expression"), [*expressions()])
def test_expressions_are_promql_of_metrics_and_labels_that_are_exported(name, expression):
    promql = pytest.importorskip("promql_parser")
    promql.parse(expression)
    known = exported()
    used = set(re.findall(r"watchnext_\w+", expression))
    assert used and used <= set(known), name
    labels = set().union(*(known[one] for one in used))
    wanted = set(re.findall(r"(?:by|ignoring) \(([^)]*)\)", expression))
    assert {label.strip() for one in wanted for label in one.split(",")} <= labels
    assert set(re.findall(r"[{,]\s*(\w+)\s*=", expression)) <= labels


def test_every_alert_says_what_it_means_and_what_to_do():
    names = [rule["alert"] for rule in alerts()]
    assert len(set(names)) == len(names)
    for rule in alerts():
        assert rule["labels"]["severity"] in {"page", "ticket"}
        assert rule["annotations"]["summary"].endswith(".")
        assert rule["annotations"]["action"].endswith(".")


def test_alerts_are_rules_that_prometheus_takes(needs_program):
    promtool = needs_program("promtool")
    line = [promtool, "check", "rules", "--lint=all", "--lint-fatal", MONITORING / "alerts.yaml"]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_alerts_have_the_fields_of_rules_and_fill_in_labels_that_they_keep():
    groups = yaml.safe_load((MONITORING / "alerts.yaml").read_text())
    assert set(groups) == {"groups"}
    for group in groups["groups"]:
        assert set(group) <= {"name", "interval", "limit", "rules"}
    for rule in alerts():
        assert set(rule) <= {"alert", "expr", "for", "keep_firing_for", "labels", "annotations"}
        assert re.fullmatch(r"[A-Za-z_]\w*", rule["alert"])
        assert re.fullmatch(r"(\d+(ms|[smhdwy]))+", rule.get("for", "5m"))
        kept = {
            label.strip()
            for one in re.findall(r"by \(([^)]*)\)", rule["expr"])
            for label in one.split(",")
        }
        used = set(re.findall(r"\$labels\.(\w+)", str(rule["annotations"])))
        assert used <= (kept or used & exported_labels(rule["expr"])), rule["alert"]


def exported_labels(expression):
    return set().union(*(exported()[one] for one in re.findall(r"watchnext_\w+", expression)))


def lost(wanted, have, at=""):
    """Yields the places of what is in one JSON value and not the same in another."""
    if isinstance(wanted, dict) and isinstance(have, dict):
        for key, value in wanted.items():
            yield from lost(value, have[key], f"{at}.{key}") if key in have else [f"{at}.{key}"]
    elif isinstance(wanted, list) and isinstance(have, list) and len(wanted) == len(have):
        for place, (one, other) in enumerate(zip(wanted, have, strict=True)):
            yield from lost(one, other, f"{at}[{place}]")
    elif wanted != have:
        yield at


def test_the_dashboard_has_no_field_that_the_schema_of_grafana_does_not_know(needs_module):
    needs_module("grafana_foundation_sdk")
    from grafana_foundation_sdk.cog import encoder, plugins
    from grafana_foundation_sdk.models.dashboard import Dashboard

    plugins.register_default_plugins()  # Options and queries have schemas of their own.

    def known(dashboard):
        return json.loads(encoder.JSONEncoder().encode(Dashboard.from_json(dashboard)))

    dashboard = json.loads((MONITORING / "dashboard.json").read_text())
    assert list(lost(dashboard, known(dashboard))) == []
    panel = dashboard["panels"][0]
    panel["gridPosition"], panel["targets"][0]["query"] = panel["gridPos"], "up"
    assert list(lost(dashboard, known(dashboard))) == [
        ".panels[0].targets[0].query",
        ".panels[0].gridPosition",
    ]


def test_panels_lie_beside_each_other_and_have_numbers_of_their_own():
    assert len({panel["id"] for panel in panels()}) == len(panels())
    cells = [panel["gridPos"] for panel in panels()]
    for one, other in itertools.combinations(cells, 2):
        apart_x = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        apart_y = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert apart_x or apart_y
    assert all(cell["x"] >= 0 and cell["x"] + cell["w"] <= 24 for cell in cells)
    assert "rung" in panels()[0]["targets"][0]["expr"] and "full" in RUNGS
