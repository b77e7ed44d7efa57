import itertools
import math
import re

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from features import dataset
from features.screen import progress
from models import config, embeddings
from models.training import batches, checkpoints, loop


class LineModel(tf_keras.Model):
    """y = w x."""

    def __init__(self):
        super().__init__()
        self.w = self.add_weight(name="w", shape=[], initializer="zeros")


class LineTask:
    """Least squares; holdout metrics are given one by one, or computed."""

    stop_metric, higher_is_better = "error", False

    def __init__(self, values=None, *, poison_at=None):
        self.model = LineModel()
        self.values = list(values) if values is not None else None
        self.poison_at = poison_at
        self.seen = []

    def loss(self, batch, step):
        loss = tf.reduce_mean(tf.square(self.model.w * batch["x"] - batch["y"]))
        if self.poison_at is not None:
            loss *= tf.where(step == self.poison_at, math.nan, 1.0)
        return loss

    def evaluate(self):
        if self.values is None:
            return {}
        self.seen.append(float(self.model.w))
        return {"error": self.values[min(len(self.seen), len(self.values)) - 1]}


X = np.arange(1, 41, dtype=np.float32) / 40


def examples(batch_size=4, seed=1):
    return batches.InMemory({"x": X, "y": 3 * X}, batch_size=batch_size, seed=seed)


def fit(task, path, **settings):
    settings = config.TrainingConfig(
        **{"batch_size": 4, "learning_rate": 0.1, "epochs": 3, **settings}
    )
    run = checkpoints.RunDirectory(path, {"test": 1})
    return loop.fit(task, examples(), settings, run)


def test_examples_that_belong_together_stand_in_one_batch_and_all_are_seen():
    # Ten users of four rows each, scattered; a batch holds two users.
    users = np.array([f"u{i % 10}".encode() for i in range(40)], object)
    data = batches.InMemory(
        {"row": np.arange(40), "user": users}, batch_size=8, seed=1, together=("user",)
    )
    epochs = []
    for number in range(2):
        rows = [batch["row"].numpy() for batch in data.epoch(number, skip=0)]
        assert sorted(np.concatenate(rows).tolist()) == list(range(40))
        assert all(len(set((batch % 10).tolist())) == 2 for batch in rows)
        epochs.append(np.concatenate(rows).tolist())
    assert epochs[0] != epochs[1]
    first = next(iter(data.epoch(0, skip=0)))
    assert first["user"].dtype == tf.int32
    np.testing.assert_array_equal(first["user"], first["row"] % 10)


def test_what_belongs_together_within_that_follows_each_other():
    # Five users of two pages of four rows each, scattered.
    rows = np.random.default_rng(0).permutation(40)
    data = batches.InMemory(
        {"row": rows, "user": rows // 8, "page": rows // 4},
        batch_size=10,
        seed=1,
        together=("user", "page"),
    )
    order = np.concatenate([batch["row"].numpy() for batch in data.epoch(0, skip=0)])
    for size, users_or_pages in ((8, order // 8), (4, order // 4)):
        assert all(len(set(part)) == 1 for part in np.split(users_or_pages, 40 // size))
    assert sorted(order.tolist()) == list(range(40))


def test_training_finds_the_line(tmp_path):
    task = LineTask()
    result = fit(task, tmp_path, epochs=30)
    np.testing.assert_allclose(task.model.w, 3, atol=0.05)
    assert (result.steps, result.epochs, result.rounds) == (300, 30, 30)


def test_without_a_holdout_all_epochs_are_trained_and_the_last_weights_kept(tmp_path):
    result = fit(LineTask(), tmp_path)
    assert (result.epochs, result.best_round, result.metrics) == (3, 0, {})
    assert "no holdout" in result.summary()


def test_training_stops_after_patience_and_restores_the_best_weights(tmp_path):
    task = LineTask([5.0, 4.0, 4.5, 4.2, 1.0])
    result = fit(task, tmp_path, epochs=9, patience=2)
    # Rounds 3 and 4 are no better than round 2.
    assert (result.rounds, result.best_round) == (4, 2)
    assert float(task.model.w) == task.seen[1]
    assert result.metrics == {"error": 4.0}


def test_a_metric_that_is_not_a_number_is_never_the_best(tmp_path):
    result = fit(LineTask([math.nan, 2.0, math.nan]), tmp_path, epochs=3, patience=5)
    assert result.best_round == 2


def test_epoch_is_cut_into_rounds(tmp_path):
    result = fit(LineTask([3.0, 2.0, 1.0]), tmp_path, epochs=1, evaluations_per_epoch=3)
    assert (result.rounds, result.steps) == (3, 10)


def test_loss_that_is_no_number_stops_with_a_clear_error_and_saves_nothing(tmp_path):
    with pytest.raises(loop.DivergedError, match=r"loss is nan at step 7.*learning_rate"):
        fit(LineTask(poison_at=7), tmp_path)
    assert not list(tmp_path.glob("latest/*"))


class KilledError(Exception):
    pass


@pytest.mark.parametrize("killed_at", [11, 23])
def test_resumed_training_ends_with_the_weights_of_an_uninterrupted_one(
    tmp_path, monkeypatch, killed_at
):
    whole = LineTask([3.0, 2.0, 2.5])
    fit(whole, tmp_path / "whole")

    # Checkpoints after every step; then the process is gone in the middle of an epoch.
    monkeypatch.setattr(loop, "_SAVE_EVERY_S", -1.0)
    first = LineTask([3.0, 2.0, 2.5])
    original = batches.InMemory.epoch

    def dying(self, number, *, skip):
        for step, batch in enumerate(original(self, number, skip=skip), start=10 * number + skip):
            if step == killed_at:
                raise KilledError
            yield batch

    with monkeypatch.context() as patch:
        patch.setattr(batches.InMemory, "epoch", dying)
        with pytest.raises(KilledError):
            fit(first, tmp_path / "parts")
    second = LineTask([3.0, 2.0, 2.5][killed_at // 10 :])
    result = fit(second, tmp_path / "parts")
    assert result.steps == 30
    assert result.best_round == 2
    assert float(second.model.w) == float(whole.model.w)
    # A round that is repeated is in the history once.
    steps = [one["step"] for one in result.history]
    assert steps == [10, 20, 30]
    assert [one["holdout"]["error"] for one in result.history] == [3.0, 2.0, 2.5]


def test_history_tells_each_round(tmp_path):
    result = fit(LineTask([3.0, float("nan"), 1.0]), tmp_path)
    first, second, third = result.history
    assert [one["epoch"] for one in result.history] == [1.0, 2.0, 3.0]
    assert first["train_loss"] > third["train_loss"] > 0
    assert (first["holdout"], second["holdout"]) == ({"error": 3.0}, {"error": None})


def test_other_settings_start_over(tmp_path, caplog):
    fit(LineTask([1.0]), tmp_path / "run")
    run = checkpoints.RunDirectory(tmp_path / "run", {"test": 2})
    assert "starts over" in caplog.text
    assert not (run.path / "latest").exists()


def test_finished_training_resumes_without_a_step(tmp_path):
    first, again = LineTask([3.0, 2.0, 1.0]), LineTask([5.0])
    fit(first, tmp_path)
    result = fit(again, tmp_path)
    assert float(again.model.w) == float(first.model.w)
    assert (result.steps, result.best_round) == (30, 3)
    assert (result.metrics, again.seen) == ({"error": 1.0}, [])


def test_removed_run_keeps_only_the_summaries(tmp_path):
    run = checkpoints.RunDirectory(tmp_path, {})
    settings = config.TrainingConfig(batch_size=4, epochs=1)
    loop.fit(LineTask([1.0]), examples(), settings, run)
    run.remove()
    assert [path.name for path in tmp_path.iterdir()] == ["tensorboard"]


def test_summaries_hold_loss_holdout_and_speed(tmp_path):
    fit(LineTask([3.0]), tmp_path, epochs=1)
    tags = set()
    for path in (tmp_path / "tensorboard").iterdir():
        for record in tf.data.TFRecordDataset(str(path)):
            event = tf.compat.v1.Event.FromString(record.numpy())
            tags |= {value.tag for value in event.summary.value}
    assert tags >= {"loss/train", "holdout/error", "speed/examples_per_s"}


def test_tables_have_their_own_learning_rate(world, tmp_path):
    from models.ranking import model as ranker

    linear = config.RankerConfig(hidden=(), pairwise=0.0)
    model = ranker.Ranker(world.spec(), world.vocabulary_sizes, linear)
    settings = config.TrainingConfig(learning_rate=0.5, embedding_learning_rate=0.25)
    groups = loop._variable_groups(model, settings, steps=1)
    rates = {round(float(optimizer.learning_rate), 6): len(group) for optimizer, group in groups}
    kernels_and_bias = len(model.tower.first_layer.trainable_variables)
    assert rates == {0.5: kernels_and_bias, 0.25: len(model.tables)}
    assert set(loop.tables_of(model)) == set(model.tables)
    assert all(norm > 0 for norm in loop.embedding_norms(model).values())


def test_learning_rates_fall_to_nothing_over_the_run(tmp_path):
    # While the gradient hardly changes, Adam moves a weight by its rate at each of the 40 steps:
    # .001 in all of them, or 40, 39, ... 1 fortieths of it, 20.5 in sum.
    falling, steady = LineTask(), LineTask()
    fit(falling, tmp_path / "a", epochs=4, decay=True, learning_rate=0.001)
    fit(steady, tmp_path / "b", epochs=4, learning_rate=0.001)
    assert float(falling.model.w) == pytest.approx(0.0205, rel=0.1)
    assert float(steady.model.w) == pytest.approx(0.04, rel=0.1)


def test_clipping_bounds_the_gradient(tmp_path):
    free, clipped = LineTask(), LineTask()
    for task, clip, name in ((free, 0.0, "a"), (clipped, 1e-9, "b")):
        fit(task, tmp_path / name, epochs=1, clip_norm=clip, optimizer="adagrad")
    assert float(free.model.w) > 0.1
    assert float(clipped.model.w) < 0.001


class LookUpTask:
    """The sum of one row looked up 16 times, and 12 times a dense weight: global norm 20."""

    def __init__(self):
        self.model = tf_keras.Model()
        self.model.table = embeddings.EmbeddingTable(5, 1, seed=1, stddev=0.0, name="table")
        self.model.w = self.model.add_weight(name="w", shape=[], initializer="zeros")

    def loss(self, batch, step):
        rows = self.model.table.lookup(batch["ids"])
        return tf.reduce_sum(rows) + 12.0 * self.model.w


def test_clipping_counts_a_row_that_is_looked_up_sixteen_times_as_one():
    task = LookUpTask()
    settings = config.TrainingConfig(
        epochs=1, learning_rate=1.0, optimizer="adagrad", clip_norm=0.5
    )
    step = loop.compiled_step(task, settings)
    step({"ids": tf.fill([16], 3)}, tf.Variable(0, dtype=tf.int64))
    # The gradient (16, 12) becomes (.4, .3), and Adagrad's first step is g / sqrt(.1 + g^2).
    row, others = task.model.table.rows.numpy()[3], np.delete(task.model.table.rows.numpy(), 3)
    assert float(row[0]) == pytest.approx(-0.4 / math.sqrt(0.26), rel=1e-5)
    assert float(task.model.w) == pytest.approx(-0.3 / math.sqrt(0.19), rel=1e-5)
    assert not others.any()


def ids(data, epoch, skip=0):
    return [batch["x"].numpy().tolist() for batch in data.epoch(epoch, skip=skip)]


def test_epochs_have_different_orders_of_the_same_examples():
    data = examples()
    first, second = ids(data, 0), ids(data, 1)
    assert first != second
    assert sorted(itertools.chain(*first)) == sorted(itertools.chain(*second)) == X.tolist()


def test_epoch_entered_in_its_middle_continues_with_the_next_batch():
    assert ids(examples(), 2, skip=3) == ids(examples(), 2)[3:]
    assert ids(examples(seed=2), 2) != ids(examples(), 2)


def test_batch_larger_than_the_split_is_the_split():
    data = examples(batch_size=1000)
    assert data.steps_per_epoch() == 1
    assert len(ids(data, 0)[0]) == 40


def test_streamed_and_in_memory_split_hold_the_same_examples(small_examples):
    columns = ("video_id", "query_continuous", "watched_video_ids")

    def opened(memory_gb):
        return batches.open_training(
            small_examples,
            "candidate",
            columns=columns,
            settings=config.TrainingConfig(batch_size=500, memory_gb=memory_gb),
        )

    streamed, held = opened(0.0), opened(1.0)
    assert isinstance(streamed, batches.Streamed)
    assert isinstance(held, batches.InMemory)
    assert streamed.count == held.count == 2000
    sums = [
        np.sum([b["query_continuous"].numpy().sum(axis=0) for b in data.epoch(0, skip=0)], axis=0)
        for data in (streamed, held)
    ]
    np.testing.assert_allclose(sums[0], sums[1], rtol=1e-4)


def test_streamed_epoch_can_be_entered_in_its_middle(small_examples):
    data = batches.Streamed(
        small_examples, "candidate", columns=["video_id"], count=2000, batch_size=500, seed=1
    )
    whole = [b["video_id"].numpy().tolist() for b in data.epoch(1, skip=0)]
    assert [b["video_id"].numpy().tolist() for b in data.epoch(1, skip=2)] == whole[2:]


def test_some_rows_are_read_in_the_order_asked_for(small_examples, monkeypatch):
    whole = dataset.load(small_examples, "ranker", "train")
    original = dataset.batches
    parts = []

    def in_small_batches(*args, batch_size, **others):
        parts.append(batch_size)
        return original(*args, batch_size=300, **others)

    monkeypatch.setattr(dataset, "batches", in_small_batches)
    rows = np.random.default_rng(1).permutation(2000)[:700]
    found = batches.load_rows(small_examples, "ranker", "train", rows, columns=list(whole))
    assert len(parts) == 1
    assert set(found) == set(whole)
    for name, values in found.items():
        np.testing.assert_array_equal(values, whole[name][rows])
    assert found["watched_video_ids"].dtype == np.int32
    assert found["query_continuous"].dtype == np.float32


def test_sampled_holdout_keeps_whole_users():
    users = np.array([b"a", b"b", b"a", b"c", b"c", b"a"], object)
    found = batches.sample_users({"user_id": users, "x": np.arange(6)}, 3, seed=1)
    kept = set(found["user_id"])
    assert 3 <= len(found["x"]) < 6
    assert found["x"].tolist() == [i for i in range(6) if users[i] in kept]


def test_progress_is_logged_with_examples_per_second(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(loop, "_SHOW_EVERY_S", -1.0)
    monkeypatch.setattr(progress, "EVERY_S", 0.0)
    caplog.set_level("INFO", logger="absl")
    fit(LineTask(), tmp_path, epochs=1)
    assert re.search(r"training: epoch 1/1, loss [\d.]+: [\d,]+ of [\d,]+ examples, ", caplog.text)
