import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from features import command
from models.candidate import hierarchical_softmax
from models.candidate import model as candidate_model
from models.candidate import training as candidate_training
from models.config import CandidateConfig, TrainingConfig


def tree(num_videos, *, queries=3, width=4, seed=0):
    """Random queries and inner nodes, and the look-up of nodes that the loss wants."""
    rng = np.random.default_rng(seed)
    asked = rng.standard_normal((queries, width)).astype(np.float32)
    nodes = rng.standard_normal((num_videos - 1, width)).astype(np.float32)
    table = tf.constant(np.concatenate([np.zeros((1, width), np.float32), nodes]))
    return tf.constant(asked), tf.constant(nodes), lambda ids: tf.gather(table, ids)


def test_probabilities_of_three_videos_by_hand():
    # Node 1 has the children 2 and 3; 3 is the first video, 2 has the other two as 4 and 5.
    nodes = tf.constant([[1.0], [-2.0]])
    found = tf.exp(hierarchical_softmax.log_probabilities(tf.ones([1, 1]), nodes, num_videos=3))
    left = 1 / (1 + np.exp(-1.0))
    left_of_2 = 1 / (1 + np.exp(2.0))
    expected = [1 - left, left * left_of_2, left * (1 - left_of_2)]
    np.testing.assert_allclose(found[0], expected, rtol=1e-6)


@given(num_videos=st.integers(2, 70), seed=st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_probabilities_sum_to_one_and_the_loss_is_that_of_the_path(num_videos, seed):
    queries, nodes, nodes_of = tree(num_videos, seed=seed)
    found = hierarchical_softmax.log_probabilities(queries, nodes, num_videos=num_videos).numpy()
    assert found.shape == (3, num_videos)
    np.testing.assert_allclose(np.exp(found).sum(axis=1), 1, rtol=1e-5)
    labels = np.array([1, num_videos, 1 + seed % num_videos])
    loss = hierarchical_softmax.loss(
        queries, tf.constant(labels), num_videos=num_videos, nodes_of=nodes_of
    )
    np.testing.assert_allclose(loss, -found[np.arange(3), labels - 1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("counts", [[7, 1], [5, 0, 3, 9, 1], [0] * 8, list(range(13, 0, -1))])
def test_biases_give_each_video_its_share(counts):
    biases = hierarchical_softmax.popularity_biases(np.array(counts))
    found = hierarchical_softmax.log_probabilities(
        tf.ones([1, 1]), tf.constant(biases[:, None]), num_videos=len(counts)
    )
    share = np.array(counts) + 1
    np.testing.assert_allclose(np.exp(found[0]), share / share.sum(), rtol=1e-5)


@pytest.fixture(scope="module")
def trained(small_examples, tmp_path_factory):
    directory = tmp_path_factory.mktemp("hierarchical") / "model"
    result = candidate_training.train(
        small_examples,
        directory,
        CandidateConfig(embedding_dim=8, depth=1, loss="hierarchical"),
        TrainingConfig(epochs=6, batch_size=100, learning_rate=0.02),
    )
    return directory, result


def test_model_learns_and_scores_are_log_probabilities(trained, world):
    directory, result = trained
    # Popularity alone is near .22, the best order near .58.
    assert result.metrics["map_at_100"] > 0.4
    model = candidate_model.load(directory)
    logits = model.query_embeddings(world.candidate_rows(5, seed=3)) @ tf.transpose(
        model.video_embeddings({"video_id": np.arange(1, 25)})
    )
    np.testing.assert_allclose(np.exp(logits).sum(axis=1), 1, rtol=1e-4)
    assert not model.has_content
    assert not model.can_embed({"video_id": np.array([0])}).any()


def test_large_corpus_is_refused(small_examples, tmp_path, monkeypatch):
    monkeypatch.setattr(hierarchical_softmax, "MAX_VIDEOS", 23)
    with pytest.raises(command.InputError, match=r"up to 23 videos.*has 24.*--loss=sampled"):
        candidate_training.train(
            small_examples, tmp_path / "m", CandidateConfig(loss="hierarchical"), TrainingConfig()
        )


def test_one_table_for_nodes_and_videos_is_refused():
    with pytest.raises(ValueError, match="not be hierarchical with normalise or share"):
        CandidateConfig(loss="hierarchical", share_video_embedding=True)
