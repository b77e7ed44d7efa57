"""A store that goes on from what it read gives what one gives that begins."""

import dataclasses
import weakref

import numpy as np
import pyarrow as pa
import pytest

from features.as_of.event_tables import KeptColumns
from features.as_of.history import History
from features.catalogue import Catalogue
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


CATALOGUES = [
    Catalogue(pa.table({"video_id": ids, "upload_time": [0] * len(ids)}))
    for ids in (["v0", "v1", "v2"], ["v2", "v0"])
]


def columns(found, catalogue):
    """What features make of a history: numbers and texts."""
    history = History.of(
        *(catalogue, None),
        watches=found.watches,
        searches=found.searches,
        impressions=found.impressions,
        feedback=found.feedback,
        from_s=T,
        kept=found.kept,
    )
    values = {f.name: getattr(history, f.name) for f in dataclasses.fields(history)}
    del values["catalogue"], values["feedback"]
    values["search_tokens"] = values["search_tokens"].to_pylist()
    return {
        name: {n: v.tolist() for n, v in vars(value).items()}
        if dataclasses.is_dataclass(value)
        else np.asarray(value).tolist()
        if isinstance(value, np.ndarray)
        else value
        for name, value in values.items()
    }


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
            went_on = stores[0].read("u")
            assert contents(went_on) == expected
            # At times another release asks, with rows of its own.
            catalogue = CATALOGUES[int(rng.random() < 0.2)]
            if rng.random() < 0.2:
                went_on = went_on.with_session(["v1"], now=T + 7200)
            anew = dataclasses.replace(went_on, kept=KeptColumns())
            assert columns(went_on, catalogue) == columns(anew, catalogue)
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


def test_columns_are_made_anew_only_of_rows_that_changed(store):
    catalogue = CATALOGUES[0]
    store.append([event("w", video="v0"), event("s", Kind.SEARCH, query="words"), shown("v1")])

    def made():
        found = store.read("u")
        tables = {"searches": found.searches, "impressions": found.impressions}
        return History.of(catalogue, None, watches=found.watches, **tables, kept=found.kept)

    first = made()
    store.append([shown("v2", page="p2", at=T + 9)])
    second = made()
    assert second.watches is first.watches
    assert second.search_tokens is first.search_tokens
    assert second.impressions.video.tolist() == [1, 2]
    store.append([event("w2", at=T + 9, video="v1")])
    assert made().watches.video.tolist() == [0, 1]


def test_what_is_kept_of_a_viewer_keeps_no_catalogue():
    catalogue = Catalogue(CATALOGUES[0].table)
    shown_now = pa.table({"video_id": ["v1"], "time": [T], "clicked": [False]})
    kept = KeptColumns()
    History.of(catalogue, None, watches=None, impressions=shown_now, kept=kept)
    held = weakref.ref(catalogue)
    del catalogue
    assert held() is None
