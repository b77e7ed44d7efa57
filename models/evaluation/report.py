"""An evaluation as a page of text for the terminal and as one self-contained HTML file."""

import html
import json
import math
from collections.abc import Sequence

from features import command
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
_MODEL_COLOUR, _BASELINE_COLOURS = (
    "#1a56db",
    ("#4b5563", "#9ca3af", "#b45309", "#0f766e", "#7c3aed"),
)
_BARS = 5  # The model and the best baselines; more bars hide each other.
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
        rows = [["", *(_label(metric) for metric in metrics)]]
        for system in evaluation.systems(part):
            figures = [_figure(evaluation, part, system, metric) for metric in metrics]
            rows.append(
                [_label(system), *(report_parts.number(figure.value) for figure in figures)]
            )
        blocks.append(
            f"{_TITLES[part]}: {_subject(evaluation, part)}\n{report_parts.columns(rows)}"
        )
        blocks.extend(_verdict(evaluation, part))
    if evaluation.heads:
        names = (*heads.METRICS, *heads.RATES)
        rows = [["", *(_label(name) for name in names)]]
        for kind in evaluation.heads:
            figures = [_figure(evaluation, heads.PART, kind, name) for name in names]
            rows.append([kind, *(report_parts.number(figure.value) for figure in figures)])
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
        f"Model minus {_label(systems[1])}, the best baseline: {_label(metric)} "
        f"{_interval(change, signed=True)}: {_judgement(change, metric)}."
    ]


def _change(evaluation: Evaluation, part: str) -> Figure:
    """Returns the model minus the best baseline, by the metric that decides."""
    best = evaluation.systems(part)[1]
    return _figure(evaluation, part, f"{MODEL}_minus_{best}", evaluation.main_metric(part))


def _judgement(change: Figure, metric: str) -> str:
    if not change.excludes_zero:
        return "not told apart, the interval holds 0"
    return "better" if _is_better(change, metric) else "worse"


def _is_better(change: Figure, metric: str) -> bool:
    falls = metric in {"weighted_per_user_loss", "mae_s"}
    return (change.value < 0) == falls


def _subject(evaluation: Evaluation, part: str) -> str:
    data = evaluation.data
    if part == "candidate":
        asked, every = data["candidate_queries"], data["candidate_holdout_examples"]
        drawn = "" if asked == every else f" (drawn from {every:,})"
        return (
            f"next watch among all {data['videos']:,} videos, {asked:,} holdout watches{drawn} "
            f"of {data['candidate_users']:,} users"
        )
    return (
        f"{data['ranker_impressions']:,} holdout impressions on {data['ranker_pages']:,} pages of "
        f"{data['ranker_users']:,} users, {data['ranker_click_rate']:.1%} clicked"
    )


# ---- HTML


def html_page(evaluation: Evaluation) -> str:
    """Returns the whole report, plots as inline SVG; it needs no other file."""
    body = [_summary(evaluation, part) for part in measured_parts(evaluation)]
    body += [f"<p>{html.escape(_protocol(evaluation))}</p>"]
    body += [f'<p class="note">{html.escape(note)}</p>' for note in evaluation.notes]
    for part in measured_parts(evaluation):
        body.append(f"<h2>{_TITLES[part]}</h2><p>{html.escape(_subject(evaluation, part))}</p>")
        body.append(_systems_table(evaluation, part))
        if part == "candidate":
            body.append(_recall_plot(evaluation))
        body.append(_differences_table(evaluation, part))
        body.append(_slices_table(evaluation, part))
    if evaluation.calibration:
        body.append(
            "<h2>Calibration of the expected watch time</h2><p>The ranker's curve of at most five "
            "numbers was fitted to these impressions; later days are the strict test.</p>"
        )
        body.append(_calibration_plot(evaluation))
    for kind in evaluation.calibration:
        body.append(f"<h3>{_CALIBRATION[kind]}</h3>{_calibration_table(evaluation, kind)}")
    if evaluation.heads:
        body.append("<h2>Feedback: the ranker's other objectives</h2>")
        body.append(_heads_table(evaluation))
    for kind, deciles in evaluation.heads.items():
        body.append(f"<h3>Calibration of {html.escape(kind)} by decile</h3>")
        body.append(_decile_table(evaluation, kind, deciles))
    settings = html.escape(json.dumps({**evaluation.settings, **evaluation.data}, indent=1))
    body.append(f"<h2>Settings and data</h2><pre>{settings}</pre>")
    return report_parts.page("Evaluation", body)


def _summary(evaluation: Evaluation, part: str) -> str:
    """Returns whether the model is better than the best baseline, in a box."""
    found = _verdict(evaluation, part)
    if not found:
        return report_parts.verdict(f"{_TITLES[part]}:", "no model and baseline to compare.")
    change = _change(evaluation, part)
    style = "better" if _is_better(change, evaluation.main_metric(part)) else "worse"
    style = style if change.excludes_zero else ""
    return report_parts.verdict(f"{_TITLES[part]}:", " ".join(found), style)


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


def _figure_cell(figure: Figure, style: str = "", *, signed: bool = False) -> str:
    if math.isnan(figure.low):
        return report_parts.cell(report_parts.number(figure.value, signed=signed), style)
    low, high = (report_parts.number(end, signed=signed) for end in (figure.low, figure.high))
    value = report_parts.number(figure.value, signed=signed)
    return report_parts.cell(f"{value} <small>[{low}, {high}]</small>", style)


def _systems_table(evaluation: Evaluation, part: str) -> str:
    metrics = main_metrics(evaluation, part)
    rows = [
        (
            system,
            [
                report_parts.cell(html.escape(_label(system))),
                *(_figure_cell(_figure(evaluation, part, system, metric)) for metric in metrics),
            ],
        )
        for system in evaluation.systems(part)
    ]
    return report_parts.table(["", *(_label(metric) for metric in metrics)], rows)


def _differences_table(evaluation: Evaluation, part: str) -> str:
    systems = evaluation.systems(part)
    if MODEL not in systems:
        return ""
    left_out = {"coverage_at_100", "mean_video_age_days_at_100", "expected_over_actual"}
    metrics = [m for m in main_metrics(evaluation, part) if m not in left_out]
    rows = []
    for system in systems[1:]:
        cells = [report_parts.cell(html.escape(_label(system)))]
        for metric in metrics:
            change = _figure(evaluation, part, f"{MODEL}_minus_{system}", metric)
            style = "better" if _is_better(change, metric) else "worse"
            cells.append(_figure_cell(change, style if change.excludes_zero else "", signed=True))
        rows.append((system, cells))
    header = ["model minus", *(_label(metric) for metric in metrics)]
    return f"<h3>Model minus baseline</h3>{report_parts.table(header, rows)}"


def _slices_table(evaluation: Evaluation, part: str) -> str:
    systems, metric = evaluation.systems(part)[:4], evaluation.main_metric(part)
    rows = []
    for name in evaluation.slices(part):
        figures = [_figure(evaluation, part, system, metric, slice_name=name) for system in systems]
        cells = [
            report_parts.cell(html.escape(_label(name))),
            report_parts.cell(f"{figures[0].n:,}"),
        ]
        rows.append((name, [*cells, *(_figure_cell(figure) for figure in figures)]))
    header = ["slice", "n", *(_label(system) for system in systems)]
    return f"<h3>{html.escape(_label(metric))} by slice</h3>{report_parts.table(header, rows)}"


def _calibration_table(evaluation: Evaluation, kind: str) -> str:
    metrics = ("expected_watch_time_s", "actual_watch_time_s", "expected_over_actual")
    rows = []
    for name in evaluation.calibration[kind]:
        figures = [
            _figure(evaluation, "ranker", MODEL, metric, slice_name=name) for metric in metrics
        ]
        cells = [
            report_parts.cell(html.escape(_label(name))),
            report_parts.cell(f"{figures[0].n:,}"),
        ]
        rows.append((name, [*cells, *(_figure_cell(figure) for figure in figures)]))
    return report_parts.table([kind, "n", *(_label(metric) for metric in metrics)], rows)


def _heads_table(evaluation: Evaluation) -> str:
    rows = []
    for kind in evaluation.heads:
        figures = [
            _figure(evaluation, heads.PART, kind, metric)
            for metric in (*heads.METRICS, *heads.RATES)
        ]
        rows.append((kind, [report_parts.cell(kind), *map(_figure_cell, figures)]))
    header = ["feedback", *(_label(metric) for metric in (*heads.METRICS, *heads.RATES))]
    return report_parts.table(header, rows)


def _decile_table(evaluation: Evaluation, kind: str, deciles: Sequence[str]) -> str:
    rows = []
    for name in deciles:
        figures = [
            _figure(evaluation, heads.PART, kind, metric, slice_name=name) for metric in heads.RATES
        ]
        cells = [report_parts.cell(_label(name)), report_parts.cell(f"{figures[0].n:,}")]
        rows.append((name, [*cells, *map(_figure_cell, figures)]))
    return report_parts.table(["decile", "n", *(_label(one) for one in heads.RATES)], rows)


# ---- plots


def _recall_plot(evaluation: Evaluation) -> str:
    plot, axes = report_parts.axes(10, 4)
    ks = evaluation.settings["k"]
    systems = evaluation.systems("candidate")[:_BARS]
    colours = iter(_BASELINE_COLOURS)
    for i, system in enumerate(systems):
        figures = [_figure(evaluation, "candidate", system, f"recall_at_{k}") for k in ks]
        axes.bar(
            [place + (i - (len(systems) - 1) / 2) * 0.8 / len(systems) for place in range(len(ks))],
            [figure.value for figure in figures],
            width=0.76 / len(systems),
            yerr=report_parts.error_bars(figures),
            color=_MODEL_COLOUR if system == MODEL else next(colours),
            label=_label(system),
            capsize=2,
            error_kw={"linewidth": 1},
        )
    axes.set_xticks(range(len(ks)), [f"recall@{k}" for k in ks])
    axes.set_ylim(0)
    axes.legend(frameon=False)
    return report_parts.svg(plot)


def _calibration_plot(evaluation: Evaluation) -> str:
    plot, axes = report_parts.axes(6, 5)
    expected, actual = (
        [
            _figure(evaluation, "ranker", MODEL, f"{name}_watch_time_s", slice_name=decile)
            for decile in evaluation.calibration["decile"]
        ]
        for name in ("expected", "actual")
    )
    places = [figure.value for figure in expected]
    axes.errorbar(
        places,
        [figure.value for figure in actual],
        yerr=report_parts.error_bars(actual),
        fmt="o",
        color=_MODEL_COLOUR,
        capsize=3,
    )
    top = max(1e-9, *places, *(figure.value for figure in actual))
    axes.plot([0, top], [0, top], color="#6b7280", linestyle="--", linewidth=1)
    axes.set_xlabel("expected watch time, seconds per impression (decile mean)")
    axes.set_ylabel("actual watch time, seconds per impression")
    return report_parts.svg(plot)


# ---- numbers and names


def _figure(
    evaluation: Evaluation, part: str, system: str, metric: str, *, slice_name: str = "all"
) -> Figure:
    return evaluation.figures.get(f"{part}.{system}.{slice_name}.{metric}", _NOTHING)


def _interval(figure: Figure, *, signed: bool = False) -> str:
    value, low, high = (
        report_parts.number(one, signed=signed) for one in (figure.value, figure.low, figure.high)
    )
    return f"{value} [{low}, {high}]"


def _label(name: str) -> str:
    """Returns a key as people write it: ``recall_at_10`` is recall@10."""
    return _LABELS.get(name) or name.replace("_at_", "@").replace("_", " ")
