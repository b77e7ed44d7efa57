"""Real Redis servers and a real Sentinel: the first is killed, the second takes over."""

import contextlib
import os
import signal
import subprocess
import time

import pytest
import redis

from features.command import InputError
from serving import errors
from serving.events.log import EventLog
from serving.funnel import recorder
from serving.history import redis_connection
from serving.history.keeper import HistoryKeeper
from serving.history.redis_store import RedisHistoryStore
from tests.serving.history.stores import event
from tests.serving.servers import RedisServer


@pytest.fixture
def site(needs_program, tmp_path):
    """A Redis, its replica, a Sentinel that looks after them: the address, and both servers."""
    program = needs_program("redis-server")
    with contextlib.ExitStack() as stack:

        def server(name, *settings):
            (tmp_path / name).mkdir()
            one = RedisServer(program, tmp_path / name, *settings)
            stack.callback(one.stop)
            return one

        first = server("first", "--appendonly", "no")
        second = server("second", "--appendonly", "no", "--replicaof", f"127.0.0.1 {first.port}")
        config = tmp_path / "sentinel.conf"
        port = first.port + 1
        config.write_text(
            f"port {port}\nbind 127.0.0.1\ndir {tmp_path}\n"
            f"sentinel monitor site 127.0.0.1 {first.port} 1\n"
            "sentinel down-after-milliseconds site 400\n"
            "sentinel failover-timeout site 2000\n"
        )
        process = subprocess.Popen(
            [program, config, "--sentinel"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        stack.callback(process.wait)
        stack.callback(process.kill)
        with redis.Redis(port=port) as sentinel:
            wait_until(lambda: sentinel.sentinel_slaves("site"))
        with first.client() as client:
            wait_until(lambda: client.info("replication")["connected_slaves"] == 1)
        yield f"redis+sentinel://127.0.0.1:{port}/site/0", first, second


def wait_until(condition, *, within_s=300):
    end = time.monotonic() + within_s
    while True:
        with contextlib.suppress(redis.RedisError, errors.HistoryUnavailableError):
            if condition():
                return
        assert time.monotonic() < end, "it never came"
        time.sleep(0.05)


def test_a_replica_takes_over_and_gets_what_it_lacks_of_the_event_log(site, tmp_path):
    address, first, _ = site
    store = RedisHistoryStore(address)
    with store.filling():
        pass
    log = EventLog(tmp_path / "logs", store=store.store_id)
    keeper = HistoryKeeper(store, fill=lambda: recorder.catch_up(store, log.logs_dir))
    keeper.look()
    mine = recorder.Recorder(store, log)
    assert mine.record([event("a")], {}).accepted == 1
    wait_until(lambda: store.sync() is None)  # The replica has it.
    # What the replica never got: logged, and then lost with the first.
    log.append([event("b")])
    assert store.read("u").watches.num_rows == 1
    os.kill(first.process.pid, signal.SIGKILL)
    with pytest.raises(errors.HistoryUnavailableError):
        store.read("u")
    wait_until(lambda: store.read("u").watches.num_rows == 1)
    keeper.look()
    assert store.read("u").watches.num_rows == 2
    assert keeper.losses == 0
    assert mine.record([event("a"), event("b"), event("c")], {}).accepted == 1
    store.sync()  # Without a replica there is none to wait for.
    store.close()
    log.close()


def test_what_no_replica_has_is_not_taken_for_durable(site):
    address, _, second = site
    store = RedisHistoryStore(address)
    with store.filling():
        pass
    store.append([event("a")])
    wait_until(lambda: store.sync() is None)
    os.kill(second.process.pid, signal.SIGSTOP)
    try:
        store.append([event("b")])
        with pytest.raises(errors.HistoryUnavailableError, match="no replica"):
            store.sync()
    finally:
        os.kill(second.process.pid, signal.SIGCONT)
    wait_until(lambda: store.sync() is None)
    store.close()


@pytest.mark.parametrize(
    "address",
    [
        "redis+sentinel://host/site",
        "redis+sentinel://host:1,/site",
        "redis+sentinel://user:secret@host:1/site",
        "redis+sentinel://host:1/",
    ],
)
def test_an_address_of_sentinels_that_is_none_is_refused_without_repeating_it(address):
    with pytest.raises(InputError, match="SERVICE/DATABASE") as refused:
        redis_connection.require_no_password(address)
    assert "secret" not in str(refused.value)


def test_one_address_in_any_order_is_one_store():
    shown = redis_connection.shown
    assert shown("redis+sentinel://b:2,a:1/site") == shown("redis+sentinel://u@a:1,b:2/site/0")
