import json
import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from features import command
from models.candidate import training as candidate_training
from models.config import CandidateConfig, TrainingConfig
from models.training import batches, distribution, saved

FLAGS = {
    "embedding_dim": 8,
    "depth": 1,
    "negatives": 16,
    "batch_size": 100,
    "learning_rate": 0.02,
    "id_dropout": 0.0,
    "bag_dropout": 0.0,
    "decay": "false",
}


@pytest.mark.parametrize(
    "text",
    [
        "no json",
        "{}",
        '{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 2}}',
        '{"cluster": {"worker": ["a:1"], "ps": ["b:1"]}, "task": {"type": "worker", "index": 0}}',
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
    workers = distribution.from_environment()
    assert workers.strategy is None
    assert workers.is_chief
    assert workers.agreed({"a": 2.0}) == {"a": 2.0}
    workers.wait_for_all()


def test_workers_share_each_batch_without_overlap():
    data = batches.InMemory({"x": np.arange(22)}, batch_size=7, seed=1)
    parts = [
        [batch["x"].numpy() for batch in distribution._Share(data, i, 2).epoch(1, skip=1)]
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
from models.training import distribution, loop

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
step = loop._train_step(task, groups, 0.5, distribution.Workers(strategy, count=2))
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


def free_ports(number):
    sockets = [socket.socket() for _ in range(number)]
    for each in sockets:
        each.bind(("localhost", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def start(examples, model, log_dir):
    """Starts two worker processes by the documented command."""
    addresses = [f"localhost:{port}" for port in free_ports(2)]
    processes = []
    for index in range(2):
        task = {"type": "worker", "index": index}
        config = json.dumps({"cluster": {"worker": addresses}, "task": task})
        with (log_dir / f"worker_{index}").open("w") as log:
            processes.append(
                subprocess.Popen(
                    [
                        sys.executable,
                        *("-m", "models.train_candidate"),
                        *(f"--examples={examples}", f"--model={model}", "--epochs=4"),
                        *(f"--{name}={value}" for name, value in FLAGS.items()),
                    ],
                    env={**os.environ, "TF_CONFIG": config},
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
            )
    return processes


def text_of(log_dir, index):
    return (log_dir / f"worker_{index}").read_text()


def finish(processes, log_dir):
    codes = [process.wait(timeout=300) for process in processes]
    assert codes == [0, 0], text_of(log_dir, 0) + text_of(log_dir, 1)


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
    processes = start(small_examples, model, tmp_path)
    deadline = time.monotonic() + 300
    while "Round 2:" not in text_of(tmp_path, 0) and time.monotonic() < deadline:
        assert processes[0].poll() is None, text_of(tmp_path, 0)
        time.sleep(0.02)
    for process in processes:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not model.exists()

    finish(start(small_examples, model, tmp_path), tmp_path)
    for index in range(2):
        assert "Continuing from step" in text_of(tmp_path, index)
        assert f"Worker {index} of 2." in text_of(tmp_path, index)
    info = saved.open_directory(model, kind="candidate", examples_dir=small_examples).info
    assert info["lineage"]["steps"] == alone.steps == 80
    for name in ("map_at_100", "recall_at_100"):
        # The same examples in the same batches with the same negatives: only sums are rounded
        # in another order.
        assert info["metrics"][name] == pytest.approx(alone.metrics[name], abs=0.02)
    assert [path.name for path in (tmp_path / "model.training").iterdir()] == ["tensorboard"]
