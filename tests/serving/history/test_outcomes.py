"""Outcomes of impressions and moments of clicks, in either store."""

import pytest

from serving.events.event import CLICK_WINDOW_S, Kind
from tests.serving.history.stores import T, event, moments, outcomes, shown


@pytest.mark.parametrize("reverse", [False, True])
def test_click_and_watch_reach_their_impression_in_any_order_of_arrival(store, reverse):
    arrivals = [
        [shown("a"), shown("b"), shown("c")],
        [event("c1", Kind.CLICK, T + 5, video="a", page_id="p")],
        [event("w1", Kind.WATCH, T + 90, video="a", page_id="p", watch_time_s=80.0)],
        [event("w2", Kind.WATCH, T + 100, video="b", watch_time_s=7.0)],
    ]
    for events in reversed(arrivals) if reverse else arrivals:
        store.append(events)
    assert outcomes(store) == {
        ("a", T): (True, 80.0),
        ("b", T): (True, 7.0),
        ("c", T): (False, 0.0),
    }


def test_watch_that_names_no_page_goes_to_the_latest_impression(store):
    store.append([shown(page="p1"), shown(page="p2", at=T + 60), shown(page="p3", at=T + 200)])
    store.append([event("w", at=T + 100, watch_time_s=5.0)])
    assert outcomes(store) == {
        ("v", T): (False, 0.0),
        ("v", T + 60): (True, 5.0),
        ("v", T + 200): (False, 0.0),
    }


def test_watch_that_names_its_page_goes_there(store):
    store.append([shown(page="p1"), shown(page="p2", at=T + 60)])
    store.append([event("w", at=T + 100, watch_time_s=5.0, page_id="p1")])
    assert outcomes(store)[("v", T)] == (True, 5.0)
    assert outcomes(store)[("v", T + 60)] == (False, 0.0)


def test_watch_after_the_window_or_from_elsewhere_is_not_the_impressions(store):
    store.append([shown("a", surface="home"), shown("b", surface="home")])
    store.append([event("w1", at=T + CLICK_WINDOW_S + 1, video="a", watch_time_s=5.0)])
    store.append([event("w2", at=T + 10, video="b", watch_time_s=5.0, source="search")])
    assert set(outcomes(store).values()) == {(False, 0.0)}


def test_watch_from_the_same_surface_is_the_impressions(store):
    store.append([shown("a", surface="home")])
    store.append([event("w", at=T + 10, video="a", watch_time_s=5.0, source="home")])
    assert outcomes(store) == {("a", T): (True, 5.0)}


def test_several_watches_of_an_impression_add_up(store):
    store.append([shown("a")])
    store.append([event(f"w{i}", at=T + i, video="a", watch_time_s=5.0) for i in (1, 2, 3)])
    assert outcomes(store) == {("a", T): (True, 15.0)}


def test_impression_that_says_how_it_ended_is_left_alone(store):
    store.append([shown("a", clicked=True, watch_time_s=3.0)])
    store.append([event("w", at=T + 1, video="a", watch_time_s=50.0)])
    assert outcomes(store) == {("a", T): (True, 3.0)}


@pytest.mark.parametrize("page", ["p", ""])
def test_click_happens_at_the_first_click_or_watch_that_came_from_the_impression(store, page):
    store.append([shown("a"), shown("b"), shown("c")])
    assert moments(store) == {"a": None, "b": None, "c": None}
    store.append([event("w1", at=T + 90, video="a", watch_time_s=8.0, page_id=page)])
    assert moments(store) == {"a": T + 90, "b": None, "c": None}
    store.append([event("c1", Kind.CLICK, T + 5, video="a", page_id=page)])
    store.append([event("c2", Kind.CLICK, T + 9, video="b", page_id=page)])
    assert moments(store) == {"a": T + 5, "b": T + 9, "c": None}


def test_what_names_the_page_later_than_a_click_can_be_is_no_click(store):
    # The tables have the impression by then, as not clicked.
    store.append([shown("a"), shown("b")])
    late = {"at": T + CLICK_WINDOW_S + 1, "page_id": "p", "watch_time_s": 5.0}
    store.append([event("w1", video="a", **late)])
    store.append([event("c2", Kind.CLICK, T + 9, video="b"), event("w2", video="b", **late)])
    assert moments(store) == {"a": None, "b": T + 9}
    assert outcomes(store) == {("a", T): (False, 0.0), ("b", T): (True, 5.0)}


def test_impression_told_as_clicked_was_clicked_at_the_first_watch_as_in_training(store):
    store.append([shown("a", clicked=True), shown("b")])
    assert moments(store) == {"a": T + CLICK_WINDOW_S, "b": None}
    store.append([event("w2", at=T + 60, video="a", source="search")])
    assert moments(store) == {"a": T + 60, "b": None}
    store.append([event("w1", at=T + 50, video="a")])
    assert moments(store) == {"a": T + 50, "b": None}
