"""Settings of simulated people who visit a real server."""

import dataclasses
from typing import Annotated

from features.config import Bounds, check
from features.durations import HOUR_S


@dataclasses.dataclass(frozen=True, kw_only=True)
class LiveConfig:
    """How people come, come back and stop coming, and how fast their time runs.

    Attributes:
        visits_per_day: Visits of an average user who is neither content nor not, per day.
        memory: Weight of what a user thought of the site before a visit against that visit, in
            [0, 1).
        empty_page: What a page of which nothing is clicked is worth to its user, in [-1, 0]; a
            watch is worth its satisfaction, in (-1, 1).
        attachment: How much more content users come: the factor on their visits is
            exp(attachment x contentment), contentment in (-1, 1).
        loss: Chance that a user who is utterly discontent stops coming after a visit; one who is
            utterly content never does, and in between it is in proportion.
        recovery: Chance that a user who stopped coming is back on a day.
        tick_s: Seconds of simulated time that pass at once: all who act within them are asked for
            at their beginning.
        workers: Number of requests under way at a time. With 1, the same seed and releases give the
            same course.
        speedup: Simulated seconds that pass in a second; 0 for as many as the server keeps up with.
        oracle_pages: Part of the home pages that are compared with the best that could have been
            shown, in [0, 1].
    """

    visits_per_day: Annotated[float, Bounds(gt=0, le=50)] = 1.5
    memory: Annotated[float, Bounds(ge=0, lt=1)] = 0.7
    empty_page: Annotated[float, Bounds(ge=-1, le=0)] = -0.3
    attachment: Annotated[float, Bounds(ge=0, le=5)] = 1.0
    loss: Annotated[float, Bounds(ge=0, le=1)] = 0.05
    recovery: Annotated[float, Bounds(ge=0, le=1)] = 0.05
    tick_s: Annotated[int, Bounds(ge=1, le=HOUR_S)] = 60
    workers: Annotated[int, Bounds(ge=1, le=64)] = 1
    speedup: Annotated[float, Bounds(ge=0)] = 0.0
    oracle_pages: Annotated[float, Bounds(ge=0, le=1)] = 0.25

    def __post_init__(self) -> None:
        check(self)
