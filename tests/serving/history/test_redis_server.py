"""A Redis that goes, hangs, comes back empty or is filled by two."""

import signal
import threading

import pytest

from serving import errors
from serving.history import seed as history_seed
from tests.serving.history.stores import T, event


def test_redis_that_goes_is_unavailable_and_is_found_again_when_it_comes_back(
    redis_at, redis_server
):
    store = redis_at()
    store.append([event("a")])
    redis_server.stop()
    with pytest.raises(errors.HistoryUnavailableError, match="cannot be read"):
        store.read("u")
    with pytest.raises(errors.HistoryUnavailableError, match="cannot be written"):
        store.append([event("b")])
    redis_server.start()
    # It writes every command to its disk, as the documentation asks for.
    assert store.read("u").watches.num_rows == 1
    assert store.append([event("a"), event("b")]).accepted == 1
    assert store.read("u").watches.num_rows == 2


def test_redis_that_was_restarted_between_two_requests_is_not_noticed(redis_at, redis_server):
    store = redis_at()
    store.append([event("a")])
    redis_server.stop()
    redis_server.start()
    assert store.append([event("b")]).accepted == 1
    assert store.read("u").watches.num_rows == 2


def test_redis_that_came_back_empty_is_not_answered_for_from_memory(redis_at, redis_server):
    store = redis_at()
    store.append([event("a", video="old")])
    assert store.read("u").watches["video_id"].to_pylist() == ["old"]
    redis_server.empty()
    with pytest.raises(errors.HistoryLostError):
        store.read("u")
    with store.filling() as filling:
        assert filling is not None  # And nothing to fill it with.
    assert not store.read("u").is_known
    store.append([event("b", video="new")])
    assert store.read("u").watches["video_id"].to_pylist() == ["new"]


def test_redis_reads_only_what_arrived_since(redis_at, redis_server):
    store = redis_at()
    store.append([event("a", video="a"), event("b", at=T + 9, video="b")])
    store.read("u")
    with redis_server.client() as client:
        row = client.hget("watchnext:watch:u", "a").decode()
        client.hset("watchnext:watch:u", "a", row.replace('"a"', '"changed"'))
    store.append([event("c", at=T + 5, video="c")])
    assert store.read("u").watches["video_id"].to_pylist() == ["a", "c", "b"]


def test_redis_that_lost_its_last_writes_is_read_anew(redis_at, redis_server):
    store = redis_at()
    store.append([event("a", video="kept")])
    store.append([event("b", video="lost")])
    assert store.read("u").watches["video_id"].to_pylist() == ["kept", "lost"]
    with redis_server.client() as client:  # As after a power cut: the next arrival is b's again.
        (member,) = client.zrange("watchnext:watch_order:u", 1, 1)
        client.zrem("watchnext:watch_order:u", member)
        client.hdel("watchnext:watch:u", "b")
        client.decr("watchnext:arrivals")
    store.append([event("c", video="new")])
    assert store.read("u").watches["video_id"].to_pylist() == ["kept", "new"]


def test_redis_that_hangs_is_given_up(redis_at, redis_server):
    store = redis_at()
    redis_server.process.send_signal(signal.SIGSTOP)
    try:
        with pytest.raises(errors.HistoryUnavailableError, match="Timeout"):
            store.read("u")
    finally:
        redis_server.process.send_signal(signal.SIGCONT)


def test_row_of_a_newer_server_is_refused_and_what_it_appended_is_left_alone(
    redis_at, redis_server
):
    store = redis_at()
    store.append([event("a")])
    with redis_server.client() as client:
        key = "watchnext:watch:u"
        row = client.hget(key, "a").decode()
        client.hset(key, "a", row[:-1] + ', "appended"]')
        client.hset("watchnext:user:u", "version", "x")
        assert store.read("u").watches["video_id"].to_pylist() == ["v"]
        client.hset(key, "a", "[2" + row[2:])
    with pytest.raises(errors.HistoryUnavailableError, match=r"version \[2\].*update this one"):
        redis_at().read("u")


def test_filling_that_was_killed_is_done_again_from_the_start(redis_at, redis_server, logs_dir):
    with redis_server.client() as client:
        # What a server leaves that dies while it fills: rows, and no users that are met.
        client.hset("watchnext:watch:a", "log-1", '[1,"gone",1,1.0,null,"",""]')
        client.zadd("watchnext:watch_order:a", {"0000000000000001:log-1": 1})
    store = redis_at()
    redis_server_rows = history_seed.seed(store, logs_dir, until_s=T + 100)
    assert redis_server_rows == {"users": 2, "watches": 3, "impressions": 1}
    assert store.read("a").watches["video_id"].to_pylist() == ["v2", "v1"]
    assert store.append([event("new", user="a", at=T + 50)]).accepted == 1
    assert store.read("a").watches["video_id"].to_pylist() == ["v2", "v1", "v"]


def test_two_servers_that_fill_at_once_fill_once(redis_at, logs_dir):
    stores = [redis_at(), redis_at()]
    written = []

    def fill(store):
        written.append(history_seed.seed(store, logs_dir, until_s=T + 100))

    threads = [threading.Thread(target=fill, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(map(len, written)) == [0, 3]
    assert stores[0].read("a").watches.num_rows == 2
