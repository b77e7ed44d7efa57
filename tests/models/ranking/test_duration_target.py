import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from features import command
from features.spec import ResolvedSpec
from models.config import RankerConfig, TrainingConfig
from models.ranking import duration_target
from models.ranking import model as ranker
from models.ranking import training as ranker_training

QUICK = TrainingConfig(epochs=12, batch_size=200, learning_rate=0.03, decay=True, patience=6)


def means(*clicks):
    """Each click is (quantile of the duration, seconds); there are 1,000 of each."""
    found = duration_target.Means()
    for quantile, seconds in clicks:
        found.add(np.full(1000, quantile), np.ones(1000), np.full(1000, seconds))
    return found


def test_factor_is_a_groups_mean_in_relation_to_the_mean_of_all():
    factors = means((0.01, 10), (0.99, 50)).factors()
    # All: 30 s. First group: (10,000 + 20 x 30) / 1,020 s, last: (50,000 + 600) / 1,020 s.
    assert factors[0] == pytest.approx(10_600 / 1020 / 30)
    assert factors[-1] == pytest.approx(50_600 / 1020 / 30)
    # Groups without a click are taken for average.
    np.testing.assert_allclose(factors[1:-1], 1)


def test_what_was_not_clicked_does_not_count():
    found = means((0.01, 10), (0.99, 50))
    before = found.factors()
    found.add([0.5, 0.01], [0, 0], [1000, 1000])
    np.testing.assert_array_equal(found.factors(), before)


def test_no_watch_time_at_all_gives_one():
    np.testing.assert_array_equal(means((0.5, 0)).factors(), 1)
    np.testing.assert_array_equal(duration_target.Means().factors(), 1)


def test_groups_that_are_never_watched_keep_a_factor_that_divides():
    factors = duration_target.Means()
    factors.add(np.full(10**6, 0.01), np.ones(10**6), np.zeros(10**6))
    factors.add(np.full(10**6, 0.99), np.ones(10**6), np.full(10**6, 10))
    assert factors.factors().min() == pytest.approx(0.05)


def test_factors_are_linear_between_the_middles_of_groups():
    factors = np.ones(20, np.float32)
    factors[3], factors[4], factors[19] = 2, 4, 7
    # Groups are .05 wide: group 3 has its middle at .175, group 4 at .225.
    asked = tf.constant([0.175, 0.2, 0.225, 0.0, 0.99], tf.float32)
    found = duration_target.factor(asked, tf.constant(factors)).numpy()
    np.testing.assert_allclose(found, [2, 3, 4, 1, 7], rtol=1e-5)


@given(st.lists(st.floats(0, 0.999), min_size=1, max_size=20))
def test_factors_lie_between_their_neighbours(quantiles):
    factors = np.linspace(0.1, 3, 20, dtype=np.float32)
    found = duration_target.factor(tf.constant(quantiles, tf.float32), tf.constant(factors)).numpy()
    assert (found >= 0.1 - 1e-5).all()
    assert (found <= 3 + 1e-5).all()
    order = np.argsort(np.float32(quantiles), kind="stable")
    assert (np.diff(found[order]) >= -1e-5).all()


def rows_of(world, size, seed):
    """Long videos (the upper half) are watched for 100 s a click, short ones for 10 s."""
    rows = world.ranker_rows(size, seed=seed, click_rate=0.3)
    is_long = rows["candidate_continuous"][:, 0] > 0.5
    rows["watch_time_s"] = np.where(is_long, 100.0, 10.0).astype(np.float32) * rows["clicked"]
    return rows, is_long


def test_long_videos_do_not_win_by_length_and_seconds_are_mapped_back(
    make_examples, world, tmp_path
):
    rows, is_long = rows_of(world, 6000, 1)
    examples = make_examples(ranker={"train": rows})
    order = {}
    for target in ("seconds", "relative"):
        directory = tmp_path / target
        # Without the duration as an input; what maps back reads it all the same.
        model_config = RankerConfig(hidden=(), target=target, exclude=("duration_s",))
        ranker_training.train(examples, directory, model_config, QUICK)
        model = ranker.load(directory)
        seconds = model.expected_watch_time_s(rows, rows).numpy()
        np.testing.assert_allclose(seconds[is_long].mean(), 30, rtol=0.15)
        np.testing.assert_allclose(seconds[~is_long].mean(), 3, rtol=0.2)
        logits = model.logits(rows, rows).numpy()
        order[target] = logits[is_long].mean() - logits[~is_long].mean()
    # Both are clicked alike, and each is watched as long as its like: nothing to choose between.
    assert order["seconds"] > 1.5
    assert abs(order["relative"]) < 0.3 * order["seconds"]


def test_data_without_durations_is_refused(world):
    features = tuple(f for f in world.spec().features if f.name != "duration_s")
    with pytest.raises(command.InputError, match="target=relative needs the durations"):
        ranker.Ranker(
            ResolvedSpec(features=features), world.vocabulary_sizes, RankerConfig(target="relative")
        )


def test_clicks_have_no_relative_target():
    with pytest.raises(ValueError, match="target must be seconds with loss=logistic"):
        RankerConfig(loss="logistic", target="relative")


def test_an_unknown_target_is_refused():
    with pytest.raises(ValueError, match="target must be one of"):
        RankerConfig(target="minutes")
