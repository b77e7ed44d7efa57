"""Runs the stages of a request on a bounded pool of threads, and stops waiting at their deadlines.

Calls that are to run side by side begin on one thread, one after the other, as most are done before
a thread of their own would have begun. Only when one takes long do further threads take up the
rest.

A running call cannot be stopped in Python, only left alone: its thread is busy until it returns.
Two things keep that from taking a server down. The pool has a limit, and a stage that finds no
free thread within its deadline is given up like one that is too slow. And a stage that missed
several deadlines in a row is not tried again for a moment, except by one request at a time: so
the others answer on a lower rung at once, instead of all waiting for the same hanging server.
"""

import collections
import itertools
import queue
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

from serving import errors

Result = TypeVar("Result")
_PATIENCE_S = 0.005  # After it, a call that still runs no longer holds up those behind it.
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


class _Batch(Generic[Result]):
    """Calls that threads take up one by one.

    Attributes:
        names: Names of all.
        waiting: Name and work of what was not begun.
        outcomes: What each returned or raised, by name, once it has. Whoever takes an error takes
            it out: it holds the frame that holds this.
        is_given_up: Whether nobody waits any more.
        is_over: Lock that is let go when all have ended.
    """

    def __init__(self, works: Mapping[str, Callable[[], Result]]) -> None:
        self.waiting = collections.deque(works.items())
        self.outcomes: dict[str, Result | BaseException] = {}
        self.is_given_up = False
        self.is_over = threading.Lock()
        self.is_over.acquire()
        # Of two threads that end at once, one counts to the end.
        self._ended = itertools.count(1)
        self.names = frozenset(works)

    def work_off(self) -> None:
        """Does what waits."""
        while self.waiting:
            try:
                name, work = self.waiting.popleft()
            except IndexError:  # Another thread took it.
                return
            try:
                self._note(name, work())
            except BaseException as error:
                self._note(name, error)
            del work  # What it holds may be large.
            if next(self._ended) == len(self.names):
                self.is_over.release()

    def _note(self, name: str, outcome: Result | BaseException) -> None:
        if not self.is_given_up:
            self.outcomes[name] = outcome

    def give_up(self) -> None:
        """Has what was not begun never begin, and forgets what comes of the rest."""
        self.is_given_up = True
        self.waiting.clear()


class StagePool:
    """Threads for stages; safe for threads."""

    def __init__(self, threads: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Starts no thread yet.

        Args:
            threads: Number of threads at work, those with calls that were given up but still run
                included.
            clock: Clock for the breakers, seconds.
        """
        self._limit = threads
        self._free = threading.BoundedSemaphore(threads)
        self._idle = threading.Semaphore(0)
        self._batches: queue.SimpleQueue[_Batch[Any] | None] = queue.SimpleQueue()
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
        batch = _Batch({name: work for name, work in works.items() if self._breaker(name).allows()})
        reasons = dict.fromkeys(works, "missed its last deadlines and is left alone")
        if batch.waiting:
            was_begun = self._finish(batch, until)
            late = f"took longer than {deadline_s:g} s"
            none = "found no free thread within its deadline"
            reasons |= dict.fromkeys(batch.names, late if was_begun else none)
        outcomes: dict[str, Result | Exception] = {}
        for name, reason in reasons.items():
            missed = errors.StageTimeoutError(f"{name} {reason}.")
            outcome = batch.outcomes.pop(name, missed)
            if not isinstance(outcome, Exception) and isinstance(outcome, BaseException):
                raise outcome
            outcomes[name] = outcome
            if name in batch.names:
                self._breaker(name).note(was_missed=isinstance(outcome, _TOO_SLOW))
        return outcomes

    def _finish(self, batch: _Batch[Any], until: float) -> bool:
        """Waits for the end of a batch, or its time; returns whether a thread took it up.

        What no thread has begun by then, none begins.
        """
        was_begun = self._start(batch, until - time.monotonic())
        is_over = False
        while was_begun and not is_over and (left_s := until - time.monotonic()) > 0:
            wait_s = min(left_s, _PATIENCE_S) if batch.waiting else left_s
            is_over = batch.is_over.acquire(timeout=wait_s)
            if not is_over and batch.waiting:
                self._start(batch, 0.0)
        batch.give_up()
        return was_begun

    def _start(self, batch: _Batch[Any], wait_s: float) -> bool:
        """Has a further thread take up a batch; returns False where none is free in time."""
        if not self._free.acquire(timeout=max(wait_s, 0)):
            return False
        self._batches.put(batch)
        if not self._idle.acquire(blocking=False):
            self._add_thread()
        return True

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
        while (batch := self._batches.get()) is not None:
            batch.work_off()
            del batch  # What it holds may be large.
            self._free.release()
            self._idle.release()

    def _breaker(self, name: str) -> Breaker:
        breaker = self._breakers.get(name)
        if breaker is None:
            breaker = self._breakers.setdefault(name, Breaker(self._clock))
        return breaker

    def close(self) -> None:
        """Lets the threads end; one that hangs is not waited for."""
        for _ in self._threads:
            self._batches.put(None)
