import dataclasses
import math

import numpy as np
import pytest
import tensorflow as tf

from features import command, spec
from models.config import RankerConfig, TrainingConfig
from models.ranking import model as ranker
from models.ranking import training as ranker_training
from models.training import batches, saved

LINEAR = {"hidden": ()}
QUICK = TrainingConfig(epochs=12, batch_size=200, learning_rate=0.03, decay=True, patience=6)


def train(examples, tmp_path, *, settings=QUICK, **model):
    return ranker_training.train(
        examples, tmp_path / "m", RankerConfig(**{**LINEAR, **model}), settings
    )


def mean_prediction(directory, rows):
    model = ranker.load(directory)
    return model.expected_watch_time_s(rows, rows).numpy(), rows["channel_id"] == 1


@pytest.mark.parametrize(
    ("loss", "factor"), [("exact", 1.0), ("weighted", 1 / (1 - 0.4))], ids=["exact", "paper"]
)
def test_odds_recover_expected_watch_time_at_a_high_click_rate(
    make_examples, world, tmp_path, loss, factor
):
    # P = .4. Channel 1 is watched for 100 s a click, so E[T] = 40 s; the others 10 s, 4 s. The
    # paper's loss gives E[T] / (1 - P).
    rows = world.ranker_rows(6000, seed=1, click_rate=0.4)
    examples = make_examples(ranker={"train": rows})
    train(examples, tmp_path, loss=loss)
    seconds, is_long = mean_prediction(tmp_path / "m", rows)
    np.testing.assert_allclose(seconds[is_long].mean(), 40 * factor, rtol=0.1)
    np.testing.assert_allclose(seconds[~is_long].mean(), 4 * factor, rtol=0.1)


def test_cap_counts_longer_watches_as_the_cap(world):
    model = ranker.Ranker(
        world.spec(), world.vocabulary_sizes, RankerConfig(**LINEAR, watch_cap_s=20.0)
    )
    task = ranker_training.RankerTask(model, holdout=None, stop_metric="")
    rows = world.ranker_rows(40, seed=1)
    capped = {**rows, "watch_time_s": np.minimum(rows["watch_time_s"], 20)}
    assert rows["watch_time_s"].max() == 100
    assert float(task.loss(rows, 0)) == float(task.loss(capped, 0))


def test_labels_are_summed_after_the_cap(make_examples, world):
    rows = world.ranker_rows(300, seed=1)
    examples = make_examples(ranker={"train": rows})
    clicks = int(rows["clicked"].sum())
    labels, times = ranker_training.read_labels(examples, 20.0)
    assert labels == ranker_training.Labels(
        impressions=300,
        clicks=clicks,
        watch_time_s=float(np.minimum(rows["watch_time_s"], 20).sum()),
    )
    np.testing.assert_array_equal(times, batches.times(examples, spec.RANKER))


def test_training_with_a_holdout_saves_metrics_and_click_rate(small_examples, tmp_path):
    result = train(small_examples, tmp_path, hidden=(8,))
    opened = saved.open_directory(tmp_path / "m", kind="ranker", examples_dir=small_examples)
    assert opened.info["metrics"] == result.metrics
    assert set(result.metrics) == {"objective", "log_loss", "per_user_loss"}
    # Long videos before short ones: better than chance, .5.
    assert result.metrics["per_user_loss"] < 0.4
    assert 0.2 < opened.info["lineage"]["click_rate"] < 0.4


def test_papers_loss_warns_with_the_click_rate_where_it_is_not_small(caplog):
    labels = ranker_training.Labels(impressions=100, clicks=20, watch_time_s=50.0)
    ranker_training.advise(labels, "weighted")
    # 1 / (1 - .2) is 1.25.
    assert "click rate is 0.200" in caplog.text
    assert "25% above" in caplog.text


def test_the_warning_begins_where_the_bias_is_a_tenth(caplog):
    # P / (1 - P) is .1 at P = 1 / 11.
    labels = ranker_training.Labels(impressions=1000, clicks=92, watch_time_s=50.0)
    ranker_training.advise(labels, "weighted")
    assert "10% above" in caplog.text


@pytest.mark.parametrize(("loss", "clicks"), [("weighted", 9), ("exact", 40), ("logistic", 40)])
def test_no_warning_where_the_odds_are_right(caplog, loss, clicks):
    labels = ranker_training.Labels(impressions=100, clicks=clicks, watch_time_s=50.0)
    ranker_training.advise(labels, loss)
    assert not caplog.records


def test_no_impressions_are_an_input_error(make_examples, tmp_path):
    with pytest.raises(command.InputError, match="no training example for the ranker"):
        train(make_examples(), tmp_path)


@pytest.mark.parametrize("loss", ["exact", "weighted", "logistic"])
def test_impressions_without_a_click_are_an_input_error(make_examples, world, tmp_path, loss):
    rows = world.ranker_rows(100, seed=1, click_rate=0.0)
    with pytest.raises(command.InputError, match="None of 100 training impressions was clicked"):
        train(make_examples(ranker={"train": rows}), tmp_path, loss=loss)


def test_clicks_that_were_never_watched_are_an_input_error(make_examples, world, tmp_path):
    rows = world.ranker_rows(100, seed=1)
    rows["watch_time_s"] = np.zeros(100, np.float32)
    with pytest.raises(command.InputError, match="clicked and watched"):
        train(make_examples(ranker={"train": rows}), tmp_path)


@pytest.mark.parametrize("loss", ["weighted", "logistic"])
def test_impressions_that_were_all_clicked_need_the_exact_loss(
    make_examples, world, tmp_path, loss
):
    rows = world.ranker_rows(100, seed=1, click_rate=1.0)
    with pytest.raises(command.InputError, match="loss=exact can be trained"):
        train(make_examples(ranker={"train": rows}), tmp_path, loss=loss)


def test_exact_loss_trains_where_all_impressions_were_clicked(make_examples, world, tmp_path):
    rows = world.ranker_rows(2000, seed=1, click_rate=1.0)
    train(make_examples(ranker={"train": rows}), tmp_path)
    seconds, is_long = mean_prediction(tmp_path / "m", rows)
    np.testing.assert_allclose(seconds[is_long].mean(), 100, rtol=0.1)


@pytest.mark.parametrize(
    ("column", "value", "fault"),
    [
        ("watch_time_s", math.nan, "2 where watch_time_s is not a number"),
        ("watch_time_s", math.inf, "2 where watch_time_s is not a number"),
        ("watch_time_s", -1.0, "2 where watch_time_s is negative"),
        ("watch_time_s", 90_000.0, "2 where watch_time_s is above 24 hours"),
        ("clicked", 0.5, "2 where clicked is neither 0 nor 1"),
        ("clicked", math.nan, "2 where clicked is neither 0 nor 1"),
    ],
)
def test_unusable_labels_are_counted_and_refused(
    make_examples, world, tmp_path, column, value, fault
):
    rows = world.ranker_rows(50, seed=1)
    rows[column][[3, 9]] = value
    with pytest.raises(command.InputError, match=fault):
        train(make_examples(ranker={"train": rows}), tmp_path)
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize(
    ("loss", "odds"), [("exact", 120 / 5), ("weighted", 120 / 3), ("logistic", 2 / 3)]
)
def test_starting_logit_is_the_best_constant(loss, odds):
    labels = ranker_training.Labels(impressions=5, clicks=2, watch_time_s=120.0)
    assert math.exp(labels.starting_logit(loss)) == pytest.approx(odds)


def test_unknown_stop_metric_is_an_input_error(small_examples, tmp_path):
    with pytest.raises(command.InputError, match="stop_metric must be one of"):
        train(small_examples, tmp_path, settings=TrainingConfig(stop_metric="auc"))


def test_pages_without_a_click_or_without_a_miss_stop_by_the_objective(
    make_examples, world, tmp_path, caplog
):
    holdout = world.ranker_rows(200, seed=2)
    # Pages hold five impressions: here all or none of them were clicked.
    holdout["clicked"] = (np.arange(200) // 5 % 3 == 0).astype(np.float32)
    holdout["watch_time_s"] = 10 * holdout["clicked"]
    examples = make_examples(ranker={"train": world.ranker_rows(500, seed=1), "holdout": holdout})
    result = train(
        examples, tmp_path, settings=TrainingConfig(epochs=2, stop_metric="per_user_loss")
    )
    assert "the best round is decided by objective" in caplog.text
    assert set(result.metrics) == {"objective", "log_loss"}
    assert result.best_round


def pairs_task(world, rows, **settings):
    model = ranker.Ranker(world.spec(), world.vocabulary_sizes, RankerConfig(**LINEAR, **settings))
    return ranker_training.RankerTask(model, holdout=rows, stop_metric="")


def test_objective_is_log_loss_and_weighted_pairs_whatever_the_order_of_rows(world):
    rows = world.ranker_rows(60, seed=1)
    alone = pairs_task(world, rows, pairwise=0.0).evaluate()
    assert alone["objective"] == pytest.approx(alone["log_loss"])
    found = pairs_task(world, rows, pairwise=0.5).evaluate()
    users = np.unique(rows["user_id"], return_inverse=True)[1]
    assert found["objective"] > found["log_loss"]
    # Holdout rows are scored as they are trained on: the loss of all rows as one batch.
    batch = {**rows, "user_id": users.astype(np.int32)}
    loss = float(pairs_task(world, None, pairwise=0.5).loss(batch, 0))
    assert found["objective"] == pytest.approx(loss, rel=1e-4)
    shuffled = np.random.default_rng(0).permutation(60)
    again = pairs_task(world, {n: v[shuffled] for n, v in rows.items()}, pairwise=0.5).evaluate()
    assert again["objective"] == pytest.approx(found["objective"], rel=1e-4)


def test_streamed_users_without_codes_have_the_same_pairs(world):
    rows = world.ranker_rows(60, seed=1)
    users = np.unique(rows["user_id"], return_inverse=True)[1].astype(np.int32)
    task = pairs_task(world, None, pairwise=0.5)
    names = {**rows, "user_id": tf.constant(rows["user_id"])}
    assert float(task.loss(names, 0)) == pytest.approx(
        float(task.loss({**rows, "user_id": users}, 0))
    )


def test_streamed_training_with_pairs_warns(small_examples, tmp_path, caplog):
    settings = dataclasses.replace(QUICK, epochs=1, memory_gb=1e-9)
    train(small_examples, tmp_path, settings=settings)
    assert "meet in a batch by chance only" in caplog.text


@pytest.mark.parametrize("loss", ["exact", "weighted"])
def test_weights_of_whole_days_stay_finite(make_examples, world, tmp_path, loss):
    rows = world.ranker_rows(2000, seed=1)
    rows["watch_time_s"] = np.where(rows["clicked"] > 0, 86_400, 0).astype(np.float32)
    train(make_examples(ranker={"train": rows}), tmp_path, loss=loss, hidden=(16,))
    seconds, _ = mean_prediction(tmp_path / "m", rows)
    assert np.isfinite(seconds).all()
    # P = .3: .3 days an impression, and by the paper's weights 1 / .7 of that.
    expected = 0.3 * 86_400 / (0.7 if loss == "weighted" else 1.0)
    assert seconds.mean() == pytest.approx(expected, rel=0.25)


@pytest.mark.parametrize("cap_s", [0.0, 60.0])
def test_clicks_that_were_watched_for_no_time_count_as_such(make_examples, world, tmp_path, cap_s):
    rows = world.ranker_rows(4000, seed=1)
    short = (rows["clicked"] > 0) & (np.arange(4000) % 2 == 0)
    rows["watch_time_s"][short] = 0.0
    train(make_examples(ranker={"train": rows}), tmp_path, watch_cap_s=cap_s)
    seconds, is_long = mean_prediction(tmp_path / "m", rows)
    watched = np.minimum(rows["watch_time_s"], cap_s or np.inf)[is_long].mean()
    assert 0.1 * (cap_s or 100) < watched < 0.2 * (cap_s or 100)
    assert seconds[is_long].mean() == pytest.approx(watched, rel=0.1)
