"""Figures of worlds: of all seeds together, and what ours has more on each."""

import numpy as np
import pytest

from models.paper import world_replays, worlds
from models.paper.world_replays import FROZEN, LIVE_1H, MISS, ORACLE, PAGE, RETRIEVAL, Replayed

USERS = np.repeat(np.arange(20), 3)


def replayed(place, *, frozen):
    def all_at(one):
        return np.full(len(USERS), one)

    return Replayed(
        users=USERS,
        retrieved={RETRIEVAL: all_at(place), FROZEN: all_at(frozen), ORACLE: all_at(0)},
        page_users=USERS[:30],
        paged={n: all_at(p)[:30] for n, p in {PAGE: 0, LIVE_1H: MISS, ORACLE: 0}.items()},
    )


def test_users_of_two_seeds_are_not_the_same_people():
    """Of each seed all are alike, so only what separates the seeds is uncertain."""
    replays = {1: replayed(5, frozen=50), 2: replayed(15, frozen=50)}
    rows = {(r.setting, r.metric): r for r in worlds.figures(replays)}
    ours = rows[RETRIEVAL, "recall_at_10"]
    assert (ours.value, ours.n, ours.seed) == (0.5, 120, None)
    assert 0.25 < ours.low < 0.5 < ours.high < 0.75
    assert rows[FROZEN, "recall_at_100"].low == 1
    assert rows[f"{LIVE_1H} (of the pages' watches)", "map_at_100"].value == 0
    assert rows[PAGE, "map_at_100"].n == 60


def test_differences_are_of_each_seed_and_leave_out_the_oracle():
    rows = worlds.differences(7, replayed(4, frozen=50))
    assert {r.seed for r in rows} == {7}
    assert {r.setting for r in rows} == {f"{RETRIEVAL} minus {FROZEN}", f"{PAGE} minus {LIVE_1H}"}
    (change,) = [r for r in rows if r.setting.startswith(RETRIEVAL) and r.metric == "map_at_100"]
    assert change.value == pytest.approx(1 / 5 - 1 / 51)
    assert change.excludes_zero


def test_of_equal_scores_the_lower_number_stands_first_and_no_score_is_no_place():
    scores = np.array([2, 0, 3, 2])
    places = [world_replays.by_score(scores, video) for video in range(4)]
    assert places == [1, MISS, 0, 2]
