"""The ranker measured on holdout impressions: who stands above whom on a page, and by how much.

Figures: the paper's weighted, per-user loss; AUC of the click; XAUC and mean absolute error of the
watch time, where an impression without a click was watched 0 seconds; calibration of the
expected watch time by decile, duration and position.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from features import spec, tensors
from features.as_of import pages as page_rules
from features.screen import progress
from features.spec import Kind, ResolvedSpec, Side
from models import config, losses
from models.baselines.ranking import Scores
from models.evaluation import metrics
from models.evaluation.intervals import Sheet
from models.evaluation.retrieval import MODEL

Array = npt.NDArray[Any]
BINS = 10
DURATION = "duration_s"
DURATION_BINS = 5
MOST_POSITIONS = 10  # Later ones count with the tenth.
_MAX_REGIONS = 5
_HEAVY_WATCHES = 10


class Ranker(Protocol):
    """What evaluation needs of the ranker."""

    def logits(
        self, query_features: Mapping[str, Any], candidate_features: Mapping[str, Any]
    ) -> Any:
        """Returns float32 [n], which orders impressions."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Impressions:
    """Holdout impressions.

    Attributes:
        arrays: Transformed examples by name, n rows, as :func:`features.dataset.load` gives them.
        user_codes: User of each impression, int64 [n] in [0, U).
        pages: int64 [n], a code per user and page; without page ids pages end at pauses.
        pages_are_inferred: Whether any page was inferred from pauses.
    """

    arrays: Mapping[str, Array]
    user_codes: metrics.Ints
    pages: metrics.Ints
    pages_are_inferred: bool

    @classmethod
    def of(cls, arrays: Mapping[str, Array]) -> "Impressions":
        """Numbers users and pages; pages without an id end at pauses of 30 minutes."""
        page_ids = arrays["page_id"].astype("U").astype(object)
        missing = page_ids == ""
        gaps = pages_by_gap(arrays["user_id"], arrays["time"])
        page_ids[missing] = [f"\0{gap}" for gap in gaps[missing]]
        users, pages = metrics.codes_of(arrays["user_id"]), metrics.codes_of(page_ids)
        return cls(
            arrays=arrays,
            user_codes=users,
            pages=metrics.codes_of(users * (pages.max(initial=0) + 1) + pages),
            pages_are_inferred=bool(missing.any()),
        )

    def __len__(self) -> int:
        return len(self.user_codes)

    @property
    def clicked(self) -> npt.NDArray[np.bool_]:
        """bool [n]."""
        return np.asarray(self.arrays["clicked"]) > 0

    @property
    def watch_time_s(self) -> metrics.Floats:
        """float64 [n], seconds; 0 where there was no click."""
        return np.where(self.clicked, self.arrays["watch_time_s"].astype(np.float64), 0.0)


def pages_by_gap(user_ids: npt.ArrayLike, times: npt.ArrayLike) -> metrics.Ints:
    """Returns int64 [n] page codes for a log without pages, see :mod:`features.as_of.pages`.

    Args:
        user_ids: User of each row, [n] ints, strings or bytes; a page never spans users.
        times: Time of each row, int64 [n], Unix seconds.
    """
    users, seconds = metrics.codes_of(user_ids), np.asarray(times, np.int64)
    order = np.lexsort((seconds, users))
    codes = np.empty(len(order), np.int64)
    codes[order] = np.cumsum(page_rules.begins(users[order], seconds[order])) - 1
    return codes


def score_with_ranker(
    model: Ranker, resolved: ResolvedSpec, impressions: Impressions, batch: int = 4096
) -> Scores:
    """Returns the ranker's logits and expected watch times for every impression."""
    query = tensors.side_features(resolved, spec.RANKER, Side.QUERY, impressions.arrays)
    candidate = tensors.side_features(resolved, spec.RANKER, Side.CANDIDATE, impressions.arrays)
    logits = []
    progress.at("ranking with the model", total=len(impressions), unit="impressions")
    for start in range(0, len(impressions), batch):
        parts = (part_of(side, start, batch) for side in (query, candidate))
        logits.append(np.asarray(model.logits(*parts)).reshape(-1))
        progress.add(len(logits[-1]))
    scores = np.concatenate(logits)
    expected = None
    if _predicts_seconds(model):
        expected = np.asarray(losses.expected_watch_time_s(scores), np.float64)
    return Scores(name=MODEL, scores=scores.astype(np.float64), expected_watch_time_s=expected)


def _predicts_seconds(model: Ranker) -> bool:
    """Whether exp(logit) is a watch time; trained on plain clicks it is the odds of a click."""
    return getattr(getattr(model, "config", None), "loss", "") != config.LOGISTIC


def part_of(features: Mapping[str, Array], start: int, size: int) -> dict[str, Array]:
    """Returns some rows of features by name."""
    return {name: values[start : start + size] for name, values in features.items()}


def slices(
    resolved: ResolvedSpec, impressions: Impressions, categories: Sequence[str]
) -> dict[str, npt.NDArray[np.bool_]]:
    """Returns bool [n] by slice name, ``all`` first; empty slices are left out.

    Args:
        resolved: The data set's features.
        impressions: Holdout impressions, n rows.
        categories: Tokens of the category space; the token of id i is element i - 1.
    """
    arrays = impressions.arrays
    masks = {"all": np.ones(len(impressions), bool)}
    if "watched_video_ids" in arrays:
        watched = np.count_nonzero(arrays["watched_video_ids"], axis=1)
        masks["new_users"] = watched == 0
        masks["light_users"] = (watched > 0) & (watched < _HEAVY_WATCHES)
        masks["active_users"] = watched >= _HEAVY_WATCHES
    if any(f.name == "region" for f in resolved.of(spec.RANKER)):
        ids, counts = np.unique(arrays["region"], return_counts=True)
        for one in ids[np.argsort(-counts, kind="stable")][:_MAX_REGIONS]:
            if one > 0:
                masks[categories[one - 1].replace("=", "_")] = arrays["region"] == one
    return {name: mask for name, mask in masks.items() if mask.any()}


def measure(
    systems: Sequence[Scores],
    impressions: Impressions,
    masks: Mapping[str, npt.NDArray[np.bool_]],
    sheet: Sheet,
) -> None:
    """Writes every system's figures, and the model's difference to each baseline, to ``sheet``.

    The model, where there is one, is the first of ``systems``. Keys are
    ``ranker.<system>.<slice>.<metric>`` and ``ranker.model_minus_<system>.<slice>.<metric>``.
    Slices of users keep whole pages, so that their loss is the paper's on fewer users.
    """
    names = [system.name for system in systems]
    for system in systems:
        for name, mask in masks.items():
            values = _sums(system, impressions, mask, full=name == "all")
            for metric, sums in values.items():
                sheet.add(f"ranker.{system.name}.{name}.{metric}", sums, n=int(mask.sum()))
    baselines = [system for system in systems if system.name != MODEL and MODEL in names]
    for system in baselines:
        for name in masks:
            for metric in _comparable(systems[0], system, full=name == "all"):
                sheet.compare(
                    f"ranker.{MODEL}_minus_{system.name}.{name}.{metric}",
                    f"ranker.{MODEL}.{name}.{metric}",
                    f"ranker.{system.name}.{name}.{metric}",
                )


def _comparable(first: Scores, second: Scores, *, full: bool) -> list[str]:
    names = ["weighted_per_user_loss"]
    if full:
        names += ["auc", "xauc"]
        both = (first.expected_watch_time_s, second.expected_watch_time_s)
        names += ["mae_s"] if all(one is not None for one in both) else []
    return names


def _sums(
    system: Scores, impressions: Impressions, mask: npt.NDArray[np.bool_], *, full: bool
) -> dict[str, metrics.UserSums]:
    codes = impressions.user_codes
    num_users = int(codes.max(initial=-1)) + 1
    result = {
        "weighted_per_user_loss": metrics.pair_loss_by_user(
            system.scores[mask],
            impressions.clicked[mask],
            impressions.watch_time_s[mask],
            user_codes=codes[mask],
            page_ids=impressions.pages[mask],
            num_users=num_users,
        )
    }
    if not full:
        return result
    watch = impressions.watch_time_s
    by_user: dict[str, Any] = {"user_codes": codes, "num_users": num_users}
    result["auc"] = metrics.auc_by_user(system.scores, impressions.clicked, **by_user)
    result["xauc"] = metrics.xauc_by_user(system.scores, watch, **by_user)
    if system.expected_watch_time_s is not None:
        expected = system.expected_watch_time_s
        result["mae_s"] = metrics.sums_by_user(np.abs(expected - watch), codes, num_users)
        result["expected_over_actual"] = _ratio(expected, watch, codes, num_users)
    return result


def _ratio(
    expected: metrics.Floats, actual: metrics.Floats, codes: metrics.Ints, num_users: int
) -> metrics.UserSums:
    return metrics.UserSums(
        numerator=metrics.sums_by_user(expected, codes, num_users).numerator,
        denominator=metrics.sums_by_user(actual, codes, num_users).numerator,
    )


def calibrate(
    system: Scores, resolved: ResolvedSpec, impressions: Impressions, sheet: Sheet
) -> dict[str, list[str]]:
    """Writes expected and actual watch time by groups of impressions.

    Groups are deciles of the expectation, fifths by the videos' duration (of the training
    data's quantiles), and positions on the page where they were logged. Keys are
    ``ranker.<system>.<group>.expected_watch_time_s``, ``.actual_watch_time_s`` and
    ``.expected_over_actual``, groups from 01, the lowest.

    Returns:
        Names of the groups that are not empty, in order, by ``decile``, ``duration``,
        ``position``; nothing where the system expects no watch time.
    """
    expected = system.expected_watch_time_s
    if expected is None:
        return {}
    groups = {}
    for kind, bins in _calibration_groups(expected, resolved, impressions).items():
        names = [f"{kind}_{one + 1:02d}" for one in np.unique(bins[bins >= 0])]
        for name in names:
            mask = bins == int(name.rpartition("_")[2]) - 1
            key = f"ranker.{system.name}.{name}"
            _calibrate(key, expected, impressions, mask=mask, sheet=sheet)
        if names:
            groups[kind] = names
    return groups


def _calibration_groups(
    expected: metrics.Floats, resolved: ResolvedSpec, impressions: Impressions
) -> dict[str, metrics.Ints]:
    """Returns the group of each impression, int64 [n], by kind; -1 is in none."""
    groups = {"decile": metrics.calibration_bins(expected, BINS)}
    names = resolved.vector_names(spec.RANKER, Side.CANDIDATE, Kind.CONTINUOUS)
    if DURATION in names:
        column = spec.vector_column(Side.CANDIDATE, Kind.CONTINUOUS)
        quantiles = impressions.arrays[column][:, names.index(DURATION)]
        groups["duration"] = np.minimum(quantiles * DURATION_BINS, DURATION_BINS - 1).astype(
            np.int64
        )
    if "position" in impressions.arrays:
        position = np.asarray(impressions.arrays["position"], np.int64)
        groups["position"] = np.minimum(position, MOST_POSITIONS - 1)
    return groups


def _calibrate(
    key: str,
    expected: metrics.Floats,
    impressions: Impressions,
    *,
    mask: npt.NDArray[np.bool_],
    sheet: Sheet,
) -> None:
    codes, watch = impressions.user_codes, impressions.watch_time_s
    num_users, n = int(codes.max(initial=-1)) + 1, int(mask.sum())
    for metric, values in (("expected", expected), ("actual", watch)):
        mean = metrics.sums_by_user(values, codes, num_users, where=mask)
        sheet.add(f"{key}.{metric}_watch_time_s", mean, n=n)
    ratio = _ratio(expected * mask, watch * mask, codes, num_users)
    sheet.add(f"{key}.expected_over_actual", ratio, n=n)
