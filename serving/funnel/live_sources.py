"""Candidate sources that know what happened a second ago; see :mod:`serving.live.state`."""

import numpy as np

from serving.funnel.sources import CO_WATCH, NOTHING, TRENDING, Nominations, Question, Source
from serving.live.state import LiveView

_SEEDS = 10  # Last watches of the viewer that co-watch starts from.


class LiveTrending:
    """Most watched in the last minutes, hours and day, here and everywhere, in turn."""

    name = TRENDING

    def __init__(self, view: LiveView, before: Source) -> None:
        """Nominates.

        Args:
            view: View of what is watched now.
            before: Source for where nothing was watched lately: what trended before the release.
        """
        self._view = view
        self._before = before

    def nominate(self, question: Question, limit: int) -> Nominations:
        """Returns what trends; the score is 1 / (place among all + 1)."""
        rows = self._view.trending_rows(question.viewer.region)
        if not len(rows):
            return self._before.nominate(question, limit)
        scores = (1.0 / np.arange(1, len(rows) + 1)).astype(np.float32)
        return question.first_allowed(Nominations(rows, scores), limit)


class CoWatch:
    """What people watched after what the viewer watched last, or after the video beside."""

    name = CO_WATCH

    def __init__(self, view: LiveView) -> None:
        self._view = view

    def nominate(self, question: Question, limit: int) -> Nominations:
        """Returns what followed the last watches; the score sums shares of all followers."""
        seeds = question.viewer.liked_rows[:_SEEDS]
        if question.related_to is not None:
            seeds = np.array([question.related_to], np.int32)
        if not len(seeds):
            return NOTHING
        rows, scores = self._view.rows_after(seeds)
        return question.first_allowed(Nominations(rows, scores), limit)
