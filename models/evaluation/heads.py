"""The ranker's further objectives on holdout impressions: order, loss, calibration by decile."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from features import feedback, spec
from features.spec import ResolvedSpec, Side
from features.tensors import side_features
from models.evaluation import metrics
from models.evaluation.intervals import Sheet
from models.evaluation.ranking import BINS, Impressions, part_of

PART = "feedback"
_BATCH = 4096


@runtime_checkable
class Ranker(Protocol):
    """What is asked of a ranker with further objectives."""

    def feedback_probabilities(
        self, query_features: Mapping[str, Any], candidate_features: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        """Returns the probability of each kind of feedback, float32 [n], by name."""


def predict(
    model: Ranker, resolved: ResolvedSpec, impressions: Impressions
) -> dict[str, metrics.Floats]:
    """Returns the probability of each kind for every impression, float64 [n]."""
    query = side_features(resolved, spec.RANKER, Side.QUERY, impressions.arrays)
    candidate = side_features(resolved, spec.RANKER, Side.CANDIDATE, impressions.arrays)
    batches: dict[str, list[Any]] = {}
    for start in range(0, len(impressions), _BATCH):
        videos = part_of(candidate, start, _BATCH)
        given = model.feedback_probabilities(part_of(query, start, _BATCH), videos)
        for kind, values in given.items():
            batches.setdefault(kind, []).append(np.asarray(values, np.float64).reshape(-1))
    return {kind: np.concatenate(parts) for kind, parts in batches.items()}


def measure(
    probabilities: Mapping[str, metrics.Floats], impressions: Impressions, sheet: Sheet
) -> dict[str, list[str]]:
    """Writes the figures of every kind to ``sheet``.

    Keys are ``feedback.<kind>.all.{per_user_loss,auc,log_loss,expected_rate,actual_rate,
    expected_over_actual}`` and, by decile of the probability from 01, the lowest,
    ``feedback.<kind>.decile_<n>.<rate>``. The per-user loss is the share of pairs of a page, one
    impression with the feedback and one without, that are ordered wrongly.

    Returns:
        Names of the deciles that are not empty, by kind.
    """
    codes = impressions.user_codes
    num_users = int(codes.max(initial=-1)) + 1
    deciles = {}
    for kind, expected in probabilities.items():
        given = np.asarray(impressions.arrays[feedback.label(kind)], np.float64)
        key = f"{PART}.{kind}"
        by_user: dict[str, Any] = {"user_codes": codes, "num_users": num_users}
        figures = {
            "per_user_loss": metrics.pair_loss_by_user(
                expected, given, given, page_ids=impressions.pages, **by_user
            ),
            "auc": metrics.auc_by_user(expected, given, **by_user),
            "log_loss": metrics.sums_by_user(_log_loss(expected, given), codes, num_users),
        }
        for name, sums in figures.items():
            sheet.add(f"{key}.all.{name}", sums, n=len(given))
        bins = metrics.calibration_bins(expected, BINS)
        names = {f"decile_{one + 1:02d}": bins == one for one in np.unique(bins)}
        for name, mask in {"all": np.ones(len(given), bool), **names}.items():
            _calibrate(f"{key}.{name}", expected, given, codes, mask=mask, sheet=sheet)
        deciles[kind] = list(names)
    return deciles


def _log_loss(expected: metrics.Floats, given: metrics.Floats) -> metrics.Floats:
    chance = np.clip(expected, 1e-12, 1 - 1e-12)
    return np.asarray(-(given * np.log(chance) + (1 - given) * np.log1p(-chance)))


def _calibrate(
    key: str,
    expected: metrics.Floats,
    given: metrics.Floats,
    codes: metrics.Ints,
    *,
    mask: Any,
    sheet: Sheet,
) -> None:
    num_users, n = int(codes.max(initial=-1)) + 1, int(mask.sum())
    sums = {
        name: metrics.sums_by_user(values, codes, num_users, where=mask)
        for name, values in (("expected", expected), ("actual", given))
    }
    for name, mean in sums.items():
        sheet.add(f"{key}.{name}_rate", mean, n=n)
    ratio = metrics.UserSums(
        numerator=sums["expected"].numerator, denominator=sums["actual"].numerator
    )
    sheet.add(f"{key}.expected_over_actual", ratio, n=n)


METRICS: Sequence[str] = ("per_user_loss", "auc", "log_loss")
RATES: Sequence[str] = ("expected_rate", "actual_rate", "expected_over_actual")
