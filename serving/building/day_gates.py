"""Whether the newest day of a log is a day like those before it: gates that name what broke.

Before hours of training on what a truncated log, a shifted clock or a double count made of a day.
A day is judged by the days before it in the same log, by the holdout beside the training examples,
and by what the release that serves has learnt. What cannot be told (too few days or rows, no
release) is not checked, and says so.
"""

import json
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from scipy.spatial import distance

from features import command, dataset, files
from features.durations import DAY_S, HOUR_S
from features.spec import ResolvedSpec
from serving.building.config import DayLimits
from serving.building.gates import NOT_CHECKED, Gate, decided
from serving.release import manifest as release

DAYS = "days.json"
STATISTICS = "statistics.json"
_LOGGED = ("watches", "impressions", "searches", "feedback")
# Hours tell a shifted clock where a day has a shape: its busiest hour, by its quietest.
_SHAPED = 1.5
_SHIFTED, _FITS = 0.02, 0.25
_QUIET = 0.05


def of_examples(
    examples: pathlib.Path, limits: DayLimits, serving_root: pathlib.Path | None
) -> list[Gate]:
    """Returns the gates of examples.

    Args:
        examples: Examples directory of pipeline.preprocess.
        limits: Limits of a day.
        serving_root: Directory of releases; None, or one without a release, compares with none.
    """
    info = dataset.info(examples)
    days = _json(examples / DAYS) or {"tables": {}, "start_s": 0, "end_s": 0}
    gates = [_holdout(info, days)]
    for name, table in days["tables"].items():
        if name in _LOGGED:
            gates.append(_rows(name, table, limits))
            if "watched" in table:
                gates.append(_watch_time(name, table, limits))
        gates += _missing(name, table, limits)
    gates += list(_clock(days, limits))
    gates.append(_features_of_holdout(_json(examples / STATISTICS) or {}, limits))
    gates += _against_release(examples, days, info, (serving_root, limits))
    return gates


def recorded(directory: pathlib.Path | None) -> list[Gate]:
    """Returns the gates that serving.judge_examples wrote to a directory; none without one."""
    info = None if directory is None else files.read_complete(directory)
    return [Gate(**gate) for gate in (info or {}).get("gates", [])]


def learnt_days(examples: pathlib.Path) -> Mapping[str, Any]:
    """Returns what a release remembers of the last days of its logs, for the next examples."""
    days = _json(examples / DAYS)
    if days is None:
        return {}
    tables = {name: {"hours": table["hours"]} for name, table in days["tables"].items()}
    return {"start_s": days["start_s"], "end_s": days["end_s"], "tables": tables}


def _json(path: pathlib.Path) -> dict[str, Any] | None:
    return json.loads(path.read_text()) if path.is_file() else None


def _unchecked(rule: str, value: str, threshold: str) -> Gate:
    return Gate(rule=rule, value=value, threshold=threshold, verdict=NOT_CHECKED)


def _holdout(info: Mapping[str, Any], days: Mapping[str, Any]) -> Gate:
    rule = "the holdout has examples"
    if not info.get("holdout_days"):
        return _unchecked(rule, "--holdout_days=0", "a holdout")
    count = int(info["counts"].get("candidate_holdout", 0))
    newest = _newest_s(days)
    ends = "unknown" if newest is None else command.format_time(newest)
    begins = command.format_time(int(info["train_until_s"]))
    value = f"{count} watches to predict; it begins at {begins}, watches end about {ends}"
    return decided(rule, value, "1 or more", passed=count > 0)


def _newest_s(days: Mapping[str, Any]) -> int | None:
    hours = np.array(days["tables"].get("watches", {}).get("hours", []))
    if not hours.any():
        return None
    return int(days["end_s"] - (len(hours) - 1 - np.flatnonzero(hours)[-1]) * HOUR_S)


def _earlier(values: Sequence[float], rows: Sequence[int], limits: DayLimits) -> np.ndarray:
    """Returns the values of the days before the last one that have enough rows, but the oldest.

    Of the oldest day there may be a part alone.
    """
    enough = [v for v, n in zip(values[:-1], rows[:-1], strict=True) if n >= limits.least_rows]
    return np.array(enough[1:], np.float64)


def _rows(name: str, table: Mapping[str, Any], limits: DayLimits) -> Gate:
    rule = f"{name}: rows of the last day beside the days before"
    before, last = _earlier(table["days"], table["days"], limits), table["days"][-1]
    if len(before) < limits.least_days:
        return _unchecked(rule, f"{len(before)} days before", f"{limits.least_days} to tell")
    least, most = limits.fewest * before.min(), limits.most * before.max()
    value = f"{last:,}, before {before.min():,.0f} to {before.max():,.0f}"
    if last < least:
        value += f": {1 - last / np.median(before):.0%} fewer than usual, are logs missing?"
    if last > most:
        value += f": {last / np.median(before):.1f} times as many as usual, is it logged twice?"
    return decided(
        rule, value, f"from {least:,.0f} to {most:,.0f}", passed=bool(least <= last <= most)
    )


def _watch_time(name: str, table: Mapping[str, Any], limits: DayLimits) -> Gate:
    rule = f"{name}: mean watch time of the last day beside the days before"
    watched = table["watched"]
    means = [s / max(n, 1) for s, n in zip(table["watch_time_s"], watched, strict=True)]
    before, last = _earlier(means, watched, limits), means[-1]
    if len(before) < limits.least_days or watched[-1] < limits.least_rows:
        value = f"{len(before)} days before, {watched[-1]} watches on the last"
        return _unchecked(rule, value, f"{limits.least_days} days, {limits.least_rows} watches")
    least = before.min() / limits.watch_time_factor
    most = before.max() * limits.watch_time_factor
    value = f"{last:.1f} s, before {before.min():.1f} to {before.max():.1f} s"
    if not least <= last <= most:
        value += f": {last / np.median(before):.2f} times the usual, is it counted wrongly?"
    return decided(
        rule, value, f"from {least:.1f} to {most:.1f} s", passed=bool(least <= last <= most)
    )


def _missing(name: str, table: Mapping[str, Any], limits: DayLimits) -> list[Gate]:
    """Tells of columns that went missing on the last day; nothing where there are none."""
    rows = table["days"]
    if rows[-1] < limits.least_rows:
        return []
    worst: tuple[float, str, float, float] | None = None
    for column, lacks in table["missing"].items():
        shares = [n / max(of, 1) for n, of in zip(lacks, rows, strict=True)]
        before = _earlier(shares, rows, limits)
        if len(before) >= limits.least_days:
            rise = shares[-1] - before.max()
            if worst is None or rise > worst[0]:
                worst = (rise, column, shares[-1], before.max())
    if worst is None:
        return []
    rise, column, last, most = worst
    value = f"{column}: missing in {last:.1%} of the rows, before in {most:.1%} at most"
    if rise > limits.missing_rise:
        value += f": the column {column} went missing"
    return [
        decided(
            f"{name}: columns of the last day beside the days before, the worst",
            value,
            f"a rise of at most {limits.missing_rise:.0%}",
            passed=bool(rise <= limits.missing_rise),
        )
    ]


def _clock(days: Mapping[str, Any], limits: DayLimits) -> Iterator[Gate]:
    """Compares the last day's hours with those of the days before, shifted and as they are."""
    table = days["tables"].get("impressions") or days["tables"].get("watches")
    if table is None:
        return
    hours = np.array(table["hours"], np.float64).reshape(-1, 24)
    rows = hours.sum(axis=1)
    # Row i of a day is the hour i after its start, which is the end's time of day.
    before = hours[:-1][rows[:-1] >= limits.least_rows][1:]
    rule = "hours of the last day beside the days before"
    if len(before) < limits.least_days or rows[-1] < limits.least_rows:
        yield _unchecked(rule, f"{len(before)} days before", f"{limits.least_days} to tell")
        return
    usual = before.mean(axis=0)
    quiet = _quiet_hours(hours[-1], usual)
    text = "none" if not quiet else _span(days, quiet)
    yield decided(
        f"{rule}: silent where others are not",
        text + (": are logs missing, or was a clock wrong?" if quiet else ""),
        f"less than {limits.silent_hours} hours on end",
        passed=len(quiet) < limits.silent_hours,
    )
    smooth = np.array([np.convolve(np.tile(p, 3), np.ones(3))[25:49] for p in (usual, hours[-1])])
    if smooth[0].max() < _SHAPED * smooth[0].min():
        yield _unchecked(f"{rule}: shape", "hours are too much alike", "a shape")
        return
    apart = [
        distance.jensenshannon(smooth[0], np.roll(smooth[1], shift), base=2) ** 2
        for shift in range(24)
    ]
    best = int(np.argmin(apart))
    is_shifted = best != 0 and apart[0] > _SHIFTED and apart[best] < _FITS * apart[0]
    ahead = -best if best <= 12 else 24 - best
    value = f"distance {apart[0]:.3f}, shifted by {ahead:+d} h {apart[best]:.3f}"
    if is_shifted:
        value += f": its clock is about {abs(ahead)} h {'ahead' if ahead > 0 else 'behind'}"
    yield decided(f"{rule}: shape", value, "best as it is", passed=not is_shifted)


def _quiet_hours(last: np.ndarray, usual: np.ndarray) -> list[int]:
    """Returns the longest run of hours that are silent, though they usually are not."""
    scaled = usual * (last.sum() / usual.sum())
    # A few rows an hour may well be none.
    is_quiet = (last < _QUIET * scaled) & (scaled >= 5)
    longest: list[int] = []
    run: list[int] = []
    for hour, quiet in enumerate(is_quiet):
        run = [*run, hour] if quiet else []
        longest = max(longest, run, key=len)
    return longest


def _span(days: Mapping[str, Any], hours: Sequence[int]) -> str:
    start = days["end_s"] - DAY_S
    begin, end = (command.format_time(start + h * HOUR_S) for h in (hours[0], hours[-1] + 1))
    return f"from {begin} to {end}"


def _features_of_holdout(statistics: Mapping[str, Any], limits: DayLimits) -> Gate:
    """Compares which features the holdout lacks with which training examples lack."""
    rule = "features of the holdout beside the training examples, the worst"
    worst: tuple[float, str, float, float] | None = None
    features = statistics.get("features", {})
    for split, columns in features.items():
        model, _, of = split.rpartition("_")
        held_out = features.get(f"{model}_holdout", {})
        if of != "train":
            continue
        for name, train in columns.items():
            holdout = held_out.get(name)
            if holdout and min(train["rows"], holdout["rows"]) >= limits.least_rows:
                shares = [one["missing"] / one["rows"] for one in (train, holdout)]
                rise = shares[1] - shares[0]
                if worst is None or rise > worst[0]:
                    worst = (rise, f"{name} ({model})", *shares)
    if worst is None:
        return _unchecked(rule, "too few examples", f"{limits.least_rows} of each to tell")
    rise, name, before, after = worst
    value = f"{name}: missing in {after:.1%}, in training in {before:.1%}"
    if rise > limits.missing_rise:
        value += f": the feature {name} went missing"
    return decided(
        rule,
        value,
        f"a rise of at most {limits.missing_rise:.0%}",
        passed=bool(rise <= limits.missing_rise),
    )


def _against_release(
    examples: pathlib.Path,
    days: Mapping[str, Any],
    info: Mapping[str, Any],
    compared: tuple[pathlib.Path | None, DayLimits],
) -> list[Gate]:
    """Compares with what the release that serves was made of."""
    root, limits = compared
    rule = "logs beside those of the release that serves"
    if root is None or release.stated_current(root) is None:
        return [_unchecked(rule, "nothing serves", "a release to compare with")]
    try:
        served = release.load(root, hash_contents=False)
    except release.ReleaseRefusedError as error:
        return [_unchecked(rule, str(error), "a release to compare with")]
    gates = []
    if served.learnt_until_s is not None:
        ends, learnt = int(info["until_s"]), served.learnt_until_s
        value = f"they end at {command.format_time(ends)}"
        gates.append(
            decided(
                f"{rule}: their end",
                value + (": the newest logs are missing" if ends < learnt else ""),
                f"not before {command.format_time(learnt)}",
                passed=ends >= learnt,
            )
        )
    gates += _lost_rows(rule, days, served.manifest.lineage.get("days"), limits)
    names = {f.name for f in ResolvedSpec.load(examples).features}
    lost = sorted({f.name for f in ResolvedSpec.load(served.videos).features} - names)
    gates.append(
        decided(
            f"features beside those of release {served.version}",
            f"went missing: {', '.join(lost)}" if lost else f"{len(names)}, none went missing",
            "none missing",
            passed=not lost,
        )
    )
    return gates


def _lost_rows(
    rule: str, days: Mapping[str, Any], learnt: Any, limits: DayLimits
) -> Iterator[Gate]:
    """Tells of tables that have lost rows of days that the release that serves has learnt."""
    if not isinstance(learnt, Mapping) or (days["end_s"] - learnt["end_s"]) % HOUR_S:
        return  # Hours that do not begin together cannot be compared.
    later = int(days["end_s"] - learnt["end_s"]) // HOUR_S
    for name, table in days["tables"].items():
        before = np.array(learnt["tables"].get(name, {}).get("hours", []), np.float64)
        now = np.array(table["hours"], np.float64)
        if name not in _LOGGED or later < 0 or len(before) <= later or len(now) != len(before):
            continue
        # Hours that both have, without what lies before a window of this run.
        ago = np.arange(len(now), 0, -1)[: len(now) - later]
        inside = days["end_s"] - ago * HOUR_S >= days["start_s"]
        then, left = before[later:][inside], now[: len(now) - later][inside]
        if then.sum() < limits.least_rows:
            continue
        share = left.sum() / then.sum()
        yield decided(
            f"{rule}: {name} of days that it has learnt",
            f"{left.sum():,.0f}, were {then.sum():,.0f}"
            + (": logs were truncated" if share < limits.least_left else ""),
            f"at least {limits.least_left:.0%} left",
            passed=bool(share >= limits.least_left),
        )
