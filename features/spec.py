"""The feature spec: every feature is declared here once, and everything else follows from it.

Vocabularies, quantiles, model inputs, signatures and statistics are derived from the declarations.
A raw column of any table becomes a feature by one entry: in :data:`FEATURES`, or in a
``features.json`` beside the logs of the data set that alone has it (:mod:`features.declarations`).

Where a raw value comes from is its ``source``, ``<origin>.<column>``:

==============  ====================================================================================
users.X         column X of the users table
videos.X        column X of the videos table
context.X       the request: ``device`` and ``surface`` as logged; ``hour`` (0-23) and ``weekday``
                (0 is Monday) of its time, UTC; ``example_age_s`` (candidate model only)
history.X       what the user did before, see :mod:`features.as_of.history`; of a vector X of videos
                ``watched.X``, its mean over the last watches, and ``last.X``, that of the last one
statistics.X    the video's own up to the day before (:mod:`features.as_of.statistics`); ``live.X``:
                of the last minutes (:mod:`features.as_of.live_statistics`)
nomination.X    how OUR candidate generation found the video: ``candidate_sources``,
                ``retrieval_score``; only of impressions with a ``release_id``
==============  ====================================================================================

Source: Covington et al., RecSys 2016, sections 3.2, 3.3 and 4.1.
"""

import dataclasses
import enum
import functools
import json
import math
import os
import pathlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from features import command, feedback, files
from features.durations import DAY_S, HOUR_S
from features.id_spaces import SPACES, IdSpace

CANDIDATE, RANKER = "candidate", "ranker"
MODELS = (CANDIDATE, RANKER)
ORIGINS = ("users", "videos", "context", "history", "statistics", "live", "nomination")

# "a maximum bag size of 50 recent watches and 50 recent searches", section 3.5
WATCH_BAG = SEARCH_BAG = 50
SEARCH_TOKENS = 200  # unigrams and bigrams that 50 searches are cut to
TOPICS = 8

MEASURES = ("impressions", "clicks", "watches", "watch_time_s")
KINDS_OF_EVENT = ("impression", "click", "watch")
WINDOWS_S: Mapping[str, int | None] = {"1h": HOUR_S, "1d": DAY_S, "7d": 7 * DAY_S, "all": None}
STATISTICS_WINDOWS_DAYS: Mapping[str, int | None] = {"1d": 1, "7d": 7, "all": None}
LIVE_WINDOWS_S: Mapping[str, int] = {"10m": 600, "1h": HOUR_S, "6h": 6 * HOUR_S, "1d": DAY_S}


class Kind(str, enum.Enum):
    """How a raw value enters a model (section 4.1)."""

    UNIVALENT = "univalent"
    MULTIVALENT = "multivalent"
    CONTINUOUS = "continuous"
    BINARY = "binary"
    VECTOR = "vector"


NUMERIC = (Kind.CONTINUOUS, Kind.BINARY, Kind.VECTOR)  # Floats, in one column of each per side.


class Side(str, enum.Enum):
    """Whether a feature describes the user and context, or the video."""

    QUERY = "query"
    CANDIDATE = "candidate"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Feature:
    """One feature, under one name from raw column to model input.

    Attributes:
        name: Column of raw and transformed examples, input of the model and of its signature.
        kind: Kind of encoding.
        side: Side of the model: query (computed once per request) or candidate (per video).
        models: The models that read it: ``candidate``, ``ranker`` or both.
        source: Origin of the raw value, ``<origin>.<column>``; see the module.
        space: ID space, categorical kinds only. Default: ``category``.
        max_length: Greatest number of values of a multivalent feature, its first ones.
        width: Number of entries of a vector feature; 0 for others.
        missing: Value in place of a missing continuous or binary one, before quantiles are taken.
    """

    name: str
    kind: Kind
    side: Side
    models: tuple[str, ...]
    source: str
    space: str = ""
    max_length: int = 1
    width: int = 0
    missing: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "kind", Kind(self.kind))
        object.__setattr__(self, "side", Side(self.side))
        object.__setattr__(self, "models", tuple(self.models))
        origin, _, column = self.source.partition(".")
        if origin not in ORIGINS or not column:
            raise ValueError(
                f"source of feature {self.name!r} must be <origin>.<column> with an origin out of "
                f"{ORIGINS}, got {self.source!r}."
            )
        if not self.models or not set(self.models) <= set(MODELS):
            raise ValueError(f"models of {self.name!r} must be out of {MODELS}, got {self.models}.")
        if self.categorical and not self.space:
            object.__setattr__(self, "space", "category")
        if not self.categorical and self.space:
            raise ValueError(f"{self.name!r} is {self.kind.value}; only categoricals have a space.")
        if self.kind is Kind.MULTIVALENT and self.max_length < 2:
            object.__setattr__(self, "max_length", TOPICS)
        if (self.kind is Kind.VECTOR) is not (self.width > 0):
            raise ValueError(f"{self.name!r} is {self.kind.value}; vectors alone have a width.")
        if not math.isfinite(self.missing):
            raise ValueError(f"missing of {self.name!r} must be finite, got {self.missing}.")

    @functools.cached_property
    def categorical(self) -> bool:
        """Whether the values are ids of a vocabulary."""
        return self.kind in {Kind.UNIVALENT, Kind.MULTIVALENT}

    @functools.cached_property
    def entries(self) -> tuple[str, ...]:
        """Names of its entries in the column of its kind: its own, or one for each of a vector."""
        if self.kind is not Kind.VECTOR:
            return (self.name,)
        return tuple(f"{self.name}[{place}]" for place in range(self.width))

    @functools.cached_property
    def origin(self) -> str:
        """The part of ``source`` before the point."""
        return self.source.partition(".")[0]

    @functools.cached_property
    def static(self) -> bool:
        """Whether it depends on the video alone: the same in all its impressions."""
        return self.origin == "videos" and self.column != "age_s"

    @functools.cached_property
    def of_watched(self) -> str:
        """The vector of videos that it averages over watches; "" for others."""
        return self.column.partition(".")[2] if self.origin == "history" else ""

    @functools.cached_property
    def column(self) -> str:
        """The part of ``source`` after the point."""
        return self.source.partition(".")[2]


def _query(name: str, kind: Kind, source: str, **kwargs: Any) -> Feature:
    kwargs.setdefault("models", MODELS)
    return Feature(name=name, kind=kind, side=Side.QUERY, source=source, **kwargs)


def _candidate(name: str, kind: Kind, source: str, **kwargs: Any) -> Feature:
    kwargs.setdefault("models", MODELS)
    return Feature(name=name, kind=kind, side=Side.CANDIDATE, source=source, **kwargs)


@functools.cache
def grid_names(entity: str) -> tuple[str, ...]:
    """Names of the history grid's columns for ``any``, ``video``, ``channel`` or ``topic``."""
    counts = [f"user_{entity}_{m}_{w}" for m in MEASURES for w in WINDOWS_S]
    return (*counts, *(f"user_{entity}_seconds_since_{kind}" for kind in KINDS_OF_EVENT))


@functools.cache
def statistics_names() -> tuple[str, ...]:
    """Names of the video statistics' columns."""
    return tuple(
        f"video_{name}_{window}"
        for name in (*MEASURES, "click_rate", "watch_time_per_impression_s")
        for window in STATISTICS_WINDOWS_DAYS
    )


@functools.cache
def live_names() -> tuple[str, ...]:
    """Names of the live statistics' columns."""
    names = ("watches", "impressions", "watches_per_impression", "share_of_watches")
    return tuple(f"video_live_{name}_{window}" for name in names for window in LIVE_WINDOWS_S)


_MULTI, _UNI, _CONT, _BIN = Kind.MULTIVALENT, Kind.UNIVALENT, Kind.CONTINUOUS, Kind.BINARY
_RANKER = (RANKER,)

FEATURES: tuple[Feature, ...] = (
    # What the user watched and searched for, order discarded (sections 3.2 to 3.4).
    _query("watched_video_ids", _MULTI, "history.watched_video_ids", space="video", max_length=50),
    _query("recent_video_ids", _MULTI, "history.watched_video_ids", space="video", max_length=5),
    _query(
        "watched_channel_ids", _MULTI, "history.watched_channel_ids", space="channel", max_length=50
    ),
    _query("watched_topics", _MULTI, "history.watched_topics", space="topic", max_length=100),
    _query(
        "search_tokens",
        _MULTI,
        "history.search_tokens",
        space="search_token",
        max_length=SEARCH_TOKENS,
    ),
    _query("last_video_id", _UNI, "history.last_video_id", space="video", models=_RANKER),
    _query("last_channel_id", _UNI, "history.last_channel_id", space="channel", models=_RANKER),
    _query(
        "last_search_tokens",
        _MULTI,
        "history.last_search_tokens",
        space="search_token",
        max_length=8,
        models=_RANKER,
    ),
    # Demographics and context (section 3.3).
    _query("region", _UNI, "users.region"),
    _query("gender", _UNI, "users.gender"),
    _query("user_language", _UNI, "users.language"),
    _query("signed_in", _BIN, "users.signed_in"),
    _query("age", _CONT, "users.age"),
    _query("device", _UNI, "context.device"),
    _query("hour", _UNI, "context.hour"),
    _query("weekday", _UNI, "context.weekday"),
    _query("surface", _UNI, "context.surface", models=_RANKER),
    _query("example_age_s", _CONT, "context.example_age_s", models=(CANDIDATE,)),
    *(_query(name, _CONT, f"history.{name}", models=_RANKER) for name in grid_names("any")),
    _query("user_searches_1d", _CONT, "history.user_searches_1d", models=_RANKER),
    *(_query(name, _CONT, f"history.{name}", models=_RANKER) for name in feedback.names("any")),
    # The video.
    _candidate("video_id", _UNI, "videos.video_id", space="video"),
    _candidate("channel_id", _UNI, "videos.channel_id", space="channel"),
    _candidate("topics", _MULTI, "videos.topics", space="topic", max_length=TOPICS),
    _candidate("video_language", _UNI, "videos.language"),
    _candidate("duration_s", _CONT, "videos.duration_s"),
    _candidate("video_age_s", _CONT, "videos.age_s", models=_RANKER),
    *(_candidate(name, _CONT, f"statistics.{name}", models=_RANKER) for name in statistics_names()),
    *(_candidate(name, _CONT, f"live.{name}", models=_RANKER) for name in live_names()),
    # The user's past with this video, its channel and its topics; churn is in ``video``.
    *(
        _candidate(name, _CONT, f"history.{name}", models=_RANKER)
        for entity in ("video", "channel", "topic")
        for name in (*grid_names(entity), *feedback.names(entity))
    ),
    # What candidate generation knew.
    _candidate(
        "candidate_sources", _MULTI, "nomination.candidate_sources", max_length=8, models=_RANKER
    ),
    _candidate("retrieval_score", _CONT, "nomination.retrieval_score", models=_RANKER),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResolvedSpec:
    """The features that one data set really has, in the order of their vectors.

    Attributes:
        features: All features of the data set.
        spaces: ID spaces, as far as they are not the defaults.
        history_from_s: Unix seconds; users' history before it counts neither where models learn
            nor where they serve.
        feedback: Kinds of feedback that the impressions of the logs got, in the order of
            :data:`features.feedback.KINDS`: objectives of the ranker beside watch time.
    """

    features: tuple[Feature, ...]
    spaces: tuple[IdSpace, ...] = SPACES
    history_from_s: int = 0
    feedback: tuple[str, ...] = ()

    def of(
        self, model: str, side: Side | None = None, kind: Kind | None = None
    ) -> tuple[Feature, ...]:
        """Returns the features that ``model`` reads, in order; one side or kind if given."""
        chosen = self._chosen.get((model, side, kind))
        if chosen is None:
            chosen = self._chosen[model, side, kind] = tuple(
                f
                for f in self.features
                if model in f.models
                and (side is None or f.side is side)
                and (kind is None or f.kind is kind)
            )
        return chosen

    @functools.cached_property
    def _chosen(self) -> dict[tuple[str, Side | None, Kind | None], tuple[Feature, ...]]:
        """What was asked before: a request of the funnel asks dozens of times."""
        return {}

    def vector_names(self, model: str, side: Side, kind: Kind) -> tuple[str, ...]:
        """Returns the names of the entries along the last axis of ``<side>_<kind>``."""
        return tuple(name for f in self.of(model, side, kind) for name in f.entries)

    def space(self, name: str) -> IdSpace:
        """Returns the ID space of that name; spaces that are not declared have the defaults."""
        return next((s for s in self.spaces if s.name == name), IdSpace(name=name))

    def spaces_of(self, model: str) -> tuple[IdSpace, ...]:
        """Returns the ID spaces that ``model`` reads."""
        names = dict.fromkeys(f.space for f in self.of(model) if f.categorical)
        return tuple(self.space(name) for name in names)

    def all_spaces(self) -> tuple[IdSpace, ...]:
        """Returns the ID spaces that any feature has."""
        names = dict.fromkeys(f.space for f in self.features if f.categorical)
        return tuple(self.space(name) for name in names)

    def to_json(self) -> str:
        """Returns the JSON that :meth:`load` reads."""
        spec: dict[str, Any] = {
            "features": [
                {k: v for k, v in dataclasses.asdict(f).items() if v or k != "width"}
                for f in self.features  # Earlier versions know of no width.
            ],
            "spaces": [dataclasses.asdict(s) for s in self.spaces],
            "history_from_s": self.history_from_s,
            **({"feedback": self.feedback} if self.feedback else {}),
        }
        return json.dumps(spec, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "ResolvedSpec":
        """Inverse of :meth:`to_json`."""
        spec = json.loads(text)
        return cls(
            features=tuple(Feature(**f) for f in spec["features"]),
            spaces=tuple(IdSpace(**s) for s in spec["spaces"]),
            history_from_s=spec.get("history_from_s", 0),  # Earlier versions have none.
            feedback=tuple(spec.get("feedback", ())),
        )

    def save(self, directory: str | os.PathLike[str]) -> None:
        """Writes ``spec.json`` in ``directory``."""
        files.atomic_write(pathlib.Path(directory) / "spec.json", self.to_json())

    @classmethod
    def load(cls, directory: str | os.PathLike[str]) -> "ResolvedSpec":
        """Reads ``spec.json`` of an examples, model or release directory."""
        path = pathlib.Path(directory) / "spec.json"
        if not path.is_file():
            raise command.InputError(f"{path} does not exist; pipeline.preprocess writes it.")
        return cls.from_json(path.read_text())


def vector_column(side: Side, kind: Kind) -> str:
    """Name of the column that holds all features of a side of a kind of :data:`NUMERIC`."""
    return f"{side.value}_{kind.value}"


def resolve(columns: Mapping[str, Iterable[str]], extra: Sequence[Feature] = ()) -> ResolvedSpec:
    """Keeps the features whose raw column the logs have.

    Args:
        columns: Table name to its columns. ``searches`` and ``impressions`` are absent where the
            logs have no such table; ``context`` names the request columns that are logged.
        extra: Declarations of this data set only.

    Raises:
        command.InputError: A name is declared twice, or an extra feature has no column.
    """
    have = {table: set(names) for table, names in columns.items()}
    declared: dict[str, Feature] = {}
    for feature in (*FEATURES, *extra):
        if feature.name in declared:
            raise command.InputError(f"feature {feature.name!r} is declared twice; rename one.")
        declared[feature.name] = feature
    kept = tuple(f for f in declared.values() if is_available(f, have))
    for feature in extra:
        if feature not in kept:
            raise command.InputError(
                f"feature {feature.name!r} reads {feature.source}, but the logs have no such "
                f"column; {feature.origin} has {sorted(have.get(feature.origin, ()))}."
            )
    return ResolvedSpec(features=kept)


def is_available(feature: Feature, have: Mapping[str, Collection[str]]) -> bool:
    """Returns whether logs with these columns, by table, have what a feature is made of."""
    column = feature.column
    if feature.origin in {"users", "videos"}:
        return column in have.get(feature.origin, ()) or feature.source == "videos.age_s"
    if feature.origin == "context":
        return column in {*have["context"], "hour", "weekday", "example_age_s"}
    if feature.origin == "nomination":
        return {column, "release_id"} <= {*have.get("impressions", ())}
    if feature.of_watched:
        return feature.of_watched in have["videos"]
    if feature.origin == "history" and "search" in column:
        return "searches" in have
    if feature.origin == "history" and feedback.kind_of(column) and "feedback" not in have:
        return False
    if "_channel_" in column:
        return "channel_id" in have["videos"]
    if column == "watched_topics" or "_topic_" in column:
        return "topics" in have["videos"]
    return True
