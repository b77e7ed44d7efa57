import numpy as np
import pytest

from features import command
from serving import page_order
from serving.page_order import NAMES, Lessons, PageOrder


def world(samples, candidates, weights, seed):
    """Candidates whose probability to be watched follows a conditional logit."""
    rng = np.random.default_rng(seed)
    x = rng.normal(0.3, 2.0, (samples, candidates, len(weights)))
    utility = x @ weights + rng.gumbel(size=(samples, candidates))
    return x, utility.argmax(axis=1)


def test_known_weights_are_found_again():
    truth = np.array([1.0, -0.5, 0.0, 0.25])
    x, target = world(3000, 30, truth, seed=1)
    found = page_order.fit(x, target)
    np.testing.assert_allclose(found, truth, atol=0.06)


def test_sampled_negatives_leave_the_weights_right():
    truth = np.zeros(len(NAMES))
    truth[:3] = [0.8, -0.4, 0.2]
    x, target = world(1500, 400, truth, seed=2)
    lessons = Lessons()
    for candidates, watched in zip(x, target.tolist(), strict=True):
        lessons.add(candidates, watched)
    order = lessons.learned()
    assert order.samples == 1500
    np.testing.assert_allclose(order.weights, truth, atol=0.08)


def test_columns_that_say_nothing_get_no_weight():
    x, target = world(300, 20, np.array([1.0, 0.0]), seed=3)
    x[:, :, 1] = 7.0
    weights = page_order.fit(x, target)
    assert weights[1] == 0
    assert weights[0] > 0.5


def test_samples_of_different_size_can_be_mixed():
    truth = np.array([1.0, -1.0])
    x, target = world(2000, 10, truth, seed=4)
    x[::2, 8:] = np.nan
    kept = (target < 8) | (np.arange(2000) % 2 == 1)
    np.testing.assert_allclose(page_order.fit(x[kept], target[kept]), truth, atol=0.12)


def test_few_watches_teach_nothing():
    lessons = Lessons()
    for _ in range(page_order.MIN_SAMPLES - 1):
        lessons.add(np.zeros((5, len(NAMES))), 0)
    assert lessons.learned() is None


def test_a_saved_order_is_the_same_order(tmp_path):
    order = PageOrder(np.linspace(-1, 1, len(NAMES)), 321)
    order.save(tmp_path / "order.json")
    again = PageOrder.load(tmp_path / "order.json")
    assert again.samples == 321
    x = np.random.default_rng(0).normal(size=(9, len(NAMES)))
    np.testing.assert_array_equal(again.scores(x), order.scores(x))


@pytest.mark.parametrize("text", ["", "{}", '{"samples": 1, "weights": {"log_age_h": 1}}'])
def test_a_broken_order_is_refused_and_a_release_does_without(tmp_path, text):
    path = page_order.path_of(tmp_path, "20260101000000")
    assert page_order.of_release(tmp_path, "20260101000000") is None
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(command.InputError, match="no learned page order"):
        PageOrder.load(path)
    assert page_order.of_release(tmp_path, "20260101000000") is None
