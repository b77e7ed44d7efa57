"""Embeddings that know what follows what before the first step."""

import numpy as np
import pytest

from models.candidate import spectral_start


def follows(pairs, num_videos):
    """Examples of one watch each."""
    watched, labels = np.array(pairs).T
    return spectral_start.counts([(watched[:, np.newaxis], labels)], num_videos)


def test_pairs_of_newest_watches_and_labels_are_counted():
    bags = np.array([[1, 2, 0], [2, 2, 0], [3, 0, 0]])
    found = spectral_start.counts([(bags, np.array([3, 1, 3])), (bags[:1], np.array([3]))], 3)
    # 1 and 2 came before 3 twice; 2 stood twice before 1; 3 before itself does not count.
    expected = np.zeros((4, 4))
    expected[1, 3] = expected[2, 3] = 2
    expected[2, 1] = 2
    np.testing.assert_array_equal(found.toarray(), expected)


def test_only_so_many_watches_examples_and_videos_count(monkeypatch):
    bags = np.arange(1, 31)[np.newaxis]
    found = spectral_start.counts([(bags, np.array([30]))], 30).toarray()
    assert found.sum() == 20 and found[20, 30] == 1 and found[21, 30] == 0
    monkeypatch.setattr(spectral_start, "MAX_EXAMPLES", 3)
    monkeypatch.setattr(spectral_start, "MAX_VIDEOS", 5)
    parts = [(np.array([[1], [6]]), np.array([2, 1])), (np.array([[1], [2]]), np.array([3, 3]))]
    found = spectral_start.counts(parts, 10)
    assert found.shape == (6, 6)
    assert found.sum() == 2 and found[1, 2] == found[1, 3] == 1


def test_products_are_a_share_of_the_shrunk_logarithm_of_the_lift():
    """1 -> 2 three times, 3 -> 4 once: lift n_ij n / (n_i n_j) is 4/3 and 4."""
    watched, labels = spectral_start.embeddings(follows([(1, 2)] * 3 + [(3, 4)], 4), 8, seed=1)
    found = watched @ labels.T
    expected = np.zeros((5, 5))
    expected[1, 2] = 0.12 * np.log1p(4 / 3 * 3 / 5)
    expected[3, 4] = 0.12 * np.log1p(4 * 1 / 3)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_few_dimensions_keep_the_groups_apart():
    rng = np.random.default_rng(1)
    pairs = np.concatenate([rng.integers(1, 11, (200, 2)), rng.integers(11, 21, (200, 2))])
    apart = pairs[pairs[:, 0] != pairs[:, 1]]
    watched, labels = spectral_start.embeddings(follows(apart, 20), 2, seed=1)
    products = watched @ labels.T
    assert watched.shape == (21, 2)
    within = min(products[1:11, 1:11].mean(), products[11:, 11:].mean())
    assert within > 5 * np.abs(products[1:11, 11:]).mean()


def test_new_videos_are_placed_where_the_learnt_rows_of_what_follows_them_stand():
    """Known truth: a model that has turned and stretched its start, and added some noise."""
    rng = np.random.default_rng(2)
    start = np.concatenate([np.zeros((1, 4)), rng.normal(size=(60, 4))]).astype(np.float32)
    start[60] = 0  # Not counted.
    turned = rng.normal(size=(4, 6))
    learnt = (start @ turned + 0.05 * rng.normal(size=(61, 6))).astype(np.float32)
    known, new = np.arange(1, 51), np.arange(51, 63)  # Of 61 and 62 there was no room to count.
    placed = spectral_start.placed(start, learnt, known=known, new=new)
    np.testing.assert_allclose(placed[:9], start[51:60] @ turned, atol=0.3)
    assert np.corrcoef(placed[:9].ravel(), (start[51:60] @ turned).ravel())[0, 1] > 0.99
    assert not placed[9:].any()


@pytest.mark.parametrize("pairs", [[(1, 1)], [(0, 2)]], ids=["itself", "nothing watched"])
def test_without_pairs_nothing_is_known(pairs):
    watched, labels = spectral_start.embeddings(follows(pairs, 3), 4, seed=1)
    assert not watched.any() and not labels.any()
