import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.evaluation import repeat_bias


def _expected_repeats(mass, bias):
    odds = np.exp(bias) * mass
    return (odds / (1 - mass + odds)).sum()


def test_repeats_as_often_as_the_softmax_says_need_no_bias():
    mass = np.full(1000, 0.25)
    repeated = np.arange(1000) < 250
    assert repeat_bias.fit(mass, repeated) == pytest.approx(0.0, abs=0.01)


def test_known_odds_are_recovered():
    # One in ten repeats where half was expected: odds 1/9 against 1.
    mass = np.full(10_000, 0.5)
    repeated = np.arange(10_000) < 1000
    assert repeat_bias.fit(mass, repeated) == pytest.approx(np.log(1 / 9), abs=0.01)


def test_no_repeat_at_all_is_a_bound_and_not_minus_infinity():
    bias = repeat_bias.fit(np.full(1000, 0.5), np.zeros(1000, bool))
    assert -15.0 < bias < -7.0


def test_queries_without_a_bag_say_nothing():
    assert repeat_bias.fit(np.zeros(5), np.zeros(5, bool)) == 0.0
    with_empty = repeat_bias.fit([0.5] * 10 + [0.0] * 90, [True] * 2 + [False] * 98)
    assert with_empty == pytest.approx(repeat_bias.fit([0.5] * 10, [True] * 2 + [False] * 8))


@given(
    st.lists(st.tuples(st.floats(0.01, 0.99), st.booleans()), min_size=3, max_size=30).filter(
        lambda rows: 0 < sum(r for _, r in rows) < len(rows)
    )
)
def test_the_expected_number_of_repeats_is_the_observed_one(rows):
    mass, repeated = np.array([m for m, _ in rows]), np.array([r for _, r in rows])
    bias = repeat_bias.fit(mass, repeated)
    if -14.9 < bias < 14.9:
        assert _expected_repeats(mass, bias) == pytest.approx(repeated.sum() + 0.5, abs=1e-6)


def test_mass_counts_each_video_of_a_bag_once():
    videos = np.log(np.array([[0.1], [0.2], [0.3], [0.4]])).astype(np.float32)
    queries = np.ones((2, 1), np.float32)
    bags = np.array([[1, 1, 3, -1], [-1, -1, -1, -1]])
    assert repeat_bias.bag_mass(queries, videos, bags) == pytest.approx([0.6, 0.0])


def test_the_bias_is_added_to_the_own_bag_once():
    scores = np.zeros((2, 3), np.float32)
    repeat_bias.add_to(scores, [0, 0, 1, 1], [0, 0, 2, -1], bias=-2.0)
    assert scores.tolist() == [[-2.0, 0.0, 0.0], [0.0, 0.0, -2.0]]
