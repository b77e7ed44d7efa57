"""Biases are moved to what was watched of late, as far as counts say more than noise."""

import numpy as np
import pytest

from models.candidate import model as candidate_model
from models.candidate import recent_biases
from models.candidate import training as candidate_training
from models.config import CandidateConfig, TrainingConfig

SIZE, NEWEST, HOT = 2_400, 240, 9
QUICK = TrainingConfig(epochs=3, batch_size=100, learning_rate=0.02)
CONFIG = {"embedding_dim": 8, "depth": 1, "negatives": 16}


@pytest.fixture(scope="module")
def trained(world, tmp_path_factory):
    """Examples of 2,400 s, in whose last 240 s half of the users watch v9; a model of them."""
    root = tmp_path_factory.mktemp("recent")
    rows = world.candidate_rows(SIZE, seed=3)
    hot = np.arange(SIZE) >= SIZE - NEWEST
    hot &= np.random.default_rng(0).random(SIZE) < 0.5
    rows["video_id"] = np.where(hot, HOT, rows["video_id"])
    rows["label_video_id"] = np.where(hot, f"v{HOT}".encode(), rows["label_video_id"])
    age = (SIZE - np.arange(SIZE)) / (SIZE + 1)
    rows["query_continuous"][:, 1] = age
    (root / "examples").mkdir()
    examples = world.write_examples(
        root / "examples",
        candidate={"train": rows, "holdout": rows, "videos": world.catalogue_rows()},
        info={"site": {"half_life_s": 2.0 * NEWEST, "repeat_share": 0.0, "watches": SIZE}},
    )
    candidate_training.train(examples, root / "model", CandidateConfig(**CONFIG), QUICK)
    return examples, root / "model"


def shares(model, videos, examples):
    recent = recent_biases.newest(model, examples)
    expected = recent_biases._Expectation(model, videos, recent)(np.zeros(model.num_videos))
    return expected / expected.sum(), recent


def test_each_video_gets_the_share_that_it_had_of_late(trained):
    examples, directory = trained
    model = candidate_model.load(directory, examples)
    videos = candidate_model.load_video_features(directory)
    before, recent = shares(model, videos, examples)
    assert recent.counts.sum() == recent.window_s == NEWEST
    had = recent.counts[HOT - 1] / NEWEST
    assert before[HOT - 1] < had - 0.1
    rows = model.softmax_rows.rows.numpy().copy()
    facts = recent_biases.set_biases(model, videos, examples)
    after, _ = shares(model, videos, examples)
    assert after[HOT - 1] == pytest.approx(had, abs=0.05)
    assert facts["watches"] == NEWEST
    assert facts["moved"] > 0
    np.testing.assert_array_equal(model.softmax_rows.rows.numpy(), rows)  # Tastes stay.
    again = recent_biases.set_biases(model, videos, examples)
    assert again["moved"] < 0.2 * facts["moved"]


def test_a_training_moves_them_where_that_is_asked(trained, tmp_path):
    examples, plain = trained
    config = CandidateConfig(**CONFIG, recent_biases=True)
    result = candidate_training.train(examples, tmp_path / "model", config, QUICK)
    models = [candidate_model.load(one, examples) for one in (plain, tmp_path / "model")]
    videos = candidate_model.load_video_features(plain)
    (before, _), (after, _) = (shares(model, videos, examples) for model in models)
    assert after[HOT - 1] > before[HOT - 1] + 0.1
    assert set(result.metrics)


def test_counts_move_nothing_where_they_are_chance_and_all_where_they_are_not():
    rng = np.random.default_rng(0)
    expected = rng.gamma(1.0, 20.0, 20_000)
    assert recent_biases.gamma_shape(rng.poisson(expected), expected) > 50
    for shape in (0.5, 4.0):
        rate = rng.gamma(shape, 1 / shape, 20_000)
        found = recent_biases.gamma_shape(rng.poisson(rate * expected), expected)
        assert found == pytest.approx(shape, rel=0.15)
