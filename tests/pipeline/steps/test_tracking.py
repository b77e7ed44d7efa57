"""Runs in a real MLflow store (SQLite)."""

import json
import logging

import pytest

from features import command, files
from pipeline.steps import tracking
from serving.release import manifest as release
from tests.pipeline.steps.chains import Outcome

FIGURES = {
    "candidate.model.all.recall_at_100": {"value": 0.5, "low": 0.4, "high": 0.6, "n": 9},
    "candidate.model.new.recall_at_100": {"value": 0.1, "low": None, "high": None, "n": 2},
    "candidate.popularity_all.all.recall_at_100": {"value": 0.2, "low": 0.1, "high": 0.3, "n": 9},
}


@pytest.fixture
def tracker(tmp_path, monkeypatch):
    pytest.importorskip("mlflow")
    monkeypatch.chdir(tmp_path)  # Where artefacts of a local store go.
    return tracking.Tracker(f"sqlite:///{tmp_path}/mlflow.db")


def client_of(tracker):
    import mlflow

    return mlflow.MlflowClient(tracking_uri=tracker.uri, registry_uri=tracker.uri)


def publish(root, version):
    (root / "releases").mkdir(parents=True, exist_ok=True)
    manifest = release.Manifest(
        version=version,
        created="2026-11-30T00:00:00Z",
        previous=None,
        components={},
        metrics={},
        gates=[],
        lineage={},
    )
    (root / "releases" / f"{version}.json").write_text(manifest.to_json())
    (root / "CURRENT").write_text(version + "\n")


def retrained(site, version="20261130000000", **job):
    job = site.job(**job)
    with files.atomic_directory(job.location("evaluation")) as directory:
        (directory / "metrics.json").write_text(json.dumps({"figures": FIGURES}))
        (directory / "report.html").write_text("<html>")
        files.mark_complete(directory, {})
    publish(job.serving_root, version)
    return job, job.run()


def test_a_retraining_is_a_run_with_its_flags_figures_and_reports(site, tracker):
    tracker.require()
    job, steps = retrained(site, flags={"rank": ["--epochs=2"]})
    run = client_of(tracker).get_run(tracker.record(job, steps))
    assert run.info.status == "FINISHED"
    assert run.data.params["rank.epochs"] == "2"
    assert run.data.metrics["candidate.model.all.recall_at_100"] == 0.5
    assert run.data.metrics["candidate.model.all.recall_at_100.low"] == 0.4
    assert not any("popularity" in name or ".new." in name for name in run.data.metrics)
    assert run.data.metrics["seconds.rank"] == steps[1].seconds
    assert run.data.tags["release_id"] == "20261130000000"
    listed = client_of(tracker).list_artifacts(run.info.run_id, "reports")
    assert {one.path for one in listed} == {"reports/metrics.json", "reports/report.html"}


def test_a_published_release_is_registered_once_and_the_newest_one_serves(site, tracker):
    for version in ("20261130000000", "20261130000000", "20261201000000"):
        tracker.record(*retrained(site, version))
    client = client_of(tracker)
    assert len(client.search_model_versions("name='watchnext'")) == 2
    serving = client.get_model_version_by_alias("watchnext", "serving")
    assert serving.tags["release_id"] == "20261201000000"


def test_a_failed_retraining_is_a_failed_run_that_registers_nothing(site, tracker, monkeypatch):
    monkeypatch.setenv("FAIL_RANK", "3")
    job = site.job()
    steps = job.run()
    assert steps[-1].outcome is Outcome.FAILED
    run = client_of(tracker).get_run(tracker.record(job, steps))
    assert (run.info.status, run.data.tags["failed_step"]) == ("FAILED", "rank")
    assert not client_of(tracker).search_registered_models()


def test_a_tracker_that_is_gone_costs_a_warning_and_no_release(site, tracker, tmp_path, caplog):
    (tmp_path / "file").write_text("")
    gone = tracking.Tracker(f"sqlite:///{tmp_path}/file/mlflow.db")  # Nothing can lie below it.
    with pytest.raises(command.InputError, match="cannot be used"):
        gone.require()
    job, steps = retrained(site)
    with caplog.at_level(logging.WARNING, logger="absl"):
        assert gone.record(job, steps) == ""
    assert "no record of this run" in caplog.text
