"""What the console asks with, and what it is told beside :mod:`serving.insight`."""

from typing import Annotated, Any

import pydantic

from serving.insight.releases import Summary
from serving.release.rollbacks import Rollback
from serving.server import schema as http_schema

Version = Annotated[str, pydantic.StringConstraints(pattern=r"^[1-9][0-9]{0,31}$")]
Short = Annotated[str, pydantic.StringConstraints(min_length=1, max_length=100)]
_Whole = Annotated[int, pydantic.Field(ge=0, le=10_000)]


class Strict(pydantic.BaseModel):
    """Refuses keys that it does not know."""

    model_config = pydantic.ConfigDict(extra="forbid")


class RollbackRequest(Strict):
    """Makes another release serve."""

    seen: Version = pydantic.Field(
        description="The release that serves, as whoever decided saw it; another one is refused."
    )
    to: Version | None = pydantic.Field(
        None, description="The release to go to; without, the one that served before."
    )


class FunnelChanges(Strict):
    """Settings of the funnel that differ from those of the server."""

    retrieved: _Whole | None = pydantic.Field(default=None, ge=1)
    trending: _Whole | None = None
    per_source: _Whole | None = None
    per_channel: _Whole | None = pydantic.Field(default=None, ge=1)
    max_shown: _Whole | None = None


class Side(Strict):
    """One of two pages."""

    release_id: Version | None = pydantic.Field(
        default=None, description="Without, the one that serves."
    )
    settings: FunnelChanges = pydantic.Field(default_factory=FunnelChanges)


class PagesRequest(Strict):
    """Asks for the page of one viewer from two releases, or with two settings, side by side."""

    user_id: http_schema.Id
    k: int = pydantic.Field(20, ge=1, le=50)
    context: http_schema.Context = pydantic.Field(default_factory=http_schema.Context)
    one: Side = pydantic.Field(default_factory=Side)
    other: Side = pydantic.Field(default_factory=Side)


class PagesAnswer(pydantic.BaseModel):
    """Two pages; nothing of them is recorded."""

    one: http_schema.RecommendationsAnswer
    other: http_schema.RecommendationsAnswer
    both: int = pydantic.Field(description="Number of videos that are on both.")


class ReleasesAnswer(pydantic.BaseModel):
    """The releases of the serving root, newest first."""

    releases: list[Summary]
    can_roll_back: bool
    why_not: str = pydantic.Field(description="Why nobody can roll back from here, if so.")
    rollbacks: list[Rollback] = pydantic.Field(description="What was rolled back, newest first.")


class GuardAnswer(pydantic.BaseModel):
    """What the guard of releases asks for, and what was rolled back."""

    process: str = pydantic.Field(description="This process and its start: counts begin with it.")
    outcome_s: float = pydantic.Field(
        description="Age at which the outcome of a page is known, seconds."
    )
    releases: dict[str, dict[str, Any]] = pydantic.Field(
        description="Requests by what they came to, and outcomes by group of users, by release."
    )
    rollbacks: list[Rollback] = pydantic.Field(description="Newest first.")


class ArmAnswer(pydantic.BaseModel):
    """An arm of an experiment."""

    name: str
    share: float
    release_id: str | None
    settings: dict[str, Any]
    pages: float = pydantic.Field(description="Shown by this process since it started.")


class ExperimentAnswer(pydantic.BaseModel):
    """The experiment that runs on this server."""

    name: str | None = pydantic.Field(description="Null where none runs.")
    arms: list[ArmAnswer]


class QueryAnswer(pydantic.BaseModel):
    """What a query leads to."""

    query: str
    titles: list[http_schema.RecommendedVideo] = pydantic.Field(description="By their words.")
    near: list[dict[str, Any]] = pydantic.Field(
        description="Nearest to somebody of whom nothing but this search is known."
    )
