import hashlib
import json

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


def signed(order):
    body = json.dumps(order, sort_keys=True)
    return json.dumps({"sha256": hashlib.sha256(body.encode()).hexdigest(), "order": order})


def of_weight(weight):
    return {"samples": 1, "weights": dict.fromkeys(NAMES, weight)}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[]",
        "7",
        "[" * 100_000,
        '{"a":' * 100_000,
        "\0" * 2_000_000,
        json.dumps(of_weight(1.0)),
        signed({"samples": 1, "weights": {"log_age_h": 1}}),
        signed(of_weight("much")),
        signed(of_weight(1e308)),
        signed(of_weight(float("nan"))),
        signed(of_weight(10**400)),
        signed(of_weight(None)),
        signed(of_weight(-1.1e6)),
    ],
    ids=lambda text: text[:30],
)
def test_a_broken_order_is_refused_and_a_release_does_without(tmp_path, text, caplog):
    path = page_order.path_of(tmp_path, "20260101000000")
    assert page_order.of_release(tmp_path, "20260101000000") is None
    assert not caplog.text
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(command.InputError, match="page order|weights"):
        PageOrder.load(path)
    assert page_order.of_release(tmp_path, "20260101000000") is None
    assert "Pages are in the order of expected watch time" in caplog.text


def test_signed_order_within_bounds_is_taken(tmp_path):
    (tmp_path / "order").write_text(signed(of_weight(-1e6)))
    assert PageOrder.load(tmp_path / "order").weights.tolist() == [-1e6] * len(NAMES)


@pytest.mark.parametrize("make", ["directory", "link to nothing", "link to itself"])
def test_order_that_is_no_file_is_done_without(tmp_path, make):
    path = page_order.path_of(tmp_path, "7")
    path.parent.mkdir()
    if make == "directory":
        path.mkdir()
    else:
        path.symlink_to("nothing" if make == "link to nothing" else path.name)
    assert page_order.of_release(tmp_path, "7") is None


def test_no_flipped_bit_gives_other_weights(tmp_path):
    path = tmp_path / "order.json"
    order = PageOrder(np.linspace(-1, 1, len(NAMES)), 321)
    order.save(path)
    good = path.read_bytes()
    accepted = 0
    for place in range(len(good)):
        for bit in (place % 8, (place + 3) % 8):
            changed = bytearray(good)
            changed[place] ^= 1 << bit
            path.write_bytes(changed)
            try:
                again = PageOrder.load(path)
            except command.InputError:
                continue
            accepted += 1  # White space is no content.
            np.testing.assert_array_equal(again.weights, order.weights)
            assert again.samples == 321
    assert accepted < len(good) / 10


def test_weights_that_would_not_be_taken_are_not_saved(tmp_path):
    with pytest.raises(command.InputError, match="beyond 1e"):
        PageOrder(np.full(len(NAMES), 2e6), 321).save(tmp_path / "order.json")
    assert not list(tmp_path.iterdir())
