"""What a page request and its answer hold.

Rungs, best first; every answer names the one it stands on and why it is not a better one:

=============  =====================================================================================
full           candidates of all sources, ranked by expected watch time
no_ranker      candidates of all sources, by retrieval score: no ranker, or it failed
popular        popular videos of the region: no query embedding, or nothing is known of the viewer
=============  =====================================================================================

A viewer of whom nothing is known at all gets no retrieval: the embedding of nobody is no taste.
The ranker still orders what is popular, trending and fresh for them, when there is one.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

MAX_K = 100
FULL, NO_RANKER, POPULAR = RUNGS = ("full", "no_ranker", "popular")


@dataclasses.dataclass(frozen=True, kw_only=True)
class FunnelSettings:
    """How wide the funnel is.

    Attributes:
        retrieved: Videos from the index.
        per_source: Videos from each other source.
        per_channel: Videos of one channel on a page, while others are left.
        query_tower_deadline_s: For the query embedding.
        ranker_deadline_s: For ranking.
    """

    retrieved: int = 250
    per_source: int = 50
    per_channel: int = 3
    query_tower_deadline_s: float = 1.0
    ranker_deadline_s: float = 2.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class PageRequest:
    """Who wants which page.

    Attributes:
        user_id: Who.
        k: Videos on the page.
        context: ``device``, ``surface``, and what is known of the user, such as ``region``.
        exclude_watched: Whether watched videos are left out.
    """

    user_id: str
    k: int = 20
    context: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    exclude_watched: bool = True


@dataclasses.dataclass(frozen=True, kw_only=True)
class Item:
    """A video on a page.

    Attributes:
        video_id: Which.
        position: 0 is first.
        video: Its row of the videos table.
        sources: Who nominated it.
        source_scores: Each source's own score.
        retrieval_score: Inner product with the query embedding; None without one.
        expected_watch_time_s: Of the ranker; None on lower rungs.
    """

    video_id: str
    position: int
    video: Mapping[str, Any]
    sources: tuple[str, ...]
    source_scores: Mapping[str, float]
    retrieval_score: float | None
    expected_watch_time_s: float | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Page:
    """An answer.

    Attributes:
        request_id: Names the page in the logs (``page_id``).
        release_id: The one release that everything on it comes from.
        rung: See the module.
        reasons: Why the rung is not ``full``.
        now: Moment as of which history was read, Unix seconds.
        items: Best first.
        stages_ms: Time of each stage, milliseconds.
        nominated: Candidates by source.
        ranked: Candidates in all.
        excluded: Watched videos that could not be candidates.
        recorded: Whether its impressions were written down.
    """

    request_id: str
    release_id: str
    rung: str
    reasons: tuple[str, ...]
    now: int
    items: tuple[Item, ...]
    stages_ms: Mapping[str, float]
    nominated: Mapping[str, int]
    ranked: int
    excluded: int
    recorded: bool = True
