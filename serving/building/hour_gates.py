"""Whether what was watched since a model last learnt is like what was watched before it.

As :mod:`serving.building.day_gates`, by the hour, for releases between nights: an hour that broke
is refused by name, and the release that serves serves on. Hours are counted back from the end of
what is read. What cannot be told (too few watches, or days) is not checked, and says so.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from features import command
from features.catalogue import combined
from features.durations import DAY_S, HOUR_S
from features.tables import logs
from serving.building.config import HourLimits
from serving.building.gates import FAIL, NOT_CHECKED, Gate, decided, failed

_DAYS = 8
_FEWEST_WATCHES = 50  # Of the last hour, to tell whether steps made a model better or worse.
_Hours = npt.NDArray[np.float64]


def of_logs(
    logs_dir: pathlib.Path, limits: HourLimits, *, since_s: int, until_s: int, now_s: float
) -> list[Gate]:
    """Returns the gates of the hours that a model has not learnt.

    Args:
        logs_dir: Directory of the raw logs.
        limits: Limits of an hour.
        since_s: End of what the model has learnt, Unix seconds.
        until_s: End of what it is to learn, exclusive.
        now_s: Clock of this machine, Unix seconds.
    """
    columns = ["time", "video_id", "watch_time_s"]
    from_s = until_s - _DAYS * DAY_S
    rows = logs.read_table(logs_dir, "watches", columns=columns, from_s=from_s)
    rows = rows.filter(pc.is_valid(rows["time"]))
    times = np.asarray(combined(rows["time"]), np.int64)
    _, videos = np.unique(rows["video_id"].to_pylist(), return_inverse=True)
    seconds = np.asarray(rows["watch_time_s"].to_pylist(), np.float64)
    ahead = int((times > now_s).sum())
    inside = times < until_s
    ago, videos, seconds = (until_s - 1 - times[inside]) // HOUR_S, videos[inside], seconds[inside]
    size = _DAYS * 24
    counts = np.bincount(ago, minlength=size).astype(np.float64)
    largest = np.zeros(size)
    pairs, watches = np.unique(np.stack([ago, videos]), axis=1, return_counts=True)
    np.maximum.at(largest, pairs[0], watches)
    watched = seconds > 0
    timed = np.bincount(ago[watched], minlength=size)
    means = np.bincount(ago[watched], seconds[watched], size) / np.maximum(timed, 1)
    new = max(1, -(-(until_s - since_s) // HOUR_S))
    hours = _Hour(until_s, new, limits)
    return [
        _clock(ahead, counts[0], limits),
        hours.rows(counts),
        hours.worst(
            "mean watch time of an hour beside the hours before",
            np.where(timed >= limits.least_rows, means, np.nan),
            bounds=lambda before: (
                before.min() / limits.watch_time_factor,
                before.max() * limits.watch_time_factor,
            ),
            shown="{:.1f} s",
            cause="is it counted wrongly?",
        ),
        hours.worst(
            "share of an hour's watches that are of one video",
            np.where(counts >= limits.least_rows, largest / np.maximum(counts, 1), np.nan),
            bounds=lambda before: (0.0, max(limits.flood, min(1.0, 2 * before.max()))),
            shown="{:.0%}",
            cause="one video floods it",
        ),
    ]


def of_steps(step: Mapping[str, Any], collapse: Sequence[Gate]) -> list[Gate]:
    """Returns the gates of a model that followed: it finds the last hour's watches well enough.

    Of one hour at a news site everybody watches the same. Where the model is no worse than the
    list that is best for everybody, lists that are alike do not say that it has collapsed.

    Args:
        step: Facts of :func:`models.candidate.following.follow`; empty of any other model.
        collapse: Gates of how much lists differ; returned as they are for any other model.
    """
    if not step:
        return list(collapse)
    rules = {
        "before": "recall@100 of the last hour's watches, after the steps against before",
        "popularity": "recall@100 of the last hour's watches, against popularity of the moment",
    }
    threshold = "interval of the difference not wholly below 0"
    if int(step.get("watches", 0)) < _FEWEST_WATCHES:
        value = f"{step.get('watches', 0)} watches"
        return [
            *(
                Gate(rule=r, value=value, threshold=threshold, verdict=NOT_CHECKED)
                for r in rules.values()
            ),
            *collapse,
        ]
    judged = []
    for other, rule in rules.items():
        change, low, high = step[f"against_{other}"]
        value = f"{step['recall']:.4f}, minus {other}: {change:+.4f} [{low:+.4f}, {high:+.4f}]"
        judged.append(decided(rule, value, threshold, passed=high >= 0))
    if failed(judged):
        return [*judged, *collapse]
    return [*judged, *(_excused(gate) for gate in collapse)]


def _excused(gate: Gate) -> Gate:
    if gate.verdict != FAIL:
        return gate
    value = f"{gate.value}; but no worse than popularity, which is one list for everybody"
    return dataclasses.replace(gate, value=value, verdict=NOT_CHECKED)


def _clock(ahead: int, last: float, limits: HourLimits) -> Gate:
    most = max(limits.least_rows, limits.fewest * last)
    text = f"{ahead:,}" + (": a clock is ahead" if ahead > most else "")
    return decided(
        "watches that are stamped later than now", text, f"at most {most:.0f}", passed=ahead <= most
    )


class _Hour:
    """Compares values by hours ago, [H], of which the first ``new`` are not learnt yet."""

    def __init__(self, until_s: int, new: int, limits: HourLimits) -> None:
        self._until_s, self._new, self._limits = until_s, new, limits

    def rows(self, counts: _Hours) -> Gate:
        """Judges the number of watches of the last hour by that hour of the days before."""
        rule = "watches of the last hour beside that hour of the days before"
        before = counts[24::24]
        # Of what was before the log there is nothing to compare with.
        before = before[: int(np.flatnonzero(counts).max(initial=-1)) // 24]
        limits, last = self._limits, counts[0]
        if len(before) < limits.least_days or np.median(before) < limits.least_rows:
            value = f"{last:,.0f}; {len(before)} days before, {before.sum():,.0f} watches"
            threshold = f"{limits.least_days} days, {limits.least_rows} watches an hour to tell"
            return Gate(rule=rule, value=value, threshold=threshold, verdict=NOT_CHECKED)
        least, most = limits.fewest * before.min(), limits.most * before.max()
        value = f"{last:,.0f}, before {before.min():,.0f} to {before.max():,.0f}"
        if last < least:
            value += ": are logs missing, or is a clock behind?"
        if last > most:
            value += ": is it logged twice?"
        passed = bool(least <= last <= most)
        return decided(rule, value, f"from {least:,.0f} to {most:,.0f}", passed=passed)

    def worst(
        self,
        rule: str,
        values: _Hours,
        *,
        bounds: Callable[[_Hours], tuple[float, float]],
        shown: str,
        cause: str,
    ) -> Gate:
        """Judges the hour that is furthest outside, by the hours before; NaN is not compared."""
        before, new = values[self._new :], values[: self._new]
        before = before[np.isfinite(before)]
        if len(before) < self._limits.least_days * 3 or not np.isfinite(new).any():
            value = f"{len(before)} hours before, {int(np.isfinite(new).sum())} new ones"
            threshold = f"hours of {self._limits.least_rows} watches, to tell"
            return Gate(rule=rule, value=value, threshold=threshold, verdict=NOT_CHECKED)
        least, most = bounds(before)
        outside = np.nan_to_num(np.maximum(least - new, new - most), nan=-np.inf)
        hour = int(outside.argmax())
        passed = bool(outside[hour] <= 0)
        low, high, value = (shown.format(float(one)) for one in (least, most, new[hour]))
        start = command.format_time(self._until_s - (hour + 1) * HOUR_S)
        told = f"{value} from {start} on" + ("" if passed else f": {cause}")
        return decided(rule, told, f"from {low} to {high}", passed=passed)
