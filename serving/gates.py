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

from features import command
from serving import index_files
from serving.exact_search import Floats
from serving.index import Index, IndexReport
from serving.skew import MAX_ROWS, TOLERANCE, Skew

PASS, FAIL, NOT_CHECKED = "pass", "FAIL", "not checked"

# A slice of users may be searched a little worse than all of them, not much.
WORST_SLICE_SLACK = 0.05
# Lists of two users that agree more than this on average are one list for everybody.
MAX_OVERLAP = 0.95
# Videos that reach some top 100, as a share of all that could.
MIN_COVERAGE = 0.02
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
        rule: What must hold, in words.
        value: What was found.
        threshold: What is asked.
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


def _gate(rule: str, value: str, threshold: str, *, passed: bool) -> Gate:
    return Gate(rule=rule, value=value, threshold=threshold, verdict=PASS if passed else FAIL)


def index_recall(report: IndexReport, recall_target: float) -> list[Gate]:
    """The index finds what exact search finds, for all users and for each kind of them."""
    what = f"recall@{report.k} of the {report.kind} index on {report.num_queries} user queries"
    worst = recall_target - WORST_SLICE_SLACK
    name = min(report.slices, key=lambda s: report.slices[s], default="all users")
    return [
        _gate(
            what,
            f"{report.recall:.4f}",
            f"at least {recall_target:.4f}",
            passed=report.recall >= recall_target,
        ),
        _gate(
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
    return _gate(
        f"embeddings of {len(videos)} videos and {len(queries)} queries are finite and differ",
        f"{bad} not finite, largest deviation {spread:.3g}",
        "0 not finite, deviation above 0",
        passed=not bad and spread > 0,
    )


def collapse(index: Index, queries: Floats, *, seed: int = 0) -> list[Gate]:
    """Different users get different lists, and together they see enough of the catalogue.

    Args:
        index: To be published.
        queries: float32 [Q, D + 1], one per user where possible.
        seed: Of the pairs of users compared.
    """
    # In a small catalogue a list of 100 holds nearly everything, so the list is cut to a tenth.
    k = max(1, min(COLLAPSE_K, len(index) // 10))
    rows, _ = index.search(queries, k)
    reachable = min(len(index), rows.size)
    coverage = len(np.unique(rows)) / reachable
    rng = np.random.default_rng(seed)
    first, second = rng.integers(len(rows), size=(2, _PAIRS))
    different = first != second
    overlaps = [
        len(np.intersect1d(rows[a], rows[b])) / k
        for a, b in zip(first[different], second[different], strict=True)
    ]
    overlap = float(np.mean(overlaps)) if overlaps else 0.0
    return [
        _gate(
            f"share of the catalogue in the top {k} of {len(rows)} queries",
            f"{coverage:.4f} of {reachable} videos",
            f"at least {MIN_COVERAGE}",
            passed=coverage >= MIN_COVERAGE,
        ),
        _gate(
            f"mean overlap of the top {k} of two users",
            f"{overlap:.4f}",
            f"at most {MAX_OVERLAP}",
            passed=overlap <= MAX_OVERLAP,
        ),
    ]


def skew_proof(servable: str, skew: Skew) -> Gate:
    """The exported transform makes of raw examples what training read."""
    worst = f", worst feature {skew.feature}" if skew.feature else ""
    return _gate(
        f"the {servable}'s transform equals the training examples",
        f"{skew.rows} examples: {skew.different_ids} ids differ, {skew.missing} missing, "
        f"floats by {skew.largest_difference:.2g}{worst}",
        f"ids equal, floats to {TOLERANCE} on up to {2 * MAX_ROWS} examples",
        passed=skew.equal and skew.rows > 0,
    )


def trial(component: str, problem: str, *, found: str) -> Gate:
    """The written files load and answer.

    Args:
        component: Which one was tried.
        problem: What went wrong, "" for nothing.
        found: What was seen when nothing went wrong.
    """
    return _gate(
        f"the written {component} loads and answers",
        problem or found,
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
        figures: Of the release to be published, see :func:`read_metrics`.
        previous: Of the release that serves now; empty where there is none.
        num_videos: Size of the catalogue; a random list of 100 has a recall of 100 / num_videos.
        has_ranker: Whether the release has one.
    """
    chance = {"candidate": min(1.0, 100 / num_videos), "ranker": 0.5}
    gates = []
    for part in ("candidate", "ranker") if has_ranker else ("candidate",):
        metric, more_is_better = MAIN_METRICS[part][0]
        key = f"{part}.model.all.{metric}"
        gates.append(_against_chance(figures, key, chance[part], more_is_better=more_is_better))
        gates.append(_against_previous(figures, previous, key, more_is_better=more_is_better))
        for metric, more_is_better in MAIN_METRICS[part]:
            gates.append(_against_baselines(figures, part, metric, more_is_better=more_is_better))
    return gates


def _against_chance(
    figures: Mapping[str, Any], key: str, chance: float, *, more_is_better: bool
) -> Gate:
    """Fails where a random order is surely as good: also the better end of the interval is."""
    figure = figures.get(key, {})
    value = figure.get("value")
    rule, asked = (
        f"{key} against chance",
        f"{_WORD[more_is_better]} {chance:.4f} within the interval",
    )
    if not _is_number(value):
        return Gate(rule=rule, value="no figure", threshold=asked, verdict=NOT_CHECKED)
    low, high = _bounds(figure)
    passed = high >= chance if more_is_better else low <= chance
    return _gate(rule, f"{value:.4f} [{low:.4f}, {high:.4f}]", asked, passed=passed)


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
    asked = f"interval of the difference not wholly {'below' if more_is_better else 'above'} 0"
    model = figures.get(f"{part}.model{end}", {}).get("value")
    if not baselines or not _is_number(model):
        return Gate(rule=rule, value="no figures", threshold=asked, verdict=NOT_CHECKED)
    # The smaller model minus baseline, the better the baseline.
    name = min(baselines, key=lambda baseline: sign * baselines[baseline]["value"])
    best = baselines[name]
    low, high = _bounds(best)
    return _gate(
        rule,
        f"{model:.4f}; minus {name}: {best['value']:+.4f} [{low:+.4f}, {high:+.4f}]",
        asked,
        passed=max(sign * low, sign * high) >= 0,
    )


def _against_previous(
    figures: Mapping[str, Any], previous: Mapping[str, Any], key: str, *, more_is_better: bool
) -> Gate:
    """Fails where a metric is far worse than that of the release that serves now."""
    value, old = (f.get(key, {}).get("value") for f in (figures, previous))
    rule = f"{key} against the release that serves now"
    if not (_is_number(value) and _is_number(old)):
        return Gate(
            rule=rule,
            value="no figure" if not _is_number(value) else f"{value:.4f}, nothing to compare",
            threshold=f"not worse by more than {MAX_FALL:.0%}",
            verdict=NOT_CHECKED,
        )
    limit = old * (1 - MAX_FALL if more_is_better else 1 + MAX_FALL)
    return _gate(
        rule,
        f"{value:.4f}, was {old:.4f}",
        f"{_WORD[more_is_better]} {limit:.4f}",
        passed=value >= limit if more_is_better else value <= limit,
    )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
