"""What must hold before a release is published: each gate has a rule, value, threshold, verdict.

A gate that lacks what it looks at (no metrics given, no release to compare with) is reported as
not checked, never as passed.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from models.evaluation import spread
from serving.building.skew import MAX_ROWS, TOLERANCE, Skew
from serving.index import files as index_files
from serving.index.building import IndexReport
from serving.index.exact_search import Floats
from serving.index.index import Index

PASS, FAIL, NOT_CHECKED = "pass", "FAIL", "not checked"

# A slice of users may be searched a little worse than all of them, not much.
WORST_SLICE_SLACK = 0.05
# Lists of recommendations differ less than what people watch, since chance is not in them. They
# must hold this share of the videos, and differ from each other by this share of the difference
# (.09 at a healthy portal of the last hour), that lists drawn from the watches of those days do.
MIN_SPREAD = 0.1
MIN_DIFFERENCE = 0.02
# A list of k videos is a quarter of what is asked, so up to three lists for all are found.
_LISTS_IN_WATCHES = 4 / MIN_SPREAD
_SHORT_LIST = 10
# Of the way from lists at random to equal ones, for the model that serves and the measured one,
# among the videos that both know. On a news site, where a day makes most lists anew, about .3.
MIN_AGREEMENT = 0.1
_FEWEST_NEW = 20
_FEWEST_VIDEOS, _FEWEST_USERS = 2, 16
COLLAPSE_K = 100
_PAIRS = 500


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gate:
    """One check of a release.

    Attributes:
        rule: Rule that must hold, in words.
        value: Value that was found.
        threshold: Threshold that is asked for.
        verdict: ``pass``, ``FAIL`` or ``not checked``.
    """

    rule: str
    value: str
    threshold: str
    verdict: str

    def __str__(self) -> str:
        return f"{self.verdict:<11}  {self.rule}: {self.value} (asked: {self.threshold})"


def failed(gates: list[Gate]) -> list[Gate]:
    """Returns the gates that forbid publication."""
    return [gate for gate in gates if gate.verdict == FAIL]


def decided(rule: str, value: str, threshold: str, *, passed: bool) -> Gate:
    """Returns a gate that was checked."""
    return Gate(rule=rule, value=value, threshold=threshold, verdict=PASS if passed else FAIL)


def index_recall(report: IndexReport, recall_target: float) -> list[Gate]:
    """The index finds what exact search finds, for all users and for each kind of them."""
    what = f"recall@{report.k} of the {report.kind} index on {report.num_queries} user queries"
    worst = recall_target - WORST_SLICE_SLACK
    name = min(report.slices, key=lambda s: report.slices[s], default="all users")
    return [
        decided(
            what,
            f"{report.recall:.4f}",
            f"at least {recall_target:.4f}",
            passed=report.recall >= recall_target,
        ),
        decided(
            f"the same, worst kind of user ({name})",
            f"{report.worst_slice_recall:.4f}",
            f"at least {worst:.4f}",
            passed=report.worst_slice_recall >= worst,
        ),
    ]


def finite_embeddings(videos: Floats, queries: Floats) -> Gate:
    """No embedding holds NaN or infinity, and not all videos are the same."""
    bad = index_files.num_not_finite(videos) + index_files.num_not_finite(queries)
    spread = float(videos.std(axis=0).max()) if len(videos) > 1 else 1.0
    return decided(
        f"embeddings of {len(videos)} videos and {len(queries)} queries are finite and differ",
        f"{bad} not finite, largest deviation {spread:.3g}",
        "0 not finite, deviation above 0",
        passed=not bad and spread > 0,
    )


def collapse(
    index: Index, queries: Floats, *, watched: npt.NDArray[np.int64], seed: int = 0
) -> list[Gate]:
    """Lists differ from user to user, and are spread over videos, as far as this site's do.

    A list for everybody is wrong anywhere, but how much lists must differ is the site's own: they
    stand beside lists drawn from what was watched on the same days. Lists are as long as leaves a
    collapsed model far below that, 100 at most: a site with few videos, or one whose watches fall
    on few of them, is judged by the first ten or so.

    Args:
        index: Index to be published.
        queries: float32 [Q, D + 1], each of another user who has watched something.
        watched: int64 [N], watches of each video on the days of the queries.
        seed: Seed of draws and pairs.
    """
    number = spread.effective_number(watched)
    some = int((watched > 0).sum())
    short = min(_SHORT_LIST, max(1, min(some, len(index)) // 2))
    k = int(np.clip(number / _LISTS_IN_WATCHES, short, min(COLLAPSE_K, max(short, some))))
    spread_rule = f"effective number of videos in the top {k} of {len(queries)} users"
    overlap_rule = f"mean overlap of the top {k} of two users"
    reason = ""
    if min(len(index), some) < _FEWEST_VIDEOS:
        reason = f"{len(index)} videos, {some} of them watched"
    elif len(queries) < _FEWEST_USERS:
        reason = f"{len(queries)} held-out users who had watched anything"
    if reason:
        threshold = f"at least {_FEWEST_VIDEOS} videos and {_FEWEST_USERS} users to tell"
        return [
            Gate(rule=rule, value=reason, threshold=threshold, verdict=NOT_CHECKED)
            for rule in (spread_rule, overlap_rule)
        ]
    lists = index.search(queries, k)[0].astype(np.int64)
    drawn = spread.drawn(watched, lists=len(queries), size=k, seed=seed)
    value, usual = spread.of_lists(lists), spread.of_lists(drawn)
    same = spread.overlap(lists, pairs=_PAIRS, seed=seed)
    usually_same = spread.overlap(drawn, pairs=_PAIRS, seed=seed)
    most = 1 - MIN_DIFFERENCE * (1 - usually_same)
    return [
        decided(
            spread_rule,
            f"{value:.1f}; of lists drawn from the watches of that time {usual:.1f}",
            f"at least {MIN_SPREAD * usual:.1f}",
            passed=value >= MIN_SPREAD * usual,
        ),
        decided(
            overlap_rule,
            f"{same:.4f}; of lists drawn from the watches of that time {usually_same:.4f}",
            f"at most {most:.4f}",
            passed=same <= most,
        ),
    ]


def skew_proof(servable: str, skew: Skew) -> Gate:
    """The exported transform makes of raw examples what training read."""
    worst = f", worst feature {skew.feature}" if skew.feature else ""
    return decided(
        f"the {servable}'s transform equals the training examples",
        f"{skew.rows} examples: {skew.different_ids} ids differ, {skew.missing} missing, "
        f"floats by {skew.largest_difference:.2g}{worst}",
        f"ids equal, floats to {TOLERANCE} on up to {2 * MAX_ROWS} examples",
        passed=skew.equal and skew.rows > 0,
    )


def trial(component: str, problem: str, *, account: str) -> Gate:
    """The written files load and answer.

    Args:
        component: Name of the component that was tried.
        problem: Account of what went wrong, "" for nothing.
        account: Account of what was seen when nothing went wrong.
    """
    return decided(
        f"the written {component} loads and answers",
        problem or account,
        "finite answers that fit together",
        passed=not problem,
    )


def refit(step: Mapping[str, Any]) -> list[Gate]:
    """The model that serves is still the one that was measured, and knows the newest.

    Args:
        step: Record of models.refit; empty where the model was not refitted.
    """
    checks = step.get("checks", {})
    rules = (
        "lists of the served model against the measured one's, of videos that both know",
        "served model, recall@100 of watches of videos that the measured one does not know",
    )
    gates = []
    overlap = checks.get("overlap_at_100")
    listed = int(checks.get("listed", 0))
    if overlap is not None and listed >= 2 * COLLAPSE_K:
        at_random = COLLAPSE_K / listed
        least = at_random + MIN_AGREEMENT * (1 - at_random)
        value = f"overlap {overlap:.4f}, at random {at_random:.4f}"
        gates.append(decided(rules[0], value, f"at least {least:.4f}", passed=overlap >= least))
    else:
        value = f"{listed} videos" if checks else "not refitted"
        threshold = f"{2 * COLLAPSE_K} videos to tell"
        gates.append(Gate(rule=rules[0], value=value, threshold=threshold, verdict=NOT_CHECKED))
    new = checks.get("new", {})
    count, recall = int(new.get("watches", 0)), new.get("final")
    if count >= _FEWEST_NEW and recall is not None:
        chance = min(1.0, COLLAPSE_K / checks["videos"])
        passed = recall > chance or chance == 1.0
        value = f"{recall:.4f} of {count}, chance {chance:.4f}"
        gates.append(decided(rules[1], value, "above chance", passed=passed))
    else:
        value, threshold = f"{count} such watches", f"{_FEWEST_NEW} to tell"
        gates.append(Gate(rule=rules[1], value=value, threshold=threshold, verdict=NOT_CHECKED))
    return gates
