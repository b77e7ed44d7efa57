"""An evaluation as a page of text for the terminal and as one self-contained HTML file."""

import html
import io
import json
import math
from collections.abc import Sequence

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Plot

from features import command
from models.evaluation import Evaluation
from models.intervals import Figure
from models.retrieval_evaluation import MODEL

_TITLES = {"candidate": "Candidate generation", "ranker": "Ranking"}
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
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #111827; max-width: 74rem; margin: 2rem auto;
       padding: 0 1rem; }
h2 { margin-top: 2.5rem; border-bottom: 1px solid #d1d5db; }
table { border-collapse: collapse; margin: 1rem 0; }
th, td { padding: .25rem .7rem; text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
thead th { border-bottom: 2px solid #9ca3af; } tbody tr:nth-child(even) { background: #f3f4f6; }
td small { color: #6b7280; } tr.model td { font-weight: 600; } td.better { color: #047857; }
td.worse { color: #b91c1c; } .note { background: #fef3c7; padding: .5rem 1rem; margin: .5rem 0; }
.scroll { overflow-x: auto; } svg { max-width: 100%; height: auto; }
"""


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
            rows.append([_label(system), *(_number(figure.value) for figure in figures)])
        blocks.append(f"{_TITLES[part]}: {_subject(evaluation, part)}\n{_columns(rows)}")
        blocks.extend(_verdict(evaluation, part))
    blocks.extend(f"Note: {note}" for note in evaluation.notes)
    return "\n\n".join(blocks)


def _columns(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    return "\n".join(f"  {line.rstrip()}" for line in lines)


def _verdict(evaluation: Evaluation, part: str) -> list[str]:
    """Returns the model against the best baseline in one sentence."""
    systems = evaluation.systems(part)
    if MODEL not in systems or len(systems) < 2:
        return []
    metric, best = evaluation.main_metric(part), systems[1]
    change = _figure(evaluation, part, f"{MODEL}_minus_{best}", metric)
    return [
        f"Model minus {_label(best)}, the best baseline: {_label(metric)} "
        f"{_interval(change, signed=True)}: {_judgement(change, metric)}."
    ]


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
    body = [f"<p>{html.escape(_protocol(evaluation))}</p>"]
    body += [f'<p class="note">{html.escape(note)}</p>' for note in evaluation.notes]
    for part in measured_parts(evaluation):
        body.append(f"<h2>{_TITLES[part]}</h2><p>{html.escape(_subject(evaluation, part))}</p>")
        body.append(_systems_table(evaluation, part))
        if part == "candidate":
            body.append(_recall_plot(evaluation))
        body.append(_differences_table(evaluation, part))
        body.append(_slices_table(evaluation, part))
    if evaluation.deciles:
        body.append("<h2>Calibration of the expected watch time</h2>")
        body += [_calibration_plot(evaluation), _calibration_table(evaluation)]
    settings = html.escape(json.dumps({**evaluation.settings, **evaluation.data}, indent=1))
    body.append(f"<h2>Settings and data</h2><pre>{settings}</pre>")
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Evaluation</title>'
        f"<style>{_STYLE}</style></head><body><h1>Evaluation</h1>{''.join(body)}</body></html>\n"
    )


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


def _table(header: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]) -> str:
    """Returns a table; each row is its class and its cells, which are HTML already."""
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
    lines = (f'<tr class="{style}">{"".join(cells)}</tr>' for style, cells in rows)
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _cell(content: str, style: str = "") -> str:
    return f'<td class="{style}">{content}</td>' if style else f"<td>{content}</td>"


def _figure_cell(figure: Figure, style: str = "", *, signed: bool = False) -> str:
    if math.isnan(figure.low):
        return _cell(_number(figure.value, signed=signed), style)
    low, high = (_number(end, signed=signed) for end in (figure.low, figure.high))
    value = _number(figure.value, signed=signed)
    return _cell(f"{value} <small>[{low}, {high}]</small>", style)


def _systems_table(evaluation: Evaluation, part: str) -> str:
    metrics = main_metrics(evaluation, part)
    rows = [
        (
            system,
            [
                _cell(html.escape(_label(system))),
                *(_figure_cell(_figure(evaluation, part, system, metric)) for metric in metrics),
            ],
        )
        for system in evaluation.systems(part)
    ]
    return _table(["", *(_label(metric) for metric in metrics)], rows)


def _differences_table(evaluation: Evaluation, part: str) -> str:
    systems = evaluation.systems(part)
    if MODEL not in systems:
        return ""
    left_out = {"coverage_at_100", "mean_video_age_days_at_100", "expected_over_actual"}
    metrics = [m for m in main_metrics(evaluation, part) if m not in left_out]
    rows = []
    for system in systems[1:]:
        cells = [_cell(html.escape(_label(system)))]
        for metric in metrics:
            change = _figure(evaluation, part, f"{MODEL}_minus_{system}", metric)
            style = "better" if _is_better(change, metric) else "worse"
            cells.append(_figure_cell(change, style if change.excludes_zero else "", signed=True))
        rows.append((system, cells))
    header = ["model minus", *(_label(metric) for metric in metrics)]
    return f"<h3>Model minus baseline</h3>{_table(header, rows)}"


def _slices_table(evaluation: Evaluation, part: str) -> str:
    systems, metric = evaluation.systems(part)[:4], evaluation.main_metric(part)
    rows = []
    for name in evaluation.slices(part):
        figures = [_figure(evaluation, part, system, metric, slice_name=name) for system in systems]
        cells = [_cell(html.escape(_label(name))), _cell(f"{figures[0].n:,}")]
        rows.append((name, [*cells, *(_figure_cell(figure) for figure in figures)]))
    header = ["slice", "n", *(_label(system) for system in systems)]
    return f"<h3>{html.escape(_label(metric))} by slice</h3>{_table(header, rows)}"


def _calibration_table(evaluation: Evaluation) -> str:
    metrics = ("expected_watch_time_s", "actual_watch_time_s", "expected_over_actual")
    rows = []
    for name in evaluation.deciles:
        figures = [
            _figure(evaluation, "ranker", MODEL, metric, slice_name=name) for metric in metrics
        ]
        cells = [_cell(html.escape(_label(name))), _cell(f"{figures[0].n:,}")]
        rows.append((name, [*cells, *(_figure_cell(figure) for figure in figures)]))
    return _table(["decile", "n", *(_label(metric) for metric in metrics)], rows)


# ---- plots


def _svg(plot: Plot) -> str:
    buffer = io.StringIO()
    # Fixed salt and no date: the same evaluation gives the same file. Text stays text.
    with mpl.rc_context({"svg.hashsalt": "report", "svg.fonttype": "none"}):
        plot.savefig(buffer, format="svg", metadata={"Date": None}, bbox_inches="tight")
    return "<svg" + buffer.getvalue().partition("<svg")[2]


def _axes(width: float, height: float) -> tuple[Plot, Axes]:
    plot = Plot(figsize=(width, height))
    axes = plot.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e5e7eb")
    axes.set_axisbelow(True)
    return plot, axes


def _recall_plot(evaluation: Evaluation) -> str:
    plot, axes = _axes(10, 4)
    ks = evaluation.settings["k"]
    systems = evaluation.systems("candidate")[:_BARS]
    colours = iter(_BASELINE_COLOURS)
    for i, system in enumerate(systems):
        figures = [_figure(evaluation, "candidate", system, f"recall_at_{k}") for k in ks]
        axes.bar(
            [place + (i - (len(systems) - 1) / 2) * 0.8 / len(systems) for place in range(len(ks))],
            [figure.value for figure in figures],
            width=0.76 / len(systems),
            yerr=_error_bars(figures),
            color=_MODEL_COLOUR if system == MODEL else next(colours),
            label=_label(system),
            capsize=2,
            error_kw={"linewidth": 1},
        )
    axes.set_xticks(range(len(ks)), [f"recall@{k}" for k in ks])
    axes.set_ylim(0)
    axes.legend(frameon=False)
    return _svg(plot)


def _calibration_plot(evaluation: Evaluation) -> str:
    plot, axes = _axes(6, 5)
    expected, actual = (
        [
            _figure(evaluation, "ranker", MODEL, f"{name}_watch_time_s", slice_name=decile)
            for decile in evaluation.deciles
        ]
        for name in ("expected", "actual")
    )
    places = [figure.value for figure in expected]
    axes.errorbar(
        places,
        [figure.value for figure in actual],
        yerr=_error_bars(actual),
        fmt="o",
        color=_MODEL_COLOUR,
        capsize=3,
    )
    top = max(1e-9, *places, *(figure.value for figure in actual))
    axes.plot([0, top], [0, top], color="#6b7280", linestyle="--", linewidth=1)
    axes.set_xlabel("expected watch time, seconds per impression (decile mean)")
    axes.set_ylabel("actual watch time, seconds per impression")
    return _svg(plot)


def _error_bars(figures: Sequence[Figure]) -> list[list[float]]:
    """Returns distances below and above; an interval that does not hold its value has none."""
    below = [max(0.0, figure.value - figure.low) for figure in figures]
    above = [max(0.0, figure.high - figure.value) for figure in figures]
    return [[0.0 if math.isnan(one) else one for one in side] for side in (below, above)]


# ---- numbers and names


def _figure(
    evaluation: Evaluation, part: str, system: str, metric: str, *, slice_name: str = "all"
) -> Figure:
    return evaluation.figures.get(f"{part}.{system}.{slice_name}.{metric}", _NOTHING)


def _number(value: float, *, signed: bool = False) -> str:
    if math.isnan(value):
        return "–"
    digits = 1 if abs(value) >= 100 else 2 if abs(value) >= 10 else 4
    return f"{value:+.{digits}f}" if signed else f"{value:.{digits}f}"


def _interval(figure: Figure, *, signed: bool = False) -> str:
    value, low, high = (
        _number(one, signed=signed) for one in (figure.value, figure.low, figure.high)
    )
    return f"{value} [{low}, {high}]"


def _label(name: str) -> str:
    """Returns a key as people write it: ``recall_at_10`` is recall@10."""
    return _LABELS.get(name) or name.replace("_at_", "@").replace("_", " ")
