"""What must hold before a release is published: each gate has a rule, value, threshold, verdict.

A gate that lacks what it looks at (no metrics given, no release to compare with) is reported as
not checked, never as passed.
"""

import dataclasses
import json
import math
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from features import command
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
# The holdout moves with each day, so a metric may fall a little from one release to the next.
MAX_FALL = 0.2
_PAIRS = 500
# Main metric of each part, and whether more is better. Candidate generation has to bring the
# right videos into the hundreds that are ranked; their order, which MAP judges, is the ranker's.
MAIN_METRICS = {
    "candidate": (("recall_at_100", True),),
    "ranker": (("weighted_per_user_loss", False),),
}
_WORD = {True: "at least", False: "at most"}


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


def read_metrics(path: str | os.PathLike[str] | None) -> Mapping[str, Any]:
    """Returns the figures of models.evaluate's metrics.json, by key.

    Args:
        path: The file, or the directory that holds it; None gives no figures.
    """
    if path is None:
        return {}
    file = pathlib.Path(path)
    file = file / "metrics.json" if file.is_dir() else file
    try:
        figures = json.loads(file.read_text())["figures"]
    except FileNotFoundError:
        raise command.InputError(
            f"--metrics {file} does not exist. Make it with: python -m models.evaluate"
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise command.InputError(f"--metrics {file} has no figures: {error!r}.") from None
    return dict(figures)


def metrics(
    figures: Mapping[str, Any], previous: Mapping[str, Any], *, num_videos: int, has_ranker: bool
) -> list[Gate]:
    """Metrics against chance, against the baselines and against the release that serves now.

    Args:
        figures: Figures of the release to be published, see :func:`read_metrics`.
        previous: Figures of the release that serves now; empty where there is none.
        num_videos: Size of the catalogue; a random list of 100 has a recall of 100 / num_videos.
        has_ranker: Whether the release has one.
    """
    chance = {"candidate": min(1.0, 100 / num_videos), "ranker": 0.5}
    gates = []
    parts = ["candidate", "ranker"] if has_ranker else ["candidate"]
    if num_videos <= COLLAPSE_K:
        parts.remove("candidate")
        gates.append(
            Gate(
                rule="candidate recall_at_100",
                value=f"{num_videos} videos, so a list of 100 holds them all",
                threshold=f"more than {COLLAPSE_K} videos to tell",
                verdict=NOT_CHECKED,
            )
        )
    for part in parts:
        metric, more_is_better = MAIN_METRICS[part][0]
        key = f"{part}.model.all.{metric}"
        gates.append(_against_chance(figures, key, chance[part], more_is_better=more_is_better))
        gates.append(_against_previous(figures, previous, key, more_is_better=more_is_better))
        for metric, more_is_better in MAIN_METRICS[part]:
            gates.append(_against_baselines(figures, part, metric, more_is_better=more_is_better))
    return gates


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


def page_order(judged: Mapping[str, Any]) -> list[Gate]:
    """The learned order of pages is not worse than any of its parts alone.

    Args:
        judged: Figures of :class:`serving.batch.order_learning.Learned`; empty where nothing was
            learned.
    """
    best = judged.get("best_single", "the best part alone")
    gates = []
    for k, change in judged.get("difference", {}).items():
        value = judged["hits"][judged["chosen"]][k]
        low, high = _bounds(change)
        gates.append(
            decided(
                f"what is watched, in the first {k} of the page, {judged['chosen']} order, against "
                f"{best}",
                f"{value:.4f}; minus {best}: {change['value']:+.4f} [{low:+.4f}, {high:+.4f}]",
                "interval of the difference not wholly below 0",
                passed=high >= 0,
            )
        )
    return gates or [
        Gate(
            rule="order of pages against its best part alone",
            value=f"{judged.get('lessons', 0)} held-out watches of candidates",
            threshold=f"at least {judged.get('needed', 1)} to learn from",
            verdict=NOT_CHECKED,
        )
    ]


def _against_chance(
    figures: Mapping[str, Any], key: str, chance: float, *, more_is_better: bool
) -> Gate:
    """Fails where a random order is surely as good: also the better end of the interval is."""
    figure = figures.get(key, {})
    value = figure.get("value")
    rule, threshold = (
        f"{key} against chance",
        f"{_WORD[more_is_better]} {chance:.4f} within the interval",
    )
    if not _is_number(value):
        return Gate(rule=rule, value="no figure", threshold=threshold, verdict=NOT_CHECKED)
    low, high = _bounds(figure)
    passed = high >= chance if more_is_better else low <= chance
    return decided(rule, f"{value:.4f} [{low:.4f}, {high:.4f}]", threshold, passed=passed)


def _bounds(figure: Mapping[str, Any]) -> tuple[float, float]:
    """Returns the interval of a figure; its value twice where it has none."""
    low, high = (figure["value"] if figure.get(b) is None else figure[b] for b in ("low", "high"))
    return low, high


def _against_baselines(
    figures: Mapping[str, Any], part: str, metric: str, *, more_is_better: bool
) -> Gate:
    """Fails where the interval of model minus baseline lies wholly on the worse side."""
    start, end = f"{part}.model_minus_", f".all.{metric}"
    baselines = {
        key[len(start) : -len(end)]: figure
        for key, figure in figures.items()
        if key.startswith(start) and key.endswith(end) and _is_number(figure.get("value"))
    }
    rule = f"{part} {metric} against the best of {len(baselines)} baselines"
    sign = 1 if more_is_better else -1
    threshold = f"interval of the difference not wholly {'below' if more_is_better else 'above'} 0"
    model = figures.get(f"{part}.model{end}", {}).get("value")
    if not baselines or not _is_number(model):
        return Gate(rule=rule, value="no figures", threshold=threshold, verdict=NOT_CHECKED)
    # The smaller model minus baseline, the better the baseline.
    name = min(baselines, key=lambda baseline: sign * baselines[baseline]["value"])
    best = baselines[name]
    low, high = _bounds(best)
    return decided(
        rule,
        f"{model:.4f}; minus {name}: {best['value']:+.4f} [{low:+.4f}, {high:+.4f}]",
        threshold,
        passed=max(sign * low, sign * high) >= 0,
    )


def _against_previous(
    figures: Mapping[str, Any], previous: Mapping[str, Any], key: str, *, more_is_better: bool
) -> Gate:
    """Fails where a metric is surely far worse than that of the release that serves now."""
    value, old = (f.get(key, {}).get("value") for f in (figures, previous))
    rule = f"{key} against the release that serves now"
    if not (_is_number(value) and _is_number(old)):
        told = "no figure" if not _is_number(value) else f"{value:.4f}, nothing to compare"
        threshold = f"not worse by more than {MAX_FALL:.0%}"
        return Gate(rule=rule, value=told, threshold=threshold, verdict=NOT_CHECKED)
    factor = 1 - MAX_FALL if more_is_better else 1 + MAX_FALL
    bounds = (_bounds(figures[key]), _bounds(previous[key]))
    new_half, old_half = ((high - low) / 2 for low, high in bounds)
    # The two were measured on other days, so their errors add up.
    room = math.hypot(new_half, factor * old_half)
    limit = factor * old + (-room if more_is_better else room)
    return decided(
        rule,
        f"{value:.4f}, was {old:.4f}",
        f"{_WORD[more_is_better]} {limit:.4f}: {MAX_FALL:.0%} worse, and {room:.4f} by chance",
        passed=value >= limit if more_is_better else value <= limit,
    )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
