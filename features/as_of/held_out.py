"""Held-out watches: labels whose inputs are ALL other watches of the user, later ones too.

This is how many collaborative filtering systems choose labels (paper section 3.4, Figure 5a). It
LEAKS the future into training, and is here for one reason: to measure what that costs beside the
rolled-back next watch (Figure 5b). Holdout examples are always rolled back, and so is serving.
"""

import dataclasses

import numpy as np

from features.as_of.history import History
from features.catalogue import ragged_rows
from features.event_columns import Queries


@dataclasses.dataclass(frozen=True, eq=False)
class HeldOutHistory(History):
    """A history that answers for labels: as of the end of training, without the label itself.

    Its answers about bags are for exactly one list of labels; everything else is as of the query.

    Attributes:
        until_s: End of training, Unix seconds: the bags are as of then.
        labels: int [q], catalogue rows of the labels; query i is the moment of label i.
    """

    until_s: int
    labels: np.ndarray

    @classmethod
    def over(cls, history: History, *, until_s: int, labels: np.ndarray) -> "HeldOutHistory":
        """Wraps a history of the same users."""
        parts = {field.name: getattr(history, field.name) for field in dataclasses.fields(History)}
        return cls(**parts, until_s=until_s, labels=labels)

    def watched_rows(self, queries: Queries, limit: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the user's last ``limit`` completed watches of the training window but the label.

        Args:
            queries: The moments of the labels, in their order.
            limit: Greatest number of videos in a bag.

        Returns:
            lengths int64 [q] and catalogue rows int32 [sum of lengths], newest first.
        """
        at_end = dataclasses.replace(queries, now=np.full_like(queries.now, self.until_s))
        start, end = self.seen_completed(at_end)
        # One more than fits, since the label may be among them.
        lengths = np.minimum(end - start, limit + 1)
        owner = np.repeat(np.arange(len(lengths)), lengths)
        ascending = ragged_rows(end - lengths, lengths)
        event = np.repeat(2 * end - lengths - 1, lengths) - ascending
        video = self.completed.video[event]
        is_label = (video == self.labels[owner]) & (
            self.completed.time[event] == queries.now[owner]
        )
        kept = ~is_label
        owner, video = owner[kept], video[kept]
        counts = np.bincount(owner, minlength=len(lengths))
        place = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
        fits = place < limit
        return np.minimum(counts, limit).astype(np.int64), video[fits]

    def last_search_rows(self, queries: Queries, limit: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the user's last searches of the training window, newest first."""
        moments = dataclasses.replace(queries, now=np.full_like(queries.now, self.until_s))
        return super().last_search_rows(moments, limit)
