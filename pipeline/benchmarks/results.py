"""Measurements as the tables of docs/results: columns, rows, and the setting that they are true in.

A measurement is what ``models.evaluate``, ``models.reproduce`` (or ``pipeline.measure_pages`` and
``pipeline.measure_satisfaction``) or ``pipeline.bench`` wrote. Figures are never typed: a table is
made anew of a new measurement, and others of its file stay.
"""

import json
import math
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from features import command, files
from models.evaluation.evaluation import Evaluation
from models.evaluation.intervals import Figure, Interval
from models.paper.experiments import Experiment
from pipeline.benchmarks.measured import SETTING, Measured, cell, measured_on, number

_TABLE = re.compile(r"([a-z0-9_-]+)\.([a-z0-9_-]+)")
WRITER = "pipeline.record_results"


def read(path: pathlib.Path, part: str, metrics: Sequence[str] = ()) -> Measured:
    """Reads one part of a measurement.

    Args:
        path: metrics.json of models.evaluate, results.json of models.reproduce, or bench.json.
        part: ``candidate`` or ``ranker``; name of an experiment; or a group of benchmarks.
        metrics: Metrics that get a column, by their names in the file; none for all. Of benchmarks,
            those that get a row.

    Raises:
        command.InputError: The file is no such measurement, or does not have the part.
    """
    document = document_of(path)
    if "figures" in document:
        table = _of_evaluation(document, part, metrics)
    elif "experiments" in document:
        table = _of_experiment(document, part, metrics)
    else:
        table = _of_benchmarks(document, part, metrics)
    if not table.rows:
        raise command.InputError(
            f"{path} has no figures of --part={part}. An evaluation has candidate and ranker, a "
            "reproduction its experiments, bench.json its groups."
        )
    return table


def document_of(path: pathlib.Path) -> Mapping[str, Any]:
    """Returns the JSON object of a file; InputError where there is none."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise command.InputError(f"--measured={path} cannot be read as JSON: {error}") from error
    if not isinstance(document, dict):
        raise command.InputError(f"--measured={path} must hold a JSON object.")
    return document


def record(results: pathlib.Path, table: str, measured: Measured, told: Mapping[str, str]) -> None:
    """Puts a table into its file, in place of an earlier one.

    Args:
        results: Directory of the JSON files.
        table: ``FILE.NAME``, as pages ask for it.
        measured: The table.
        told: What the measurement does not know of its setting, or knows less well; "" is nothing.

    Raises:
        command.InputError: The name is none, or something is missing of the setting.
    """
    named = _TABLE.fullmatch(table)
    if named is None:
        raise command.InputError(f"--table must be FILE.NAME in small letters, got {table!r}.")
    setting = {**measured.facts, **{key: text for key, text in told.items() if text}}
    missing = [key for key in SETTING if not setting.get(key)]
    if missing:
        raise command.InputError(
            f"a result states its {', '.join(SETTING)}; nothing says the {', '.join(missing)} of "
            f"this one: give --{' and --'.join(missing)}."
        )
    path = results / f"{named[1]}.json"
    tables = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    tables[named[2]] = {
        "columns": list(measured.columns),
        "rows": [list(row) for row in measured.rows],
        "setting": {key: setting[key] for key in SETTING},
        "written_by": WRITER,
    }
    files.atomic_write(path, json.dumps(tables, indent=1, ensure_ascii=False) + "\n")


def _of_evaluation(document: Mapping[str, Any], part: str, wanted: Sequence[str]) -> Measured:
    from models.evaluation import report

    figures = {key: Figure(**_with_nan(figure)) for key, figure in document["figures"].items()}
    evaluation = Evaluation(settings=document["settings"], data=document["data"], figures=figures)
    if part not in report.measured_parts(evaluation):
        return Measured(columns=[], rows=[], facts={})
    metrics = [
        metric
        for metric in wanted or report.main_metrics(evaluation, part)
        if any(key.startswith(f"{part}.") and key.endswith(f".{metric}") for key in figures)
    ]
    rows = [
        [report.label(system), *(cell(figures.get(f"{part}.{system}.all.{m}")) for m in metrics)]
        for system in evaluation.systems(part)
    ]
    return Measured(
        columns=["", *map(report.label, metrics)],
        rows=rows,
        facts={
            "protocol": report.subject(evaluation, part),
            "interval": "95 % in brackets, paired bootstrap over users, "
            f"{evaluation.settings['replicates']} resamples",
            "again": "models.evaluate",
            "measured": measured_on(document.get("measured", {})),
        },
    )


def _of_experiment(document: Mapping[str, Any], part: str, wanted: Sequence[str]) -> Measured:
    texts = {one["name"]: json.dumps(one) for one in document["experiments"]}
    if part not in texts:
        return Measured(columns=[], rows=[], facts={})
    experiment = Experiment.from_json(texts[part])
    metrics = list(wanted or dict.fromkeys(row.metric for row in experiment.rows))
    seeds = {row.seed for row in experiment.rows}
    fractions = {row.metric for row in experiment.rows if not float(row.value).is_integer()}
    cells = {
        (row.setting, row.seed, row.metric): Interval(value=row.value, low=row.low, high=row.high)
        for row in experiment.rows
    }
    rows = []
    shown = [row for row in experiment.rows if row.metric in metrics]
    for setting, seed in dict.fromkeys((row.setting, row.seed) for row in shown):
        name = setting if len(seeds) == 1 or seed is None else f"{setting}, seed {seed}"
        name = name.replace("*", r"\*")  # Of a formula; Markdown would make it slanted.
        figures = {metric: cells.get((setting, seed, metric)) for metric in metrics}
        counts = {m: f"{f.value:,.0f}" for m, f in figures.items() if f and m not in fractions}
        rows.append([name, *(counts.get(m) or cell(figure) for m, figure in figures.items())])
    settings = document["settings"]
    return Measured(
        columns=["", *(metric.replace("_at_", "@").replace("_", " ") for metric in metrics)],
        rows=rows,
        facts={
            "data": f"pipeline.simulate {settings['simulated_with']}"
            if settings.get("simulated_with")
            else "",
            "protocol": experiment.question,
            "seed": ", ".join(str(seed) for seed in settings.get("seeds", ())),
            "interval": "95 % in brackets, paired bootstrap over users",
            # Of what pipeline.measure_* wrote only its user knows the command.
            "again": f"models.reproduce --mode={settings['mode']} --experiments={part}"
            if settings.get("mode")
            else "",
            "measured": measured_on(document.get("measured", {})),
        },
    )


def _of_benchmarks(document: Mapping[str, Any], part: str, wanted: Sequence[str]) -> Measured:
    figures = {
        key.removeprefix(f"{part}."): value
        for key, value in document.items()
        if key.startswith(f"{part}.")
    }
    return Measured(
        columns=["", "figure"],
        rows=[
            [name.replace("_", " "), number(float(figures[name]))]
            for name in wanted or figures
            if name in figures
        ],
        facts={
            "protocol": "ratios side by side in one run, on one machine",
            "seed": "1",
            "interval": "none: one run",
            "again": f"make bench BENCH={part}",
        },
    )


def _with_nan(figure: Mapping[str, Any]) -> dict[str, Any]:
    return {key: math.nan if value is None else value for key, value in figure.items()}
