"""An evaluation as a page of text for the terminal and as one self-contained HTML file."""

import json
import math
from collections.abc import Sequence
from typing import Any

from features import charts, command, reports
from features.charts import Drawing, Plot, Series
from features.reports import Cell, Table
from models.evaluation import heads, report_parts
from models.evaluation.evaluation import Evaluation
from models.evaluation.intervals import Figure
from models.evaluation.retrieval import MODEL

_TITLES = {"candidate": "Candidate generation", "ranker": "Ranking"}
_CALIBRATION = {
    "decile": "By decile of the expectation",
    "duration": "By duration of the video, shortest fifth of the training data first",
    "position": "By position on the page, 10 and all after it together",
}
_RANKING_METRICS = ("weighted_per_user_loss", "auc", "xauc", "mae_s", "expected_over_actual")
_LINES = 5  # The model and the best baselines; more lines hide each other.
_LABELS = {
    "auc": "AUC",
    "xauc": "XAUC",
    "map": "MAP",
    "mae_s": "MAE (s)",
    "mean_video_age_days_at_100": "mean age (days)@100",
    "weighted_per_user_loss": "weighted, per-user loss",
    "co_visitation": "co-visitation",
}
_NOTHING = Figure(value=math.nan, low=math.nan, high=math.nan, n=0)


def main_metrics(evaluation: Evaluation, part: str) -> list[str]:
    """Returns the metrics that a part's table shows, in order."""
    if part == "ranker":
        return list(_RANKING_METRICS)
    recalls = [f"recall_at_{k}" for k in evaluation.settings["k"]]
    return [*recalls, "map", "coverage_at_100", "mean_video_age_days_at_100"]


def measured_parts(evaluation: Evaluation) -> list[str]:
    """Returns which of ``candidate`` and ``ranker`` have figures."""
    return [part for part in _TITLES if evaluation.systems(part)]


# ---- text


def text(evaluation: Evaluation) -> str:
    """Returns the main tables for a terminal."""
    blocks = []
    for part in measured_parts(evaluation):
        metrics = main_metrics(evaluation, part)
        rows = [["", *(label(metric) for metric in metrics)]]
        for system in evaluation.systems(part):
            figures = [_figure(evaluation, part, system, metric) for metric in metrics]
            rows.append([label(system), *(reports.number(figure.value) for figure in figures)])
        blocks.append(f"{_TITLES[part]}: {subject(evaluation, part)}\n{report_parts.columns(rows)}")
        blocks.extend(_verdict(evaluation, part))
    if evaluation.heads:
        names = (*heads.METRICS, *heads.RATES)
        rows = [["", *(label(name) for name in names)]]
        for kind in evaluation.heads:
            figures = [_figure(evaluation, heads.PART, kind, name) for name in names]
            rows.append([kind, *(reports.number(figure.value) for figure in figures)])
        blocks.append(f"Feedback of holdout impressions\n{report_parts.columns(rows)}")
    blocks.extend(f"Note: {note}" for note in evaluation.notes)
    return "\n\n".join(blocks)


def _verdict(evaluation: Evaluation, part: str) -> list[str]:
    """Returns the model against the best baseline in one sentence."""
    systems = evaluation.systems(part)
    if MODEL not in systems or len(systems) < 2:
        return []
    metric, change = evaluation.main_metric(part), _change(evaluation, part)
    return [
        f"Model minus {label(systems[1])}, the best baseline: {label(metric)} "
        f"{_interval(change, signed=True)}: {_judgement(change, metric)}."
    ]


def _change(evaluation: Evaluation, part: str) -> Figure:
    """Returns the model minus the best baseline, by the metric that decides."""
    best = evaluation.systems(part)[1]
    return _figure(evaluation, part, f"{MODEL}_minus_{best}", evaluation.main_metric(part))


def _judgement(change: Figure, metric: str) -> str:
    return _style(change, metric) or "not told apart, the interval holds 0"


def _is_better(change: Figure, metric: str) -> bool:
    falls = metric in {"weighted_per_user_loss", "mae_s"}
    return (change.value < 0) == falls


def subject(evaluation: Evaluation, part: str) -> str:
    """Returns what a part was measured on, in a sentence."""
    data = evaluation.data
    if part == "candidate":
        queries, every = data["candidate_queries"], data["candidate_holdout_examples"]
        drawn = "" if queries == every else f" (drawn from {every:,})"
        return (
            f"next watch among all {data['videos']:,} videos, {queries:,} holdout watches{drawn} "
            f"of {data['candidate_users']:,} users"
        )
    return (
        f"{data['ranker_impressions']:,} holdout impressions on {data['ranker_pages']:,} pages of "
        f"{data['ranker_users']:,} users, {data['ranker_click_rate']:.1%} clicked"
    )


# ---- HTML


def html_page(evaluation: Evaluation) -> str:
    """Returns the whole report, plots as inline SVG; it needs no other file."""
    parts = [_section(evaluation, part) for part in measured_parts(evaluation)]
    contents = [(part["anchor"], part["title"]) for part in parts]
    if evaluation.calibration:
        contents.append(("calibration", "Calibration"))
    if evaluation.heads:
        contents.append(("feedback", "Feedback"))
    return reports.render(
        "models.evaluation",
        "evaluation.html",
        contents=[*contents, ("settings", "Settings and data")],
        title="Evaluation",
        parts=parts,
        protocol=_protocol(evaluation),
        notes=evaluation.notes,
        calibration=[
            (_CALIBRATION[kind], _calibration_table(evaluation, kind))
            for kind in evaluation.calibration
        ],
        calibration_plots=_calibration_plots(evaluation),
        heads=_heads_table(evaluation) if evaluation.heads else None,
        deciles=[
            (kind, _decile_table(evaluation, kind, deciles))
            for kind, deciles in evaluation.heads.items()
        ],
        settings=json.dumps({**evaluation.settings, **evaluation.data}, indent=1),
    )


def _section(evaluation: Evaluation, part: str) -> dict[str, Any]:
    sentences = _verdict(evaluation, part)
    style = ""
    if sentences:
        change = _change(evaluation, part)
        style = _style(change, evaluation.main_metric(part))
    return {
        "anchor": part,
        "title": _TITLES[part],
        "style": style,
        "verdict": " ".join(sentences) or "no model and baseline to compare.",
        "subject": subject(evaluation, part),
        "systems": _systems_table(evaluation, part),
        "plots": [_recall_plot(evaluation)] if part == "candidate" else [],
        "differences": _differences_table(evaluation, part),
        "metric": label(evaluation.main_metric(part)),
        "slices": _slices_table(evaluation, part),
        "learning": report_parts.learning_curves(evaluation.training.get(part, [])),
    }


def _protocol(evaluation: Evaluation) -> str:
    settings = evaluation.settings
    end = evaluation.data.get("train_until_s")
    ended = f" Training ended at {command.format_time(end)}." if end is not None else ""
    seen = "left out" if settings["exclude_watched"] else "kept in"
    return (
        f"Time-split holdout.{ended} Every video of the corpus is ranked for each query; videos "
        f"watched before are {seen}. Brackets are 95% intervals from {settings['replicates']} "
        f"resamples of users (seed {settings['seed']}); differences are paired."
    )


def _systems_table(evaluation: Evaluation, part: str) -> Table:
    metrics, systems = main_metrics(evaluation, part), evaluation.systems(part)
    rows = [
        [
            Cell(label(system)),
            *(_cell(_figure(evaluation, part, system, metric)) for metric in metrics),
        ]
        for system in systems
    ]
    return Table(["system", *map(label, metrics)], rows, systems)


def _differences_table(evaluation: Evaluation, part: str) -> Table | None:
    systems = evaluation.systems(part)
    if MODEL not in systems:
        return None
    left_out = {"coverage_at_100", "mean_video_age_days_at_100", "expected_over_actual"}
    metrics = [m for m in main_metrics(evaluation, part) if m not in left_out]
    rows = []
    for system in systems[1:]:
        row = [Cell(label(system))]
        for metric in metrics:
            change = _figure(evaluation, part, f"{MODEL}_minus_{system}", metric)
            row.append(_cell(change, _style(change, metric), signed=True))
        rows.append(row)
    return Table(["model minus", *map(label, metrics)], rows)


def _slices_table(evaluation: Evaluation, part: str) -> Table:
    systems, metric = evaluation.systems(part)[:4], evaluation.main_metric(part)
    rows = []
    for name in evaluation.slices(part):
        figures = [_figure(evaluation, part, system, metric, slice_name=name) for system in systems]
        rows.append([Cell(label(name)), Cell(f"{figures[0].n:,}"), *map(_cell, figures)])
    return Table(["slice", "n", *map(label, systems)], rows)


def _calibration_table(evaluation: Evaluation, kind: str) -> Table:
    metrics = ("expected_watch_time_s", "actual_watch_time_s", "expected_over_actual")
    rows = []
    for name in evaluation.calibration[kind]:
        figures = [
            _figure(evaluation, "ranker", MODEL, metric, slice_name=name) for metric in metrics
        ]
        rows.append([Cell(label(name)), Cell(f"{figures[0].n:,}"), *map(_cell, figures)])
    return Table([kind, "n", *map(label, metrics)], rows)


def _style(change: Figure, metric: str) -> str:
    if not change.excludes_zero:
        return ""
    return "better" if _is_better(change, metric) else "worse"


def _cell(figure: Figure, style: str = "", *, signed: bool = False) -> Cell:
    return reports.figure_cell(figure, style, signed=signed)


def _heads_table(evaluation: Evaluation) -> Table:
    names = (*heads.METRICS, *heads.RATES)
    rows = [
        [Cell(kind), *(_cell(_figure(evaluation, heads.PART, kind, name)) for name in names)]
        for kind in evaluation.heads
    ]
    return Table(["feedback", *map(label, names)], rows)


def _decile_table(evaluation: Evaluation, kind: str, deciles: Sequence[str]) -> Table:
    rows = []
    for name in deciles:
        figures = [
            _figure(evaluation, heads.PART, kind, metric, slice_name=name) for metric in heads.RATES
        ]
        rows.append([Cell(label(name)), Cell(f"{figures[0].n:,}"), *map(_cell, figures)])
    return Table(["decile", "n", *map(label, heads.RATES)], rows)


# ---- plots


def _recall_plot(evaluation: Evaluation) -> Drawing:
    ks = evaluation.settings["k"]
    series = []
    for system in evaluation.systems("candidate")[:_LINES]:
        figures = [_figure(evaluation, "candidate", system, f"recall_at_{k}") for k in ks]
        series.append(_series(label(system), ks, figures))
    return charts.draw(
        Plot(
            kind=charts.LINES,
            x_label="k, number of videos that are retrieved",
            y_label="recall@k",
            series=series,
            title=f"Of {subject(evaluation, 'candidate')}; 95% intervals.",
        )
    )


def _calibration_plots(evaluation: Evaluation) -> list[Drawing]:
    drawn = []
    for kind, groups in evaluation.calibration.items():
        expected, actual = (
            [
                _figure(evaluation, "ranker", MODEL, f"{name}_watch_time_s", slice_name=group)
                for group in groups
            ]
            for name in ("expected", "actual")
        )
        by_decile = kind == "decile"
        places = [one.value for one in expected] if by_decile else list(range(1, len(groups) + 1))
        ideal = Series(name="expected", x=places, y=[one.value for one in expected])
        what = "expected watch time, seconds per impression (decile mean)" if by_decile else kind
        drawn.append(
            charts.draw(
                Plot(
                    kind=charts.LINES,
                    x_label=what,
                    y_label="watch time, seconds per impression",
                    series=[_series("watched", places, actual), ideal],
                    title=f"{_CALIBRATION[kind]}; 95% intervals.",
                )
            )
        )
    return drawn


def _series(name: str, places: Sequence[float], figures: Sequence[Figure]) -> Series:
    return Series(
        name=name,
        x=places,
        y=[one.value for one in figures],
        low=[one.low for one in figures],
        high=[one.high for one in figures],
    )


# ---- numbers and names


def _figure(
    evaluation: Evaluation, part: str, system: str, metric: str, *, slice_name: str = "all"
) -> Figure:
    return evaluation.figures.get(f"{part}.{system}.{slice_name}.{metric}", _NOTHING)


def _interval(figure: Figure, *, signed: bool = False) -> str:
    value, low, high = (
        reports.number(one, signed=signed) for one in (figure.value, figure.low, figure.high)
    )
    return f"{value} [{low}, {high}]"


def label(name: str) -> str:
    """Returns a key as people write it: ``recall_at_10`` is recall@10."""
    return _LABELS.get(name) or name.replace("_at_", "@").replace("_", " ")
