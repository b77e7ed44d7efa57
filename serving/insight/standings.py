"""Where videos stood after each stage of a page that was made."""

import functools
import math

import numpy as np

from serving.funnel import page_order
from serving.funnel.answer import Answer
from serving.insight.explanations import Standing
from serving.servables import signatures

_BLOCK = 65_536


class Standings:
    """The places of one page."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._worked = answer.worked
        gathered, count = self._worked.gathered, len(self._worked.gathered)
        self._places = np.empty(count, np.int64)
        self._places[self._worked.order] = np.arange(1, count + 1)
        channels, _ = answer.release.catalogue.channels
        self._channels = channels[gathered.rows]

    # ---- retrieval ---------------------------------------------------------------------------

    def retrieval_scores(self, rows: np.ndarray) -> np.ndarray:
        """Returns the inner products with the query embedding, float32 [n]; NaN without one."""
        query = self._worked.embedding
        if query is None or not len(rows):
            return np.full(len(rows), np.nan, np.float32)
        scores = (self._answer.release.index.embeddings[rows] @ query).astype(np.float32)
        scores[scores < signatures.UNREACHABLE_BIAS / 2] = np.nan
        return scores

    @functools.cached_property
    def _all_scores(self) -> np.ndarray:
        """Inner products of all videos, float32 [N]: no page makes them all."""
        count = len(self._answer.release.index.embeddings)
        blocks = [np.arange(at, min(at + _BLOCK, count)) for at in range(0, count, _BLOCK)]
        return np.concatenate([self.retrieval_scores(block) for block in blocks] or [_NONE])

    def of_retrieval(self, row: int) -> Standing | None:
        """Returns the place by inner product among all videos; None without a query embedding."""
        if self._worked.embedding is None:
            return None
        score = float(self._all_scores[row])
        place = int((self._all_scores > score).sum()) + 1 if math.isfinite(score) else None
        told = "" if place else "it has no embedding"
        return Standing(stage="retrieval", place=place, of=len(self._all_scores), moved_by=told)

    def why_not_nominated(self, row: int) -> str:
        """Returns why no source named a video that all filters let through."""
        standing = self.of_retrieval(row)
        if standing is None:
            return "No source named it, and nothing was retrieved for this viewer."
        if standing.place is None:
            return "No source named it: it has no embedding, so it cannot be retrieved."
        taken = self._answer.settings.retrieved
        return (
            f"No source named it. By its embedding it stands at place {standing.place} of "
            f"{standing.of}, and the nearest {taken} that pass the filters are taken."
        )

    def similarities(self, row: int, rows: np.ndarray) -> np.ndarray:
        """Returns the cosine between a video's embedding and those of others, float64 [n]."""
        embeddings = self._answer.release.index.embeddings
        one = np.asarray(embeddings[np.array([row])][0, :-1], np.float64)  # The last is the bias.
        others = np.asarray(embeddings[rows][:, :-1], np.float64)
        lengths = np.linalg.norm(others, axis=1) * np.linalg.norm(one)
        return np.divide(others @ one, lengths, out=np.full(len(rows), -1.0), where=lengths > 0)

    # ---- among candidates --------------------------------------------------------------------

    def of_ranker(self, place: int, *, moved_by: str) -> Standing | None:
        """Returns the place by expected watch time; None on lower rungs."""
        seconds = self._worked.seconds
        if seconds is None:
            return None
        better = int((seconds > seconds[place]).sum())
        return Standing(stage="ranker", place=better + 1, of=len(seconds), moved_by=moved_by)

    def of_order(self, place: int) -> Standing:
        """Returns the place in the order that the page was taken from."""
        rests = int(self._worked.gathered.rows[place]) in self._worked.filters.resting
        moved = "shown too often lately: put last" if rests else ""
        parts = self.order_parts(place)
        if parts and not rests:
            name = max(parts, key=lambda one: abs(parts[one]))
            moved = f"learned order, most by {name}: {parts[name]:+.2f}"
        count = len(self._worked.gathered)
        return Standing(stage="order", place=self.place_in_order(place), of=count, moved_by=moved)

    def of_page(self, place: int, position: int | None) -> Standing:
        """Returns the place on the page."""
        moved = ""
        if position is not None:
            skipped = self.place_in_order(place) - 1 - position
            if skipped > 0:
                moved = f"{skipped} before it gave way: their channels had enough"
            elif skipped < 0:
                moved = "it fills up the page"
        elif self.is_capped(place):
            moved = "its channel has enough on the page"
        of = len(self._worked.chosen)
        return Standing(
            stage="page", place=None if position is None else position + 1, of=of, moved_by=moved
        )

    def place_in_order(self, place: int) -> int:
        """Returns the place of a candidate in the order, 1 is best."""
        return int(self._places[place])

    def is_capped(self, place: int) -> bool:
        """Whether a candidate that is not on the page stood before its end."""
        chosen = self._worked.chosen
        channel = self._channels[place]
        of_channel = int((self._channels[chosen] == channel).sum())
        return bool(
            channel >= 0
            and place not in chosen
            and of_channel >= self._answer.settings.per_channel
            and len(chosen)
            and self._places[place] < self._places[chosen].max()
        )

    def order_parts(self, place: int) -> dict[str, float] | None:
        """Returns what each column of the learned order adds; None where none was used."""
        parts = self._order_parts
        if parts is None:
            return None
        return dict(zip(page_order.NAMES, parts[place].tolist(), strict=True))

    @functools.cached_property
    def _order_parts(self) -> np.ndarray | None:
        """w * (x - mean of x), float64 [n, F]."""
        release, worked = self._answer.release, self._worked
        settings, is_ranked = self._answer.settings, worked.seconds is not None
        learned = page_order.deciding(release.order, settings, is_ranked=is_ranked)
        if learned is None:
            return None
        x = release.order_columns(
            self._answer.viewer, worked.gathered, worked.seconds, worked.rates
        )
        if x is None or not len(x):
            return None
        return learned.weights * (x - x.mean(axis=0))


_NONE = np.zeros(0, np.float32)
