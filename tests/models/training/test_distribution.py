import subprocess
import sys

import numpy as np
import pytest

from features import command
from models.candidate import training as candidate_training
from models.config import CandidateConfig, TrainingConfig
from models.training import batches, distribution, saved, workers
from tests.models.training.clusters import FLAGS, Cluster


@pytest.mark.parametrize(
    "text",
    [
        "no json",
        "{}",
        '{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 2}}',
        '{"cluster": {"worker": ["a:1"], "ps": ["b:1"]}, "task": {"type": "worker", "index": 0}}',
        '{"cluster": {"chief": ["a:1", "b:1"], "worker": ["c:1"], "ps": ["d:1"]}, '
        '"task": {"type": "ps", "index": 0}}',
        '{"cluster": {"worker": []}, "task": {"type": "worker", "index": 0}}',
        '{"cluster": ["a:1"], "task": {"type": "worker", "index": 0}}',
        '{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "chief", "index": 0}}',
    ],
)
def test_tf_config_that_cannot_be_followed_is_refused(monkeypatch, text):
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(command.InputError, match="TF_CONFIG must"):
        distribution.from_environment()


@pytest.mark.parametrize(
    "text", ["", '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 0}}']
)
def test_a_worker_alone_needs_no_strategy(monkeypatch, text):
    monkeypatch.setenv("TF_CONFIG", text)
    alone = distribution.from_environment()
    assert alone.strategy is None
    assert alone.is_chief
    assert alone.agreed({"a": 2.0}) == {"a": 2.0}
    alone.wait_for_all()


def test_workers_share_each_batch_without_overlap():
    data = batches.InMemory({"x": np.arange(22)}, batch_size=7, seed=1)
    parts = [
        [batch["x"].numpy() for batch in workers._Share(data, i, 2).epoch(1, skip=1)]
        for i in range(2)
    ]
    whole = [batch["x"].numpy() for batch in data.epoch(1, skip=1)]
    assert len(whole) == 2
    for one, other, both in zip(*parts, whole, strict=True):
        # Equal parts, so that gradients weigh alike; the seventh example waits.
        assert sorted([*one, *other]) == sorted(both[:6])


_TWO_REPLICAS = """
import tensorflow as tf
import tf_keras
from models import config, embeddings
from models.training import loop, workers

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)


class Task:
    def __init__(self):
        self.model = tf_keras.Model()
        self.model.table = embeddings.EmbeddingTable(5, 1, seed=1, stddev=0.0, name="table")

    def loss(self, batch, step):
        return 2.0 * tf.reduce_sum(self.model.table.lookup(batch["ids"]))


strategy = tf.distribute.MirroredStrategy(["cpu:0", "cpu:1"])
with strategy.scope():
    task = Task()
    settings = config.TrainingConfig(learning_rate=1.0, optimizer="adagrad", epochs=1)
    groups = loop._variable_groups(task.model, settings, 1)
step = loop._train_step(task, groups, 0.5, workers.Workers(strategy, count=2))
step({"ids": tf.fill([8], 3)}, tf.Variable(0, dtype=tf.int64))
print(*(float(rows[3, 0]) for rows in strategy.experimental_local_results(task.model.table.rows)))
"""


def test_two_replicas_clip_by_the_norm_of_what_both_saw():
    done = subprocess.run(
        [sys.executable, "-c", _TWO_REPLICAS], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    # Eight look-ups of a row in each, of slope 1: 16 in sum, .5 when clipped. Adagrad goes by
    # g / sqrt(.1 + g^2).
    expected = -0.5 / np.sqrt(0.35)
    np.testing.assert_allclose([float(x) for x in done.stdout.split()], [expected] * 2, rtol=1e-5)


def test_two_workers_killed_and_resumed_reach_the_metrics_of_one(small_examples, tmp_path):
    alone = candidate_training.train(
        small_examples,
        tmp_path / "alone",
        CandidateConfig(
            **{n: FLAGS[n] for n in ("embedding_dim", "depth", "negatives", "id_dropout")}
        ),
        TrainingConfig(epochs=4, batch_size=100, learning_rate=0.02),
    )
    model = tmp_path / "model"
    cluster = Cluster(tmp_path, examples=small_examples, model=model, sizes={"worker": 2})
    cluster.start()
    cluster.wait_for("Round 2:", "worker")
    cluster.kill()
    assert not model.exists()

    cluster.start()
    for index in range(2):
        assert cluster.end_of("worker", index) == 0, cluster.text("worker", index)
        assert "Continuing from step" in cluster.text("worker", index)
        assert f"Worker {index} of 2." in cluster.text("worker", index)
    info = saved.open_directory(model, kind="candidate", examples_dir=small_examples).info
    assert info["lineage"]["steps"] == alone.steps == 80
    for name in ("map_at_100", "recall_at_100"):
        # The same examples in the same batches with the same negatives: only sums are rounded
        # in another order.
        assert info["metrics"][name] == pytest.approx(alone.metrics[name], abs=0.02)
    assert [path.name for path in (tmp_path / "model.training").iterdir()] == ["tensorboard"]
