"""The ladder: what an answer stands on when parts of the funnel fail.

Every answer names the rung it stands on, of several that apply the last, and gives the reasons of
all. A new rung is one entry of :data:`LADDER`.

A viewer of whom nothing is known at all gets no retrieval: the embedding of nobody is no taste.
The ranker still orders what is popular, trending and fresh for them, when there is one. So a new
viewer climbs a ladder: nothing known (popular, by region where it is known), context or profile
known (embedded from them), history.
"""

import dataclasses
import threading

import cachetools
import numpy as np

FULL, PART_OF_INDEX = "full", "part_of_index"
NO_RANKER, NO_HISTORY = "no_ranker", "no_history"
LAST_EMBEDDING, NO_RETRIEVAL, POPULAR = "last_embedding", "no_retrieval", "popular"


@dataclasses.dataclass(frozen=True)
class Rung:
    """What an answer can stand on.

    Attributes:
        name: Name in answers and metrics.
        means: What such an answer is made of.
        without: Parts (stages, or candidate sources by name) whose failure leads here.
    """

    name: str
    means: str
    without: tuple[str, ...] = ()


# Best first. Without a part that none of them names an answer is still whole.
LADDER = (
    Rung(FULL, "candidates of all sources, ranked by expected watch time"),
    Rung(
        PART_OF_INDEX,
        "shards of the index are lost: retrieved among the videos of the others",
        without=("index_shards",),
    ),
    Rung(
        NO_RANKER,
        "candidates of all sources, by a learned order or by retrieval score: no ranker, or it "
        "failed",
        without=("ranker",),
    ),
    Rung(
        NO_HISTORY,
        "the history store is gone: made from the request's context alone",
        without=("history",),
    ),
    Rung(
        LAST_EMBEDDING,
        "the query tower failed: retrieved with the last embedding that it gave the user",
    ),
    Rung(
        NO_RETRIEVAL,
        "no embedding at all, or no index: co-watched and popular videos",
        without=("query_tower", "retrieval"),
    ),
    Rung(
        POPULAR,
        "popular videos of the region: nothing better holds, or nothing is known of the viewer "
        "and there is no ranker",
    ),
)
RUNGS = tuple(rung.name for rung in LADDER)


class Ladder:
    """Where one answer stands.

    Attributes:
        rung: Name out of :data:`LADDER`; it only goes down.
        reasons: Reasons why the rung is not ``full``, or what else is not as it should be.
        falls: The parts that failed or were late.
    """

    def __init__(self) -> None:
        self.rung = FULL
        self.reasons: list[str] = []
        self.falls: list[str] = []

    def fall(self, part: str, why: object, *, to: str | None = None) -> None:
        """Notes that a part failed or was late.

        Args:
            part: Name of a part, also of one that the answer is whole without.
            why: The error, or what else there is to say.
            to: The rung that is left, where that is not the one that names the part.
        """
        self.falls.append(part)
        left = to or next((rung.name for rung in LADDER if part in rung.without), FULL)
        self.stand_on(left, f"{part}: {why}")

    def stand_on(self, rung: str, reason: str) -> None:
        """Goes down to a rung, if it is not lower already."""
        names = [one.name for one in LADDER]
        self.rung = max(self.rung, rung, key=names.index)
        self.reasons.append(reason)


class LastEmbeddings:
    """The last query embedding that each user got, for :data:`LAST_EMBEDDING`; safe for threads.

    Bounded by memory: the users who were not here for longest go first.
    """

    ENTRY_BYTES = 500  # What an entry takes beside its numbers: key, array, place in the order.

    def __init__(self, max_bytes: int = 64 << 20) -> None:
        # Embeddings of different releases do not fit together, so the release is in the key.
        self._embeddings: cachetools.LRUCache[tuple[str, str], np.ndarray] = cachetools.LRUCache(
            max_bytes, getsizeof=lambda embedding: self.ENTRY_BYTES + embedding.nbytes
        )
        self._lock = threading.Lock()

    def put(self, version: str, user_id: str, embedding: np.ndarray) -> None:
        """Remembers the embedding of a user, float32 [D + 1]."""
        with self._lock:
            self._embeddings[version, user_id] = embedding

    def get(self, version: str, user_id: str) -> np.ndarray | None:
        """Returns the last embedding that a release gave a user, None where it gave none."""
        with self._lock:
            return self._embeddings.get((version, user_id))
