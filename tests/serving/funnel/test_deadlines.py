import threading

import pytest

from serving import errors
from serving.funnel.deadlines import Breaker, StagePool

LATE_S, PLENTY_S = 0.05, 60


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def pool_of():
    pools = []

    def make(threads=8, **more):
        pools.append(StagePool(threads, **more))
        return pools[-1]

    yield make
    for pool in pools:
        pool.close()


@pytest.fixture
def hold():
    """Work that ends when the test does."""
    let_go = threading.Event()
    yield lambda: let_go.wait(60)
    let_go.set()


def test_result_and_error_of_the_work_come_through(pool_of):
    pool = pool_of()
    assert pool.run("a", lambda: 7, PLENTY_S) == 7
    with pytest.raises(ZeroDivisionError):
        pool.run("a", lambda: 1 / 0, PLENTY_S)


def test_what_is_late_is_given_up_and_the_rest_is_there(pool_of, hold):
    outcomes = pool_of().run_all({"slow": hold, "a": lambda: 1, "b": lambda: 2}, LATE_S)
    assert (outcomes["a"], outcomes["b"]) == (1, 2)
    assert isinstance(outcomes["slow"], errors.StageTimeoutError)
    assert "slow took longer than 0.05 s" in str(outcomes["slow"])


def test_works_run_side_by_side(pool_of):
    meeting = threading.Barrier(3, timeout=60)
    outcomes = pool_of().run_all({name: meeting.wait for name in "abc"}, PLENTY_S)
    assert sorted(outcomes.values()) == [0, 1, 2]


def test_threads_that_hang_are_counted_and_come_back(pool_of, hold):
    pool = pool_of(2)
    let_go = threading.Event()
    for name in ("a", "b"):
        with pytest.raises(errors.StageTimeoutError):
            pool.run(name, lambda: let_go.wait(60), LATE_S)
    with pytest.raises(errors.StageTimeoutError, match="c found no free thread"):
        pool.run("c", lambda: 1, LATE_S)
    let_go.set()
    assert pool.run("c", lambda: 1, PLENTY_S) == 1
    assert len(pool._threads) == 2


def test_threads_are_used_again(pool_of):
    pool = pool_of(8)
    for _ in range(100):
        pool.run("a", lambda: None, PLENTY_S)
    # A thread says that it is idle just after its result is out, so a second one may be needed.
    assert len(pool._threads) <= 8


def test_stage_that_misses_again_and_again_is_left_alone_but_for_one_try_at_a_time(pool_of, hold):
    clock = Clock()
    pool = pool_of(clock=clock)
    for _ in range(Breaker.MISSES):
        with pytest.raises(errors.StageTimeoutError, match="took longer"):
            pool.run("a", hold, LATE_S)
    with pytest.raises(errors.StageTimeoutError, match="is left alone"):
        pool.run("a", lambda: 1, PLENTY_S)
    assert pool.run("b", lambda: 1, PLENTY_S) == 1  # Another stage is another matter.
    clock.now += Breaker.PAUSE_S
    with pytest.raises(errors.StageTimeoutError, match="took longer"):
        pool.run("a", hold, LATE_S)
    with pytest.raises(errors.StageTimeoutError, match="is left alone"):
        pool.run("a", lambda: 1, PLENTY_S)
    clock.now += Breaker.PAUSE_S
    assert pool.run("a", lambda: 1, PLENTY_S) == 1
    assert pool.run("a", lambda: 2, PLENTY_S) == 2


def test_errors_are_no_misses(pool_of):
    pool = pool_of()
    for _ in range(10):
        with pytest.raises(errors.ModelUnavailableError):
            pool.run("a", _unavailable, PLENTY_S)


def _unavailable():
    raise errors.ModelUnavailableError("gone")


def test_model_servers_own_timeout_is_a_miss(pool_of):
    def late():
        raise errors.ModelTimeoutError("DEADLINE_EXCEEDED")

    pool = pool_of(clock=Clock())
    for _ in range(Breaker.MISSES):
        with pytest.raises(errors.ModelTimeoutError):
            pool.run("a", late, PLENTY_S)
    with pytest.raises(errors.StageTimeoutError, match="is left alone"):
        pool.run("a", late, PLENTY_S)
