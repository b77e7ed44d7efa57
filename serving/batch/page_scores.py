"""How well the pages of a backtest foresaw what was watched, beside what needs no model."""

import collections
import dataclasses

import numpy as np

from features.catalogue import Catalogue
from features.durations import DAY_S, HOUR_S
from serving.funnel import sources
from serving.funnel.candidates import Candidates

CUTOFFS = (10, 100)
PAGE, RETRIEVAL, CANDIDATES = "page", "retrieval alone", "any candidate, at any place"
_POPULAR = {"live popularity, 1 h": HOUR_S, "live popularity, 1 d": DAY_S}
_NAMES = (PAGE, RETRIEVAL, *_POPULAR, CANDIDATES)


@dataclasses.dataclass
class Tally:
    """Counts over pages, which add up.

    Attributes:
        queries: Number of pages.
        candidates: Number of candidates of all of them.
        longest: Number of videos on the longest page.
        rungs: Rung to its number of pages.
        hits: Name of what ranked the videos to float64 [cutoffs]: pages whose watched video was
            within each of :data:`CUTOFFS`.
    """

    queries: int = 0
    candidates: int = 0
    longest: int = 0
    rungs: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    hits: dict[str, np.ndarray] = dataclasses.field(
        default_factory=lambda: {name: np.zeros(len(CUTOFFS)) for name in _NAMES}
    )

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(
            self.queries + other.queries,
            self.candidates + other.candidates,
            max(self.longest, other.longest),
            self.rungs + other.rungs,
            {name: hits + other.hits[name] for name, hits in self.hits.items()},
        )

    def rates(self) -> dict[str, dict[int, float]]:
        """Returns name -> cutoff -> share of the watches."""
        return {
            name: dict(zip(CUTOFFS, (hits / max(self.queries, 1)).tolist(), strict=True))
            for name, hits in self.hits.items()
        }

    def text(self, seconds: float) -> str:
        """Returns a small table."""
        rungs = ", ".join(f"{name} {count}" for name, count in self.rungs.most_common())
        lines = [
            f"{self.queries:,} watches asked for, {self.queries / max(seconds, 1e-9):.0f} a second;"
            f" {self.candidates / max(self.queries, 1):.0f} candidates a page; rungs: {rungs}.",
            "The watched video was among the first        10       100",
        ]
        for name, by_cutoff in self.rates().items():
            # A page of 20 says nothing of the first 100.
            cells = [
                f"{by_cutoff[k]:8.4f}" if name != PAGE or k <= self.longest else "       -"
                for k in CUTOFFS
            ]
            if name == CANDIDATES:
                cells[0] = " " * 8
            lines.append(f"  {name:<34} {cells[0]}  {cells[1]}")
        return "\n".join(lines) + "\n"


class Scores:
    """Hits of the watched video among the first 10 and 100, by what ranked them.

    Live popularity counts the watches of the last hour or day; among equal counts a video's place
    is a matter of chance, so a hit counts as likely as it is.
    """

    def __init__(self, catalogue: Catalogue, rows: np.ndarray, times: np.ndarray) -> None:
        """Starts before the first watch.

        Args:
            catalogue: Catalogue of the release, with its shelf.
            rows: int [n], videos of all watches of the log, in the order of their times.
            times: int64 [n], times of those watches, Unix seconds.
        """
        self.tally = Tally()
        self._rows = rows
        self._windows = {
            name: _Window(rows, times, s, len(catalogue)) for name, s in _POPULAR.items()
        }

    def add(
        self,
        number: int,
        candidates: Candidates,
        shown: np.ndarray,
        *,
        rung: str,
        excluded: np.ndarray | None,
    ) -> None:
        """Scores a page.

        Args:
            number: Number of the watch that it came before, from 0.
            candidates: All candidates of the page.
            shown: int [k], rows on the page.
            rung: Rung of the page, see :mod:`serving.funnel.rungs`.
            excluded: int [m], rows that could not be shown; live popularity leaves them out as
                well.
        """
        target = self._rows[number]
        hits = self.tally.hits
        self.tally.queries += 1
        self.tally.rungs[rung] += 1
        self.tally.candidates += len(candidates)
        self.tally.longest = max(self.tally.longest, len(shown))
        hits[PAGE] += _hits(np.flatnonzero(shown == target))
        place = np.flatnonzero(candidates.rows == target)
        hits[CANDIDATES] += float(len(place) > 0)
        retrieved = candidates.source_scores[candidates.source_names.index(sources.RETRIEVAL)]
        mine = retrieved[place]
        if len(place) and np.isfinite(mine[0]):
            hits[RETRIEVAL] += _hits(np.array([(retrieved > mine[0]).sum()]))
        for name, window in self._windows.items():
            hits[name] += window.hits(number, excluded)


def _hits(place: np.ndarray) -> np.ndarray:
    """Returns per cutoff whether the (only) place lies before it, float64."""
    return np.array([float(len(place) > 0 and place[0] < k) for k in CUTOFFS])


class _Window:
    """Watches of the last seconds before a moment, by video."""

    def __init__(self, rows: np.ndarray, times: np.ndarray, seconds: int, size: int) -> None:
        self._rows = rows
        self._times = times
        self._seconds = seconds
        self._counts = np.zeros(size, np.int64)
        self._first = self._end = 0

    def hits(self, number: int, excluded: np.ndarray | None) -> np.ndarray:
        now = self._times[number]
        end = int(np.searchsorted(self._times, now))
        first = int(np.searchsorted(self._times, now - self._seconds))
        np.add.at(self._counts, self._rows[self._end : end], 1)
        self._end = max(self._end, end)
        np.add.at(self._counts, self._rows[self._first : first], -1)
        self._first = max(self._first, first)
        target = self._rows[number]
        mine = self._counts[target]
        if mine == 0 or (excluded is not None and target in excluded):
            return np.zeros(len(CUTOFFS))
        counts = self._counts
        if excluded is not None:
            counts = counts.copy()
            counts[excluded] = 0
        better, equal = int((counts > mine).sum()), int((counts == mine).sum())
        return np.array([np.clip((k - better) / equal, 0.0, 1.0) for k in CUTOFFS])
