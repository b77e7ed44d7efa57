"""What a page request and its answer hold."""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any

from features.config import Bounds, OneOf, check
from features.durations import DAY_S
from serving.history.user_history import NOTHING_BLOCKED, Blocked
from serving.ordering import page_value

MAX_K = 100
WATCH_TIME, LEARNED, RETRIEVAL, POPULAR = "watch_time", "learned", "retrieval", "popular"
ORDERS = (WATCH_TIME, LEARNED, RETRIEVAL, POPULAR)


_Count = Annotated[int, Bounds(ge=1, le=10_000)]
_CountOr0 = Annotated[int, Bounds(ge=0, le=10_000)]
_Deadline = Annotated[float, Bounds(ge=0.001)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class FunnelConfig:
    """How wide the funnel is, how long its stages may take, and what it holds back.

    Attributes:
        retrieved: Number of videos from the index.
        trending: Number of videos that trend: where content turns over fast, the next click is
            among them.
        per_source: Number of videos from each other source.
        per_channel: Number of videos of one channel on a page, while others are left.
        max_shown: Number of times within ``shown_window_s`` that a video is shown to a user before
            it is held back; 0 sets no limit.
        shown_window_s: Length of that window, seconds.
        history_deadline_s: Time to read what the viewer did, seconds; then a page is made without
            history.
        query_tower_deadline_s: Time for the query embedding, seconds; then the user's last one
            stands in.
        sources_deadline_s: Time for all candidate sources, which run side by side, seconds; a page
            is made without late ones.
        ranker_deadline_s: Time for ranking, seconds; then pages are ordered by retrieval score.
        record_deadline_s: Time to write down what is shown, seconds; then a page is answered
            without.
        order: What decides the order of a page: ``watch_time``, the ranker's expected watch time,
            as in the paper, or the learned order where there is no ranker; ``learned``, the learned
            order where the release has one, else as ``watch_time``; ``retrieval``, the score of
            candidate generation; ``popular``, how much a video is watched within a day, in the
            viewer's region, out of what is trending, fresh and watched after what the viewer
            watched: no model is asked.
        page_value: What a video on a page is worth, a formula of the expected watch time and the
            probabilities of feedback, such as ``watch_time_s + 30*like - 120*hide``. Other formulas
            than the default order pages by themselves, without a learned order.
        diversity: Weight of likeness to the videos above it against a video's place; 0 leaves the
            order as it is.
        explored: Share of the places of a page that go to fresh videos of which little is known;
            the logs name them.
    """

    retrieved: _Count = 250
    trending: _CountOr0 = 100
    per_source: _CountOr0 = 50
    per_channel: Annotated[int, Bounds(ge=1)] = 3
    max_shown: Annotated[int, Bounds(ge=0)] = 20
    shown_window_s: Annotated[int, Bounds(ge=1)] = DAY_S
    history_deadline_s: _Deadline = 1.0
    query_tower_deadline_s: _Deadline = 1.0
    sources_deadline_s: _Deadline = 1.0
    ranker_deadline_s: _Deadline = 2.0
    record_deadline_s: _Deadline = 1.0
    order: Annotated[str, OneOf(*ORDERS)] = WATCH_TIME
    page_value: str = page_value.DEFAULT
    diversity: Annotated[float, Bounds(ge=0, le=1)] = 0.0
    explored: Annotated[float, Bounds(ge=0, le=0.5)] = 0.0

    def __post_init__(self) -> None:
        check(self)
        page_value.parse(self.page_value)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PageRequest:
    """A user's wish for a page.

    Attributes:
        user_id: Id of the user who asks.
        k: Number of videos on the page.
        context: ``device``, ``surface``, and what is known of the user, such as ``region``.
        exclude_watched: Whether watched videos are left out; None where the site decides: they are
            unless its people watch again (:class:`features.tables.site_facts.SiteFacts`).
        blocked: Videos and channels that the viewer does not want to see, beside what the history
            store knows.
        exclude: Ids of videos that are left out of this page.
        topics: Topics of which each video has one; none allows all.
        languages: Languages of which each video has one; none allows all.
        session: Ids of videos that the user watched lately and the history store may not know,
            newest last.
        related_to: Id of the video that the page stands beside; "" for a page of its own.
        explain: Whether the answer names some of the videos that were held back.
        record: Whether the page counts as shown; False is for looking at somebody's page.
        traceparent: W3C trace context of the caller; "" for none.
    """

    user_id: str
    k: int = 20
    context: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    exclude_watched: bool | None = None
    blocked: Blocked = NOTHING_BLOCKED
    exclude: tuple[str, ...] = ()
    topics: tuple[str, ...] = ()
    languages: tuple[str, ...] = ()
    session: tuple[str, ...] = ()
    related_to: str = ""
    explain: bool = False
    record: bool = True
    traceparent: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Item:
    """A video on a page.

    Attributes:
        video_id: Id of the video.
        position: Place on the page, 0 is first.
        video: Row of the videos table.
        sources: Sources that nominated it.
        source_scores: Each source's own score.
        retrieval_score: Inner product with the query embedding; None without one.
        expected_watch_time_s: Expected watch time by the ranker, seconds; None on lower rungs.
        feedback: Probability of each kind of feedback by the ranker, where it says so.
        value: What it is worth by the page's formula; None where nothing ranked it.
        is_explored: Whether it is there to learn of it, rather than for its place in the order.
    """

    video_id: str
    position: int
    video: Mapping[str, Any]
    sources: tuple[str, ...]
    source_scores: Mapping[str, float]
    retrieval_score: float | None
    expected_watch_time_s: float | None
    feedback: Mapping[str, float] = dataclasses.field(default_factory=dict)
    value: float | None = None
    is_explored: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Page:
    """An answer.

    Attributes:
        page_id: Name of the page, as it stands in the logs.
        release_id: The one release that everything on it comes from.
        rung: Rung that it stands on, see :mod:`serving.funnel.rungs`.
        reasons: Reasons why the rung is not ``full``, or what else is not as it should be.
        falls: The parts that failed or were late. A viewer of whom nothing is known, or a release
            without a ranker, is no fall.
        now: Moment as of which history was read, Unix seconds.
        items: Videos of the page, best first.
        stages_ms: Time of each stage, milliseconds.
        sources_ms: Time of each candidate source, milliseconds; they run side by side.
        nominated: Source to its number of candidates.
        ranked: Number of candidates in all.
        filtered: Videos that were held back, by reason; see :mod:`serving.funnel.filters`.
        held_back: Ids of some of them, by reason, where the request asked to explain.
        viewer_known_by: ``history``, ``context`` (or profile) or ``nothing``.
        exposures: Arms of experiments that the page belongs to, ``experiment/arm``.
        recorded: Whether its impressions were written down, as far as is known; None where they
            were not to be.
    """

    page_id: str
    release_id: str
    rung: str
    reasons: tuple[str, ...]
    now: int
    items: tuple[Item, ...]
    stages_ms: Mapping[str, float]
    sources_ms: Mapping[str, float]
    nominated: Mapping[str, int]
    ranked: int
    filtered: Mapping[str, int]
    viewer_known_by: str
    falls: tuple[str, ...] = ()
    held_back: Mapping[str, list[str]] = dataclasses.field(default_factory=dict)
    exposures: tuple[str, ...] = ()
    recorded: bool | None = True

    @property
    def excluded(self) -> int:
        """Watched videos that could not be candidates."""
        return self.filtered.get("watched", 0)
