"""What a server counts of each release, and sums of it.

A page is whole, degraded (a part failed or was late), empty, or a request failed. What came of a
page is known when it is ``outcome_s`` old: whether anything of it was clicked, and the seconds
that were reported as watched by then. A watch is reported when it ends, so the seconds are counted
once more when a page is ``late_s`` old: soon enough to act, and late enough to see whole watches.
Pages of all releases get the same times, so they compare.

Users are hashed to :data:`GROUPS` groups, the same on every server, and outcomes summed by group:
a user's pages are alike, and groups are not.
"""

import collections
import dataclasses
import json
import os
import pathlib
import threading
import zlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from features import files
from serving.events.event import Event, Kind

Floats = npt.NDArray[np.float64]

GROUPS = 256
WHOLE, DEGRADED, EMPTY, FAILED = "whole", "degraded", "empty", "failed"
KINDS = (WHOLE, DEGRADED, EMPTY, FAILED)
_OUTCOMES = ("pages", "clicked", "watched_s", "late_pages", "late_watched_s")
PAGES, CLICKED, WATCHED, LATE_PAGES, LATE_WATCHED = range(len(_OUTCOMES))
# Pages whose outcome is waited for; of more, the oldest are done early.
_MOST_PAGES = 200_000


@dataclasses.dataclass(frozen=True)
class Tally:
    """Counts of one release, of one server or many; ``+`` and ``-`` work on every part.

    Attributes:
        kinds: float64 [4], requests by :data:`KINDS`.
        outcomes: float64 [5, GROUPS]: pages whose outcome is known, those of them with a click or
            watch, seconds watched; pages whose late outcome is known, seconds watched of these.
    """

    kinds: Floats = dataclasses.field(default_factory=lambda: np.zeros(len(KINDS)))
    outcomes: Floats = dataclasses.field(default_factory=lambda: np.zeros((len(_OUTCOMES), GROUPS)))

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(self.kinds + other.kinds, self.outcomes + other.outcomes)

    def __sub__(self, other: "Tally") -> "Tally":
        return Tally(self.kinds - other.kinds, self.outcomes - other.outcomes)

    @property
    def requests(self) -> float:
        """Number of requests, failed ones included."""
        return float(self.kinds.sum())

    def count(self, kind: str) -> float:
        """Returns the number of requests of a kind."""
        return float(self.kinds[KINDS.index(kind)])

    @property
    def known_outcomes(self) -> float:
        """Number of pages whose outcome is known."""
        return float(self.outcomes[PAGES].sum())

    def to_json(self) -> dict[str, Any]:
        """Returns plain values; groups are summed up by nobody who reads them."""
        named = zip(_OUTCOMES, self.outcomes.tolist(), strict=True)
        return {**dict(zip(KINDS, self.kinds.tolist(), strict=True)), **dict(named)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Tally":
        """Inverse of :meth:`to_json`; raises ValueError or KeyError of anything else."""
        kinds = np.array([float(values[kind]) for kind in KINDS])
        outcomes = np.array([values[name] for name in _OUTCOMES], np.float64)
        if outcomes.shape != (len(_OUTCOMES), GROUPS) or not np.isfinite(outcomes).all():
            raise ValueError(f"outcomes must be {len(_OUTCOMES)} lists of {GROUPS} numbers.")
        return cls(kinds, outcomes)


def group_of(user_id: str) -> int:
    """Returns the group of a user, in [0, GROUPS)."""
    return zlib.crc32(user_id.encode()) % GROUPS


@dataclasses.dataclass
class _Waiting:
    """A page whose outcome is waited for."""

    release_id: str
    group: int
    shown_at: float
    clicked: bool = False
    watched_s: float = 0.0


class Counting:
    """What one process counts, and those that serve beside it; safe for threads.

    Attributes:
        process: Name of this process, or of those together, and their start: counts of another one
            start anew.
        outcome_s: Age at which the outcome of a page is known, seconds.
        late_s: Age at which its late outcome is, seconds.
    """

    def __init__(
        self,
        *,
        outcome_s: float,
        late_s: float,
        clock: Callable[[], float],
        shared: pathlib.Path | None = None,
    ) -> None:
        """Starts with nothing.

        Args:
            outcome_s: Age at which the outcome of a page is known, seconds.
            late_s: Age at which its late outcome is, seconds; counted as ``outcome_s`` if below.
            clock: Clock of the server, Unix seconds.
            shared: Directory of processes side by side, see :mod:`serving.process.sharing`.
        """
        name = f"{os.getpid()}-{os.urandom(6).hex()}"
        self.process = shared.name if shared else name
        self.outcome_s, self.late_s = outcome_s, max(outcome_s, late_s)
        self._file = shared / f"guard-{name}.json" if shared else None
        self._clock = clock
        self._lock = threading.Lock()
        self._tallies: dict[str, Tally] = collections.defaultdict(Tally)
        # In the order of their times: pages whose outcome is not known, and the late one alone.
        self._young: collections.OrderedDict[str, _Waiting] = collections.OrderedDict()
        self._older: collections.OrderedDict[str, _Waiting] = collections.OrderedDict()

    def request(self, release_id: str, kind: str) -> None:
        """Counts a request that was answered by a release, or failed."""
        with self._lock:
            self._tallies[release_id].kinds[KINDS.index(kind)] += 1

    def page(self, release_id: str, *, page_id: str, user_id: str) -> None:
        """Waits for what comes of a page that was shown."""
        with self._lock:
            self._young[page_id] = _Waiting(release_id, group_of(user_id), self._clock())
            self._settle()

    def engaged(self, pages: Iterable[tuple[str, float]]) -> None:
        """Counts clicks and watches: ids of pages that they name, and seconds watched."""
        with self._lock:
            self._settle()
            for page_id, watched_s in pages:
                waiting = self._young.get(page_id) or self._older.get(page_id)
                if waiting is not None:
                    waiting.clicked = True
                    waiting.watched_s += watched_s

    def follow(self, events: Iterable[Event]) -> None:
        """Counts clicks and watches, wherever they were reported."""
        engaged = [
            (event.page_id, event.watch_time_s)
            for event in events
            if event.page_id and event.kind in {Kind.CLICK, Kind.WATCH}
        ]
        if engaged:
            self.engaged(engaged)

    def tallies(self) -> dict[str, dict[str, Any]]:
        """Returns the counts by release, plain values; of other processes those of a second ago."""
        total = self._own()
        for path in self._file.parent.glob("guard-*.json") if self._file else ():
            if path != self._file:
                for release_id, values in json.loads(path.read_bytes()).items():
                    mine = total.get(release_id, Tally())
                    total[release_id] = mine + Tally.from_json(values)
        return _plain(total)

    def share(self) -> None:
        """Lets the processes beside this one have its counts; they stay when it ends."""
        if self._file:
            files.atomic_write(self._file, json.dumps(_plain(self._own())))

    def _own(self) -> dict[str, Tally]:
        with self._lock:
            self._settle()
            return {name: tally + Tally() for name, tally in self._tallies.items()}

    def _settle(self) -> None:
        """Takes in outcomes that are known; those of the oldest early where too many wait."""
        now = self._clock()
        while self._older and (self._is_full() or self._age(self._older, now) >= self.late_s):
            self._count(self._older.popitem(last=False)[1], is_late=True)
        while self._young and (self._is_full() or self._age(self._young, now) >= self.outcome_s):
            is_full = self._is_full()
            page_id, waiting = self._young.popitem(last=False)
            self._count(waiting, is_late=False)
            if is_full or now - waiting.shown_at >= self.late_s:
                self._count(waiting, is_late=True)
            else:
                self._older[page_id] = waiting

    def _is_full(self) -> bool:
        return len(self._young) + len(self._older) > _MOST_PAGES

    @staticmethod
    def _age(pages: Mapping[str, _Waiting], now: float) -> float:
        return now - next(iter(pages.values())).shown_at

    def _count(self, waiting: _Waiting, *, is_late: bool) -> None:
        outcomes = self._tallies[waiting.release_id].outcomes[:, waiting.group]
        if is_late:
            outcomes[LATE_PAGES:] += (1.0, waiting.watched_s)
        else:
            outcomes[:LATE_PAGES] += (1.0, waiting.clicked, waiting.watched_s)


def _plain(tallies: Mapping[str, Tally]) -> dict[str, dict[str, Any]]:
    return {release_id: tally.to_json() for release_id, tally in tallies.items()}
