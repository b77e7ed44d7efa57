"""The report of live experiments on a living site: each arm, its difference, and the truth."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from features import files, reports
from features.durations import DAY_S
from features.reports import Cell, Table
from models.evaluation import report_parts
from models.evaluation.intervals import Figure
from pipeline.living import course as living_course
from pipeline.living import days as living_days
from pipeline.living import experiments, figures
from pipeline.living.days import LivingSite
from pipeline.living.experiments import Claim
from serving.batch import experiment_analysis
from serving.funnel import experiment as ab_experiment

JSON, HTML = "experiment.json", "experiment.html"
_ALL = "all"
# What is watched, then what the truth says of the same pages, then what it was spent on.
_COLUMNS = (
    figures.MAIN, figures.ADJUSTED, "recommended_min_per_user", "page_value_s", "oracle_share",
    "click_rate", "satisfaction", "clickbait", "clickbait_shown", "fresh_shown",
    "fresh_clicks_per_user", "repeated",
)  # fmt: skip
_MAIN = "page_value_s"


def write(living: LivingSite, claims: Sequence[Claim], *, days: int) -> list[str]:
    """Writes both; returns what there is to say in a few lines."""
    world = living_course.world_of(living.run.preset.site, living.logs)
    records = dict(living.snapshots.done())
    before = living.happened(living_days.VISITS)
    measured = figures.of_days(
        world,
        living.arms(world, experiments.NAME),
        [claim.name for claim in claims],
        living.happened(experiments.VISITS),
        before={day - living.run.days: happened for day, happened in before.items()},
        against={claim.name: claim.against for claim in claims[1:]},
    )
    split = _split(living, days)
    report = {
        "run": json.loads(living.run.to_json()),
        "provenance": reports.stamp(),
        "arms": {
            claim.name: {key: value for key, value in vars(claim).items() if key != "name"}
            for claim in claims
        },
        "split": split,
        "figures": {key: figure.to_json() for key, figure in measured.items()},
        "training": records[f"{experiments.TRAINING}-1"],
    }
    files.atomic_write(living.output / JSON, json.dumps(report, indent=1, allow_nan=False) + "\n")
    files.atomic_write(living.output / HTML, _page(living, claims, measured, split))
    return _lines(claims, measured)


def _split(living: LivingSite, days: int) -> Mapping[str, Any]:
    """Returns what the logs of the server say of who was exposed to what."""
    from_s = living.run.preset.site.start_s + living.run.days * DAY_S
    analysis = experiment_analysis.analyse(
        living.logs,
        ab_experiment.load(living.output / f"{experiments.NAME}.json"),
        from_s=from_s,
        until_s=from_s + days * DAY_S,
    )
    split: Mapping[str, Any] = analysis["split"]
    return split


def _lines(claims: Sequence[Claim], measured: Mapping[str, Figure]) -> list[str]:
    rows = [["arm", "watch time per user, min", "home page by the truth, s", "difference", "from"]]
    for claim in claims:
        key = f"{_ALL}/{claim.name}"
        change = against = ""
        if claim is not experiments.CONTROL:
            one = measured[f"{key}-{claim.against}/{_MAIN}"]
            change = f"{one.value:+.1f} [{one.low:+.1f}, {one.high:+.1f}]"
            against = claim.against
        values = (measured[f"{key}/{name}"].value for name in (figures.MAIN, _MAIN))
        rows.append([claim.name, *(reports.number(value) for value in values), change, against])
    return ["Live experiments:", *report_parts.columns(rows).splitlines()]


def _page(
    living: LivingSite,
    claims: Sequence[Claim],
    measured: Mapping[str, Figure],
    split: Mapping[str, Any],
) -> str:
    header = ["arm", *(figures.METRICS[name] for name in _COLUMNS)]
    others = [claim for claim in claims if claim is not experiments.CONTROL]
    site = living.run.preset.site
    return reports.render(
        "pipeline.living",
        "experiment.html",
        title="Live experiments",
        contents=[("arms", "Arms"), ("differences", "Differences"), ("split", "Exposure")],
        verdicts=[_verdict(claim, measured) for claim in others],
        setting=(
            f"The control is {experiments.CONTROL.text}. A simulated site of {site.users:,} users, "
            f"seed {site.seed}, after {living.run.days} days; users are split by hash. Brackets "
            "are 95 % intervals over users. The value of a home page is its expected watch time by "
            "the truth, without the noise of who clicks."
        ),
        arms=Table(
            header,
            [
                [
                    Cell(claim.name, below=claim.text),
                    *(
                        reports.figure_cell(measured[f"{_ALL}/{claim.name}/{name}"])
                        for name in _COLUMNS
                    ),
                ]
                for claim in claims
            ],
        ),
        differences=Table(
            header,
            [
                [
                    Cell(f"{claim.name} - {claim.against}"),
                    *(
                        _difference(measured[f"{_ALL}/{claim.name}-{claim.against}/{name}"])
                        for name in _COLUMNS
                    ),
                ]
                for claim in others
            ],
        ),
        split=_split_table(split),
    )


def _verdict(claim: Claim, measured: Mapping[str, Figure]) -> dict[str, str]:
    one = measured[f"{_ALL}/{claim.name}-{claim.against}/{_MAIN}"]
    word = "more" if one.value > 0 else "less"
    sure = "" if one.excludes_zero else ", which may be chance"
    style = ("better" if one.value > 0 else "worse") if one.excludes_zero else ""
    text = (
        f"{claim.text}: a home page is worth {abs(one.value):.1f} s {word} by the truth "
        f"[{one.low:+.1f}, {one.high:+.1f}]{sure}."
    )
    return {"name": claim.name, "text": text, "style": style}


def _difference(figure: Figure) -> Cell:
    style = ("better" if figure.value > 0 else "worse") if figure.excludes_zero else ""
    return reports.figure_cell(figure, style, signed=True)


def _split_table(split: Mapping[str, Any]) -> Table:
    return reports.text_table(
        ["arm", "users exposed", "expected"],
        [
            [name, f"{count}", f"{split['expected'][name]:.0f}"]
            for name, count in split["users"].items()
        ]
        + [["p of the split", f"{split['p']:.3g}", ""]],
    )
