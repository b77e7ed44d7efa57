"""What an explanation says; the API answers with these as they are."""

import dataclasses
import enum


class Outcome(str, enum.Enum):
    """What became of a video: the stage that dropped it, or ``shown``."""

    SHOWN = "shown"
    UNKNOWN = "unknown"
    NOT_YET = "not_yet"
    FILTERED = "filtered"
    NOT_NOMINATED = "not_nominated"
    BELOW = "below"
    CHANNEL_CAP = "channel_cap"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Filter:
    """A filter and its verdict.

    Attributes:
        name: Name of the filter, see :mod:`serving.funnel.filters`.
        passed: Whether the video passes. One that was shown too often comes last, if it does not.
    """

    name: str
    passed: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class Nomination:
    """A candidate source and what it says of a video.

    Attributes:
        source: Name of the source.
        score: Score that it gave; None where it did not nominate the video.
        place: Place among what it nominated, 1 is best.
        of: Number of videos that it nominated.
    """

    source: str
    score: float | None
    place: int | None
    of: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Standing:
    """Where a video stood after a stage.

    Attributes:
        stage: ``retrieval`` (by inner product, among all videos of the release), ``ranker`` (by
            expected watch time, among the candidates), ``order`` (learned) or ``page``.
        place: Place, 1 is best; None where the stage did not take it on.
        of: Number of videos that were in order.
        moved_by: What moved it there, in words; "" for nothing in particular.
    """

    stage: str
    place: int | None
    of: int
    moved_by: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Nearby:
    """A watched video near to the one that is told of.

    Attributes:
        video_id: Id of the video.
        title: Title, where it has one.
        similarity: Cosine of the embeddings, in [-1, 1].
        time: Time of its last watch, Unix seconds.
    """

    video_id: str
    title: str | None
    similarity: float
    time: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shown:
    """How often the viewer was shown a video.

    Attributes:
        times: Number of impressions that are remembered.
        lately: Number of those in the last ``window_s``.
        last: Time of the last, Unix seconds.
        window_s: Length of the window, seconds.
        rests_from: Number in the window from which on it comes last; 0 for no limit.
    """

    times: int
    lately: int
    last: int | None
    window_s: int
    rests_from: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contribution:
    """What a group of features contributes, see :mod:`serving.insight.left_out`.

    Attributes:
        group: ``user``, ``context``, ``history``, ``video`` or ``nomination``.
        seconds: Expected watch time with the group minus without it.
        without_s: Expected watch time without it.
    """

    group: str
    seconds: float
    without_s: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class OrderPart:
    """What a column of the learned order adds to a video's score.

    Attributes:
        name: Name of the column, see :data:`serving.funnel.page_order.NAMES`.
        value: Weight times the column, minus the mean of that over all candidates.
    """

    name: str
    value: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Why:
    """What became of a video, and why.

    Attributes:
        video_id: Id of the video.
        title: Title, where it has one.
        channel_id: Channel, where it has one.
        topics: Topics.
        outcome: What became of it.
        told: Sentence that says it.
        position: Place on the page, 0 is first; None where it is not on it.
        retrieval_score: Inner product with the query embedding; None where either has none.
        expected_watch_time_s: Answer of the ranker in float32, seconds, also for a video that was
            no candidate.
        filters: Filters of the request.
        sources: Candidate sources.
        standings: Places after the stages that it reached.
        near: The nearest of what the viewer watched.
        shown: How often the viewer was shown it.
        contributions: What the groups of features contribute to the expected watch time.
        order_parts: What adds most to its place in the learned order.
    """

    video_id: str
    outcome: Outcome
    told: str
    title: str | None = None
    channel_id: str | None = None
    topics: list[str] = dataclasses.field(default_factory=list)
    position: int | None = None
    retrieval_score: float | None = None
    expected_watch_time_s: float | None = None
    filters: list[Filter] = dataclasses.field(default_factory=list)
    sources: list[Nomination] = dataclasses.field(default_factory=list)
    standings: list[Standing] = dataclasses.field(default_factory=list)
    near: list[Nearby] = dataclasses.field(default_factory=list)
    shown: Shown | None = None
    contributions: list[Contribution] = dataclasses.field(default_factory=list)
    order_parts: list[OrderPart] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Explanation:
    """Why a page of now is as it is.

    Attributes:
        release_id: Release that it comes from.
        rung: Rung that it stands on, see :mod:`serving.funnel.rungs`.
        reasons: Why the rung is not ``full``, or what failed.
        now: Moment of the page, Unix seconds.
        candidates: Number of candidates.
        page: Ids of the videos on the page, best first.
        groups_told: Why contributions of groups of features cannot be told; "" where they are.
        videos: The videos that were asked about.
    """

    release_id: str
    rung: str
    reasons: list[str]
    now: int
    candidates: int
    page: list[str]
    groups_told: str
    videos: list[Why]
