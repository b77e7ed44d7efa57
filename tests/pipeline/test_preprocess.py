"""What preprocessing writes, on the shared tiny world."""

import json
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow.parquet as pq

from features import dataset, preprocessing, spec
from features.as_of import leakage
from features.spec import Kind, ResolvedSpec
from features.tables import logs


def raw(world, name, split):
    return pq.read_table(world.examples / name / split)


def test_rows_set_aside_are_counted_by_reason_and_kept(world):
    rows = dataset.info(world.examples)["rows"]["watches"]
    assert rows["exact_duplicate"] == 3
    assert rows["negative_watch_time"] == 2
    assert rows["unknown_user"] == rows["future_time"] == 1
    assert rows["read"] == rows["accepted"] + 7
    kept = pq.read_table(world.examples / "rejected" / "watches")
    assert sorted(kept["reason"].to_pylist()) == [
        *["exact_duplicate"] * 3, "future_time", *["negative_watch_time"] * 2, "unknown_user",
    ]  # fmt: skip


def test_split_is_by_time_only(world):
    until = dataset.info(world.examples)["train_until_s"]
    for name in ("candidate_examples", "ranking_examples"):
        assert max(raw(world, name, "train")["time"].to_pylist()) < until
        assert min(raw(world, name, "holdout")["time"].to_pylist()) >= until


def test_every_clean_impression_is_one_ranking_example(world):
    shown = logs.read_table(world.logs, "impressions")
    counts = dataset.info(world.examples)["counts"]
    assert counts["ranker_train"] + counts["ranker_holdout"] == shown.num_rows


def test_candidate_inputs_are_the_completed_watches_strictly_before_the_label(world):
    watches = logs.read_table(world.logs, "watches").to_pylist()
    users = set(logs.read_table(world.logs, "users")["user_id"].to_pylist())
    done = {
        (w["user_id"], w["video_id"], w["time"])
        for w in watches
        if w["completed"] and w["watch_time_s"] >= 0 and w["user_id"] in users
    }
    for example in raw(world, "candidate_examples", "holdout").slice(0, 60).to_pylist():
        earlier = [v for u, v, t in done if u == example["user_id"] and t < example["time"]]
        assert len(example["watched_video_ids"]) == min(len(earlier), spec.WATCH_BAG)
        if len(earlier) <= spec.WATCH_BAG:
            assert sorted(example["watched_video_ids"]) == sorted(earlier)


def test_vocabularies_hold_training_labels_only_most_frequent_first(world):
    train = raw(world, "candidate_examples", "train")["video_id"].to_pylist()
    vocabulary = dataset.vocabulary(world.examples, spec.CANDIDATE, "video")
    assert set(vocabulary) == set(train)
    counts = [train.count(video) for video in vocabulary]
    assert counts == sorted(counts, reverse=True)
    clicked = raw(world, "ranking_examples", "train").filter(
        raw(world, "ranking_examples", "train")["clicked"].to_numpy() > 0
    )
    assert set(dataset.vocabulary(world.examples, spec.RANKER, "video")) == set(
        clicked["video_id"].to_pylist()
    )


def test_transformed_ids_are_those_of_the_raw_values(world):
    resolved = ResolvedSpec.load(world.examples)
    examples = dataset.load(world.examples, spec.CANDIDATE, "holdout")
    rows = raw(world, "candidate_examples", "holdout").to_pylist()
    by_key = {(r["user_id"], r["time"], r["label_video_id"]): r for r in rows}
    for feature in resolved.of(spec.CANDIDATE):
        if not feature.categorical:
            continue
        tag = f"{feature.name}=" if feature.space == "category" else ""
        tokens = dataset.vocabulary(world.examples, spec.CANDIDATE, feature.space)
        id_of = {token: number for number, token in enumerate(tokens, 1)}
        for row in range(0, len(examples["time"]), 7):
            user, video = (examples[n][row].decode() for n in ("user_id", "label_video_id"))
            value = by_key[user, examples["time"][row], video][feature.name]
            values = [value] if feature.kind is Kind.UNIVALENT else value
            expected = [id_of.get(tag + v, 0) if v else 0 for v in values]
            got = np.atleast_1d(examples[feature.name][row])
            assert got[: len(expected)].tolist() == expected, feature.name
            assert not got[len(expected) :].any()


def test_continuous_inputs_are_quantiles(world):
    examples = dataset.load(world.examples, spec.RANKER, "train")
    for name in ("query_continuous", "candidate_continuous"):
        assert examples[name].min() >= 0
        assert examples[name].max() < 1
        assert np.isfinite(examples[name]).all()
    names = ResolvedSpec.load(world.examples).vector_names(
        spec.RANKER, spec.Side.CANDIDATE, Kind.CONTINUOUS
    )
    # A feature without many ties is spread evenly: its median is the middle.
    age = examples["candidate_continuous"][:, names.index("video_age_s")]
    assert abs(np.median(age) - 0.5) < 0.02


def test_catalogue_comes_back_in_its_own_order(world):
    videos = dataset.videos(world.examples)
    table = pq.read_table(world.examples / "videos")
    assert videos["label_video_id"].tolist() == table["video_id"].to_pylist()
    vocabulary = dataset.vocabulary(world.examples, spec.CANDIDATE, "video")
    known = videos["video_id"] > 0
    names = videos["label_video_id"][known]
    assert [vocabulary[i - 1] for i in videos["video_id"][known]] == names.tolist()


def test_a_model_has_over_200_inputs_from_the_spec_alone(world):
    resolved = ResolvedSpec.load(world.examples)
    continuous = len(resolved.of(spec.RANKER, kind=Kind.CONTINUOUS))
    assert 3 * continuous + len(resolved.of(spec.RANKER)) - continuous >= 200
    assert len(preprocessing.vectors(resolved, spec.RANKER)) >= 2


def test_statistics_name_every_feature(world):
    report = json.loads((world.examples / "statistics.json").read_text())
    resolved = ResolvedSpec.load(world.examples)
    assert set(report["features"]["ranker_train"]) == {f.name for f in resolved.of(spec.RANKER)}
    page = (world.examples / "statistics.html").read_text()
    assert all(f">{feature.name} <small>" in page for feature in resolved.features)
    hour = report["features"]["ranker_train"]["hour"]
    assert hour["missing"] == 0
    assert 1 < hour["distinct"] <= 24


def test_the_audit_looked_at_every_example_and_every_source(world):
    info = dataset.info(world.examples)
    for name, count in info["counts"].items():
        sources = info["audit"]["inputs"][name]
        assert set(sources) == set(leakage.SOURCES) - (
            {"history", "statistics", "live"} if name.startswith("candidate") else set()
        )
        assert {seen["examples"] for seen in sources.values()} == {count}
        assert all(seen["with_input"] for seen in sources.values())
        assert not any(seen["leaking"] for seen in sources.values())
    assert info["audit"]["excused"] == []


def test_killed_in_the_middle_it_leaves_nothing_that_looks_whole(world, tmp_path):
    output = tmp_path / "examples"
    job = [sys.executable, "-m", "pipeline.preprocess"]
    process = subprocess.Popen(
        [*job, f"--logs={world.logs}", f"--examples={output}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 300
    while not any(tmp_path.glob(".examples.*/candidate_examples")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not output.exists()
    # The leftovers are hidden and the next run for the same directory removes them.
    assert all(path.name.startswith(".examples.") for path in tmp_path.iterdir())
