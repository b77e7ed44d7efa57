import math

import numpy as np
import pytest
import tensorflow as tf

from models import losses
from models.candidate import negatives


def sampler(weights, *, num_draws=1000, seed=0):
    return negatives.NegativeSampler(np.asarray(weights, float), num_draws=num_draws, seed=seed)


def test_draws_follow_the_probabilities():
    made = sampler([1, 2, 0, 5], num_draws=80_000)
    counts = np.bincount(made.draw_ids(tf.constant(3)), minlength=5)
    # Expected 10,000, 20,000, 0 and 50,000; standard deviations are below 145.
    np.testing.assert_allclose(counts, [0, 10_000, 20_000, 0, 50_000], atol=800)
    assert counts[0] == counts[3] == 0


def test_draw_counts_repeats_and_gives_the_log_of_expected_counts():
    made = sampler([1, 3], num_draws=100)
    draw = made.draw(tf.constant(0))
    ids, counts = draw.ids.numpy(), draw.counts.numpy()
    assert sorted(ids) == [1, 2]
    assert counts.sum() == 100
    expected = {1: math.log(25), 2: math.log(75)}
    np.testing.assert_allclose(draw.log_expected, [expected[i] for i in ids], rtol=1e-6)


def test_correction_of_rare_videos_is_not_clipped():
    made = sampler([1e9, 1.0], num_draws=1)
    np.testing.assert_allclose(
        made.log_probabilities(tf.constant([2])), [-math.log(1e9 + 1)], rtol=1e-6
    )


def test_draws_are_a_function_of_seed_and_step():
    step = tf.constant(7)
    first = sampler(np.ones(1000), seed=1).draw_ids(step)
    np.testing.assert_array_equal(first, sampler(np.ones(1000), seed=1).draw_ids(step))
    assert np.any(first != sampler(np.ones(1000), seed=1).draw_ids(tf.constant(8)))
    assert np.any(first != sampler(np.ones(1000), seed=2).draw_ids(step))


@pytest.mark.parametrize("weights", [[], [0, 0], [1, -1], [1, math.nan], [[1]]])
def test_what_is_no_distribution_is_refused(weights):
    with pytest.raises(ValueError, match="probabilities must be finite"):
        sampler(weights)


def test_background_distribution_is_the_smoothed_powered_frequency():
    counts = np.array([8, 0, 3])
    np.testing.assert_allclose(negatives.background(counts), np.array([9, 1, 4]) / 14)
    np.testing.assert_allclose(negatives.background(counts, power=0.5), np.array([3, 1, 2]) / 6)
    np.testing.assert_allclose(negatives.background(counts, power=0), np.ones(3) / 3)
    np.testing.assert_allclose(negatives.background(counts, smoothing=0), np.array([8, 0, 3]) / 11)


def test_background_of_nothing_is_refused():
    with pytest.raises(ValueError, match="count above 0"):
        negatives.background(np.zeros(3, int), smoothing=0)


FREQUENCIES = 1 / np.arange(1, 301)


@pytest.mark.parametrize("power", [1.0, 0.75, 0.0])
@pytest.mark.parametrize("num_draws", [64, 20_000])
def test_check_accepts_a_sampler_whose_correction_describes_its_draws(power, num_draws):
    assert negatives.check(sampler(FREQUENCIES**power, num_draws=num_draws)) < 0.03


class Planted(negatives.NegativeSampler):
    """Draws from one distribution and corrects for another."""

    def __init__(self, drawn_from, claimed):
        super().__init__(np.asarray(claimed, float), num_draws=1000)
        self._drawn = sampler(drawn_from)

    def draw_ids(self, step):
        return self._drawn.draw_ids(step)


@pytest.mark.parametrize(
    "claimed",
    [
        np.ones(300),
        FREQUENCIES**0.75,
        np.roll(FREQUENCIES, 1),
        np.maximum(FREQUENCIES, 0.02),
    ],
    ids=["uniform", "other power", "off by one", "clipped"],
)
def test_check_refuses_a_planted_wrong_q(claimed):
    with pytest.raises(negatives.SamplerError, match="gradient is off by"):
        negatives.check(Planted(FREQUENCIES, claimed))


def test_check_refuses_a_wrong_number_of_draws():
    class HalfAsMany(negatives.NegativeSampler):
        def log_expected(self, ids):
            return super().log_expected(ids) + math.log(2) * tf.cast(ids % 2, tf.float32)

    with pytest.raises(negatives.SamplerError):
        negatives.check(HalfAsMany(FREQUENCIES, num_draws=1000))


TRUTH = np.array([0.4, 0.2, 0.15, 0.1, 0.08, 0.04, 0.02, 0.01])


def learned_log_probabilities(background, *, num_draws):
    """Fits free logits of one query to a categorical world by the sampled softmax."""
    made = sampler(background, num_draws=num_draws)
    logits = tf.Variable(tf.zeros([len(TRUTH)]))
    labels_of = sampler(TRUTH, num_draws=512, seed=5)
    optimizer_steps = 2000

    @tf.function
    def step(number, rate):
        labels, draw = labels_of.draw_ids(number), made.draw(number)
        with tf.GradientTape() as tape:
            values = losses.sampled_softmax_loss(
                tf.ones([512, 1]),
                tf.gather(logits, labels - 1)[:, None],
                tf.gather(logits, draw.ids - 1)[:, None],
                labels=labels,
                negatives=draw.ids,
                label_log_expected=made.log_expected(labels),
                negative_log_expected=draw.log_expected,
                negative_counts=draw.counts,
            )
            loss = tf.reduce_mean(values)
        gradient = tf.convert_to_tensor(tape.gradient(loss, logits))
        logits.assign_sub(rate * gradient)
        return logits.read_value()

    tail = []
    for number in range(optimizer_steps):
        # Large steps find the place, the average over small ones takes the noise away.
        rate = 3.0 if number < optimizer_steps // 5 else 0.5
        tail.append(step(tf.constant(number), tf.constant(rate)))
    mean = np.mean(tail[optimizer_steps // 5 :], axis=0)
    return mean - np.log(np.sum(np.exp(mean)))


@pytest.mark.parametrize("num_draws", [4, 64], ids=["few draws", "many more draws than videos"])
@pytest.mark.parametrize("power", [1.0, 0.0], ids=["background", "uniform"])
def test_sampled_softmax_recovers_the_true_log_probabilities(power, num_draws):
    found = learned_log_probabilities(TRUTH**power, num_draws=num_draws)
    np.testing.assert_allclose(found, np.log(TRUTH), atol=0.25)
    np.testing.assert_allclose(np.exp(found), TRUTH, atol=0.02)
