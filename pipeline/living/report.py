"""The report of a living site: one page, and the same as JSON."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from features import charts, files, reports
from features.reports import Cell, Table
from models.evaluation import report_parts
from models.evaluation.intervals import Figure
from pipeline.living import course as living_course
from pipeline.living import days as living_days
from pipeline.living import figures
from pipeline.living.days import LivingSite

JSON, HTML = "report.json", "report.html"
_FIRST = figures.MAIN
_ALL = "all"


def write(living: LivingSite) -> list[str]:
    """Writes both; returns what there is to say in a few lines."""
    visits = living_days.records(living.snapshots, living_days.VISITS)
    nights = living_days.records(living.snapshots, living_days.NIGHT)
    figures_of = _figures(living)
    report = {
        "run": json.loads(living.run.to_json()),
        "provenance": reports.stamp(),
        "figures": {key: figure.to_json() for key, figure in figures_of.items()},
        "visits": {str(day): {**v, "away": len(v["away"])} for day, v in visits.items()},
        "nights": {str(day): dict(night) for day, night in nights.items()},
    }
    files.atomic_write(living.output / JSON, json.dumps(report, indent=1, allow_nan=False) + "\n")
    files.atomic_write(living.output / HTML, _page(living, figures_of, visits, nights))
    return _lines(figures_of, list(visits), nights)


def _figures(living: LivingSite) -> dict[str, Figure]:
    world = living_course.world_of(living.run.preset.site, living.logs)
    happened = living.happened(living_days.VISITS)
    arms = living.arms(world, living.run.experiment["name"])
    # On day 1 nothing was learnt yet: pages of both arms were made alike.
    return figures.of_days(world, arms, _arms(), happened, before={1: happened[1]})


def _lines(
    figures_of: Mapping[str, Figure], days: Sequence[int], nights: Mapping[int, Mapping[str, Any]]
) -> list[str]:
    rows = [["day", "popularity", "ours", "ours - popularity", "oracle's share", "night before"]]
    for day in [*map(str, days), _ALL]:
        before = nights.get(int(day) - 1, {}).get("outcome", "") if day != _ALL else ""
        change = figures_of[f"{day}/ours-popularity/{_FIRST}"]
        rows.append(
            [
                day,
                *(reports.number(figures_of[f"{day}/{arm}/{_FIRST}"].value) for arm in _arms()),
                f"{change.value:+.2f} [{change.low:+.2f}, {change.high:+.2f}]",
                reports.number(figures_of[f"{day}/ours/oracle_share"].value),
                before,
            ]
        )
    return ["Watch time per user, minutes:", *report_parts.columns(rows).splitlines()]


def _arms() -> tuple[str, str]:
    return living_days.POPULARITY, living_days.OURS


def _page(
    living: LivingSite,
    figures_of: Mapping[str, Figure],
    visits: Mapping[int, Mapping[str, Any]],
    nights: Mapping[int, Mapping[str, Any]],
) -> str:
    days = [*map(str, visits), _ALL]
    last = str(max(visits))
    change = figures_of[f"{last}/ours-popularity/{_FIRST}"]
    word = "more" if change.value > 0 else "less"
    sure = "" if change.excludes_zero else ", which may be chance"
    site = living.run.preset.site
    return reports.render(
        "pipeline.living",
        "living.html",
        title="A living site",
        contents=[("days", "By day"), ("nights", "Nights"), ("cost", "Cost")],
        style=("better" if change.value > 0 else "worse") if change.excludes_zero else "",
        verdict=(
            f"On day {last} a user of ours watches {abs(change.value):.2f} minutes {word} than one "
            f"of popularity [{change.low:+.2f}, {change.high:+.2f}]{sure}."
        ),
        setting=(
            f"A simulated site of {site.users:,} users and {site.videos:,} videos, seed "
            f"{site.seed}, from {_past(living.run)}; {living.run.share:.0%} of the users, by hash, "
            "have pages in the order of popularity. Brackets are 95 % intervals over users. The "
            "oracle shows the best page that there could have been, by the truth."
        ),
        plot=_plot(figures_of, list(map(str, visits))),
        metrics=[
            (title, _metric_table(figures_of, days, metric))
            for metric, title in figures.METRICS.items()
        ]
        + [
            (title, _whole_table(figures_of, list(map(str, visits)), metric))
            for metric, title in figures.WHOLE.items()
        ],
        nights=_nights(nights),
        gates=[
            (f"Gates of night {day}", _gates(night["gates"]), night["said"])
            for day, night in nights.items()
        ],
        steps=_steps(visits, nights),
    )


def _past(run: living_days.Run) -> str:
    return f"logs of {run.past_days} days" if run.past_days else "an empty system"


def _plot(figures_of: Mapping[str, Figure], days: Sequence[str]) -> charts.Drawing:
    lines = {arm: [figures_of[f"{day}/{arm}/{_FIRST}"] for day in days] for arm in _arms()}
    return charts.draw(
        charts.Plot(
            kind=charts.LINES,
            title="Watch time per user, with intervals over users",
            x_label="day",
            y_label="minutes",
            series=[
                charts.Series(
                    name=arm,
                    x=[float(day) for day in days],
                    y=[one.value for one in line],
                    low=[one.low for one in line],
                    high=[one.high for one in line],
                )
                for arm, line in lines.items()
            ],
        )
    )


def _metric_table(figures_of: Mapping[str, Figure], days: Sequence[str], metric: str) -> Table:
    keys = (*_arms(), f"{living_days.OURS}-{living_days.POPULARITY}")
    rows = [
        [
            Cell(key),
            *(_cell(figures_of.get(f"{day}/{key}/{metric}"), signed="-" in key) for day in days),
        ]
        for key in keys
    ]
    return Table(["", *(f"day {day}" if day != _ALL else "all days" for day in days)], rows)


def _cell(figure: Figure | None, *, signed: bool) -> Cell:
    return Cell("–") if figure is None else reports.figure_cell(figure, signed=signed)


def _whole_table(figures_of: Mapping[str, Figure], days: Sequence[str], metric: str) -> Table:
    rows = [
        [
            Cell(arm),
            *(reports.figure_cell(figures_of[f"{day}/{arm}/{metric}"]) for day in days),
        ]
        for arm in _arms()
    ]
    return Table(["", *(f"day {day}" for day in days)], rows)


def _nights(nights: Mapping[int, Mapping[str, Any]]) -> Table:
    header = ["night", "outcome", "release", "gates that failed", "wall", "CPU", "peak memory"]
    rows = []
    for day, night in nights.items():
        failed = [gate["rule"] for gate in night["gates"] if gate["verdict"] == "FAIL"]
        rows.append(
            [
                Cell(str(day)),
                Cell(night["outcome"], style="" if night["outcome"] == "published" else "worse"),
                Cell(night["release"] or "none"),
                Cell("; ".join(failed) or "none"),
                Cell(f"{night['wall_s']:.0f} s"),
                Cell(f"{night['cpu_s']:.0f} s"),
                Cell(f"{night['peak_mib']:.0f} MiB"),
            ]
        )
    return Table(header, rows)


def _gates(gates: Sequence[Mapping[str, str]]) -> Table:
    return Table(
        ["gate", "verdict", "value", "needed"],
        [[Cell(g["rule"]), Cell(g["verdict"]), Cell(g["value"]), Cell(g["asked"])] for g in gates],
        ["warn" if gate["verdict"] == "FAIL" else "" for gate in gates],
    )


def _steps(
    visits: Mapping[int, Mapping[str, Any]], nights: Mapping[int, Mapping[str, Any]]
) -> Table:
    """Returns wall time of each step by day, seconds."""
    names = list(dict.fromkeys(s["name"] for night in nights.values() for s in night["steps"]))
    taken = {
        day: {step["name"]: float(step["seconds"]) for step in night["steps"]}
        for day, night in nights.items()
    }
    rows = [
        [
            Cell(name),
            *(Cell(_seconds(taken.get(day, {}).get(name, math.nan))) for day in visits),
        ]
        for name in names
    ]
    passed = [Cell(_seconds(visit["passed"]["seconds"])) for visit in visits.values()]
    return Table(
        ["", *(f"day {day}" for day in visits)], [[Cell("a day of visits"), *passed], *rows]
    )


def _seconds(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.1f} s"
