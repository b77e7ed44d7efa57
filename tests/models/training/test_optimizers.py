import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from models.training import optimizers


def sparse(rows, values, size):
    return tf.IndexedSlices(tf.constant(values, tf.float32), tf.constant(rows), [size, 2])


def test_first_step_moves_each_touched_row_by_the_learning_rate():
    # m / (1 - beta_1) is g and v / (1 - beta_2) is g^2, so the move is rate * g / |g|.
    table = tf.Variable(tf.ones([4, 2]))
    optimizer = optimizers.SparseAdam(0.1)
    optimizer.apply_gradients([(sparse([1, 3], [[5.0, -5.0], [0.01, 0.0]], 4), table)])
    expected = [[1, 1], [0.9, 1.1], [1, 1], [0.9, 1]]
    np.testing.assert_allclose(table, expected, atol=1e-5)


def test_dense_gradients_move_as_under_adam():
    ours, theirs = tf.Variable(tf.ones([3, 2])), tf.Variable(tf.ones([3, 2]))
    adam = tf_keras.optimizers.Adam(0.05, jit_compile=False)
    lazy = optimizers.SparseAdam(0.05)
    for gradient in tf.random.stateless_normal([5, 3, 2], seed=[1, 2]):
        adam.apply_gradients([(gradient, theirs)])
        lazy.apply_gradients([(gradient, ours)])
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_row_that_every_step_touches_moves_as_under_adam():
    table, dense = tf.Variable(tf.ones([3, 2])), tf.Variable(tf.ones([1, 2]))
    adam = tf_keras.optimizers.Adam(0.05, jit_compile=False)
    lazy = optimizers.SparseAdam(0.05)
    for gradient in tf.random.stateless_normal([5, 1, 2], seed=[1, 2]):
        adam.apply_gradients([(gradient, dense)])
        lazy.apply_gradients([(sparse([2], gradient, 3), table)])
    np.testing.assert_allclose(table[2], dense[0], atol=1e-5)
    np.testing.assert_array_equal(table[:2], np.ones([2, 2]))


def test_steps_that_leave_a_row_out_do_not_exist_for_it():
    seldom, often = tf.Variable(tf.zeros([2, 2])), tf.Variable(tf.zeros([2, 2]))
    first, second = optimizers.SparseAdam(0.1), optimizers.SparseAdam(0.1)
    for _ in range(3):
        first.apply_gradients([(sparse([1], [[1.0, -2.0]], 2), seldom)])
        second.apply_gradients([(sparse([1], [[1.0, -2.0]], 2), often)])
        second.apply_gradients([(sparse([0], [[9.0, 9.0]], 2), often)])
    np.testing.assert_array_equal(seldom[1], often[1])


def test_repeated_rows_of_a_gradient_are_summed_first():
    twice, once = tf.Variable(tf.zeros([2, 2])), tf.Variable(tf.zeros([2, 2]))
    for table, gradient in (
        (twice, sparse([1, 1], [[1.0, 1.0], [2.0, -4.0]], 2)),
        (once, sparse([1], [[3.0, -3.0]], 2)),
    ):
        optimizers.SparseAdam(0.1).apply_gradients([(gradient, table)])
    np.testing.assert_allclose(twice, once)


@pytest.mark.parametrize("name", ["adam", "adagrad"])
def test_a_step_reads_and_writes_only_touched_rows(name):
    # A dense read of the table would show up as ReadVariableOp of its handle.
    table = tf.Variable(tf.zeros([50, 2]))
    optimizer = optimizers.make(name, 0.1)
    optimizer.build([table])

    @tf.function
    def step():
        optimizer.apply_gradients([(sparse([4], [[1.0, 1.0]], 50), table)])

    graph = step.get_concrete_function().graph
    shapes = [
        out.shape.as_list()
        for op in graph.get_operations()
        for out in op.outputs
        if out.dtype == tf.float32 and out.shape.rank == 2
    ]
    assert shapes
    assert [50, 2] not in shapes


def test_checkpoint_restores_moments_and_counts(tmp_path):
    def steps(optimizer, table, number):
        for _ in range(number):
            optimizer.apply_gradients([(sparse([1], [[1.0, -0.5]], 3), table)])

    table, optimizer = tf.Variable(tf.zeros([3, 2])), optimizers.SparseAdam(0.1)
    steps(optimizer, table, 2)
    path = tf.train.Checkpoint(table=table, optimizer=optimizer).write(str(tmp_path / "state"))
    steps(optimizer, table, 2)

    again, restored = tf.Variable(tf.zeros([3, 2])), optimizers.SparseAdam(0.1)
    restored.build([again])
    tf.train.Checkpoint(table=again, optimizer=restored).read(path).assert_consumed()
    steps(restored, again, 2)
    np.testing.assert_array_equal(again, table)


def test_config_round_trip_keeps_the_settings():
    for before in (optimizers.SparseAdam(0.02, beta_1=0.8), optimizers.SparseAdagrad(0.3)):
        after = type(before).from_config(before.get_config())
        assert after.get_config() == before.get_config()


def test_adagrad_by_hand():
    # a is 0.1 + 9, then 9.1 + 16; the other rows stay.
    table = tf.Variable(tf.zeros([3, 2]))
    optimizer = optimizers.SparseAdagrad(0.5)
    optimizer.apply_gradients([(sparse([1, 1], [[1.0, 0.0], [2.0, 0.0]], 3), table)])
    optimizer.apply_gradients([(sparse([1], [[-4.0, 0.0]], 3), table)])
    moved = -0.5 * 3 / np.sqrt(9.1) + 0.5 * 4 / np.sqrt(25.1)
    np.testing.assert_allclose(table, [[0, 0], [moved, 0], [0, 0]], rtol=1e-5)


def test_adagrad_moves_dense_and_sparse_gradients_alike():
    dense, table = tf.Variable(tf.ones([2, 2])), tf.Variable(tf.ones([2, 2]))
    optimizer = optimizers.SparseAdagrad(0.1)
    optimizer.build([dense, table])
    for gradient in tf.random.stateless_normal([4, 2, 2], seed=[3, 4]):
        optimizer.apply_gradients([(gradient, dense), (sparse([0, 1], gradient, 2), table)])
    np.testing.assert_allclose(dense, table, rtol=1e-6)


def test_unknown_optimizer_is_refused():
    with pytest.raises(ValueError, match="optimizer must be in"):
        optimizers.make("sgd", 0.1)


@pytest.mark.parametrize("block", [1, 4, 6, 1000])
def test_rows_moved_in_blocks_move_as_all_at_once(monkeypatch, block):
    monkeypatch.setattr(optimizers, "_BLOCK_WEIGHTS", block)
    table, dense = tf.Variable(tf.ones([9, 2])), tf.Variable(tf.ones([5, 2]))
    optimizer, adam = optimizers.SparseAdam(0.1), tf_keras.optimizers.Adam(0.1)
    rows = [7, 0, 3, 8, 5]
    for gradient in tf.random.stateless_normal([3, 5, 2], seed=[5, 6]):
        optimizer.apply_gradients([(sparse(rows, gradient, 9), table)])
        adam.apply_gradients([(gradient, dense)])
    np.testing.assert_allclose(tf.gather(table, rows), dense, atol=1e-4)
    np.testing.assert_array_equal(tf.gather(table, [1, 2, 4, 6]), np.ones((4, 2)))


def test_gradient_without_rows_moves_nothing():
    table = tf.Variable(tf.ones([3, 2]))
    optimizers.SparseAdam(0.1).apply_gradients(
        [(tf.IndexedSlices(tf.zeros([0, 2]), tf.zeros([0], tf.int32), [3, 2]), table)]
    )
    np.testing.assert_array_equal(table, np.ones((3, 2)))


def test_clipping_takes_the_norm_of_whole_rows_and_keeps_them_sparse():
    # Row 1 is (1, 0) + (2, 4) = (3, 4), row 0 is (0, 12), the dense weight 84: 5, 13 and 85.
    gradients = [
        sparse([1, 0, 1], [[1.0, 0.0], [0.0, 12.0], [2.0, 4.0]], 1_000_000),
        None,
        tf.constant(84.0),
    ]
    table, nothing, dense = optimizers.clipped(gradients, 8.5)
    assert nothing is None
    assert isinstance(table, tf.IndexedSlices)
    rows = dict(zip(table.indices.numpy().tolist(), table.values.numpy().tolist(), strict=True))
    assert rows.keys() == {0, 1}
    np.testing.assert_allclose(rows[1], [0.3, 0.4], rtol=1e-6)
    np.testing.assert_allclose(rows[0], [0.0, 1.2], rtol=1e-6)
    np.testing.assert_allclose(dense, 8.4, rtol=1e-6)


def test_clipping_leaves_a_gradient_alone_whose_norm_is_within_the_bound():
    # Five opposite pairs: nothing in sum, however long the parts are.
    gradient = sparse([2] * 10, [[7.0, 0.0], [-7.0, 0.0]] * 5, 3)
    (table, dense) = optimizers.clipped([gradient, tf.constant(2.0)], 2.0)
    np.testing.assert_allclose(table.values, [[0.0, 0.0]])
    assert float(dense) == 2.0
