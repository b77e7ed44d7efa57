"""Diversity and exploration of a page."""

import numpy as np
import pytest

from serving.ordering import diversity

# Three of one kind, then two of others.
VECTORS = np.array([[1, 0], [1, 0.01], [1, 0.02], [0, 1], [-1, 0]], np.float32)
ORDER = np.arange(5)


def test_what_is_alike_moves_down_by_its_weight():
    assert diversity.diversified(ORDER, VECTORS, k=3, weight=0.0).tolist() == [0, 1, 2, 3, 4]
    found = diversity.diversified(ORDER, VECTORS, k=3, weight=0.5)
    # By hand: 0 first; then .5 x (.8, .6, .4, .2) - .5 x (1, 1, 0, -1) is largest for 4.
    assert found.tolist() == [0, 4, 3, 1, 2]
    assert diversity.diversified(ORDER, VECTORS, k=3, weight=0.1).tolist()[:2] == [0, 1]


def test_every_candidate_is_there_once_and_the_rest_in_order():
    rng = np.random.default_rng(1)
    order, vectors = rng.permutation(60), rng.normal(size=(60, 4)).astype(np.float32)
    vectors[7] = 0  # Without an embedding: like nobody.
    found = diversity.diversified(order, vectors, k=5, weight=0.4)
    assert sorted(found.tolist()) == list(range(60))
    assert found[20:].tolist() == order[20:].tolist()


def explore(seed=0, slots=2, **changes):
    given = {
        "shown": np.full(40, 1000.0),
        "clicked": np.full(40, 100.0),
        "is_fresh": np.arange(40) >= 30,
    } | changes
    given["shown"][35:] = 0
    given["clicked"][35:] = 0
    rng = np.random.default_rng(seed)
    return diversity.explored(np.arange(40), **given, slots=slots, k=10, rng=rng)


def test_places_go_to_uncertain_fresh_videos_but_not_the_best_two():
    seen = set()
    for seed in range(30):
        order, chosen = explore(seed)
        assert sorted(order.tolist()) == list(range(40))
        assert order[:2].tolist() == [0, 1]
        assert len(chosen) == 2
        assert set(chosen.tolist()) <= set(order[:10].tolist())
        seen.update(chosen.tolist())
    assert seen == {35, 36, 37, 38, 39}


def test_who_was_shown_in_vain_is_drawn_less():
    counts = np.zeros(40)
    for seed in range(300):
        shown, clicked = np.full(40, 1000.0), np.full(40, 100.0)
        shown[30], clicked[30] = 150.0, 0.0
        _, chosen = explore(seed, slots=1, shown=shown, clicked=clicked)
        counts[chosen] += 1
    assert counts[30] < 0.2 * counts[35:].mean()


def test_without_slots_or_anything_uncertain_nothing_changes():
    order, chosen = explore(slots=0)
    assert order.tolist() == list(range(40))
    assert not len(chosen)
    order, chosen = explore(is_fresh=np.zeros(40, bool))
    assert order.tolist() == list(range(40))


def test_share_of_places_is_met_on_average():
    rng = np.random.default_rng(0)
    drawn = [diversity.slots(20, 0.07, rng) for _ in range(4000)]
    assert np.mean(drawn) == pytest.approx(1.4, abs=0.05)
    assert diversity.slots(2, 0.5, rng) == 0


def test_what_was_drawn_for_a_page_of_the_logs_can_be_drawn_again():
    first = diversity.chance("u1", 1_651_363_200).random(4)
    assert first.tolist() == diversity.chance("u1", 1_651_363_200).random(4).tolist()
    for user, now in (("u2", 1_651_363_200), ("u1", 1_651_363_201)):
        assert not np.isin(diversity.chance(user, now).random(4), first).any()
