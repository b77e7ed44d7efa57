"""The statistics report as one HTML file without anything outside it; plots are inline SVG."""

import html
from collections.abc import Mapping, Sequence
from typing import Any

MOST_BARS = 22
_WIDTH, _HEIGHT = 220, 44
_VALUES = "quantiles 0, .01, .25, .5, .75, .99, 1, or most frequent"
_STYLE = """
:root{color-scheme:light dark;--page:#fff;--text:#111;--soft:#6b7280;--line:#e5e7eb;--warn:#fef3c7;
--box:#eff6ff;--train:#9ca3af;--holdout:#1a56db}
@media (prefers-color-scheme:dark){:root{--page:#16181c;--text:#e5e7eb;--soft:#9ca3af;
--line:#3f444d;--warn:#4a3a12;--box:#1c2738;--train:#6b7280;--holdout:#8ab4f8}}
*{box-sizing:border-box}
body{font:14px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:80rem;padding:0 1rem;
color:var(--text);background:var(--page)}
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2rem}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%}td,th{padding:.25rem .6rem;text-align:left;
vertical-align:top;border-bottom:1px solid var(--line)}th{font-weight:600}
td.n{text-align:right;font-variant-numeric:tabular-nums}
.warn td{background:var(--warn)}.muted{color:var(--soft)}code{font-size:.9em}
td:first-child{min-width:11rem}td:last-child{min-width:9rem;overflow-wrap:anywhere}
.train{fill:var(--train)}.holdout{fill:none;stroke:var(--holdout);stroke-width:1.2}
.summary{background:var(--box);border-left:4px solid var(--soft);padding:.5rem 1rem}
.summary ul{margin:.3rem 0;padding-left:1.2rem}
"""


def page(report: Mapping[str, Any]) -> str:
    """Returns the page of a report of :mod:`pipeline.preprocessing.statistics_report`."""
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8>"
        "<meta name=viewport content='width=device-width, initial-scale=1'>"
        f"<title>Statistics of the examples</title><style>{_STYLE}</style>"
        "<h1>Statistics of the examples</h1>",
        _summary(report),
        _sizes(report),
        _drift(report),
        *(_raw_table(name, table) for name, table in report["tables"].items()),
    ]
    return "\n".join(parts) + "\n"


def _summary(report: Mapping[str, Any]) -> str:
    """Returns what wants to be looked at: drifted features, rows that were set aside."""
    shown = report["drift"]["features"]
    drifted = [f"{d['feature']} ({d['model']})" for d in shown if d["warns"]]
    lines = [
        f"<strong>{len(drifted)} of {len(shown)} features drifted</strong> from training to holdout"
        + (f": {html.escape(', '.join(drifted))}." if drifted else ".")
    ]
    for name, table in report["tables"].items():
        aside = sum(table["rejected"].values())
        share = _percent(aside / table["rows"]) if table["rows"] else "0.0 %"
        reasons = f": {_reasons(table)}" if aside else ""
        lines.append(
            f"<strong>{html.escape(name)}</strong>: {_number(aside)} of {_number(table['rows'])} "
            f"rows ({share}) set aside{reasons}."
        )
    return f"<div class=summary><ul>{''.join(f'<li>{line}</li>' for line in lines)}</ul></div>"


def _reasons(table: Mapping[str, Any]) -> str:
    return ", ".join(f"{html.escape(k)} {_number(n)}" for k, n in table["rejected"].items())


def _sizes(report: Mapping[str, Any]) -> str:
    rows = [
        [name, _number(count), _number(report["sampled_examples"].get(name, 0))]
        for name, count in report["counts"].items()
    ]
    sizes = [
        [model, space, _number(size)]
        for model, spaces in report["vocabulary_sizes"].items()
        for space, size in spaces.items()
    ]
    return (
        "<h2>Examples</h2>"
        + _table(["examples", "rows", "sampled here"], rows)
        + "<h2>Vocabularies</h2>"
        + _table(["model", "ID space", "ids"], sizes)
    )


def _drift(report: Mapping[str, Any]) -> str:
    drift, features = report["drift"], report["features"]
    shown = {(d["model"], d["feature"]): d for d in drift["features"]}
    rest = [
        (model_split.removesuffix("_train"), name)
        for model_split, columns in features.items()
        if model_split.endswith("_train")
        for name in columns
    ]
    keys = [*shown, *(key for key in rest if key not in shown)]
    rows, marks = [], []
    for model, name in keys:
        entry = shown.get((model, name))
        train = features[f"{model}_train"][name]
        holdout = features.get(f"{model}_holdout", {}).get(name, {})
        rows.append([
            f"<code>{html.escape(name)}</code><br>"
            f"<span class=muted>{model}, {train['kind']}</span>",
            _distance(entry),
            plot(entry["bins"], entry["train"], entry["holdout"]) if entry else "",
            _percent(train["missing"] / train["rows"]),
            _percent(train.get("zero")),
            _percent(holdout.get("out_of_vocabulary")),
            _values(train),
        ])  # fmt: skip
        marks.append("warn" if entry and entry["warns"] else "")
    warned = sum(bool(mark) for mark in marks)
    head = [
        "feature", "drift", "training (grey), holdout (blue)", "missing", "zero",
        "out of vocabulary in holdout", _VALUES,
    ]  # fmt: skip
    return (
        f"<h2>Features, most drifted first ({warned} warned of)</h2><p>Drift: "
        f"{html.escape(drift['distance'])} Warned of above {drift['warn_above']} and "
        f"{drift['warn_above_noise_times']:g} times what two samples of one distribution would "
        f"differ by (in brackets).</p>" + _table(head, rows, marks=marks)
    )


def _distance(entry: Mapping[str, Any] | None) -> str:
    if entry is None or entry["distance"] is None:
        return "<span class=muted>no holdout</span>"
    return f"{entry['distance']:.4f} <span class=muted>({entry['noise']:.4f})</span>"


def _raw_table(name: str, table: Mapping[str, Any]) -> str:
    times = f", {table['first']} to {table['last']}" if table.get("first") else ""
    rows = [
        [
            f"<code>{html.escape(column)}</code>",
            html.escape(found["type"]),
            _percent(found["missing"]),
            _number(found.get("distinct")),
            _values(found),
        ]
        for column, found in table["columns"].items()
    ]
    return (
        f"<h2>Table {html.escape(name)}</h2><p>{_number(table['rows'])} rows, "
        f"{_number(table['accepted'])} used{times}. Set aside: {_reasons(table) or 'none'}. The "
        f"columns are of {_number(table['sampled_rows'])} rows.</p>"
        + _table(["column", "type", "missing", "distinct", _VALUES], rows)
    )


def _values(found: Mapping[str, Any]) -> str:
    if found.get("quantiles"):
        return " &middot; ".join(f"{value:.4g}" for value in found["quantiles"].values())
    top = found.get("top") or {}
    return ", ".join(f"{html.escape(repr(v)[1:-1])} ({_number(n)})" for v, n in top.items())


def plot(names: Sequence[str], train: Sequence[int], holdout: Sequence[int]) -> str:
    """Returns bars of shares: training filled, the holdout drawn over them.

    Args:
        names: Names of the bins.
        train: Counts, one for each bin.
        holdout: Counts, one for each bin.
    """
    shares = [[n / (sum(counts) or 1) for n in counts] for counts in (train, holdout)]
    highest = max(*shares[0], *shares[1]) or 1.0
    width = _WIDTH / len(names)
    bars = []
    for kind, values in zip(("train", "holdout"), shares, strict=True):
        for number, share in enumerate(values):
            height = share / highest * (_HEIGHT - 2)
            title = f"<title>{html.escape(names[number])}: {100 * share:.1f} %</title>"
            bars.append(
                f'<rect class={kind} x="{number * width + 0.5:.1f}" y="{_HEIGHT - height:.1f}" '
                f'width="{width - 1:.1f}" height="{height:.1f}">{title}</rect>'
            )
    return f'<svg width="{_WIDTH}" height="{_HEIGHT}" role=img>{"".join(bars)}</svg>'


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], *, marks: Sequence[str] = ()) -> str:
    titles = "".join(f"<th>{html.escape(title)}</th>" for title in head)
    lines = []
    for number, row in enumerate(rows):
        mark = f" class={marks[number]}" if marks and marks[number] else ""
        lines.append(f"<tr{mark}>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>")
    return f"<div class=scroll><table><tr>{titles}</tr>{''.join(lines)}</table></div>"


def _number(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f}\u00a0%"  # One word: it does not break.
