"""What a candidate source is: made of what, asked what, answering what."""

import abc
import dataclasses
from collections.abc import Callable
from typing import ClassVar

import numpy as np
import pyarrow as pa

from features.catalogue import Catalogue
from serving.funnel.viewer import Viewer
from serving.index.index import VideoIndex
from serving.live.view import LiveView


@dataclasses.dataclass(frozen=True)
class Nominations:
    """What one source proposes.

    Attributes:
        rows: int32 [n], rows of the catalogue, each once, best first.
        scores: float32 [n], descending; comparable within the source only.
        lacking: What the source had to do without; "" for nothing.
    """

    rows: np.ndarray
    scores: np.ndarray
    lacking: str = ""

    def head(self, limit: int) -> "Nominations":
        """Returns the best ones."""
        return Nominations(self.rows[:limit], self.scores[:limit], self.lacking)


@dataclasses.dataclass(frozen=True)
class Question:
    """What a source is asked.

    Attributes:
        viewer: User who asks, and the moment.
        excluded: int32 sorted, rows that must not be nominated.
        upload_times: int64 [N], of the catalogue.
        embedding: float32 [D + 1] of the viewer, None where there is none.
        permits: Function of rows that returns bool [n]: what filters allow; None allows all.
        related_to: Row of the video that the page stands beside; None for a page of its own.
    """

    viewer: Viewer
    excluded: np.ndarray
    upload_times: np.ndarray
    embedding: np.ndarray | None = None
    permits: Callable[[np.ndarray], np.ndarray] | None = None
    related_to: int | None = None

    def allowed(self, rows: np.ndarray) -> np.ndarray:
        """Returns bool [n]: uploaded before now, not excluded, and permitted."""
        # Strictly before now, as all that is known: a video may be known from its first watch.
        kept = self.upload_times[rows] < self.viewer.now
        if len(self.excluded):
            # np.isin would sort both; what is excluded is sorted already.
            place = np.searchsorted(self.excluded, rows)
            kept &= self.excluded[np.minimum(place, len(self.excluded) - 1)] != rows
        if self.permits is not None:
            kept[kept] = self.permits(rows[kept])
        return kept

    def first_allowed(self, ordered: Nominations, limit: int) -> Nominations:
        """Returns the first ``limit`` that are allowed, looking no further than it must."""
        keep = self.places_of_allowed(ordered.rows, limit)
        return Nominations(ordered.rows[keep], ordered.scores[keep])

    def places_of_allowed(self, rows: np.ndarray, limit: int) -> np.ndarray:
        """Returns where the first ``limit`` allowed ones are, int64, as :meth:`first_allowed`."""
        look = limit + len(self.excluded)
        while True:
            keep = np.flatnonzero(self.allowed(rows[:look]))[:limit]
            if len(keep) == limit or look >= len(rows):
                return keep
            look *= 4


NOTHING = Nominations(np.zeros(0, np.int32), np.zeros(0, np.float32))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Built:
    """What a release gives to make its sources of.

    Attributes:
        catalogue: Catalogue of its N videos.
        index: Index of their embeddings.
        daily: ``video_id, day, impressions, clicks, watches, watch_time_s``.
        regional: ``region, video_id, watches`` of the last days; None where it is not known.
        live: View of what everybody watches now; a release by itself has none.
    """

    catalogue: Catalogue
    index: VideoIndex
    daily: pa.Table
    regional: pa.Table | None = None
    live: LiveView | None = None


class Source(abc.ABC):
    """A way to find candidates; safe for threads.

    The next one is such a class and a line in :data:`serving.funnel.sources.SOURCES`.

    Attributes:
        name: Name in answers, logs, settings and features.
        limit: The field of :class:`serving.funnel.page.FunnelConfig` that says how many it
            nominates.
        reads: What it is made of, in the order of its arguments: ``catalogue``, ``index``,
            ``live``. It is made anew where one of them is another.
    """

    name: ClassVar[str]
    limit: ClassVar[str] = "per_source"
    reads: ClassVar[tuple[str, ...]] = ()
    _parts: tuple[object, ...] = ()

    @classmethod
    def of(cls, built: Built) -> "Source":
        """Returns the source of a release."""
        return cls._made(*(getattr(built, name) for name in cls.reads))

    @classmethod
    def _made(cls, *parts: object) -> "Source":
        source = cls(*parts)
        source._parts = parts
        return source

    @abc.abstractmethod
    def nominate(self, question: Question, limit: int) -> Nominations:
        """Returns at most ``limit`` allowed videos, best first."""

    def over(self, catalogue: Catalogue, index: VideoIndex, live: LiveView | None) -> "Source":
        """Returns the source of the same release later on; itself where nothing of it changes.

        Args:
            catalogue: Catalogue of the release, new videos behind its own.
            index: Index of all of them.
            live: View of what everybody watches now, in rows of the catalogue; None without one.
        """
        now = {"catalogue": catalogue, "index": index, "live": live}
        parts = tuple(now[name] for name in self.reads)
        is_same = all(part is before for part, before in zip(parts, self._parts, strict=False))
        return self if is_same and len(parts) == len(self._parts) else self._made(*parts)
