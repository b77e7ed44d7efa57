"""How much worse a new release may be under live traffic: plain values."""

import dataclasses
from typing import Annotated

from features.config import Bounds, Config
from features.durations import HOUR_S, MINUTE_S

_Share = Annotated[float, Bounds(gt=0, lt=1)]
_Seconds = Annotated[float, Bounds(gt=0)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class GuardConfig(Config):
    """Limits of a new release, and how sure one must be that they are exceeded.

    Attributes:
        max_failed: Share of requests that may fail (5xx).
        max_empty: Share of pages that may have no video.
        max_degraded: Share of pages that may stand on a lower rung because a part failed.
        worse_than_before: Times by which each of these shares may exceed that of the release
            before, where that is more.
        max_fall: Share of the clicks per page, and of the watched seconds per page, that may be
            lost against the release before.
        alpha: Probability of a rollback of a release that keeps to its limits, all tests and looks
            of its probation together.
        probation_s: Time after its publication for which a release is watched, seconds.
        before_s: Time before the publication whose pages stand for the release before, seconds,
            where it does not serve on as an arm of an experiment.
        least_pages: Pages of the new release before anything is decided.
        least_outcomes: Pages of each of the two releases whose outcome must be known before clicks
            and watched seconds are compared.
        period_s: Seconds between two looks.
    """

    max_failed: _Share = 0.01
    max_empty: _Share = 0.02
    max_degraded: _Share = 0.1
    worse_than_before: Annotated[float, Bounds(ge=1)] = 2.0
    max_fall: _Share = 0.3
    alpha: _Share = 0.001
    probation_s: _Seconds = float(HOUR_S)
    before_s: _Seconds = 30.0 * MINUTE_S
    least_pages: Annotated[int, Bounds(ge=1)] = 20
    least_outcomes: Annotated[int, Bounds(ge=100)] = 200
    period_s: _Seconds = 2.0
