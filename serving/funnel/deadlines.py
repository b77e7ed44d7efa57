"""Runs the stages of a request on a bounded pool of threads, and stops waiting at their deadlines.

A running call cannot be stopped in Python, only left alone: its thread is busy until it returns.
Two things keep that from taking a server down. The pool has a limit, and a stage that finds no
free thread within its deadline is given up like one that is too slow. And a stage that missed
several deadlines in a row is not tried again for a moment, except by one request at a time: so
the others answer on a lower rung at once, instead of all waiting for the same hanging server.
"""

import concurrent.futures
import queue
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from serving import errors

Result = TypeVar("Result")
_Job = tuple["concurrent.futures.Future[Any]", Callable[[], Any]]
# How a model server itself says that it was too slow.
_TOO_SLOW = (errors.StageTimeoutError, errors.ModelTimeoutError)


class Breaker:
    """Whether a stage is worth trying; safe for threads."""

    MISSES = 3
    PAUSE_S = 1.0

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._misses = 0
        self._next_try = 0.0
        self._lock = threading.Lock()

    def allows(self) -> bool:
        """Whether to try; after too many misses one caller in ``PAUSE_S`` may."""
        with self._lock:
            if self._misses < self.MISSES:
                return True
            if self._clock() < self._next_try:
                return False
            self._next_try = self._clock() + self.PAUSE_S
            return True

    def note(self, *, was_missed: bool) -> None:
        """Tells how a try ended."""
        with self._lock:
            self._misses = self._misses + 1 if was_missed else 0
            if self._misses == self.MISSES:
                self._next_try = self._clock() + self.PAUSE_S


class StagePool:
    """Threads for stages; safe for threads."""

    def __init__(self, threads: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Starts no thread yet.

        Args:
            threads: Number of calls at a time, those that were given up but still run included.
            clock: Clock for the breakers, seconds.
        """
        self._limit = threads
        self._free = threading.BoundedSemaphore(threads)
        self._idle = threading.Semaphore(0)
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._clock = clock
        self._breakers: dict[str, Breaker] = {}

    def run(self, name: str, work: Callable[[], Result], deadline_s: float) -> Result:
        """Returns what ``work`` returns, or raises what it raises.

        Raises:
            StageTimeoutError: It took longer than ``deadline_s``, or did so too often lately.
        """
        (outcome,) = self.run_all({name: work}, deadline_s).values()
        try:
            if isinstance(outcome, Exception):
                raise outcome
            return outcome
        finally:
            del outcome  # Else the error holds this frame, and the frame the error: see run_all.

    def run_all(
        self, works: Mapping[str, Callable[[], Result]], deadline_s: float
    ) -> dict[str, Result | Exception]:
        """Runs side by side; returns by name what each returned or raised within the deadline.

        Nothing that is returned holds this call's frame, which would make a cycle: what the work
        holds, a whole release, would then stay in memory until somebody looks for garbage.
        """
        until = time.monotonic() + deadline_s
        started: dict[str, concurrent.futures.Future[Result]] = {}
        outcomes: dict[str, Result | Exception] = {}
        for name, work in works.items():
            try:
                started[name] = self._start(name, work, until)
            except errors.StageTimeoutError as error:
                outcomes[name] = error.with_traceback(None)
        for name, future in started.items():
            try:
                raised = future.exception(max(until - time.monotonic(), 0))
            except concurrent.futures.TimeoutError:
                future.cancel()
                raised = errors.StageTimeoutError(f"{name} took longer than {deadline_s:g} s.")
            if raised is not None and not isinstance(raised, Exception):
                raise raised
            outcomes[name] = future.result() if raised is None else raised
            self._breaker(name).note(was_missed=isinstance(raised, _TOO_SLOW))
        return {name: outcomes[name] for name in works}

    def _start(
        self, name: str, work: Callable[[], Result], until: float
    ) -> "concurrent.futures.Future[Result]":
        if not self._breaker(name).allows():
            raise errors.StageTimeoutError(f"{name} missed its last deadlines and is left alone.")
        if not self._free.acquire(timeout=max(until - time.monotonic(), 0)):
            raise errors.StageTimeoutError(f"{name} found no free thread within its deadline.")
        future: concurrent.futures.Future[Result] = concurrent.futures.Future()
        future.add_done_callback(lambda _: self._free.release())
        self._jobs.put((future, work))
        if not self._idle.acquire(blocking=False):
            self._add_thread()
        return future

    def _add_thread(self) -> None:
        with self._lock:
            if len(self._threads) < self._limit:
                # Daemons: a call that hangs must not keep a stopped server from ending, as the
                # threads of an executor would.
                name = f"stage-{len(self._threads)}"
                thread = threading.Thread(target=self._work, name=name, daemon=True)
                self._threads.append(thread)
                thread.start()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            future, work = job
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(work())
                except BaseException as error:
                    future.set_exception(error)
            del job, future, work  # What they hold may be large.
            self._idle.release()

    def _breaker(self, name: str) -> Breaker:
        breaker = self._breakers.get(name)
        if breaker is None:
            breaker = self._breakers.setdefault(name, Breaker(self._clock))
        return breaker

    def close(self) -> None:
        """Lets the threads end; one that hangs is not waited for."""
        for _ in self._threads:
            self._jobs.put(None)
