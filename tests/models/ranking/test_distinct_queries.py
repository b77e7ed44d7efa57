"""What rows share is computed once and is what it would be row by row."""

import itertools

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import example, given, settings
from hypothesis import strategies as st

from models import config, losses
from models.ranking import model as ranker
from models.ranking import scoring
from models.ranking import training as ranker_training


def test_runs_of_equal_queries_by_hand():
    rows = {
        "bag": np.array([[1, 2], [1, 2], [1, 3], [1, 3], [1, 2]]),
        "region": np.array([5, 5, 5, 5, 5]),
        "query_continuous": np.array([[0.5], [0.5], [0.5], [0.25], [0.25]], np.float32),
        "video_id": np.arange(5),
    }
    query, places = ranker.distinct_queries(rows, ("bag", "region", "query_continuous"))
    assert places.numpy().tolist() == [0, 0, 1, 2, 3]
    assert {name: values.numpy().tolist() for name, values in query.items()} == {
        "bag": [[1, 2], [1, 3], [1, 3], [1, 2]],
        "region": [5, 5, 5, 5],
        "query_continuous": [[0.5], [0.5], [0.25], [0.25]],
    }


@settings(max_examples=50, deadline=None)
@example([(1, True)])
@given(st.lists(st.tuples(st.integers(0, 2), st.booleans()), min_size=1, max_size=12))
def test_each_row_finds_its_own_query_again(values):
    rows = {"a": np.array([a for a, _ in values]), "b": np.array([[b, b] for _, b in values])}
    query, places = ranker.distinct_queries(rows, rows)
    for name, column in rows.items():
        np.testing.assert_array_equal(tf.gather(query[name], places), column)
    runs = 1 + sum(first != second for first, second in itertools.pairwise(values))
    assert query["a"].shape[0] == runs


def pages(world, *, same: bool):
    """Twelve pages of five impressions; of one query each, or of one for each impression."""
    rows = dict(world.ranker_rows(60, seed=1))
    if same:
        for name in ("watched_video_ids", "region", "query_binary", "query_continuous"):
            rows[name] = rows[name][np.arange(60) // 5 * 5]
    rows["user_id"] = np.unique(rows["user_id"], return_inverse=True)[1].astype(np.int32)
    return rows


@pytest.mark.parametrize("same", [True, False], ids=["whole pages", "features differ in pages"])
@pytest.mark.parametrize("hidden", [(), (8, 4)])
@pytest.mark.parametrize("pairwise", [0.0, 0.3])
def test_loss_and_gradients_are_those_of_single_rows(world, same, hidden, pairwise):
    settings = config.RankerConfig(hidden=hidden, pairwise=pairwise)
    model = ranker.Ranker(world.spec(), world.vocabulary_sizes, settings)
    if model.level is not None:
        model.level.output_layer.kernel.assign(tf.ones_like(model.level.output_layer.kernel))
    task = ranker_training.RankerTask(model, holdout=None, stop_metric="")
    rows = pages(world, same=same)
    query, _ = ranker.distinct_queries(rows, model.query_columns)
    assert query["region"].shape[0] == (12 if same else 60)

    def row_by_row():
        order, level, _ = model.outputs_of(rows, rows)
        labels = rows["clicked"], rows["watch_time_s"]
        found = losses.mean(losses.exact_watch_time_loss(order + level, *labels))
        if pairwise:
            pairs = losses.same_user_pair_loss(order, *labels, rows["user_id"])
            found += pairwise * losses.mean(pairs)
        return found

    found = []
    for loss in (lambda: task.loss(rows, 0), row_by_row):
        with tf.GradientTape() as tape:
            value = loss()
        gradients = tape.gradient(value, model.trainable_variables)
        found.append([value, *(tf.convert_to_tensor(g) for g in gradients)])
    assert float(found[0][0]) > 0
    for shared, single in zip(*found, strict=True):
        np.testing.assert_allclose(shared, single, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("same", [True, False])
def test_scores_are_those_of_single_rows(world, same):
    model = ranker.Ranker(world.spec(), world.vocabulary_sizes, config.RankerConfig(hidden=(8,)))
    rows = pages(world, same=same)
    found = scoring.Scorer(model)(rows)
    np.testing.assert_allclose(found, model.logits(rows, rows), rtol=1e-5, atol=1e-5)


def test_the_query_is_read_once_for_each_page(world, monkeypatch):
    model = ranker.Ranker(world.spec(), world.vocabulary_sizes, config.RankerConfig(hidden=(8,)))
    task = ranker_training.RankerTask(model, holdout=None, stop_metric="")
    read = []
    first_layer = model.tower.first_layer
    original = first_layer.call

    def call(query, *others, **settings):
        read.append(query.shape[0])
        return original(query, *others, **settings)

    monkeypatch.setattr(first_layer, "call", call)
    task.loss(pages(world, same=True), 0)
    assert read == [12]
