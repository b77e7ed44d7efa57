"""The reports that a release holds, and the page of a retraining."""

import dataclasses
import json
import re

import pytest

from serving.building import assembly, card, reports, retraining_page
from serving.building import config as build_config
from serving.release import manifest as release
from tests.serving.building import cards
from tests.serving.building.test_assembly import without_ranker, worse_than_popularity

STEPS = [
    {"name": "preprocess", "outcome": "done", "seconds": 12.5, "reason": "", "command": "p"},
    {"name": "evaluate", "outcome": "failed", "seconds": 1.0, "reason": "exit code 2",
     "command": "python -m models.evaluate"},
]  # fmt: skip
ROUNDS = [
    {"epoch": 1.0, "train_loss": 2.0, "holdout": {"map_at_100": 0.1}},
    {"epoch": 2.0, "train_loss": 1.5, "holdout": {"map_at_100": 0.2}},
]
DRIFT = {"features": [{"feature": "region", "model": "ranker", "distance": 0.4, "warns": True}]}


def page(made, **changes):
    given = {
        "previous_figures": {"candidate.model.all.recall_at_100": cards.figure(0.5)},
        "training": {"candidate": ROUNDS},
        "steps": STEPS,
        "drift": DRIFT,
        "times": {"ranker": [("serving_default, 100 rows", 5.0, 4.5, 6.0)]},
        "links": ["evaluation.html"],
    }
    return retraining_page.page(made, **{**given, **changes})


def test_page_of_a_retraining_says_first_whether_it_serves_and_why():
    made = card.card(cards.sources())
    told = page(made)
    summary = told[: told.index("<h2")]
    assert "<b>Published</b> as release 20261130000000, after 20261129000000" in summary
    assert '<a href="evaluation.html">the evaluation</a>' in summary
    refused = page(card.card(cards.sources(gates=[*cards.GATES, cards.FAILED])), links=[])
    assert "<b>Refused:</b> 1 of 3 gates failed" in refused
    assert "finite &lt;b&gt;: 7 not finite (asked: 0)" in refused[: refused.index("<h2")]
    forced = card.card(cards.sources(gates=[cards.FAILED], forced="because"))
    assert "<b>Published by force</b>" in page(forced)


def test_page_draws_figures_beside_the_release_before_curves_drift_times_and_steps():
    told = page(card.card(cards.sources()))
    assert "recall_at_100, release 20261129000000: 0.5 [0.45, 0.55]" in told
    assert "recall_at_100, baseline popularity all: 0.4 [0.35, 0.45]" in told
    assert "holdout map@100, 2: 0.2" in told
    assert "region (ranker) !: 0.4" in told
    assert "serving_default, 100 rows: 5 [4.5, 6]" in told
    assert "seconds, preprocess: 12.5" in told
    anchors = re.findall(r'<a href="#(\w+)">', told)
    assert anchors == re.findall(r'<h2 id="(\w+)">', told)[: len(anchors)]


def test_page_of_a_release_of_which_little_is_known():
    made = card.card(cards.sources(evaluation={}, info={}, previous=None))
    told = page(made, previous_figures={}, training={}, steps=[], drift=None, times={}, links=[])
    assert "<svg" not in told
    assert 'id="figures"' not in told
    assert "None" not in re.sub(r"<pre>.*?</pre>", "", told, flags=re.S)


def test_page_of_a_run_that_came_to_no_release():
    told = retraining_page.failed_page(STEPS)
    assert "<b>Failed</b> at the step evaluate: exit code 2." in told[: told.index("<h2")]
    assert "python -m models.evaluate" in told
    assert "seconds, preprocess: 12.5" in told


def test_release_holds_its_reports_with_their_checksums(small_site, small_release):
    version = release.current(small_release)
    manifest = release.load_manifest(small_release)
    held = manifest.components["reports"]
    assert set(held) == {"card.json", "card.md", "retraining.html", "statistics.html"}
    made = json.loads(release.report(small_release, version, "card.json"))
    assert made["release"] == version
    assert made["models"]["candidate"]["vocabulary_sizes"]
    assert made["data"]["log_files"]["watches"]["files"] > 0
    info = manifest.lineage["examples"]["info"]
    assert made["data"]["partitions"] == info["partitions"]
    assert made["data"]["partitions"]["watches"]
    assert made["data"]["preprocessing"] == info["config"]
    assert made["seeds"]["preprocess"] == info["config"]["seed"]
    assert [gate["rule"] for gate in made["gates"]] == [gate["rule"] for gate in manifest.gates]
    told = release.report(small_release, version, "retraining.html").decode()
    assert "embed_videos, 1 rows" in told  # The written models were timed.
    assert f'href="{reports.STATISTICS}"' in told


def test_refusal_is_reported_where_somebody_wants_to_read_it(small_site, tmp_path):
    inputs = without_ranker(small_site, page_order=worse_than_popularity(tmp_path))
    (tmp_path / "retrain.json").write_text(json.dumps({"steps": STEPS[:1]}))
    inputs = dataclasses.replace(inputs, retraining=tmp_path / "retrain.json")
    settings = build_config.BuildConfig(report=tmp_path / "report.html")
    with pytest.raises(assembly.GatesFailedError):
        assembly.publish(inputs, tmp_path / "root", settings)
    told = (tmp_path / "report.html").read_text()
    assert "<b>Refused:</b>" in told
    assert "seconds, preprocess: 12.5" in told


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda path: path.write_text("{}"), "is not what was published"),
        (lambda path: path.unlink(), "cannot be read"),
    ],
)
def test_altered_report_is_refused_and_the_release_serves(small_site, tmp_path, change, message):
    root = tmp_path / "root"
    manifest = assembly.publish(without_ranker(small_site), root, build_config.BuildConfig())
    change(release.component_directory(root, "reports", manifest.version) / "card.json")
    with pytest.raises(release.ReleaseRefusedError, match=message):
        release.report(root, manifest.version, "card.json")
    assert release.load(root).version == manifest.version
    for name in ("../CURRENT", "nothing.html"):
        with pytest.raises(release.ReleaseRefusedError, match="has no report"):
            release.report(root, manifest.version, name)
