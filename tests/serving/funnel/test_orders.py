"""The setting ``order``: what decides the order of a page, also for arms of an experiment."""

import dataclasses

import numpy as np
import pytest

from features.config import RuleError
from serving.events.event import Event, Kind
from serving.funnel.funnel import Funnel
from serving.funnel.page import ORDERS, FunnelConfig, PageRequest
from serving.funnel.page_order import NAMES, PageOrder
from serving.history.sqlite_store import SqliteHistoryStore
from serving.live.state import Happened, LiveState


@pytest.fixture
def page_of(tiny, tmp_path):
    """Gives pages of a user who watched v1 and v5 on topic t1; everybody watches v2, some v3."""
    history = SqliteHistoryStore(tmp_path / "history.sqlite")
    history.append(
        [
            Event(
                event_id=f"w{n}", kind=Kind.WATCH, user_id="u", time=tiny.now - 600,
                video_id=f"v{n}", watch_time_s=100.0, completed=True,
            )
            for n in (1, 5)
        ]
    )  # fmt: skip
    state = LiveState()
    watched = ["v2"] * 6 + ["v3"] * 3
    times = np.full(len(watched), tiny.now - 300)
    state.add(Happened(Kind.WATCH, [f"x{i}" for i in range(9)], watched, times))
    last = np.zeros(len(NAMES))
    last[NAMES.index("log_age_h")] = -1.0  # A learned order that likes the newest best.
    release = dataclasses.replace(tiny.release().with_live(state), order=PageOrder(last, 100))

    def page(order=None, *, without=(), **asked):
        chosen = {} if order is None else {"order": order}
        settings = dataclasses.replace(tiny.patient(), per_channel=48, **chosen)
        served = dataclasses.replace(release, **dict.fromkeys(without))
        funnel = Funnel(
            releases=tiny.releases(served), history=history, recorder=None, settings=settings,
            clock=lambda: tiny.now,
        )  # fmt: skip
        return funnel.recommend(PageRequest(user_id="u", **asked))

    yield page
    history.close()


def is_newest_first(items):
    times = [item.video["upload_time"] for item in items]
    return len(set(times)) > 1 and times == sorted(times, reverse=True)


def test_a_page_is_by_expected_watch_time_and_by_the_learned_order_where_nothing_ranks(page_of):
    ranked = page_of(k=10).items
    seconds = [item.expected_watch_time_s for item in ranked]
    assert seconds == sorted(seconds, reverse=True)
    assert not is_newest_first(ranked)
    bare = page_of(k=10, without=["ranker"])
    assert bare.rung == "no_ranker"
    assert is_newest_first(bare.items)
    # It is what counts, not what was learned, for whom the order is said.
    for order, without in (("retrieval", ["ranker"]), ("watch_time", ["ranker", "order"])):
        scores = [item.retrieval_score for item in page_of(order, k=10, without=without).items]
        assert scores == sorted(scores, reverse=True)


def test_each_order_is_another_page(page_of):
    pages = {order: page_of(order, k=10) for order in ORDERS}
    watch_time, learned, retrieval, popular = (pages[order].items for order in ORDERS)
    assert is_newest_first(learned)
    seconds = [item.expected_watch_time_s for item in watch_time]
    assert seconds == sorted(seconds, reverse=True)
    scores = [item.retrieval_score for item in retrieval]
    assert scores == sorted(scores, reverse=True)
    assert all(item.expected_watch_time_s is None for item in retrieval)
    assert [item.video_id for item in popular[:4]] == ["v2", "v3", "v0", "v4"]
    rungs = {order: page.rung for order, page in pages.items()}
    assert list(rungs.values()) == ["full", "full", "no_ranker", "popular"]
    assert not any(page.falls for page in pages.values())


def test_popularity_asks_no_model(page_of, tiny):
    page = page_of("popular", k=10)
    assert not {"retrieval", "channels", "again"} & {s for item in page.items for s in item.sources}
    beside = page_of("popular", k=5, related_to="v1")
    assert "similar" not in beside.nominated


def test_another_word_is_refused():
    with pytest.raises(RuleError, match="order must be one of watch_time, learned"):
        FunnelConfig(order="best")
