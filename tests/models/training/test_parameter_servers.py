"""Tables that are parted over servers: real processes, some of which are killed."""

import numpy as np
import pytest
import tensorflow as tf

from models.candidate import model as candidate_model
from models.embeddings import EmbeddingTable
from models.training import parameter_servers, saved
from tests.models.training.clusters import Cluster

UNSEEN = 6000  # Videos of the vocabulary that nobody watched: with them a table is worth parting.


@pytest.fixture
def examples(world, tmp_path):
    (directory := tmp_path / "examples").mkdir()
    videos = [*world.vocabularies["video"], *(f"x{i}" for i in range(UNSEEN))]
    rows = {
        "train": world.candidate_rows(2000, seed=1),
        "holdout": world.candidate_rows(300, seed=2),
    }
    vocabularies = {**world.vocabularies, "video": videos}
    return world.write_examples(directory, candidate=rows, vocabularies=vocabularies)


@pytest.fixture
def cluster(examples, tmp_path):
    sizes = {"chief": 1, "worker": 2, "ps": 2}
    made = Cluster(tmp_path, examples=examples, model=tmp_path / "model", sizes=sizes)
    yield made
    made.kill()


def test_a_training_survives_the_loss_of_a_worker_and_goes_on_after_that_of_a_server(
    cluster, examples, tmp_path
):
    cluster.start()
    cluster.wait_for("Round 1:", "chief")
    cluster.kill(("worker", 1))
    cluster.wait_for("Round 2:", "chief")  # The other one does the work.
    cluster.start(("worker", 1))
    cluster.kill(("ps", 1))
    assert cluster.end_of("chief") == 75, cluster.text("chief")
    assert "error: a parameter server is gone" in cluster.text("chief")
    assert "Traceback" not in cluster.text("chief")
    model = tmp_path / "model"
    assert not model.exists()
    cluster.start(("ps", 1), ("chief", 0))
    assert cluster.end_of("chief") == 0, cluster.text("chief")
    assert "Continuing from step" in cluster.text("chief")
    assert "[6025, 8] has 2 parts" in cluster.text("chief")
    for task in (("worker", 0), ("worker", 1), ("ps", 0), ("ps", 1)):
        assert cluster.processes[task].poll() is None, cluster.text(*task)
    _require_like_one_process(model, examples, tmp_path / "alone")


def _require_like_one_process(model, examples, directory):
    """Trains in one process beside what several did, and compares."""
    directory.mkdir()
    alone = Cluster(directory, examples=examples, model=directory / "model", sizes={"worker": 1})
    alone.start()
    assert alone.end_of("worker") == 0, alone.text("worker")
    # Whole again, and read without a server.
    read = candidate_model.load(model, examples)
    assert read.softmax_rows.rows.shape == [6025, 8]
    assert read.softmax_rows.parts == [read.softmax_rows.rows]
    parted, whole = (
        saved.open_directory(one, kind="candidate").info for one in (model, directory / "model")
    )
    assert parted["lineage"]["steps"] == whole["lineage"]["steps"] == 80
    # Other first values, and steps in another order.
    for name in ("map_at_100", "recall_at_100"):
        assert parted["metrics"][name] == pytest.approx(whole["metrics"][name], abs=0.08)


def test_rows_of_a_parted_table_come_in_the_order_of_their_ids():
    parted, whole = (EmbeddingTable(5, 2, seed=1, name=name) for name in ("parted", "whole"))
    rows = tf.reshape(tf.range(12.0), [6, 2])
    whole.rows.assign(rows)
    parted.rows = tf.__internal__.distribute.ShardedVariable(
        [tf.Variable(rows[:3]), tf.Variable(rows[3:])]
    )
    assert len(parted.parts) == 2
    ids = tf.constant([5, 1, 4, 0, 2, 5])
    bags = tf.constant([[5, 1, 0], [0, 0, 0], [2, 4, 3]])
    reads = (
        lambda table: table.lookup(ids),
        lambda table: table.members(bags),
        lambda table: table.read([ids[:3], bags]),
    )
    for read in reads:
        gradients, values = [], []
        for table in (parted, whole):
            with tf.GradientTape() as tape:
                value = tf.concat(tf.nest.flatten(read(table)), axis=0)
                total = tf.reduce_sum(value**2)
            values.append(value)
            of_parts = tape.gradient(total, list(table.parts))
            gradients.append(tf.concat([tf.convert_to_tensor(one) for one in of_parts], axis=0))
        np.testing.assert_array_equal(*values)
        np.testing.assert_allclose(*gradients)


@pytest.mark.parametrize(
    ("shape", "parts"),
    [
        ([100, 8], [1, 1]),  # 3.2 KB.
        ([10_000, 8], [3, 1]),
        ([10_000_000, 32], [6, 1]),  # 1.28 GB, in messages of 256 MB at most, as many a server.
        ([2, 10_000], [2, 1]),
    ],
)
def test_tables_are_parted_by_rows_and_nothing_else_is(monkeypatch, shape, parts):
    cut = lambda: parameter_servers._parts(tf.TensorShape(shape), tf.float32, 3)  # noqa: E731
    assert cut() == [1, 1]
    monkeypatch.setattr(parameter_servers.embeddings, "is_table", lambda: True)
    assert cut() == parts


def test_a_table_says_so_while_its_rows_are_made(monkeypatch):
    said = []
    make = EmbeddingTable.add_weight

    def add_weight(self, **kwargs):
        said.append(parameter_servers.embeddings.is_table())
        return make(self, **kwargs)

    monkeypatch.setattr(EmbeddingTable, "add_weight", add_weight)
    EmbeddingTable(3, 2, seed=1, name="table")
    assert said == [True]
    assert not parameter_servers.embeddings.is_table()
