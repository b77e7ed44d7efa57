"""A Redis that dropped keys, or lost everything: said, and filled again once."""

import collections
import contextlib
import functools
import time

import pyarrow as pa
import pytest

from features.tables import logs
from serving import errors
from serving.events.event import Event, Kind
from serving.events.log import EventLog
from serving.funnel import recorder
from serving.funnel.page import PageRequest
from serving.funnel.recorder import Recorder
from serving.funnel.rungs import NO_HISTORY
from serving.history.keeper import HistoryKeeper
from serving.history.redis_store import RedisHistoryStore
from serving.history.user_history import Blocked
from serving.process.clock import Clock
from serving.server import memory, service
from tests.serving.history.redis_stores import T, watch


@pytest.fixture
def opened(redis_server):
    """Opens the same Redis database, empty at first, as often as it is called."""
    redis_server.empty()
    with contextlib.ExitStack() as stack:

        def make(url=redis_server.url, **more):
            store = RedisHistoryStore(url, **more)
            stack.callback(store.close)
            return store

        yield make


def watched(store, user="u"):
    return store.read(user).watches["video_id"].to_pylist()


KEYS = ("user:u", "watch:u", "watch_order:u", "watchers", "met", "arrivals", "filled")


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("is_cached", [False, True])
def test_a_dropped_key_fails_nothing_and_what_is_new_is_read(opened, redis_server, key, is_cached):
    writer, reader = opened(), opened()
    writer.append([watch(number) for number in range(10)])
    if is_cached:
        reader.read("u")
    with redis_server.client() as client:
        assert client.delete(f"watchnext:{key}") == 1
    writer.append([watch(50), watch(51)])
    for store in (writer, reader, opened()):
        assert watched(store)[-2:] == ["v50", "v51"]
        assert len(watched(store)) in {2, 12}
    writer.append([watch(52)])
    for store in (writer, reader, opened()):
        assert watched(store)[-3:] == ["v50", "v51", "v52"]
    assert not writer.is_empty  # Nothing of this is a reason to begin anew.


@pytest.mark.parametrize("field", ["newest", "number", "profile", "blocked"])
def test_a_dropped_field_of_a_user_fails_nothing(opened, redis_server, field):
    writer = opened()
    writer.append([watch(1)], profiles={"u": {"region": "fr"}})
    writer.set_blocked("u", Blocked(videos=("v9",)))
    with redis_server.client() as client:
        assert client.hdel("watchnext:user:u", field) == 1
    assert watched(opened()) == ["v1"]
    writer.append([watch(2)])
    assert watched(opened()) == ["v1", "v2"]
    assert opened().read("u").newest_s == T + 2


def test_a_row_that_is_gone_is_left_out_and_comes_once_when_it_comes_again(
    opened, redis_server, caplog
):
    writer = opened()
    writer.append([watch(number) for number in range(3)])
    with redis_server.client() as client:
        client.hdel("watchnext:watch:u", "u-1")
    caplog.clear()
    reader = opened()
    assert watched(reader) == ["v0", "v2"]
    assert "has dropped rows of histories" in caplog.text
    assert writer.append([watch(1)]).accepted == 1
    assert watched(opened()) == ["v0", "v1", "v2"]
    assert sorted(watched(reader)) == ["v0", "v1", "v2"]


@pytest.mark.parametrize("policy", ["allkeys-lru", "allkeys-random", "allkeys-lfu"])
def test_a_server_that_drops_histories_is_warned_of_and_answers_every_page(
    redis_with, opened, caplog, policy
):
    server = redis_with("--maxmemory", "3mb", "--maxmemory-policy", policy)
    store = opened(server.url)
    assert f"maxmemory-policy {policy}" in caplog.text
    users = [f"user{number}" for number in range(300)]
    for user in users:
        with contextlib.suppress(errors.HistoryUnavailableError):  # Its own keys may go as well.
            store.append([watch(number, user) for number in range(100)])
    left = []
    for user in users:
        with contextlib.suppress(errors.HistoryUnavailableError):
            left.append(store.read(user).watches.num_rows)
    assert 0 in left  # Redis did drop some; what is there is read.
    assert 100 in left


@pytest.mark.parametrize("policy", ["noeviction", "volatile-lru", "volatile-ttl"])
def test_a_server_that_keeps_histories_is_not_warned_of(redis_with, opened, caplog, policy):
    opened(redis_with("--maxmemory", "3mb", "--maxmemory-policy", policy).url)
    assert "maxmemory-policy" not in caplog.text


# ---- everything lost -----------------------------------------------------------------------------


def flush(server):
    with server.client() as client:
        client.flushall()


def restart_without_data(server):
    server.stop()
    server.start()


@pytest.fixture
def forgetful(redis_with):
    """A Redis that keeps nothing when it ends."""
    return redis_with("--appendonly", "no")


LOSSES = pytest.mark.parametrize("lose", [flush, restart_without_data])


@LOSSES
def test_a_store_that_lost_everything_says_so_in_every_call(opened, forgetful, lose):
    store = opened(forgetful.url)
    store.append([watch(1)])
    assert watched(store) == ["v1"]
    lose(forgetful)
    for call in (
        lambda: store.read("u"),
        lambda: store.read("nobody"),
        lambda: store.append([watch(2)]),
        lambda: store.known([watch(1)]),
        lambda: store.set_blocked("u", Blocked()),
        lambda: store.user_ids(5),
        lambda: store.watch_counts(T),
        store.ping,
    ):
        with pytest.raises(errors.HistoryLostError, match="has lost what it held"):
            call()
    with forgetful.client() as client:
        assert client.dbsize() == 0  # Nothing was written that would look like a filled store.
    assert store.is_empty and opened(forgetful.url).is_empty


@pytest.fixture
def site_logs(tmp_path):
    directory = tmp_path / "logs"
    with logs.LogWriter(directory) as writer:
        writer.write("users", pa.table({"user_id": ["u"], "region": ["fr"]}))
        writer.write(
            "watches",
            pa.table(
                {
                    "user_id": ["u", "u"],
                    "video_id": ["v1", "v2"],
                    "time": [T + 1, T + 2],
                    "watch_time_s": [5.0, 5.0],
                }
            ),
        )
    return directory


def filled_by(store, log):
    """What the keeper of a server does after a loss."""
    return lambda: memory.refill(store, log, now_s=T + 1000)


@LOSSES
def test_a_lost_store_is_filled_again_once_by_whichever_server_is_first(
    opened, forgetful, site_logs, lose
):
    log = EventLog(site_logs)
    stores = [opened(forgetful.url) for _ in range(3)]
    keepers = [HistoryKeeper(store, fill=filled_by(store, log)) for store in stores]
    filled_by(stores[0], log)()
    for number in (3, 4):  # Acknowledged, and in no table yet.
        Recorder(stores[1], log).record([watch(number)], {})
    for store in stores:
        assert watched(store) == ["v1", "v2", "v3", "v4"]
    lose(forgetful)
    keepers[1].look()
    assert watched(stores[1]) == ["v1", "v2", "v3", "v4"]
    assert opened(forgetful.url).read("u").profile == {"region": "fr"}
    with pytest.raises(errors.HistoryLostError):  # It may hold what the first did not know of.
        stores[0].read("u")
    for keeper, store in zip(keepers, stores, strict=True):
        keeper.look()
        keeper.look()
        assert watched(store) == ["v1", "v2", "v3", "v4"]
        assert keeper.losses == 1
    Recorder(stores[2], log).record([watch(5)], {})
    assert watched(stores[0]) == ["v1", "v2", "v3", "v4", "v5"]
    log.close()


def test_what_was_shown_after_the_loss_is_there_once_whether_it_was_compacted_or_not(
    opened, forgetful, site_logs
):
    store = opened(forgetful.url)
    log = EventLog(site_logs, store=store.store_id, bring=functools.partial(recorder.bring, store))
    recording = Recorder(store, log)
    filled_by(store, log)()
    flush(forgetful)
    for number in (1, 2):
        shown = Event(
            event_id=f"page/{number}",
            kind=Kind.IMPRESSION,
            user_id="u",
            time=T + 10 + number,
            video_id=f"v{number}",
            page_id=f"page-{number}",
        )
        with pytest.raises(errors.HistoryLostError):
            recording.record_page([shown], {})
        if number == 1:
            log.compact(flush=True)
    HistoryKeeper(store, fill=filled_by(store, log)).look()
    assert store.read("u").impressions["video_id"].to_pylist() == ["v1", "v2"]
    filled_by(store, log)()
    assert store.read("u").impressions["video_id"].to_pylist() == ["v1", "v2"]
    log.close()


def test_a_full_store_that_keeps_what_it_has_is_opened_and_read(opened, redis_with):
    server = redis_with("--maxmemory", "3mb", "--maxmemory-policy", "noeviction")
    store = opened(server.url)
    with pytest.raises(errors.HistoryUnavailableError, match="cannot be written"):
        for user in range(300):
            store.append([watch(number, f"user{user}") for number in range(100)])
    again = opened(server.url)
    assert not again.is_empty
    assert len(watched(again, "user0")) == 100


def test_a_store_that_lost_everything_before_there_were_logs_begins_anew(opened, forgetful):
    store = opened(forgetful.url)
    store.append([watch(1)])
    flush(forgetful)
    with pytest.raises(errors.HistoryLostError):
        store.append([watch(2)])
    with store.filling() as filling:
        assert filling is not None
    assert store.append([watch(2)]).accepted == 1
    assert watched(store) == ["v2"]


def test_a_store_of_an_earlier_version_is_taken_as_it_is(opened, redis_server):
    opened().append([watch(1)])
    with redis_server.client() as client:
        client.delete("watchnext:filled")
    store = opened()
    assert not store.is_empty
    assert watched(store) == ["v1"]
    assert watched(opened()) == ["v1"]


def test_a_server_whose_redis_lost_everything_goes_down_a_rung_and_comes_back_by_itself(
    published_root, forgetful, site_logs, tiny
):
    config = service.ServiceConfig(
        serving_root=published_root, logs=site_logs, history=forgetful.url, settings=tiny.patient()
    )
    built = service.build(config, clock=Clock(now=lambda: float(T + 1000)))
    asked = PageRequest(user_id="u", k=5)
    built.recorder.record([watch(7)], {})
    assert built.funnel.recommend(asked).rung == "full"
    rungs = collections.Counter()
    restart_without_data(forgetful)
    end = time.monotonic() + 300
    while built.history_losses() == 0 or rungs[NO_HISTORY] == 0 or rungs["full"] == 0:
        assert time.monotonic() < end
        page = built.funnel.recommend(asked)
        rungs[page.rung] += 1
        if page.rung == NO_HISTORY:
            assert page.reasons[0].startswith("history: the history store")
    while "v7" not in watched(built.history):  # Of the event log, after the tables.
        assert time.monotonic() < end
    assert watched(built.history) == ["v1", "v2", "v7"]
    assert built.history_losses() == 1
    assert built.recorder.record([watch(7)], {}).duplicates == 1
    assert built.recorder.record([watch(8)], {}).accepted == 1
    built.on_close()
