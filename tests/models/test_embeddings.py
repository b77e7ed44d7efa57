import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from features import id_spaces, spec
from features.spec import Side
from models import embeddings


@pytest.fixture(scope="module")
def table():
    made = embeddings.EmbeddingTable(4, 2, seed=1, name="video")
    made.rows.assign([[0, 0], [1, 10], [2, 20], [3, 30], [4, 40]])
    return made


def test_unknown_id_is_the_zero_vector(table):
    np.testing.assert_array_equal(table.lookup(tf.constant([0, 3])), [[0, 0], [3, 30]])


def test_row_zero_starts_at_zero():
    made = embeddings.EmbeddingTable(3, 4, seed=1, name="video")
    np.testing.assert_array_equal(made.rows[0], np.zeros(4))
    assert np.abs(made.rows[1:]).min() > 0


def test_bag_is_the_average_of_its_known_ids(table):
    bags = tf.constant([[1, 2, 0], [0, 0, 0], [3, 0, 3], [4, 1, 1]], tf.int64)
    # (1 + 2) / 2; nothing; 3 twice; (4 + 1 + 1) / 3.
    expected = [[1.5, 15], [0, 0], [3, 30], [2, 20]]
    np.testing.assert_allclose(table.mean(bags), expected)


def test_batch_of_empty_bags_is_zero(table):
    np.testing.assert_array_equal(table.mean(tf.zeros([2, 3], tf.int64)), np.zeros([2, 2]))


@given(
    st.lists(st.lists(st.integers(0, 4), min_size=3, max_size=3), min_size=1, max_size=5),
    st.randoms(use_true_random=False),
)
@settings(max_examples=25, deadline=None)
def test_bags_have_no_order_and_padding_no_effect(bags, random):
    made = embeddings.EmbeddingTable(4, 2, seed=3, name="video")
    shuffled = [random.sample([*bag, 0, 0], k=5) for bag in bags]
    np.testing.assert_allclose(
        made.mean(tf.constant(bags)), made.mean(tf.constant(shuffled)), atol=1e-6
    )


@pytest.mark.parametrize("how", ["lookup", "mean"])
def test_gradients_are_sparse_and_hold_only_rows_that_were_read(table, how):
    ids = tf.constant([2, 0, 2]) if how == "lookup" else tf.constant([[2, 0], [2, 2]])
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(getattr(table, how)(ids))
    gradient = tape.gradient(total, table.rows)
    assert isinstance(gradient, tf.IndexedSlices)
    dense = tf.convert_to_tensor(gradient).numpy()
    # Two look-ups of row 2; or two bags that are row 2 alone.
    np.testing.assert_allclose(dense[2], [2, 2])
    np.testing.assert_array_equal(np.delete(dense, 2, axis=0), np.zeros([4, 2]))


def test_powers_are_the_value_its_square_and_its_root():
    np.testing.assert_allclose(
        embeddings.with_powers(tf.constant([[0.25, 0.0]])), [[0.25, 0, 0.0625, 0, 0.5, 0]]
    )


def test_features_of_a_space_share_one_table():
    tables = {"videos": ["video_id", "channel_id"], "users": [], "context": [], "watches": []}
    resolved = spec.resolve(tables)
    read = resolved.of(spec.RANKER)
    made = embeddings.make_tables(
        read, {"video": 9, "channel": 3, "category": 2}, widths={"channel": 7}, seed=1
    )
    # The bag of watches, the recent ones, the last one, and the impression itself.
    assert sum(f.space == "video" for f in read) == 4
    assert {name: (t.size, t.width) for name, t in made.items()} == {
        "video": (9, id_spaces.embedding_width(9)),
        "channel": (3, 7),
        "category": (2, 4),
    }


def query_inputs(world, **kwargs):
    inputs = embeddings.SideInputs(world.spec(), spec.CANDIDATE, Side.QUERY, **kwargs)
    tables = embeddings.make_tables(
        inputs.features, world.vocabulary_sizes, widths={"video": 2}, seed=1
    )
    return inputs, tables


FEATURES = {
    "watched_video_ids": tf.constant([[1, 0, 0, 0, 0, 0]]),
    "region": tf.constant([0]),
    "query_continuous": tf.constant([[0.25, 0.81]]),
    "query_binary": tf.constant([[1.0]]),
}


def test_dense_vector_is_embeddings_then_values_and_powers_then_binaries(world):
    inputs, tables = query_inputs(world)
    dense = inputs.dense(FEATURES, tables).numpy()[0]
    assert inputs.width(tables) == len(dense) == 2 + 4 + 6 + 1
    np.testing.assert_array_equal(dense[:2], tables["video"].rows[1])
    np.testing.assert_array_equal(dense[2:6], np.zeros(4))
    np.testing.assert_allclose(dense[6:], [0.25, 0.81, 0.0625, 0.6561, 0.5, 0.9, 1], rtol=1e-6)


def test_powers_can_be_left_out(world):
    inputs, tables = query_inputs(world, powers=False)
    assert inputs.dense(FEATURES, tables).shape == (1, inputs.width(tables)) == (1, 2 + 4 + 2 + 1)


def test_excluded_features_are_not_read(world):
    inputs, tables = query_inputs(
        world, exclude=("watched_video_ids", "age", "signed_in"), powers=False
    )
    assert inputs.columns == ("region", "query_continuous")
    left = {name: FEATURES[name] for name in inputs.columns}
    # age is the first continuous feature, example_age_s the second.
    np.testing.assert_allclose(inputs.dense(left, tables)[0, 4:], [0.81])


def test_missing_column_is_named(world):
    inputs, tables = query_inputs(world)
    left = {name: value for name, value in FEATURES.items() if name != "region"}
    with pytest.raises(ValueError, match=r"features must hold \['region'\]"):
        inputs.dense(left, tables)
