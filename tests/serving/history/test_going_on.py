"""A store that goes on from what it read gives what one gives that begins."""

import numpy as np
import pytest

from serving.events.event import WATCH_WINDOW_S, Kind
from serving.history import redis_store, sqlite_store
from serving.history.user_history import Blocked
from tests.serving.history.stores import T, event, outcomes, shown

KEPT = 12


@pytest.fixture
def little_slack(monkeypatch):
    """Stores remove rows at nearly every write."""
    for module in (sqlite_store, redis_store):
        monkeypatch.setattr(module, "PRUNE_SLACK", 3)


def contents(found):
    tables = (found.watches, found.searches, found.impressions)
    return [found.newest_s, found.profile, found.blocked, *(table.to_pylist() for table in tables)]


def anything(rng, number):
    """An event close to the others in time, on one of few videos and pages; at times an old one."""
    kind = list(Kind)[rng.integers(4)]
    minute = int(rng.integers(90))  # Some happen in the same second.
    at = T + 60 * minute - (WATCH_WINDOW_S if rng.random() < 0.2 else 0)
    if kind is Kind.SEARCH:
        return event(f"s{number}", kind, at, query=f"words {number}")
    more = {"page_id": str(rng.choice(["", "p", "q"])), "video": f"v{rng.integers(3)}"}
    if kind is Kind.IMPRESSION:
        more |= {"surface": str(rng.choice(["home", "next"])), "clicked": rng.random() < 0.1}
    else:
        more["source"] = str(rng.choice(["", "home", "next"]))
    if kind is Kind.WATCH:
        more["watch_time_s"] = float(rng.random())
    return event(f"{kind.value}{number}", kind, at, **more)


@pytest.mark.parametrize("seed", range(8))
def test_store_that_goes_on_reads_what_one_reads_that_begins(open_store, little_slack, seed):
    rng = np.random.default_rng(seed)
    stores = [open_store(max_events=KEPT) for _ in range(3)]
    arrived = []
    for _ in range(25):
        batch = [anything(rng, len(arrived) + i) for i in range(rng.integers(1, 6))]
        again = [arrived[i] for i in rng.integers(len(arrived), size=2)] if arrived else []
        arrived += batch
        stores[rng.integers(2)].append([*batch, *again])
        if rng.random() < 0.1:
            stores[0].set_blocked("u", Blocked(videos=(f"v{len(arrived)}",)))
        expected = contents(stores[2].read("u"))
        assert contents(open_store(max_events=KEPT).read("u")) == expected
        if rng.random() < 0.6:
            assert contents(stores[0].read("u")) == expected
    assert contents(stores[0].read("u")) == contents(stores[1].read("u")) == expected


def test_sqlite_reads_only_what_arrived_since(sqlite_at):
    store = sqlite_at()
    store.append([event("a", video="a"), event("b", at=T + 9, video="b")])
    store.read("u")
    with store.transaction() as connection:  # Behind its back: it would notice, did it look.
        connection.execute("UPDATE watches SET video_id = 'changed'")
    store.append([event("c", at=T + 5, video="c")])
    assert store.read("u").watches["video_id"].to_pylist() == ["a", "c", "b"]


def test_impression_that_is_told_late_takes_the_watch_of_an_earlier_one(store):
    store.append([shown(page="p1"), event("w", at=T + 100, watch_time_s=5.0)])
    assert outcomes(store) == {("v", T): (True, 5.0)}
    store.append([shown(page="p2", at=T + 60)])
    assert outcomes(store) == {("v", T): (False, 0.0), ("v", T + 60): (True, 5.0)}


def test_impression_that_is_told_after_its_watch_of_the_same_second_has_it(store):
    store.append([event("w", at=T, watch_time_s=5.0)])
    assert outcomes(store) == {}
    store.append([shown()])
    assert outcomes(store) == {("v", T): (True, 5.0)}


def test_watch_that_is_told_late_adds_to_what_was_attributed(store):
    store.append([shown("a"), shown("b"), event("w1", at=T + 9, video="a", watch_time_s=5.0)])
    assert outcomes(store) == {("a", T): (True, 5.0), ("b", T): (False, 0.0)}
    store.append([event("w2", at=T + 5, video="a", watch_time_s=2.0)])
    assert outcomes(store) == {("a", T): (True, 7.0), ("b", T): (False, 0.0)}
