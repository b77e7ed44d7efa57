import numpy as np
import pytest

from models.evaluation import spread


@pytest.mark.parametrize(
    ("counts", "number"),
    # 2 and 2 of 4: exp(2 * .5 * log 2) = 2. Of 1/2, 1/4, 1/4: exp(1.5 * log 2) = 2 ** 1.5.
    [([5], 1.0), ([2, 2], 2.0), ([3, 3, 3, 0], 3.0), ([2, 1, 1], 2**1.5), ([0, 0], 0.0), ([], 0.0)],
)
def test_the_effective_number_is_that_of_equally_frequent_things(counts, number):
    assert spread.effective_number(np.array(counts)) == pytest.approx(number)


def test_lists_count_each_place_and_leave_out_what_was_not_found():
    # 7 twice, 3 once, 4 once of four.
    assert spread.of_lists(np.array([[7, 3], [7, 4], [-1, -1]])) == pytest.approx(2**1.5)


def test_overlap_is_the_mean_over_pairs():
    lists = np.array([[1, 2], [2, 3], [4, 5]])
    # Pairs share 1, 0 and 0 of 2.
    assert spread.overlap(lists, pairs=10, seed=0) == pytest.approx(1 / 6)
    # No list is compared with itself, which would count as 1.
    different = np.arange(400).reshape(200, 2)
    assert spread.overlap(different, pairs=50, seed=0) == 0.0


def test_drawn_lists_follow_the_counts_and_hold_each_video_once():
    counts = np.array([0, 8, 1, 1])
    found = spread.drawn(counts, lists=4000, size=1, seed=0)
    np.testing.assert_allclose(np.bincount(found[:, 0]) / 4000, [0, 0.8, 0.1, 0.1], atol=0.02)
    pairs = spread.drawn(counts, lists=4000, size=2, seed=0)
    assert (pairs[:, 0] != pairs[:, 1]).all()
    # Without 1: 2 then 3 or 3 then 2, .1 * .1 / .9 each.
    without = (pairs != 1).all(axis=1).mean()
    assert without == pytest.approx(2 * 0.01 / 0.9, abs=0.01)
