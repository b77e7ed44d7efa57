"""The ranker's further objectives: trained beside the watch time, calibrated, saved, measured."""

import dataclasses

import numpy as np
import pytest

from features import feedback
from models.config import RankerConfig, TrainingConfig
from models.evaluation import heads as head_evaluation
from models.evaluation.intervals import Bootstrap, Sheet
from models.evaluation.ranking import Impressions
from models.ranking import model as ranker
from models.ranking import training as ranker_training
from models.ranking.model import Ranker

KINDS = ("like", "hide")
HOLDOUT = 9000  # Impressions that the curves are fitted to.
QUICK = TrainingConfig(epochs=6, batch_size=200, learning_rate=0.03, decay=True, patience=6)


def rows_with_feedback(world, size, *, seed):
    """Channel 1 is liked by 40 % of those who see it, the others by 5 %; channel 2 is hidden."""
    rows = world.ranker_rows(size, seed=seed)
    rng = np.random.default_rng(seed + 100)
    channel = rows["channel_id"]
    chances = {
        "like": np.where(channel == 1, 0.4, 0.05),
        "hide": np.where(channel == 2, 0.3, 0.02),
    }
    said = {
        feedback.label(kind): (rng.random(size) < chance).astype(np.float32)
        for kind, chance in chances.items()
    }
    return rows | said


@pytest.fixture
def trained(make_examples, world, tmp_path):
    splits = {
        "train": rows_with_feedback(world, 6000, seed=1),
        "holdout": rows_with_feedback(world, HOLDOUT, seed=2),
    }
    examples = make_examples(ranker=splits, feedback=KINDS)
    config = RankerConfig(hidden=(16,))
    result = ranker_training.train(examples, tmp_path / "m", config, QUICK)
    return ranker.load(tmp_path / "m", examples), result


def test_each_kind_has_the_probability_that_it_was_said_with(trained, world):
    model, result = trained
    rows = rows_with_feedback(world, 4000, seed=3)
    found = model.feedback_probabilities(rows, rows)
    assert set(found) == set(KINDS)
    channel = rows["channel_id"]
    like, hide = (found[kind].numpy() for kind in KINDS)
    np.testing.assert_allclose(like[channel == 1].mean(), 0.4, atol=0.05)
    np.testing.assert_allclose(like[channel != 1].mean(), 0.05, atol=0.02)
    np.testing.assert_allclose(hide[channel == 2].mean(), 0.3, atol=0.05)
    assert {"like_log_loss", "hide_log_loss", "per_user_loss"} <= set(result.metrics)
    # The watch time is still what it was about: 100 s a click of channel 1, 10 s of the others.
    seconds = model.expected_watch_time_s(rows, rows).numpy()
    np.testing.assert_allclose(seconds[channel == 1].mean(), 30, rtol=0.2)


def test_figures_tell_order_and_calibration_by_decile(trained, world):
    model, _ = trained
    impressions = Impressions.of(rows_with_feedback(world, 20_000, seed=4))
    resolved = dataclasses.replace(world.spec(), feedback=KINDS)
    sheet = Sheet()
    found = head_evaluation.predict(model, resolved, impressions)
    deciles = head_evaluation.measure(found, impressions, sheet)
    figures = sheet.figures(Bootstrap(num_users=int(impressions.user_codes.max()) + 1))
    assert set(deciles) == set(KINDS)
    for kind in KINDS:
        assert figures[f"feedback.{kind}.all.per_user_loss"].value < 0.35
        ratio = figures[f"feedback.{kind}.all.expected_over_actual"]
        # Both the curve and the figure stand on so many positives, and no more can be known.
        rate = figures[f"feedback.{kind}.all.actual_rate"].value
        error = np.sqrt(1 / (rate * HOLDOUT) + 1 / (rate * len(impressions)))
        assert abs(ratio.value - 1) < 3 * error
        assert 3 * error < 0.15
        low, high = deciles[kind][0], deciles[kind][-1]
        rates = [figures[f"feedback.{kind}.{one}.actual_rate"].value for one in (low, high)]
        assert rates[0] < 0.1
        assert rates[1] > 0.25


def test_perfect_and_constant_answers_have_the_losses_by_hand(world):
    rows = rows_with_feedback(world, 1000, seed=5)
    impressions = Impressions.of(rows)
    given = rows["feedback_like"].astype(float)
    answers = {"like": np.where(given > 0, 0.9, 0.1), "hide": np.full(1000, 0.25)}
    sheet = Sheet()
    deciles = head_evaluation.measure(answers, impressions, sheet)
    figures = sheet.figures(Bootstrap(num_users=int(impressions.user_codes.max()) + 1))
    assert figures["feedback.like.all.per_user_loss"].value == 0
    assert figures["feedback.like.all.auc"].value == 1
    np.testing.assert_allclose(figures["feedback.like.all.log_loss"].value, -np.log(0.9))
    assert figures["feedback.hide.all.per_user_loss"].value == 0.5
    assert len(deciles["hide"]) == 1
    rate = rows["feedback_hide"].mean()
    ratio = figures["feedback.hide.all.expected_over_actual"].value
    np.testing.assert_allclose(ratio, 0.25 / rate, rtol=1e-6)


def test_a_kind_that_nobody_of_the_holdout_said_keeps_its_logits(world):
    resolved = dataclasses.replace(world.spec(), feedback=KINDS)
    model = Ranker(resolved, world.vocabulary_sizes, RankerConfig(hidden=(4,)))
    rng = np.random.default_rng(6)
    logits = rng.normal(-2, 1, (5000, 2)).astype(np.float32)
    labels = {"feedback_like": rng.random(5000) < 0.3, "feedback_hide": np.zeros(5000)}
    model.heads.calibrate(logits, labels)
    like, hide = model.heads.curves
    assert 1 / (1 + np.exp(-like(logits[:, 0]).numpy())).mean() > 0.25
    np.testing.assert_array_equal(hide(logits[:, 1]), logits[:, 1])


def test_linear_ranker_has_heads_over_its_output(world):
    resolved = dataclasses.replace(world.spec(), feedback=("like",))
    model = Ranker(resolved, world.vocabulary_sizes, RankerConfig(hidden=()))
    rows = world.ranker_rows(5, seed=1)
    assert model.feedback_probabilities(rows, rows)["like"].shape == (5,)


def test_without_feedback_there_is_no_head_and_no_weight_of_one(world):
    model = Ranker(world.spec(), world.vocabulary_sizes, RankerConfig(hidden=(8,)))
    rows = world.ranker_rows(5, seed=1)
    assert model.heads is None
    assert model.feedback_probabilities(rows, rows) == {}
    resolved = dataclasses.replace(world.spec(), feedback=("like",))
    other = Ranker(resolved, world.vocabulary_sizes, RankerConfig(hidden=(8,)))
    # The same seeds: what is there without them is the same with them.
    np.testing.assert_array_equal(model.logits(rows, rows), other.logits(rows, rows))
    assert len(other.trainable_variables) == len(model.trainable_variables) + 2
