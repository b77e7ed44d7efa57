"""The ladder: what an answer stands on when parts of the funnel fail.

Rungs, best first; every answer names the one it stands on and why it is not a better one:

==============  ====================================================================================
full            candidates of all sources, ranked by expected watch time
no_ranker       candidates of all sources, by a learned order or by retrieval score: no ranker, or
                it failed
no_history      the history store is gone: made from the request's context alone
last_embedding  the query tower failed: retrieved with the last embedding that it gave the user
no_retrieval    no embedding at all, or no index: co-watched and popular videos
popular         popular videos of the region: nothing better holds, or nothing is known of the
                viewer and there is no ranker
==============  ====================================================================================

Where several apply, the answer names the last of them, and gives the reasons of all.

A viewer of whom nothing is known at all gets no retrieval: the embedding of nobody is no taste.
The ranker still orders what is popular, trending and fresh for them, when there is one. So a new
viewer climbs a ladder: nothing known (popular, by region where it is known), context or profile
known (embedded from them), history.

A new rung is its name in :data:`RUNGS`, and the part that it is left without in
:data:`LEFT_WITHOUT`.
"""

RUNGS = ("full", "no_ranker", "no_history", "last_embedding", "no_retrieval", "popular")
FULL, NO_RANKER, NO_HISTORY, LAST_EMBEDDING, NO_RETRIEVAL, POPULAR = RUNGS

# The rung that is left without a part; without any other the answer is still whole.
LEFT_WITHOUT = {
    "ranker": NO_RANKER,
    "history": NO_HISTORY,
    "query_tower": NO_RETRIEVAL,
    "retrieval": NO_RETRIEVAL,
}


class Ladder:
    """Where one answer stands.

    Attributes:
        rung: Out of :data:`RUNGS`; it only goes down.
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
            part: Name of the part, as in :data:`LEFT_WITHOUT`, or of one that the answer is whole
                without.
            why: The error, or what else there is to say.
            to: The rung that is left, where that is not the one of :data:`LEFT_WITHOUT`.
        """
        self.falls.append(part)
        self.stand_on(to or LEFT_WITHOUT.get(part, FULL), f"{part}: {why}")

    def stand_on(self, rung: str, reason: str) -> None:
        """Goes down to a rung, if it is not lower already."""
        self.rung = max(self.rung, rung, key=RUNGS.index)
        self.reasons.append(reason)
