"""The statistics report as one HTML file without anything outside it; plots are inline SVG."""

from collections.abc import Mapping, Sequence
from typing import Any

from features import charts, reports
from features.charts import Drawing, Plot, Series, Shape, shape
from features.reports import Cell, Table, text_table

MOST_BARS = 22
_MOST_DRIFTED = 12
_WIDTH, _HEIGHT = 220, 44
_VALUES = "quantiles 0, .01, .25, .5, .75, .99, 1, or most frequent"


def page(report: Mapping[str, Any]) -> str:
    """Returns the page of a report of :mod:`pipeline.preprocessing.statistics_report`."""
    drift = report["drift"]
    features = _features_table(report)
    sampled = report["sampled_examples"]
    return reports.render(
        "pipeline.statistics",
        "statistics.html",
        contents=[
            *(("drift", "Drift"), ("examples", "Examples"), ("features", "Features")),
            *((f"table-{name}", f"Table {name}") for name in report["tables"]),
        ],
        title="Statistics of the examples",
        drift_plot=_drift_plot(drift),
        drift=drift,
        drifted=[f"{d['feature']} ({d['model']})" for d in drift["features"] if d["warns"]],
        set_aside=[_set_aside(name, table) for name, table in report["tables"].items()],
        examples=text_table(
            ["examples", "rows", "sampled here"],
            [
                [name, _number(count), _number(sampled.get(name, 0))]
                for name, count in report["counts"].items()
            ],
        ),
        vocabularies=text_table(
            ["model", "ID space", "ids"],
            [
                [model, space, _number(size)]
                for model, spaces in report["vocabulary_sizes"].items()
                for space, size in spaces.items()
            ],
        ),
        relations=report["relations"],
        related=text_table(
            ["feature", "AUC in training", "in the holdout", "with watches", "too good to be true"],
            [
                [
                    relation["feature"],
                    *(_rate(relation[name]) for name in ("train", "holdout", "watches")),
                    "; ".join(relation["warnings"]),
                ]
                for relation in report["relations"]["columns"]
            ],
        ),
        features=features,
        warned=len([style for style in features.styles if style]),
        tables=[_raw_table(name, table) for name, table in report["tables"].items()],
    )


def _rate(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _set_aside(name: str, table: Mapping[str, Any]) -> dict[str, str]:
    aside = sum(table["rejected"].values())
    return {
        "table": name,
        "rows": _number(aside),
        "of": _number(table["rows"]),
        "share": _percent(aside / table["rows"] if table["rows"] else 0.0),
        "reasons": _reasons(table) if aside else "",
    }


def _reasons(table: Mapping[str, Any]) -> str:
    return ", ".join(f"{reason} {_number(n)}" for reason, n in table["rejected"].items())


def _features_table(report: Mapping[str, Any]) -> Table:
    features = report["features"]
    shown = {(d["model"], d["feature"]): d for d in report["drift"]["features"]}
    rest = [
        (model_split.removesuffix("_train"), name)
        for model_split, columns in features.items()
        if model_split.endswith("_train")
        for name in columns
    ]
    keys = [*shown, *(key for key in rest if key not in shown)]
    rows, styles = [], []
    for model, name in keys:
        entry = shown.get((model, name))
        train = features[f"{model}_train"][name]
        holdout = features.get(f"{model}_holdout", {}).get(name, {})
        rows.append([
            Cell(name, below=f"{model}, {train['kind']}"),
            _distance(entry),
            Cell(drawing=plot(name, entry["bins"], entry["train"], entry["holdout"])) if entry
            else Cell(),
            Cell(_percent(train["missing"] / train["rows"])),
            Cell(_percent(train.get("zero"))),
            Cell(_percent(holdout.get("out_of_vocabulary"))),
            Cell(_values(train), style="words"),
        ])  # fmt: skip
        styles.append("warn" if entry and entry["warns"] else "")
    head = [
        "feature", "drift", "training (grey), holdout (blue)", "missing", "zero",
        "out of vocabulary in holdout", _VALUES,
    ]  # fmt: skip
    return Table(head, rows, styles)


def _distance(entry: Mapping[str, Any] | None) -> Cell:
    if entry is None or entry["distance"] is None:
        return Cell(below="no holdout")
    return Cell(f"{entry['distance']:.4f}", below=f"({entry['noise']:.4f})")


def _raw_table(name: str, table: Mapping[str, Any]) -> dict[str, Any]:
    times = f", {table['first']} to {table['last']}" if table.get("first") else ""
    rows = [
        [
            column,
            described["type"],
            _percent(described["missing"]),
            _number(described.get("distinct")),
            _values(described),
        ]
        for column, described in table["columns"].items()
    ]
    told = (
        f"{_number(table['rows'])} rows, {_number(table['accepted'])} used{times}. Set aside: "
        f"{_reasons(table) or 'none'}. The columns are of {_number(table['sampled_rows'])} rows."
    )
    header = ["column", "type", "missing", "distinct", _VALUES]
    return {"name": name, "told": told, "columns": text_table(header, rows)}


def _values(described: Mapping[str, Any]) -> str:
    if described.get("quantiles"):
        return " · ".join(f"{value:.4g}" for value in described["quantiles"].values())
    top = described.get("top") or {}
    return ", ".join(f"{repr(value)[1:-1]} ({_number(n)})" for value, n in top.items())


def bars(names: Sequence[str], train: Sequence[int], holdout: Sequence[int]) -> list[Shape]:
    """Returns shares as bars: those of training, then of the holdout, to be drawn over them."""
    shares = [[n / (sum(counts) or 1) for n in counts] for counts in (train, holdout)]
    highest = max(*shares[0], *shares[1]) or 1.0
    width = _WIDTH / len(names)
    drawn = []
    for kind, values in zip(("train", "holdout"), shares, strict=True):
        for place, (name, share) in enumerate(zip(names, values, strict=True)):
            height = share / highest * (_HEIGHT - 2)
            box = {"x": place * width + 0.5, "width": width - 1}
            box |= {"y": _HEIGHT - height, "height": height}
            drawn.append(shape("rect", kind, box, title=f"{name}: {100 * share:.1f} %"))
    return drawn


def plot(
    feature: str, names: Sequence[str], train: Sequence[int], holdout: Sequence[int]
) -> Drawing:
    """Returns the bars of a feature as a drawing; other arguments as for :func:`bars`."""
    return Drawing(
        label=f"Shares of {feature} in training and holdout",
        width=_WIDTH,
        height=_HEIGHT,
        shapes=bars(names, train, holdout),
    )


def _drift_plot(drift: Mapping[str, Any]) -> list[Drawing]:
    """Draws the features that drifted most, beside what is warned of."""
    known = [one for one in drift["features"] if one["distance"] is not None][:_MOST_DRIFTED]
    if not known:
        return []
    names = [f"{one['feature']} ({one['model']})" for one in known]
    series = [
        Series(name="divergence", x=names, y=[one["distance"] for one in known]),
        Series(name="of two samples alike", x=names, y=[one["noise"] for one in known]),
    ]
    title = (
        f"The {len(known)} features that differ most, training against holdout; warned of above "
        f"{drift['warn_above']} and {drift['warn_above_noise_times']:g} times the second bar."
    )
    drawn = Plot(kind=charts.BARS, x_label="", y_label="bits", series=series, title=title)
    return [charts.draw(drawn)]


def _number(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f}\u00a0%"  # One word: it does not break.
