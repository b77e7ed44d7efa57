"""What living sites showed, as tables: runs that differ in their seeds side by side and together.

A figure of several seeds is the mean of theirs; their users are others, so its interval is that of
a sum of independent ones (each taken for normal).
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from features import command
from models.evaluation.intervals import Interval
from pipeline.benchmarks.measured import Measured, cell, measured_on, number
from pipeline.living import figures

_Document = Mapping[str, Any]
_NORMAL = 1.96
_POPULARITY, _OURS = "popularity", "ours"
_CHANGE = f"{_OURS}-{_POPULARITY}"
_OF_DAYS = {
    f"{_POPULARITY}, min": (_POPULARITY, figures.MAIN),
    f"{_OURS}, min": (_OURS, figures.MAIN),
    "difference": (_CHANGE, figures.MAIN),
    "difference, adjusted": (_CHANGE, figures.ADJUSTED),
    f"oracle's share, {_POPULARITY}": (_POPULARITY, "oracle_share"),
    f"oracle's share, {_OURS}": (_OURS, "oracle_share"),
}
_BESIDE = ("page_value_s", figures.MAIN)
_OF_CLAIMS = (
    "page_value_s", figures.ADJUSTED, "click_rate", "satisfaction", "fresh_shown",
    "fresh_clicks_per_user", "repeated",
)  # fmt: skip


def wrote(documents: Sequence[_Document]) -> bool:
    """Returns whether living sites wrote all of some files."""
    return all("figures" in one and "run" in one for one in documents)


def table(documents: Sequence[_Document], part: str, metrics: Sequence[str] = ()) -> Measured:
    """Returns a part of what runs wrote.

    Args:
        documents: report.json of each run, or experiment.json.
        part: ``days``, ``last_day``, ``nights`` or ``cost`` of a report.json; ``claims`` of
            experiment.json: a row for each claim, over the seeds that tried it. Of two runs that
            tried it on one seed the later file counts, since their users are the same.
        metrics: Metrics that get a column (of the last day: a row); none for those that matter.

    Raises:
        command.InputError: They have no such part.
    """
    is_experiment = "arms" in documents[0]
    parts = (
        {"claims": _claims}
        if is_experiment
        else {"days": _days, "last_day": _last_day, "nights": _nights, "cost": _cost}
    )
    if part not in parts:
        raise command.InputError(f"--part must be one of {', '.join(parts)}, got {part!r}.")
    columns, rows = parts[part](documents, metrics)
    run, seeds = documents[0]["run"], dict.fromkeys(map(_seed, documents))
    site = run["site"]
    after = f", after {run['days']} days of its life" if is_experiment else ", from an empty system"
    interval = "95 % in brackets, bootstrap over users"
    if part == "cost":
        several = len(documents) > 1
        interval = "least and most of the seeds in brackets" if several else "none: one run"
    return Measured(
        columns=columns,
        rows=rows,
        facts={
            "data": f"simulated site of {site['users']:,} users and {site['videos']:,} videos"
            + after,
            "protocol": "arms of users split by hash, served by one server over HTTP"
            if is_experiment
            else f"{run['share']:.0%} of the users, by hash, get popularity, the others what each "
            "night's retraining published",
            "seed": ", ".join(seeds),
            "interval": interval,
            "again": "`pipeline.living_site"
            + (f" --experiments={','.join(_claims_of(documents))}" if is_experiment else "")
            + f" --days={run['days']}`",
            "measured": measured_on(documents[-1].get("provenance", {})),
        },
    )


def _days(
    documents: Sequence[_Document], metrics: Sequence[str]
) -> tuple[list[str], list[list[str]]]:
    del metrics
    rows = []
    for day in documents[0]["visits"]:
        groups = [(f"day {day}, seed {_seed(one)}", [one]) for one in documents]
        if len(documents) > 1:
            groups.append((f"**day {day}, together**", list(documents)))
        for name, group in groups:
            before = {one["nights"].get(str(int(day) - 1), {}).get("outcome", "–") for one in group}
            cells = (_cell(group, f"{day}/{arm}/{metric}") for arm, metric in _OF_DAYS.values())
            rows.append([name, *cells, before.pop() if len(group) == 1 else ""])
    return ["", *_OF_DAYS, "night before"], rows


def _last_day(
    documents: Sequence[_Document], metrics: Sequence[str]
) -> tuple[list[str], list[list[str]]]:
    day = list(documents[0]["visits"])[-1]
    names = {**figures.METRICS, **figures.WHOLE}
    rows = [
        [
            names[metric],
            *(_cell(documents, f"{day}/{arm}/{metric}") for arm in (_POPULARITY, _OURS, _CHANGE)),
        ]
        for metric in metrics or names
    ]
    return [f"day {day}", _POPULARITY, _OURS, "difference"], rows


def _nights(
    documents: Sequence[_Document], metrics: Sequence[str]
) -> tuple[list[str], list[list[str]]]:
    del metrics
    rows = []
    for one in documents:
        for night, said in one["nights"].items():
            verdicts = [gate["verdict"] for gate in said["gates"]]
            failed = [
                f"{gate['rule']}: {gate['value']}; needed: {gate['asked']}"
                for gate in said["gates"]
                if gate["verdict"] == "FAIL"
            ]
            rows.append(
                [
                    f"seed {_seed(one)}, night {night}",
                    said["outcome"],
                    f"{verdicts.count('pass')} of {len(verdicts) - verdicts.count('not checked')}",
                    "<br>".join(failed) or "–",
                    f"{said['wall_s']:.0f} s",
                    f"{said['cpu_s']:.0f} s",
                    f"{said['peak_mib']:,.0f} MiB",
                ]
            )
    header = ["", "outcome", "gates passed", "failed", "wall", "processor", "peak memory"]
    return header, rows


def _cost(
    documents: Sequence[_Document], metrics: Sequence[str]
) -> tuple[list[str], list[list[str]]]:
    del metrics
    nights = list(documents[0]["nights"])
    steps = [
        {
            night: {s["name"]: s["cost"]["cpu_s"] for s in said["steps"] if s["cost"]["cpu_s"]}
            for night, said in of.items()
        }
        for of in (one["nights"] for one in documents)
    ]
    names = dict.fromkeys(name for one in steps for night in one.values() for name in night)
    rows = [
        [
            name.replace("_", " "),
            *(_range(one[night][name] for one in steps if name in one[night]) for night in nights),
        ]
        for name in names
    ]
    every = [_range(sum(one[night].values()) for one in steps) for night in nights]
    visits = [
        _range(one["visits"][night]["passed"]["seconds"] for one in documents) for night in nights
    ]
    header = ["processor time, s", *(f"night {night}" for night in nights)]
    return header, [*rows, ["together", *every], ["the day of visits before, wall", *visits]]


def _claims(
    documents: Sequence[_Document], metrics: Sequence[str]
) -> tuple[list[str], list[list[str]]]:
    wanted = metrics or _OF_CLAIMS
    tried: dict[tuple[str, str], dict[str, _Document]] = {}
    for one in documents:
        for name, arm in one["arms"].items():
            if name != arm["against"]:
                tried.setdefault((name, arm["against"]), {})[_seed(one)] = one
    rows = []
    for (name, against), by_seed in tried.items():
        group = list(by_seed.values())
        arm, users = group[-1]["arms"][name], [one["split"]["users"] for one in group]
        rows.append(
            [
                f"{name}: {arm['text']}",
                against,
                ", ".join(sorted(by_seed)),
                " and ".join(f"{sum(of.get(a, 0) for of in users):,}" for a in (name, against)),
                *(_cell(group, f"all/{against}/{metric}") for metric in _BESIDE),
                *(_cell(group, f"all/{name}-{against}/{metric}") for metric in wanted),
            ]
        )
    beside = [f"{figures.METRICS[metric]}: those" for metric in _BESIDE]
    differences = [f"{figures.METRICS[metric]}: difference" for metric in wanted]
    header = ["arm", "against", "seeds", "users exposed of either"]
    return [*header, *beside, *differences], rows


def _claims_of(documents: Sequence[_Document]) -> list[str]:
    """Returns the names of the arms of all documents, without the control."""
    return list(dict.fromkeys(name for one in documents for name in _names(one)[1:]))


def _names(document: _Document) -> list[str]:
    return list(document["arms"])


def _seed(document: _Document) -> str:
    return str(document["run"]["site"]["seed"])


def _cell(documents: Sequence[_Document], key: str) -> str:
    there = [one["figures"][key] for one in documents if key in one["figures"]]
    return cell(_together(there) if there else None)


def _together(measured: Sequence[Mapping[str, float | None]]) -> Interval:
    """Returns the mean of figures of independent users, with the interval of that mean."""
    rows = [[_or_nan(one[name]) for name in ("value", "low", "high")] for one in measured]
    if len(rows) == 1:
        return Interval(value=rows[0][0], low=rows[0][1], high=rows[0][2])
    value = sum(row[0] for row in rows) / len(rows)
    errors = [(high - low) / (2 * _NORMAL) for _, low, high in rows]
    half = _NORMAL * math.hypot(*errors) / len(rows)
    return Interval(value=value, low=value - half, high=value + half)


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value


def _range(values: Iterable[float]) -> str:
    some = list(values)
    if not some:
        return "–"
    mean = number(sum(some) / len(some))
    return mean if len(some) == 1 else f"{mean} [{number(min(some))}, {number(max(some))}]"
