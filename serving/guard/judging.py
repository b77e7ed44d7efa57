"""Whether a new release exceeds its limits, by tests that may be asked at every look.

Six tests share the error: failed, empty and degraded requests against a limit
(:func:`models.evaluation.sequential.log_evidence_above`, exact), clicked pages and watched seconds
per page, these as they are known soon and later, against the release before
(:func:`models.evaluation.sequential.difference` over groups of users).
"""

import dataclasses
import math
from collections.abc import Sequence

from scipy import special

from models.evaluation import sequential
from serving.guard import tallies
from serving.guard.config import GuardConfig
from serving.guard.tallies import DEGRADED, EMPTY, FAILED, Tally

_TESTS = 6
_SURE = 0.95
_SOON, _LATE = tallies.PAGES, tallies.LATE_PAGES
# What came of pages: its words, its row, and the row of the pages.
_OUTCOMES = (
    ("clicked pages per page", tallies.CLICKED, _SOON),
    ("seconds watched per page", tallies.WATCHED, _SOON),
    ("seconds watched per page after some minutes", tallies.LATE_WATCHED, _LATE),
)
# Pages at which clicks and seconds are compared most sharply.
_PLANNED_PAGES = 2_000
_WORDS = {
    FAILED: "requests that failed",
    EMPTY: "pages without a video",
    DEGRADED: "pages on a lower rung",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Breach:
    """A limit that a release exceeds.

    Attributes:
        what: What was counted, in words.
        value: Share, or number per page, of the new release.
        before: Numbers of the release before; None where nothing is known of it.
        limit: What was allowed.
        pages: Pages of the new release that it is seen on.
    """

    what: str
    value: float
    before: float | None
    limit: float
    pages: float

    def __str__(self) -> str:
        before = "unknown" if self.before is None else f"{self.before:.4g}"
        return (
            f"{self.what}: {self.value:.4g} on {self.pages:.0f} pages, before {before}, "
            f"limit {self.limit:.4g}"
        )


def breaches(new: Tally, before: Tally, config: GuardConfig) -> list[Breach]:
    """Returns the limits that a release exceeds for sure; none where too little is known.

    Args:
        new: Counts of the new release since it serves.
        before: Counts of the release before, of the same time or the time before.
        config: Limits and error.
    """
    if new.requests < config.least_pages:
        return []
    limits = {
        FAILED: config.max_failed,
        EMPTY: config.max_empty,
        DEGRADED: config.max_degraded,
    }
    two = (new, before)
    seen = [_share(kind, limit, two, config) for kind, limit in limits.items()]
    seen += [_fall(what, rows, two, config) for what, *rows in _OUTCOMES]
    return [breach for breach in seen if breach is not None]


def _share(
    kind: str, allowed: float, two: tuple[Tally, Tally], config: GuardConfig
) -> Breach | None:
    """Tells of a share of the requests that is above what is allowed."""
    new, before = two
    limit, earlier = allowed, None
    if before.requests >= config.least_pages:
        hits, others = before.count(kind), before.requests - before.count(kind)
        earlier = hits / before.requests
        # What it may have been: a few pages do not tell a small share.
        highest = float(special.betaincinv(hits + 1, others, _SURE)) if others else 1.0
        limit = max(allowed, config.worse_than_before * highest)
    if limit >= 1:  # Nothing could be worse.
        return None
    hits = new.count(kind)
    evidence = sequential.log_evidence_above(hits, new.requests, limit)
    if evidence <= math.log(_TESTS / config.alpha):
        return None
    value = hits / new.requests
    return Breach(what=_WORDS[kind], value=value, before=earlier, limit=limit, pages=new.requests)


def _fall(
    what: str, rows: Sequence[int], two: tuple[Tally, Tally], config: GuardConfig
) -> Breach | None:
    """Tells of outcomes per page that fell by more than is allowed."""
    (came, pages), (came_before, pages_before) = (one.outcomes[rows] for one in two)
    if min(pages.sum(), pages_before.sum()) < config.least_outcomes:
        return None
    kept = 1 - config.max_fall
    change = sequential.difference(
        (came, pages),
        (kept * came_before, pages_before),
        pages=float(pages.sum()),
        planned_pages=_PLANNED_PAGES,
        alpha=config.alpha / _TESTS,
    )
    if not change.high < 0:
        return None
    earlier = float(came_before.sum() / pages_before.sum())
    return Breach(
        what=what,
        value=float(came.sum() / pages.sum()),
        before=earlier,
        limit=kept * earlier,
        pages=float(pages.sum()),
    )
