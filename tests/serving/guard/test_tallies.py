"""What a server counts of its releases."""

import json
import types

import numpy as np
import pytest

from serving.guard import tallies
from serving.guard.tallies import Counting, Tally


@pytest.fixture
def clock():
    return types.SimpleNamespace(now=1000.0)


@pytest.fixture
def counting(clock):
    return Counting(outcome_s=30, late_s=600, clock=lambda: clock.now)


def of(counting, release_id):
    return Tally.from_json(json.loads(json.dumps(counting.tallies()))[release_id])


def test_an_outcome_is_what_was_reported_within_its_time(counting, clock):
    for page in ("p1", "p2", "p3"):
        counting.page("7", page_id=page, user_id="u")
    clock.now += 20
    counting.engaged([("p1", 40.0), ("p1", 10.0), ("p2", 0.0), ("elsewhere", 99.0)])
    assert counting.tallies() == {}  # Nothing is known before its time.
    clock.now += 10
    counting.engaged([("p3", 60.0)])  # Too late.
    found = of(counting, "7")
    group = tallies.group_of("u")
    assert found.outcomes[:, group].tolist() == [3.0, 2.0, 50.0, 0.0, 0.0]
    assert found.known_outcomes == found.outcomes[0].sum() == 3


def test_what_is_watched_later_counts_once_a_page_is_old_enough(counting, clock):
    counting.page("7", page_id="p1", user_id="u")
    clock.now += 29
    counting.engaged([("p1", 5.0)])
    clock.now += 400
    counting.engaged([("p1", 300.0)])
    counting.page("7", page_id="p2", user_id="u")
    group = tallies.group_of("u")
    assert of(counting, "7").outcomes[:, group].tolist() == [1.0, 1.0, 5.0, 0.0, 0.0]
    clock.now += 171
    counting.engaged([("p1", 99.0), ("p2", 7.0)])  # Of p1 too late.
    assert of(counting, "7").outcomes[:, group].tolist() == [2.0, 1.0, 5.0, 1.0, 305.0]
    clock.now += 430
    assert of(counting, "7").outcomes[:, group].tolist() == [2.0, 1.0, 5.0, 2.0, 312.0]


def test_requests_count_by_release_and_kind(counting):
    for kind in (tallies.WHOLE, tallies.WHOLE, tallies.FAILED):
        counting.request("7", kind)
    counting.request("8", tallies.EMPTY)
    assert of(counting, "7").kinds.tolist() == [2, 0, 0, 1]
    assert of(counting, "8").requests == of(counting, "8").count(tallies.EMPTY) == 1


def test_more_pages_than_are_kept_are_settled_early(counting, monkeypatch):
    monkeypatch.setattr(tallies, "_MOST_PAGES", 10)
    for number in range(25):
        counting.page("7", page_id=str(number), user_id=str(number))
    assert of(counting, "7").known_outcomes == 15


def test_sums_and_differences_are_of_every_part():
    rng = np.random.default_rng(0)
    one, other = (Tally(rng.random(4), rng.random((5, tallies.GROUPS))) for _ in range(2))
    back = (one + other) - other
    np.testing.assert_allclose(back.outcomes, one.outcomes)
    np.testing.assert_allclose(back.kinds, one.kinds)


@pytest.mark.parametrize("broken", [{}, {"pages": [1.0]}, {"watched_s": [float("nan")] * 256}])
def test_what_is_no_tally_is_refused(broken):
    with pytest.raises((ValueError, KeyError)):
        Tally.from_json(broken and Tally().to_json() | broken)
