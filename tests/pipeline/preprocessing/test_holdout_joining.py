"""Examples joined by their holdout, on the shared tiny world."""

import numpy as np
import pyarrow.parquet as pq
import pytest

from features import command, dataset, spec
from features.spec import Kind, ResolvedSpec, Side
from models.training import saved
from pipeline.preprocessing import holdout_joining


@pytest.fixture(scope="module")
def joined(world):
    return world.work / "final_examples"


def keys(rows):
    names = ("user_id", "time", "label_video_id")
    return sorted(zip(*(rows[name].to_pylist() for name in names), strict=True))


def ages(rows, resolved):
    names = resolved.vector_names(spec.CANDIDATE, Side.QUERY, Kind.CONTINUOUS)
    vectors = rows[spec.vector_column(Side.QUERY, Kind.CONTINUOUS)].to_pylist()
    return np.array([vector[names.index("example_age_s")] for vector in vectors])


def test_training_is_what_was_training_and_holdout_and_ends_with_the_logs(world, joined):
    before = {
        split: pq.read_table(world.examples / "candidate_examples" / split)
        for split in ("train", "holdout")
    }
    after = pq.read_table(joined / "candidate_examples" / "train")
    assert keys(after) == sorted(keys(before["train"]) + keys(before["holdout"]))
    info = dataset.info(joined)
    measured = dataset.info(world.examples)
    assert info["counts"]["candidate_train"] == after.num_rows
    assert info["measured_until_s"] == measured["train_until_s"]
    assert info["train_until_s"] == info["until_s"] == measured["until_s"]
    times = np.array(after["time"])
    expected = (measured["until_s"] - times).astype(np.float32)
    np.testing.assert_array_equal(ages(after, ResolvedSpec.load(joined)), expected)


def test_the_newest_watches_stand_there_as_their_users_asked(world, joined):
    before = pq.read_table(world.examples / "candidate_examples" / "holdout")
    after = pq.read_table(joined / "candidate_examples" / "holdout")
    assert keys(after) == keys(before)
    assert not ages(after, ResolvedSpec.load(joined)).any()


def test_the_newest_can_be_read_once_more_as_they_train(joined):
    newest = pq.read_table(joined / "candidate_examples" / "newest")
    info = dataset.info(joined)
    assert info["counts"]["candidate_newest"] == newest.num_rows > 0
    expected = (info["until_s"] - np.array(newest["time"])).astype(np.float32)
    np.testing.assert_array_equal(ages(newest, ResolvedSpec.load(joined)), expected)
    weighted = dataset.load(joined, spec.CANDIDATE, ("train", "newest", "newest"), ["time"])
    assert len(weighted["time"]) == info["counts"]["candidate_train"] + 2 * newest.num_rows


def test_vocabularies_know_what_came_up_in_the_holdout(world, joined):
    old, new = (
        set(dataset.vocabulary(directory, spec.CANDIDATE, "video"))
        for directory in (world.examples, joined)
    )
    labels = pq.read_table(world.examples / "candidate_examples" / "holdout")["label_video_id"]
    young = set(labels.to_pylist()) - old
    assert young
    assert young <= new
    assert old <= new
    transformed = dataset.load(joined, spec.CANDIDATE, "train", ["video_id"])
    assert (transformed["video_id"] > 0).all()


def test_all_that_is_the_rankers_stays_as_it_was(world, joined):
    prints = [saved.transform_fingerprint(d, spec.RANKER) for d in (world.examples, joined)]
    assert prints[0] == prints[1]
    assert dataset.info(joined)["has_ranking"]
    for split in ("train", "holdout"):
        before, after = (
            dataset.load(d, spec.RANKER, split, ["time"])["time"] for d in (world.examples, joined)
        )
        np.testing.assert_array_equal(np.sort(before), np.sort(after))


def test_what_are_no_examples_are_refused(tmp_path):
    with pytest.raises(command.InputError, match=r"pipeline\.preprocess"):
        holdout_joining.run(str(tmp_path / "none"), str(tmp_path / "final"), [])
    assert not (tmp_path / "final").exists()
