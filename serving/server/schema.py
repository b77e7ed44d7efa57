"""What the HTTP API takes and gives. Sizes are limited here; what is too long is refused."""

import itertools
from typing import Annotated, Any, Literal

import pydantic

from features import feedback
from features.durations import DAY_S
from features.tables import schema
from serving.events import event as events
from serving.funnel import page, rungs

MAX_EVENTS, MAX_BLOCKED, MAX_SESSION = 500, 1000, 200
MAX_WISHES = 100  # Topics or languages of a request.
MAX_NAMED = 20  # Keys that a model does not know and that are all named; more are one fault.

_PLAIN = r"^[^\x00-\x1f\x7f]+$"


def _as_text(given: Any) -> Any:
    """Returns a whole number as its decimal text, as the logs are read; all else as it is."""
    return str(given) if type(given) is int else given


# As for the ids of the raw tables, see features.tables.schema.
_ID_RULE = pydantic.StringConstraints(
    min_length=1, max_length=schema.MAX_ID_CHARACTERS, pattern=_PLAIN
)
_EVENT_ID_RULE = pydantic.StringConstraints(min_length=1, max_length=128, pattern=_PLAIN)
# Of the input alone: answers have text.
Id = Annotated[
    str,
    _ID_RULE,
    pydantic.BeforeValidator(_as_text, json_schema_input_type=Annotated[str, _ID_RULE] | int),
]
EventId = Annotated[
    str,
    _EVENT_ID_RULE,
    pydantic.BeforeValidator(_as_text, json_schema_input_type=Annotated[str, _EVENT_ID_RULE] | int),
]
PageId = Annotated[
    str,
    pydantic.StringConstraints(max_length=128),
    pydantic.BeforeValidator(_as_text, json_schema_input_type=str | int),
]
Word = Annotated[str, pydantic.StringConstraints(max_length=64, pattern=r"^[^\x00-\x1f\x7f]*$")]
Words = Annotated[str, pydantic.StringConstraints(min_length=1, max_length=500)]
Vector = Annotated[list[pydantic.FiniteFloat], pydantic.Field(max_length=4096), pydantic.FailFast()]
Seconds = Annotated[float, pydantic.Field(ge=0, le=DAY_S, allow_inf_nan=False)]


class _Strict(pydantic.BaseModel):
    """Refuses keys that it does not know: a misspelt option must not be ignored."""

    model_config = pydantic.ConfigDict(extra="forbid")

    @pydantic.model_validator(mode="before")
    @classmethod
    def _few_keys(cls, given: Any) -> Any:
        """Refuses a flood of unknown keys as one fault: to describe each would cost seconds."""
        if isinstance(given, dict) and len(given) > len(cls.model_fields) + MAX_NAMED:
            unknown = itertools.islice((k for k in given if k not in cls.model_fields), MAX_NAMED)
            named = ", ".join(repr(str(key)[:64]) for key in unknown)
            raise ValueError(
                f"has {len(given)} keys, of which {len(cls.model_fields)} may be known at most; "
                f"not known are {named} and others"
            )
        return given


class Profile(_Strict):
    """What the caller knows of a user; the columns of the users table."""

    region: Word | None = None
    language: Word | None = None
    gender: Word | None = None
    age: Annotated[float, pydantic.Field(ge=0, le=150, allow_inf_nan=False)] | None = None
    signed_in: bool | None = None

    def known(self) -> dict[str, Any]:
        """Returns what is given."""
        return {n: v for n, v in self.model_dump().items() if v not in (None, "", {})}


class Context(Profile):
    """The situation of a request. What it says of the user overrides the stored profile."""

    device: Word | None = pydantic.Field(default=None, examples=["phone"])
    vectors: dict[Word, Vector] = pydantic.Field(
        default={}, max_length=20, description="Of the user, each by its column of the users table."
    )
    surface: Word = pydantic.Field(default="home", description="The kind of page.")


# A list stops at its first fault: all of them might be a hundred thousand.
Ids = Annotated[list[Id], pydantic.Field(max_length=MAX_BLOCKED), pydantic.FailFast()]


class Blocked(_Strict):
    """What a user does not want to see."""

    videos: Ids = pydantic.Field(default=[], description="Video ids.")
    channels: Ids = pydantic.Field(default=[], description="Channel ids.")


Wishes = Annotated[list[Id], pydantic.Field(max_length=MAX_WISHES), pydantic.FailFast()]
Session = Annotated[list[Id], pydantic.Field(max_length=MAX_SESSION), pydantic.FailFast()]


class _PageRequest(_Strict):
    """What a page of recommendations and one of related videos are asked with."""

    k: int = pydantic.Field(20, ge=1, le=page.MAX_K, description="How many videos.")
    context: Context = pydantic.Field(default_factory=Context)
    exclude_watched: bool | None = pydantic.Field(None, description="Not given: the site decides.")
    blocked: Blocked = pydantic.Field(
        default_factory=Blocked, description="Beside what `PUT /v1/users/{user_id}/blocked` keeps."
    )
    exclude: Ids = pydantic.Field(
        [], description="Video ids to leave out, as those on the screen already."
    )
    topics: Wishes = pydantic.Field(
        [], description="Only videos with one of these topics; none for all."
    )
    languages: Wishes = pydantic.Field(
        [], description="Only videos in one of these languages; none for all."
    )
    session: Session = pydantic.Field(
        [],
        description="Video ids that were watched in this session and not reported yet, newest last;"
        " they count for this page alone. Report them all the same.",
    )
    debug: bool = pydantic.Field(
        False, description="Explain: stage times, sources, scores, what was filtered and why."
    )
    record: bool | None = pydantic.Field(
        None,
        description="Whether the page counts as shown to the user: in the history, the logs, what "
        "is live, how often a video was shown. `false` is for looking at what somebody would "
        "see. Where not given: `true`, and with `debug` `false`.",
    )


class RecommendationsRequest(_PageRequest):
    """Asks for a page of videos."""

    user_id: Id | None = pydantic.Field(None, description="Any id; without, nothing is recorded.")


class RelatedRequest(_PageRequest):
    """Asks what to watch next to a video."""

    video_id: Id = pydantic.Field(description="The video that is watched.")
    user_id: Id | None = pydantic.Field(
        None,
        description="Who watches it: the videos are ranked for this user, and count as shown. "
        "Without, they are in the order of how related they are, and nothing is recorded.",
    )


class WhyRequest(RecommendationsRequest):
    """Asks why videos are on a page or not; nothing is recorded."""

    video_ids: Annotated[list[Id], pydantic.Field(min_length=1, max_length=20)] = pydantic.Field(
        description="Videos to tell of, on the page or not."
    )


class RecommendedVideo(pydantic.BaseModel):
    """A video on the page."""

    video_id: str
    position: int = pydantic.Field(description="0 is first.")
    title: str | None
    channel_id: str | None
    topics: list[str]
    language: str | None
    duration_s: float | None
    upload_time: int = pydantic.Field(description="Unix seconds.")
    thumbnail_url: str | None = pydantic.Field(
        None, description="Of the videos table, where the server allows its host."
    )
    sources: list[str] = pydantic.Field(description="Who nominated it.")
    retrieval_score: float | None = pydantic.Field(
        description="Inner product of query and video embedding."
    )
    expected_watch_time_s: float | None = pydantic.Field(
        description="Of the ranker; null where the rung has no ranking."
    )
    value: float | None = pydantic.Field(
        None, description="By the formula of the page, which orders it where one is declared."
    )
    feedback: dict[str, float] | None = pydantic.Field(
        None, description="With debug: how probable each kind of feedback is, where the ranker says"
    )
    source_scores: dict[str, float] | None = pydantic.Field(
        None, description="With debug: each source's own score."
    )


class Debug(pydantic.BaseModel):
    """How the page came about."""

    stages_ms: dict[str, float]
    nominated: dict[str, int] = pydantic.Field(description="Candidates by source.")
    candidates: int = pydantic.Field(description="Distinct candidates in all.")
    sources_ms: dict[str, float] = pydantic.Field(description="They run side by side.")
    filtered: dict[str, int] = pydantic.Field(
        description="Videos that were held back, by reason, among those that were looked at."
    )
    held_back: dict[str, list[str]] = pydantic.Field(description="Some of them.")
    viewer_known_by: str = pydantic.Field(description="`history`, `context` or `nothing`.")
    exposures: list[str] = pydantic.Field(description="Arms of experiments: `experiment/arm`.")
    reasons: list[str] = pydantic.Field(description="Why the rung is not `full`, or what failed.")
    recorded: bool = pydantic.Field(
        description="Whether the impressions were written down; see `record` of the request."
    )


class RecommendationsAnswer(pydantic.BaseModel):
    """A page of videos, best first."""

    page_id: str = pydantic.Field(
        description="Names this page. Send it back as `page_id` of clicks and watches."
    )
    request_id: str = pydantic.Field(description="The same by its older name.", deprecated=True)
    release_id: str = pydantic.Field(description="Version of the release that all comes from.")
    rung: Literal[rungs.RUNGS] = pydantic.Field(  # type: ignore[valid-type]
        description="`full`: ranked by expected watch time. `part_of_index`: the same without "
        "shards that are lost. `no_ranker`: by retrieval score. `no_history`: from the context "
        "alone. `last_embedding`: retrieved with the user's last embedding. `no_retrieval`: "
        "co-watched and popular videos. `popular`: popular videos of the region."
    )
    now: int = pydantic.Field(description="Moment as of which the page was made, Unix seconds.")
    items: list[RecommendedVideo]
    debug: Debug | None = None


class SearchAnswer(pydantic.BaseModel):
    """Videos by the words of their titles, channels and topics, best first."""

    query: str
    items: list[RecommendedVideo]
    more: bool = pydantic.Field(description="Whether a further page has videos.")


_EVENT_TYPES = ("watch", "search", "click", "impression", *feedback.KINDS)


class EventIn(_Strict):
    """Something that a user did or was shown."""

    event_id: EventId = pydantic.Field(
        description="Chosen by the sender, for example a UUID. The same id is the same event."
    )
    type: Literal[_EVENT_TYPES] = pydantic.Field(  # type: ignore[valid-type]
        description="A `hide` keeps its video, or its channel, from all further pages of the user."
    )
    user_id: Id
    time: int | None = pydantic.Field(
        None,
        gt=0,
        lt=1 << 33,
        description="Unix seconds; the time of arrival where not given. At most "
        f"{events.MAX_BEHIND_S // DAY_S} days before the server's clock and {events.MAX_AHEAD_S} "
        "seconds after it.",
    )
    video_id: Id | None = None
    channel_id: Id | None = pydantic.Field(
        None, description="Of a hide or a follow, in place of `video_id`: the whole channel."
    )
    value: Annotated[float, pydantic.Field(allow_inf_nan=False)] | None = pydantic.Field(
        None, description="Of feedback: 0 takes back what was given before."
    )
    query: Words | None = pydantic.Field(None, description="Of a search.")
    watch_time_s: Seconds | None = pydantic.Field(None, description="Of a watch.")
    completed: bool | None = pydantic.Field(None, description="Of a watch: to the end, or nearly.")
    clicked: bool = pydantic.Field(False, description="Of an impression, if it is known already.")
    page_id: PageId = pydantic.Field(
        "", description="`page_id` of the answer that showed the video."
    )
    position: int | None = pydantic.Field(None, ge=0, le=100_000)
    source: Word = pydantic.Field("", description="Of a watch: where it came from.")
    surface: Word = ""
    device: Word = ""
    user: Profile | None = pydantic.Field(None, description="Kept if the user is new.")

    @pydantic.model_validator(mode="after")
    def _complete(self) -> "EventIn":
        if self.type == "search" and self.query is None:
            raise ValueError("a search needs `query`")
        is_of_channel = self.channel_id is not None
        if is_of_channel and self.type not in feedback.OF_CHANNELS:
            raise ValueError(f"a {self.type} has no `channel_id`; a hide and a follow may")
        if self.type != "search" and (self.video_id is None) is not is_of_channel:
            either = " or `channel_id`, and not both" if self.type in feedback.OF_CHANNELS else ""
            raise ValueError(f"a {self.type} needs `video_id`{either}")
        if self.value is not None and self.type not in feedback.KINDS:
            raise ValueError(f"a {self.type} has no `value`; feedback may")
        if self.type == "watch" and self.watch_time_s is None:
            raise ValueError("a watch needs `watch_time_s`")
        return self


class EventsRequest(_Strict):
    """Reports events; sending them again is safe."""

    events: Annotated[list[EventIn], pydantic.FailFast()] = pydantic.Field(
        min_length=1, max_length=MAX_EVENTS
    )


class EventsAnswer(pydantic.BaseModel):
    """The events are durable, and count for the next request."""

    accepted: int
    duplicates: int = pydantic.Field(description="Events that were known already.")


class WatchedVideo(pydantic.BaseModel):
    """A watch of a user."""

    video_id: str
    title: str | None
    channel_id: str | None
    topics: list[str]
    time: int
    watch_time_s: float
    completed: bool | None


class Search(pydantic.BaseModel):
    """A search of a user."""

    query: str
    time: int


class Feedback(pydantic.BaseModel):
    """What a user said of a video or a channel."""

    type: Literal[feedback.KINDS]  # type: ignore[valid-type]
    video_id: str | None
    channel_id: str | None
    time: int
    value: float | None


class HistoryAnswer(pydantic.BaseModel):
    """What a user did last, newest first."""

    user_id: str
    is_known: bool
    profile: dict[str, Any]
    blocked: Blocked
    watches: list[WatchedVideo]
    searches: list[Search]
    feedback: list[Feedback]


class UsersAnswer(pydantic.BaseModel):
    """Some users who have watched something."""

    users: list[str]


class ReleaseAnswer(pydantic.BaseModel):
    """The release that serves."""

    release_id: str
    created: str
    loaded_at: float = pydantic.Field(description="Unix seconds.")
    videos: int
    index: str = pydantic.Field(description="`exact`, `scann`, `exact_fallback` or `sharded`.")
    has_ranker: bool
    models: str = pydantic.Field(description="Where the models run.")
    previous: str | None
    forced: str
    metrics: dict[str, Any]
    gates: list[dict[str, Any]]


class Status(pydantic.BaseModel):
    """All is well."""

    status: Literal["ok"] = "ok"


class Problem(pydantic.BaseModel):
    """What went wrong (RFC 9457, application/problem+json)."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    request_id: str
    errors: list[dict[str, str]] | None = pydantic.Field(
        None, description="Of a request that breaks the schema: where, and which rule."
    )
