"""The report of a retraining: what came out, why it serves or not, and how it went, as one page."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from features import charts, reports
from features.charts import Drawing, Plot, Series
from features.reports import Cell, Table, text_table
from models.evaluation import report_parts
from models.evaluation.intervals import Interval
from serving.building.gates import FAIL, NOT_CHECKED
from serving.building.metric_gates import MAIN_METRICS
from serving.building.trials import REPEATS

_TITLES = {"candidate": "Candidate generation", "ranker": "Ranking"}
_STYLES = {FAIL: "worse", NOT_CHECKED: "", "pass": "better"}
_MOST_DRIFTED = 10
_LINKS = {
    "evaluation.html": "the evaluation",
    "statistics.html": "statistics of the examples",
    "card.md": "the model card",
    "card.json": "the model card for programs",
}


def page(
    card: Mapping[str, Any],
    *,
    previous_figures: Mapping[str, Any],
    training: Mapping[str, Sequence[Mapping[str, Any]]],
    steps: Sequence[Mapping[str, Any]],
    drift: Mapping[str, Any] | None,
    times: Mapping[str, Sequence[tuple[str, float, float, float]]],
    links: Sequence[str],
) -> str:
    """Returns the page.

    Args:
        card: Model card, of :func:`serving.building.card.card`.
        previous_figures: Figures of the release that serves until now.
        training: Rounds of the trainings by kind of model.
        steps: Steps of the retraining so far: ``name``, ``outcome``, ``seconds``, ``reason``.
        drift: ``drift`` of statistics.json; None without.
        times: Servable to its requests: what was asked, and the median, the first and the third
            quartile of the time, ms.
        links: Names of reports that lie beside this one.
    """
    learning = {_TITLES[kind]: report_parts.learning_curves(r) for kind, r in training.items()}
    failed = [gate for gate in card["gates"] if gate["verdict"] == FAIL]
    return reports.render(
        "serving.building",
        "retraining.html",
        contents=_contents(card, learning, steps=steps, drift=drift, times=times),
        title=f"Retraining: release {card['release']}",
        card=card,
        failed=failed,
        links=[(name, _LINKS[name]) for name in links],
        figures=_figures_table(card, previous_figures),
        figure_plots=_figure_plots(card, previous_figures),
        gates=_gates_table(card["gates"]),
        data=_data_table(card["data"]),
        steps=_steps(steps),
        learning={title: drawn for title, drawn in learning.items() if drawn},
        drift_plots=_drift(drift) if drift else [],
        times=_times(times, card["index"]),
    )


def failed_page(steps: Sequence[Mapping[str, Any]]) -> str:
    """Returns the page of a retraining that ended before there was anything to publish.

    Args:
        steps: Steps, as for :func:`page`; the last one failed.
    """
    last = steps[-1]
    return reports.render(
        "serving.building",
        "failed.html",
        title="Retraining: no release",
        step=last["name"],
        reason=last["reason"],
        command=last["command"],
        steps=_steps(steps),
    )


def _contents(
    card: Mapping[str, Any],
    learning: Mapping[str, Sequence[Drawing]],
    *,
    steps: Sequence[Any],
    drift: object,
    times: Mapping[str, Any],
) -> list[tuple[str, str]]:
    parts = [
        ("figures", "Figures", bool(card["metrics"])),
        ("gates", "Gates", True),
        ("data", "Data", True),
        ("learning", "Learning curves", any(learning.values())),
        ("drift", "Drift", bool(drift)),
        ("times", "Times", bool(times)),
        ("steps", "Steps", bool(steps)),
        ("limits", "Limits", True),
    ]
    return [(anchor, name) for anchor, name, is_there in parts if is_there]


# ---- figures -------------------------------------------------------------------------------------


def _interval(figure: Mapping[str, Any] | None) -> Interval:
    ends = {name: (figure or {}).get(name) for name in ("value", "low", "high")}
    return Interval(**{name: math.nan if end is None else end for name, end in ends.items()})


def _key(one: Mapping[str, Any]) -> str:
    return f"{one['part']}.model.all.{one['metric']}"


def _figures_table(card: Mapping[str, Any], previous: Mapping[str, Any]) -> Table:
    rows = []
    for one in card["metrics"]:
        before = previous.get(_key(one))
        rows.append(
            [
                Cell(one["metric"].replace("_at_", "@").replace("_", " "), below=one["part"]),
                reports.figure_cell(_interval(one)),
                reports.figure_cell(_interval(before)) if before else Cell("–"),
                Cell(f"{one['n']:,}" if one.get("n") else ""),
            ]
        )
    return Table(["metric", "this release", card["previous"] or "before", "n"], rows)


def _figure_plots(card: Mapping[str, Any], previous: Mapping[str, Any]) -> list[Drawing]:
    """Draws each part's main metric: this release, the one before and the baselines."""
    drawn = []
    for part, ((metric, _), *_) in MAIN_METRICS.items():
        mine = next((m for m in card["metrics"] if _key(m) == f"{part}.model.all.{metric}"), None)
        if mine is None:
            continue
        rows = {f"release {card['release']}": mine}
        if _key(mine) in previous:
            rows[f"release {card['previous']}"] = previous[_key(mine)]
        for one in card["baselines"]:
            if one["part"] == part:
                rows[f"baseline {one['system'].replace('_', ' ')}"] = one
        values = [_interval(figure) for figure in rows.values()]
        series = Series(
            name=metric,
            x=list(rows),
            y=[one.value for one in values],
            low=[one.low for one in values],
            high=[one.high for one in values],
        )
        title = f"{_TITLES[part]} on the holdout, n = {mine.get('n'):,}; 95 % intervals over users."
        name = metric.replace("_at_", "@").replace("_", " ")
        plot = Plot(kind=charts.BARS, x_label="", y_label=name, series=[series], title=title)
        drawn.append(charts.draw(plot))
    return drawn


def _gates_table(gates: Sequence[Mapping[str, str]]) -> Table:
    rows = [
        [
            Cell(gate["rule"]),
            Cell(gate["value"], style="words"),
            Cell(gate["threshold"], style="words"),
            Cell(gate["verdict"], style=_STYLES.get(gate["verdict"], "")),
        ]
        for gate in gates
    ]
    styles = ["warn" if gate["verdict"] == FAIL else "" for gate in gates]
    return Table(["rule", "value", "asked", "verdict"], rows, styles)


def _data_table(data: Mapping[str, Any]) -> Table:
    header = ["table", "rows read", "accepted", "files", "first", "last"]
    rows = []
    for name, counts in data["rows"].items():
        listed = data["log_files"].get(name, {})
        numbers = [counts.get("read"), counts.get("accepted"), listed.get("files")]
        texts = ["" if number is None else f"{number:,}" for number in numbers]
        rows.append([name, *texts, *(str(listed.get(key, "")) for key in ("first", "last"))])
    return text_table(header, rows)


# ---- how it went ---------------------------------------------------------------------------------


def _steps(steps: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    table = Table(
        ["step", "outcome", "seconds", "reason"],
        [
            [
                Cell(step["name"]),
                Cell(step["outcome"], style="worse" if step["outcome"] == "failed" else ""),
                Cell(f"{step['seconds']:,.1f}"),
                Cell(step["reason"], style="words"),
            ]
            for step in steps
        ],
    )
    names = [step["name"] for step in steps]
    series = Series(name="seconds", x=names, y=[step["seconds"] for step in steps])
    plot = Plot(kind=charts.BARS, x_label="", y_label="seconds", series=[series])
    return {"table": table, "plots": [charts.draw(plot)] if steps else []}


def _drift(drift: Mapping[str, Any]) -> list[Drawing]:
    known = [one for one in drift["features"] if one["distance"] is not None][:_MOST_DRIFTED]
    if not known:
        return []
    series = Series(
        name="bits",
        x=[f"{one['feature']} ({one['model']}){' !' if one['warns'] else ''}" for one in known],
        y=[one["distance"] for one in known],
    )
    title = (
        f"The {len(known)} features that differ most between training and holdout: Jensen-Shannon "
        "divergence; those with ! are warned of."
    )
    plot = Plot(kind=charts.BARS, x_label="", y_label="bits", series=[series], title=title)
    return [charts.draw(plot)]


def _times(
    times: Mapping[str, Sequence[tuple[str, float, float, float]]], index: Mapping[str, Any]
) -> list[Drawing]:
    """Draws what one call of each model takes, and one search of the index."""
    drawn = []
    for name, requests in times.items():
        x, y, low, high = (list(column) for column in zip(*requests, strict=True))
        series = Series(name="ms", x=x, y=y, low=low, high=high)
        title = f"{name}: median and quartiles of {REPEATS} calls where it was built."
        plot = Plot(kind=charts.BARS, x_label="", y_label="ms", series=[series], title=title)
        drawn.append(charts.draw(plot))
    if index:
        names = {"mean_ms": "mean", "p99_ms": "99th percentile", "exact_ms": "exact search, mean"}
        series = Series(name="ms", x=list(names.values()), y=[index[key] for key in names])
        title = (
            f"index ({index['kind']}, {index['count']:,} videos): one query out of "
            f"{index['num_queries']:,}, recall@{index['k']} {index['recall']:.4f}."
        )
        plot = Plot(kind=charts.BARS, x_label="", y_label="ms", series=[series], title=title)
        drawn.append(charts.draw(plot))
    return drawn
