"""What everybody watches now, in the rows of one release's catalogue."""

import dataclasses
import threading
from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from features.catalogue import Catalogue
from serving.live.state import LiveState, Rates


@dataclasses.dataclass(frozen=True)
class _Numbering:
    """What the numbers of a state mean in a catalogue.

    Attributes:
        generation: Generation of the numbers of the state.
        row_of: int64 [numbers], -1 for videos outside the catalogue.
        number_of: int64 [rows], -1 for videos that the state has not met. Filled in where the next
            numbering of the generation knows more, which harms nobody who reads meanwhile.
    """

    generation: int
    row_of: np.ndarray
    number_of: np.ndarray

    def rows(self, numbers: np.ndarray) -> np.ndarray:
        """Returns int64 [n], -1 where there is no row, or none yet."""
        inside = numbers < len(self.row_of)
        return np.where(inside, self.row_of[np.where(inside, numbers, 0)], -1)


class LiveView:
    """A :class:`serving.live.state.LiveState` in the rows of one catalogue; safe for threads."""

    def __init__(self, state: LiveState, catalogue: Catalogue) -> None:
        self.state = state
        self._catalogue = catalogue
        self._lock = threading.Lock()
        self._numbering = self._nothing(0)

    def _nothing(self, generation: int) -> _Numbering:
        unmet = np.full(len(self._catalogue), -1, np.int64)
        return _Numbering(generation, np.zeros(0, np.int64), unmet)

    def _current(self) -> _Numbering:
        """Returns the numbering with what the state has met meanwhile."""
        with self._lock:
            known = self._numbering
            generation, ids = self.state.known(len(known.row_of))
            if generation != known.generation:
                generation, ids = self.state.known(0)
                known = self._nothing(generation)
            if ids:
                rows = self._catalogue.rows(pa.array(ids, pa.string())).astype(np.int64)
                met = np.flatnonzero(rows >= 0)
                known.number_of[rows[met]] = len(known.row_of) + met
                row_of = np.concatenate([known.row_of, rows])
                known = _Numbering(generation, row_of, known.number_of)
            self._numbering = known
            return known

    def trending_rows(self, region: str) -> np.ndarray:
        """Returns rows, best first, int32."""
        while True:
            numbering = self._current()
            generation, numbers = self.state.trending(region)
            if generation == numbering.generation:  # Else numbers mean other videos by now.
                rows = numbering.rows(numbers)
                return rows[rows >= 0].astype(np.int32)

    def rates(self, video_rows: np.ndarray, *, region: str, now_s: int) -> Rates:
        """Returns the rates of :meth:`serving.live.state.LiveState.rates` for rows, int [n]."""
        while True:
            numbering = self._current()
            numbers = numbering.number_of[video_rows]
            generation, rates = self.state.rates(numbers, region=region, now_s=now_s)
            if generation == numbering.generation:
                return rates

    def rows_after(self, watched_rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns rows watched soon after these (newest first), best first, and their scores."""
        while True:
            numbering = self._current()
            numbers = numbering.number_of[watched_rows]
            generation, videos, scores = self.state.following(numbers[numbers >= 0].tolist())
            if generation == numbering.generation:
                rows = numbering.rows(videos)
                return rows[rows >= 0].astype(np.int32), scores[rows >= 0].astype(np.float32)

    def columns(self, video_rows: np.ndarray, times: np.ndarray) -> Mapping[str, np.ndarray]:
        """Computes the live statistics, as :class:`features.as_of.live_statistics.LiveStatistics`.

        Args:
            video_rows: int [n], -1 for a video outside the catalogue.
            times: int64 [n], Unix seconds; moments of the past see what was forgotten as zeros.
        """
        newest = int(times.max()) if len(times) else 0
        while True:
            numbering = self._current()
            generation, statistics = self.state.statistics(newest)
            if generation == numbering.generation:
                numbers = numbering.number_of[np.maximum(video_rows, 0)]
                return statistics.columns(np.where(video_rows < 0, -1, numbers), times)
