"""Configs of what is recommended offline."""

import dataclasses
from typing import Annotated

from features.config import Bounds, Config, Time
from serving.funnel.page import MAX_K, FunnelConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class ListConfig(Config):
    """What a query gets.

    Attributes:
        k: Number of videos for a query, on a page at most 100.
        exclude_watched: Whether what the user watched before is left out. Default: on pages, but
            not where a tenth of the watches of the logs are repeats; nowhere else.
    """

    k: Annotated[int, Bounds(ge=1)] = 100
    exclude_watched: bool | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class PastConfig:
    """Which past it is.

    Attributes:
        from_s: First moment to score, an ISO 8601 time, UTC; what came before it is known then.
            Default: all of the logs.
        until_s: First moment not to read, an ISO 8601 time, UTC. Default: all is read.
    """

    from_s: Annotated[int | None, Time()] = None
    until_s: Annotated[int | None, Time()] = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class BacktestConfig(ListConfig, PastConfig):
    """What to ask, of which past.

    Attributes:
        sample: Number of watches to ask for, spread evenly over the time; 0 for all. The others
            happen too.
        allow_learnt: Whether moments are asked for that the models of the release have learnt;
            the figures are then too good.
        workers: Number of processes that share the watches; 0 for as many as there are processors
            and it pays. The pages do not depend on it.
        funnel: Widths of the funnel; deadlines do not count offline.
    """

    k: Annotated[int, Bounds(ge=1, le=MAX_K)] = MAX_K
    sample: Annotated[int, Bounds(ge=0)] = 0
    allow_learnt: bool = False
    workers: Annotated[int, Bounds(ge=0)] = 0
    funnel: FunnelConfig = dataclasses.field(default_factory=FunnelConfig)
