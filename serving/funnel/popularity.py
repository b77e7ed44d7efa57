"""How popular videos are, by the statistics of a release: everywhere, by region, by day."""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from features.catalogue import Catalogue, combined
from serving.funnel.nominations import Nominations

TOP = 2000  # Videos that are kept per list.
_HALF_LIFE_DAYS = 7.0
# Watches in a region before its own ranking is worth more than everybody's.
_REGION_MIN_WATCHES = 50
_MAX_REGIONS = 500


def _activity(daily: pa.Table) -> np.ndarray:
    """Returns what counts as popularity, float64 [n]: watches; where nobody logs them, clicks."""
    watches = np.asarray(combined(daily["watches"]), np.float64)
    return watches if watches.any() else np.asarray(combined(daily["clicks"]), np.float64)


def decayed(daily: pa.Table, catalogue: Catalogue) -> np.ndarray:
    """Returns watches with a half-life of a week, counted back from the last day: float64 [N]."""
    if not daily.num_rows:
        return np.zeros(len(catalogue))
    rows = catalogue.rows(daily["video_id"])
    day = np.asarray(combined(daily["day"]), np.int64)
    weight = _activity(daily) * 0.5 ** ((day.max() - day) / _HALF_LIFE_DAYS)
    return np.bincount(rows[rows >= 0], weights=weight[rows >= 0], minlength=len(catalogue))


def day_counts(daily: pa.Table, catalogue: Catalogue, *, ages: tuple[int, int]) -> np.ndarray:
    """Returns watches on the days that are ``[first, end)`` days before the last: float64 [N]."""
    if not daily.num_rows:
        return np.zeros(len(catalogue))
    rows = catalogue.rows(daily["video_id"])
    day = np.asarray(combined(daily["day"]), np.int64)
    age = day.max() - day
    mine = (rows >= 0) & (age >= ages[0]) & (age < ages[1])
    return np.bincount(rows[mine], weights=_activity(daily)[mine], minlength=len(catalogue))


def by_region(
    regional: pa.Table | None, catalogue: Catalogue, overall: np.ndarray
) -> Mapping[str, Nominations]:
    """Returns the most watched videos of each region, the regions with enough watches.

    Args:
        regional: ``region, video_id, watches`` of the last days; None where it is not known.
        catalogue: Catalogue of N videos.
        overall: float64 [N], popularity everywhere.
    """
    if regional is None or not regional.num_rows:
        return {}
    region = combined(regional["region"]).dictionary_encode()
    code = np.asarray(region.indices, np.int64)
    rows = catalogue.rows(regional["video_id"])
    watches = np.where(rows < 0, 0, np.asarray(combined(regional["watches"]), np.float64))
    total = np.bincount(code, weights=watches, minlength=len(region.dictionary))
    # Callers choose the names of regions: of any number, the most watched ones are real.
    most = np.argsort(-total, kind="stable")[:_MAX_REGIONS]
    most = np.sort(most[total[most] >= _REGION_MIN_WATCHES])
    kept = np.flatnonzero((rows >= 0) & np.isin(code, most))
    kept = kept[np.argsort(code[kept], kind="stable")]
    bounds = np.searchsorted(code[kept], np.stack([most, most + 1]))
    # A little of everybody's taste breaks the many ties of a small region.
    everybody = 0.1 * overall / max(overall.sum(), 1.0)
    lists = {}
    for number, start, end in zip(most.tolist(), *bounds.tolist(), strict=True):
        name, mine = region.dictionary[number].as_py(), kept[start:end]
        if name:
            scores = watches[mine] / total[number] + everybody[rows[mine]]
            best = np.argsort(-scores, kind="stable")[:TOP]
            lists[name] = Nominations(rows[mine][best], scores[best].astype(np.float32))
    return lists
