"""Draws out of grouped items: chances, fall-back, items without weight."""

import numpy as np
import pytest

from pipeline.site import groups

# Items 0-3 in group (0, 0), (0, 1), (0, 1), (1, 0).
_FIRST, _SECOND = np.array([0, 0, 0, 1]), np.array([0, 1, 1, 0])


@pytest.fixture
def items():
    return groups.GroupedItems((2, 2), (_FIRST, _SECOND))


def _wish(first, second):
    wish = np.zeros((1, 2, 2))
    wish[0, first, second] = 1
    return wish


def test_a_group_gives_its_items_by_weight(items):
    stock = items.stock(np.array([5.0, 1.0, 3.0, 7.0]))
    np.testing.assert_allclose(stock.spread(_wish(0, 1)), [[0, 1 / 4, 3 / 4, 0]])


def test_an_empty_group_falls_back_to_the_next_larger_one(items):
    stock = items.stock(np.array([6.0, 0.0, 0.0, 7.0]))
    np.testing.assert_allclose(stock.spread(_wish(0, 1)), [[1, 0, 0, 0]])


def test_an_empty_first_level_falls_back_to_the_all_items(items):
    stock = items.stock(np.array([1.0, 1.0, 2.0, 0.0]))
    np.testing.assert_allclose(stock.spread(_wish(1, 0)), [[1 / 4, 1 / 4, 1 / 2, 0]])


def test_strict_gives_nothing_rather_than_fall_back_to_the_all_items(items):
    stock = items.stock(np.array([1.0, 1.0, 2.0, 0.0]))
    rng = np.random.default_rng(0)
    assert stock.draw(rng, (np.array([1]), np.array([0])), strict=True).tolist() == [-1]
    assert stock.spread(_wish(1, 0), strict=True).sum() == 0


def test_an_empty_items_gives_nothing(items):
    stock = items.stock(np.zeros(4))
    drawn = stock.draw(np.random.default_rng(0), (np.array([0, 1]), np.array([1, 0])))
    assert drawn.tolist() == [-1, -1]
    assert stock.spread(_wish(0, 0)).sum() == 0


def test_draws_come_as_often_as_their_chances_say():
    rng = np.random.default_rng(3)
    first, second = rng.integers(0, 3, 40), rng.integers(0, 2, 40)
    weights = rng.random(40) * (rng.random(40) < 0.6)
    stock = groups.GroupedItems((3, 2), (first, second)).stock(weights)
    wishes = rng.dirichlet(np.ones(6))
    drawn_wish = rng.choice(6, size=200_000, p=wishes)
    drawn = stock.draw(rng, (drawn_wish // 2, drawn_wish % 2))
    counts = np.bincount(drawn, minlength=40)
    expected = 200_000 * stock.spread(wishes.reshape(1, 3, 2))[0]
    assert (counts[weights == 0] == 0).all()
    # Five standard deviations of a binomial count, for each of 40 items.
    np.testing.assert_array_less(np.abs(counts - expected), 5 * np.sqrt(expected) + 1)


def test_columns_are_drawn_by_the_weights_of_their_row():
    # Running sums of the weights (1, 0, 3): a column without weight is never drawn.
    cumulative = np.array([[1.0, 1.0, 4.0]])
    uniform = np.array([[0.0, 0.2499, 0.25, 0.9999]])
    assert groups.draw_columns(cumulative, uniform).tolist() == [[0, 0, 2, 2]]
