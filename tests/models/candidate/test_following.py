"""A model that takes steps on what was watched since: one that is measured, one that serves."""

import json

import numpy as np
import pytest

from features import command, dataset, spec
from models.candidate import following
from models.candidate import model as candidate_model
from models.candidate import training as candidate_training
from models.candidate.holdout import Holdout
from models.config import MAP, CandidateConfig, TrainingConfig
from models.training import saved

NIGHT, HOUR, END, HOT = 1_000, 1_400, 1_700, 9
QUICK = TrainingConfig(epochs=2, learning_rate=0.02)
CONFIG = CandidateConfig(embedding_dim=8, depth=1, negatives=16, recent_biases=True)


def rows_until(world, end):
    """From the night on, half of the users watch v9, whatever they watched before."""
    rows = world.candidate_rows(END, seed=3)
    hot = (np.arange(END) >= NIGHT) & (np.random.default_rng(3).random(END) < 0.5)
    rows["video_id"] = np.where(hot, HOT, rows["video_id"])
    rows["label_video_id"] = np.array([f"v{label}".encode() for label in rows["video_id"]], object)
    return {name: values[:end] for name, values in rows.items()}


@pytest.fixture(scope="module")
def site(world, tmp_path_factory):
    """Where the night's examples and model are, the examples of a cycle, and what it made."""
    root = tmp_path_factory.mktemp("following")
    train = rows_until(world, NIGHT)
    for name in ("night", "now"):
        (root / name).mkdir()
    info = {"train_until_s": NIGHT, "until_s": NIGHT}
    world.write_examples(root / "night", candidate={"train": train, "holdout": train}, info=info)
    candidate_training.train(root / "night", root / "model", CONFIG, QUICK)
    train = rows_until(world, END)
    hour = {name: values[HOUR:] for name, values in train.items()}
    info = {"train_until_s": END, "until_s": END, "held_out_from_s": HOUR}
    world.write_examples(root / "now", candidate={"train": train, "holdout": hour}, info=info)
    following.take_up(root / "model", root / "night", root / "start")
    facts = following.follow(root / "now", root / "start", root / "serves", root / "measured")
    return root, facts


def biases(directory):
    return candidate_model.load(directory).softmax_biases.rows.numpy()[1:, 0]


def test_the_hour_is_found_better_by_what_has_learnt_the_time_before_it(site):
    root, facts = site
    assert facts["watches"] == END - HOUR
    assert facts["steps"] > facts["serving_steps"] > 0
    queries = dataset.load(
        root / "now",
        spec.CANDIDATE,
        "holdout",
        [*candidate_model.load(root / "start").query_columns, "label_video_id"],
    )
    holdout = Holdout(queries, dataset.videos(root / "now"), limit=0, seed=1)
    start, measured, serves = (
        holdout.evaluate(candidate_model.load(root / name))[MAP]
        for name in ("start", "measured", "serves")
    )
    assert start + 0.1 < measured <= serves + 0.05


def test_each_knows_how_far_it_has_learnt(site):
    root, facts = site
    until = {n: saved.read_lineage(root / n)["train_until_s"] for n in ("start", "measured")}
    assert until == {"start": NIGHT, "measured": HOUR}
    lineage = saved.read_lineage(root / "serves")
    assert lineage["train_until_s"] == END
    assert json.loads(json.dumps(facts)) == lineage["follow"]
    assert lineage["refit"]["checks"]["watches"] == END - HOUR


def test_biases_of_the_moment_are_not_what_goes_on_learning(site, tmp_path):
    root, _ = site
    moved = biases(root / "model") - biases(root / "start")
    assert moved[HOT - 1] != pytest.approx(0, abs=1e-3)
    again = following.follow(root / "now", root / "measured", tmp_path / "s", tmp_path / "m")
    assert again["steps"] == 0
    np.testing.assert_array_equal(biases(tmp_path / "m"), biases(root / "measured"))
    assert again["against_before"][0] == 0


def test_examples_that_keep_no_hour_aside_are_refused(site, tmp_path):
    root, _ = site
    with pytest.raises(command.InputError, match="keeps no last hour aside"):
        following.follow(root / "night", root / "start", tmp_path / "s", tmp_path / "m")
