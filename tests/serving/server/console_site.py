"""A server with a serving root of two releases and an experiment, for the tests of the console."""

import json

from serving.building import card, card_text, retraining_page
from serving.funnel import experiment as ab_experiment
from serving.insight.console import Console
from serving.release import manifest as release
from serving.release import publication
from tests.serving.building import cards

ADMIN = "fedcba9876543210-admin-token"
FIGURE = "candidate.model.all.recall_at_100"


def publish(root, recall=0.5):
    """Publishes a release that no model could serve, with figures, gates and an origin."""
    with publication.building(root) as build:
        for name in release.SERVED:
            (build.directory(name) / "file").write_text("x" * 2000)
        made = card.card(cards.sources(build.version))
        nothing = {"previous_figures": {}, "training": {}, "steps": [], "drift": None, "times": {}}
        page = retraining_page.page(made, **nothing, links=["card.md"])
        for name, text in (
            ("card.json", json.dumps(made)),
            ("card.md", card_text.text(made)),
            ("retraining.html", page),
        ):
            (build.directory("reports") / name).write_text(text)
        metrics = {FIGURE: {"value": recall, "low": recall - 0.05, "high": recall + 0.05, "n": 151}}
        gate = {"rule": "recall", "value": f"{recall}", "threshold": "0.3", "verdict": "pass"}
        lineage = {"index": {"kind": "exact", "count": 48}, "ranker": {"steps": int(100 * recall)}}
        return build.publish(metrics=metrics, gates=[gate], lineage=lineage).version


def two_releases(root):
    return publish(root, 0.4), publish(root, 0.6)


def console(root, directory, tiny, *, limit_bytes=1 << 30):
    """The console of a root; other releases than the one that serves have no ranker."""
    return Console(
        serving_root=root,
        logs=directory / "logs",
        load=lambda version: tiny.release(version, ranker=None),
        size_bytes=lambda version: release.size_bytes(release.load_manifest(root, version)),
        limit_bytes=limit_bytes,
    )


def experiment(directory):
    path = directory / "experiment.json"
    arms = [
        {"name": "control", "share": 0.5},
        {"name": "narrow", "share": 0.5, "settings": {"retrieved": 5}},
    ]
    path.write_text(json.dumps({"name": "width", "arms": arms}))
    return ab_experiment.load(path)
