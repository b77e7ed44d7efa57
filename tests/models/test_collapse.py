import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from models import batches, checkpoints, collapse, training
from models.config import TrainingConfig


def towers(*, queries=64, videos=200, width=8, seed=0):
    """Random embeddings with the column of ones and the biases."""
    rng = np.random.default_rng(seed)
    u = rng.standard_normal((queries, width + 1)).astype(np.float32)
    v = rng.standard_normal((videos, width + 1)).astype(np.float32)
    u[:, -1] = 1
    return u, v


def test_random_embeddings_are_well():
    found = collapse.measure(*towers())
    assert collapse.signs(found) == []
    assert found[collapse.COVERAGE] > 0.7
    assert found[collapse.OVERLAP] < 0.6


def test_coverage_and_overlap_by_hand():
    # Half of the queries want the first 10 of 40 videos, half the last 10.
    videos = np.zeros((40, 3), np.float32)
    videos[:10], videos[30:] = [5, 0, 0], [0, 5, 0]
    queries = np.zeros((40, 3), np.float32)
    queries[::2, 0], queries[1::2, 1], queries[:, 2] = 1, 1, 1
    found = collapse.measure(queries, videos)
    # Lists of 10: 20 videos out of 40, two lists are the same or have nothing in common.
    assert found[collapse.COVERAGE] == 20 / 40
    assert 0.2 < found[collapse.OVERLAP] < 0.8
    assert found[collapse.QUERY_NORM] == 1
    assert found[collapse.VIDEO_NORM] == pytest.approx(20 * 5 / 40)


@pytest.mark.parametrize(("videos", "compared"), [(1, False), (19, False), (20, True)])
def test_lists_of_a_handful_of_videos_are_not_compared(videos, compared):
    """One video is the list of everybody, which is no collapse; twenty in one order for all are."""
    queries, rows = towers(videos=videos)
    rows[:, -1] = 1000 * np.arange(videos)
    assert bool(collapse.signs(collapse.measure(queries, rows))) == compared


def test_planted_dominating_bias_is_one_list_for_everyone():
    queries, videos = towers()
    videos[:, -1] = 1000 * np.arange(200)
    assert (
        "everyone gets the same list: 100.0%"
        in collapse.signs(collapse.measure(queries, videos))[0]
    )


def test_planted_constant_query_tower_is_found():
    queries, videos = towers()
    queries[:] = queries[0]
    words = " ".join(collapse.signs(collapse.measure(queries, videos)))
    assert "same list" in words
    assert "same embedding" in words


@pytest.mark.parametrize("which", [0, 1])
def test_planted_vanished_norm_is_found(which):
    both = towers()
    both[which][:, :-1] *= 1e-6
    what = ("queries", "videos")[which]
    assert any(
        f"embeddings of {what} are" in sign for sign in collapse.signs(collapse.measure(*both))
    )


def test_few_queries_say_nothing():
    assert collapse.measure(*towers(queries=5)) == {}
    assert collapse.signs({}) == []


class Planted:
    """Metrics get better with every round, but the second one has collapsed."""

    stop_metric, higher_is_better = "map", True

    def __init__(self, overlaps):
        self.model = tf_keras.Sequential([tf_keras.layers.Dense(1)])
        self.model.build([None, 1])
        self.overlaps = overlaps
        self.looks = 0

    def loss(self, batch, step):
        return tf.reduce_mean(self.model(batch["x"]))

    def evaluate(self):
        self.looks += 1
        overlap = self.overlaps[min(self.looks, len(self.overlaps)) - 1]
        return {"map": float(self.looks), collapse.OVERLAP: overlap}


def fit(task, path):
    x = np.ones((8, 1), np.float32)
    examples = batches.InMemory({"x": x}, batch_size=4, seed=1)
    settings = TrainingConfig(epochs=len(task.overlaps), batch_size=4, patience=9)
    return training.fit(task, examples, settings, checkpoints.RunDirectory(path, {}))


def test_collapsed_round_is_never_the_best(tmp_path, caplog):
    assert fit(Planted([0.5, 0.6, 1.0]), tmp_path).best_round == 2
    assert "Round 3 collapsed and cannot be the best: everyone gets the same list" in caplog.text


def test_training_that_collapsed_throughout_has_no_best_round_and_says_so(tmp_path, caplog):
    result = fit(Planted([1.0, 1.0]), tmp_path)
    assert result.best_round == 0
    assert "EVERY round collapsed" in caplog.text
    assert result.metrics[collapse.OVERLAP] == 1
