import dataclasses
import pathlib
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest

from features import command, files
from serving.building import assembly
from serving.building import config as build_config
from serving.index import index
from serving.release import manifest as release
from serving.release import publication
from serving.servables import warmup

REPOSITORY = pathlib.Path(__file__).parents[3]


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", *map(str, arguments)],
        cwd=REPOSITORY,
        check=False,
        capture_output=True,
        text=True,
    )


def worse_than_popularity(directory):
    """An order of pages that is surely worse than counting watches."""
    judged = {
        "chosen": "learned",
        "best_single": "log_live_watches_1h",
        "hits": {"learned": {"10": 0.1}},
        "difference": {"10": {"value": -0.2, "low": -0.3, "high": -0.1}},
    }
    files.mark_complete(directory / "page_order", {"judged": judged})
    return directory / "page_order"


def without_ranker(small_site, **changes):
    return dataclasses.replace(small_site.inputs, ranker_model=None, **changes)


def test_a_release_has_every_component_and_says_how_it_was_made(small_site, small_release):
    found = release.load(small_release)
    manifest = found.manifest
    assert (found.query_tower / "saved_model.pb").is_file()
    assert (found.query_tower / warmup.FILE).is_file()
    assert found.ranker is not None
    assert (found.ranker / warmup.FILE).is_file()
    assert {p.name for p in found.videos.iterdir()} == {
        "spec.json",
        "videos.parquet",
        "video_statistics.parquet",
        "users.parquet",
        "ranker_videos",
        "training_bins.json",
    }
    assert manifest.lineage["examples"]["path"] == str(small_site.examples)
    assert manifest.lineage["examples"]["info"] == files.read_complete(small_site.examples)
    assert manifest.lineage["index"]["recall"] == 1.0
    assert {gate["verdict"] for gate in manifest.gates} == {"pass", "not checked"}
    assert manifest.forced == ""
    assert not [path for path in small_release.rglob("*.pkl")]


def test_row_i_of_the_videos_is_row_i_of_the_index(small_release):
    found = release.load(small_release)
    videos = pq.read_table(found.videos / "videos.parquet")
    loaded = index.Index.load(found.index)
    assert loaded.video_ids.to_pylist() == videos["video_id"].to_pylist()
    assert np.isfinite(loaded.embeddings).all()


def test_a_release_in_shards_is_judged_as_the_whole(small_site, small_release, tmp_path):
    settings = build_config.BuildConfig(index_shards=3)
    manifest = assembly.publish(without_ranker(small_site), tmp_path / "root", settings)
    found = release.load(tmp_path / "root")
    assert {f"shards/{n:04d}/index.json" for n in range(3)} <= {*manifest.components["index"]}
    rules = [gate["rule"] for gate in manifest.gates]
    assert sum("are finite and differ" in rule for rule in rules) == 3
    assert sum("of the 3 shards (3 exact) index" in rule for rule in rules) == 1
    assert {gate["verdict"] for gate in manifest.gates} == {"pass", "not checked"}
    sharded = index.Index.load(found.index)
    whole = index.Index.load(release.load(small_release).index)
    assert sharded.video_ids.equals(whole.video_ids)
    every = np.arange(len(whole))
    np.testing.assert_allclose(sharded.embeddings[every], whole.embeddings, rtol=1e-5, atol=1e-5)
    queries = np.concatenate([whole.embeddings[:8, :-1], np.ones((8, 1), np.float32)], axis=1)
    for one, other in zip(sharded.search(queries, 30), whole.search(queries, 30), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


def test_a_failing_gate_publishes_nothing(small_site, tmp_path):
    inputs = without_ranker(small_site, page_order=worse_than_popularity(tmp_path))
    seen = []
    with pytest.raises(assembly.GatesFailedError, match=r"nothing was published.*live_watches_1h"):
        assembly.publish(inputs, tmp_path / "root", build_config.BuildConfig(), report=seen.append)
    assert "FAIL" in [gate.verdict for gate in seen]
    assert release.versions(tmp_path / "root") == []
    assert release.stated_current(tmp_path / "root") is None


def test_a_forced_release_records_the_reason(small_site, tmp_path):
    inputs = without_ranker(small_site, page_order=worse_than_popularity(tmp_path))
    settings = build_config.BuildConfig(force_publish="the baseline is broken today")
    assembly.publish(inputs, tmp_path / "root", settings)
    found = release.load(tmp_path / "root")
    assert found.manifest.forced == "the baseline is broken today"
    assert "FAIL" in {gate["verdict"] for gate in found.manifest.gates}
    assert found.ranker is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"examples": pathlib.Path("nowhere")}, "nowhere should hold examples"),
        ({"candidate_model": pathlib.Path("nowhere")}, "nowhere should hold a candidate model"),
        ({"metrics": pathlib.Path("nowhere")}, "--metrics nowhere does not exist"),
    ],
)
def test_a_missing_input_is_named_before_anything_is_written(
    small_site, tmp_path, changes, message
):
    inputs = dataclasses.replace(small_site.inputs, **changes)
    with pytest.raises(command.InputError, match=message):
        assembly.publish(inputs, tmp_path / "root", build_config.BuildConfig())
    assert not (tmp_path / "root").exists()


@pytest.mark.parametrize("settings", [{"keep": 1}, {"recall_target": 0.0}, {"recall_target": 1.1}])
def test_impossible_settings_are_refused(settings):
    with pytest.raises(command.InputError, match="must be"):
        build_config.BuildConfig(**settings)


def test_build_release_publishes_and_says_what_to_do_next(small_site, tmp_path):
    root = tmp_path / "root"
    done = run(
        "serving.build_release",
        f"--examples={small_site.examples}",
        f"--candidate_model={small_site.candidate_model}",
        f"--serving_root={root}",
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\npass ") + done.stdout.startswith("pass ") >= 5
    assert f"Published release {release.current(root)}" in done.stdout
    assert (
        f"Next: python -m serving.serve --serving_root={root} --logs={small_site.logs}\n"
        f"Back: python -m serving.rollback --serving_root={root}\n"
    ) in done.stdout


def test_rollback_is_one_command(small_release):
    before = release.current(small_release)
    with publication.building(small_release) as build:
        for name in ("query_tower", "index", "videos"):
            (build.directory(name) / "a").write_text("a newer one")
        build.publish(metrics={}, gates=[], lineage={})
    done = run("serving.rollback", f"--serving_root={small_release}")
    assert done.returncode == 0, done.stderr
    assert f"Release {before} serves now instead of {build.version}" in done.stdout
    assert release.current(small_release) == before
    again = run("serving.rollback", f"--serving_root={small_release}")
    assert (again.returncode, again.stdout) == (2, "")
    assert "none before it" in again.stderr
    assert "Traceback" not in again.stderr
