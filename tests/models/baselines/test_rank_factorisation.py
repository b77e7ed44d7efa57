"""WARP and its neighbours from the library implicit, on watches whose structure is known."""

import numpy as np
import pytest

from models.baselines import implicit as implicit_baselines
from models.baselines import rank_factorisation
from models.baselines import retrieval as baselines

GROUPS, PER_GROUP = 4, 5
NUM_VIDEOS = GROUPS * PER_GROUP
ORDER = np.arange(NUM_VIDEOS) / NUM_VIDEOS


def watches(number, *, seed):
    """Users who watch videos of one group only; video v belongs to group v % GROUPS."""
    rng = np.random.default_rng(seed)
    groups = rng.integers(0, GROUPS, number)
    histories = groups[:, None] + GROUPS * rng.integers(0, PER_GROUP, (number, 3))
    labels = groups + GROUPS * rng.integers(0, PER_GROUP, number)
    return baselines.Queries(
        user_ids=np.array([f"u{i}" for i in range(number)], object),
        times=np.arange(number),
        label_ids=np.array([f"v{label}" for label in labels], object),
        label_rows=labels.astype(np.int64),
        regions=np.full(number, "", object),
        history_offsets=3 * np.arange(number + 1),
        history_rows=histories.ravel().astype(np.int64),
    )


def share_of_own_group(scores, queries):
    """How many of the best PER_GROUP videos are of the query's group, on average."""
    best = np.argsort(-scores, axis=1)[:, :PER_GROUP]
    return np.mean(best % GROUPS == (queries.label_rows % GROUPS)[:, None])


def warp(train, **settings):
    given = {"dim": 8, "draws": 16, "steps": 300, "epochs": 300, "seed": 1, **settings}
    config = rank_factorisation.WarpConfig(**given)
    return rank_factorisation.fit(train, ORDER, config)


def test_warp_ranks_the_videos_of_the_group_that_was_watched_first():
    fitted, asked = warp(watches(2000, seed=1)), watches(200, seed=2)
    assert share_of_own_group(fitted.score(asked), asked) > 0.95


def test_warp_without_history_falls_back_to_what_is_watched_most():
    train = watches(500, seed=1)
    train.label_rows[:] = np.where(np.arange(500) % 2, 7, train.label_rows)
    nobody = train.take([0, 1])
    nobody = baselines.Queries(
        **{
            **vars(nobody),
            "history_offsets": np.zeros(3, np.int64),
            "history_rows": np.zeros(0, np.int64),
        }
    )
    assert warp(train).score(nobody).argmax(axis=1).tolist() == [7, 7]


def test_the_bag_of_a_query_is_padded_and_unknown_videos_are_nothing():
    queries = watches(2, seed=1)
    queries.history_rows[:] = [3, -1, 4, 0, 1, 2]
    bags = rank_factorisation.padded_bags(queries, size=2)
    assert bags.tolist() == [[4, 0], [1, 2]]


def test_no_watches_give_scores_all_the_same():
    fitted = warp(watches(5, seed=1).take([]))
    scores = fitted.score(watches(3, seed=2))
    assert np.isfinite(scores).all()


def test_als_folds_in_users_it_has_never_seen_and_bpr_gives_them_what_is_popular():
    pytest.importorskip("implicit")
    train, asked = watches(600, seed=1), watches(100, seed=2)
    strangers = baselines.Queries(**{**vars(asked), "user_ids": asked.user_ids + "x"})
    als, bpr = implicit_baselines.fit_all(train, ORDER, seed=1)
    assert share_of_own_group(als.score(strangers), strangers) > 0.95
    np.testing.assert_array_equal(np.argsort(bpr.score(strangers)[0]), np.argsort(ORDER))
    known = train.take(slice(0, 100))
    assert share_of_own_group(bpr.score(known), known) > 0.9


def test_als_solves_the_normal_equations():
    videos = np.array([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]], np.float32)
    als = implicit_baselines.Als(videos=videos, tie_break=np.zeros(3))
    asked = watches(1, seed=1)
    asked.history_rows[:] = [0, 2, 2]
    # Watched: rows 0 and 2. (Y'Y + 20 (y0 y0' + y2 y2') + .05 I) x = 21 (y0 + y2)
    left = np.array([[2.0 + 40 + 0.05, 1.0 + 20], [1.0 + 20, 5.0 + 20 + 0.05]])
    user = np.linalg.solve(left, [42.0, 21.0])
    np.testing.assert_allclose(als.score(asked)[0], videos @ user, rtol=1e-6)


def test_without_the_library_both_are_left_out_loudly(monkeypatch, caplog):
    monkeypatch.setattr(implicit_baselines.importlib.util, "find_spec", lambda name: None)
    assert implicit_baselines.fit_all(watches(5, seed=1), ORDER, seed=1) == []
    assert "LEFT OUT" in caplog.text
