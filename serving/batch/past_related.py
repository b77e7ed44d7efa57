"""Pages beside a video at the moments of a log: what was watched right after it, was it on them?

Before each watch that follows another one of its user within an hour, the funnel is asked for what
is related to that other one, with what was known strictly before.
"""

import dataclasses
from collections.abc import Iterator, Mapping

import numpy as np

from features.catalogue import combined
from features.durations import HOUR_S
from serving.batch.past_funnel import PastAnswer, PastFunnel
from serving.funnel import candidates, sources
from serving.funnel.candidates import Candidates
from serving.funnel.page import PageRequest

WITHIN_S = HOUR_S
# What ranks the candidates of a page beside a video.
PAGE, UNKNOWN = "the page", "the page of an unknown viewer"
CO_WATCH, SIMILAR = "co-watch alone", "embeddings alone"
RANKINGS = (PAGE, UNKNOWN, CO_WATCH, SIMILAR)
_BATCH = 256


@dataclasses.dataclass(frozen=True)
class NextWatch:
    """A watch that followed another one.

    Attributes:
        user_id: Id of the user.
        places: Place of the watched video, from 0, in each of :data:`RANKINGS`; infinite where it
            is not there.
    """

    user_id: str
    places: Mapping[str, float]


class RelatedFunnel(PastFunnel):
    """A funnel that goes through a log and is asked for what is related."""

    def _chosen(self) -> np.ndarray:
        """Returns the watches to ask for, int64; sets which watch each of them follows."""
        users = np.asarray(combined(self._watches["user_id"]).dictionary_encode().indices)
        order = np.lexsort((np.arange(len(users)), self._times, users))
        before = np.full(len(users), -1)
        before[order[1:]] = np.where(users[order[1:]] == users[order[:-1]], order[:-1], -1)
        since = self._times - self._times[before]
        # What is watched again in the same second is no next watch.
        follows = (before >= 0) & (since > 0) & (since <= WITHIN_S)
        self._before = before
        numbers = np.flatnonzero(follows & (self._times >= (self.settings.from_s or 0)))
        if 0 < self.settings.sample < len(numbers):
            numbers = numbers[np.linspace(0, len(numbers) - 1, self.settings.sample).astype(int)]
        return numbers

    def _request(self, user_id: str, number: int, context: Mapping[str, str]) -> PageRequest:
        video_id = self._watches["video_id"][int(self._before[number])].as_py()
        request = super()._request(user_id, number, context)
        return dataclasses.replace(request, related_to=video_id)

    def next_watches(self) -> Iterator[NextWatch]:
        """Yields each watch that follows another one, in the order of time."""
        users = self._watches["user_id"]
        for start in range(0, len(self.labels), _BATCH):
            for number, answer in self.answers(self.labels[start : start + _BATCH]):
                yield NextWatch(users[number].as_py(), _places(answer, int(self._rows[number])))


def _places(answer: PastAnswer, row: int) -> dict[str, float]:
    gathered = answer.gathered
    unranked = gathered.rows[candidates.related_order(gathered, None)]
    orders = {PAGE: answer.shown.rows, UNKNOWN: unranked}
    orders |= {
        name: _by_source(gathered, source)
        for name, source in ((CO_WATCH, sources.CO_WATCH), (SIMILAR, sources.SIMILAR))
    }
    matches = {name: np.flatnonzero(rows == row) for name, rows in orders.items()}
    return {name: float(place[0]) if len(place) else np.inf for name, place in matches.items()}


def _by_source(gathered: Candidates, name: str) -> np.ndarray:
    """Returns the rows that a source nominated, best first."""
    if name not in gathered.source_names:
        return gathered.rows[:0]
    scores = gathered.source_scores[gathered.source_names.index(name)]
    order = np.argsort(-np.nan_to_num(scores, nan=-np.inf), kind="stable")
    return gathered.rows[order[: int(np.isfinite(scores).sum())]]
