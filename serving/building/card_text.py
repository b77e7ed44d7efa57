"""The model card of a release as Markdown."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any


def text(made: Mapping[str, Any]) -> str:
    """Returns a card as Markdown."""
    by = f" by commit {made['made']['commit']}" if made["made"].get("commit") else ""
    parts = [
        f"# Model card of release {made['release']}",
        f"Made {made['made']['at']}{by}; before it served {made['previous'] or 'none'}.",
        f"**Intended use.** {made['use']['intended']}\n\n**Not for.** {made['use']['not_for']}",
        *_data(made["data"]),
        *_figures(made),
        "## Limits",
        "\n".join(f"- {_escaped(limit)}" for limit in made["limits"]),
        *_lineage(made),
    ]
    return "\n\n".join(parts) + "\n"


def _data(data: Mapping[str, Any]) -> list[str]:
    window = {
        "logs": data["logs"],
        "from": data["from"] or "the beginning of the logs",
        "until": data["until"],
        "figures are of what came after": data["measured_from"],
        "videos": data["videos"],
    }
    rows = [
        [name, counts.get("read"), counts.get("accepted"), *_listed(data, name)]
        for name, counts in data["rows"].items()
    ]
    header = ["table", "rows read", "accepted", "files", "first", "last"]
    partitions = [[name, one] for name, read in data["partitions"].items() for one in read]
    return [
        "## Data",
        _facts(window),
        _table(header, rows),
        "### Partitions that were read",
        _table(["table", "partition"], partitions),
    ]


def _figures(made: Mapping[str, Any]) -> list[str]:
    metrics = [[m["part"], m["metric"], figure(m), m.get("n")] for m in made["metrics"]]
    baselines = [
        [b["part"], b["system"], b["metric"], figure(b), figure(b["model_minus_it"] or {})]
        for b in made["baselines"]
    ]
    slices = [[s["part"], s["slice"], s["metric"], figure(s), s.get("n")] for s in made["slices"]]
    gates = [[g["verdict"], g["rule"], g["value"], g["threshold"]] for g in made["gates"]]
    return [
        "## Metrics",
        "Brackets are 95 % intervals over users.",
        _table(["part", "metric", "value", "n"], metrics),
        "### Beside baselines",
        _table(["part", "baseline", "metric", "value", "model minus it"], baselines),
        "### By slice",
        _table(["part", "slice", "metric", "value", "n"], slices),
        "## Gates",
        _table(["verdict", "rule", "value", "asked"], gates),
    ]


def _lineage(made: Mapping[str, Any]) -> list[str]:
    features = [
        [f["name"], f["kind"], f["side"], ", ".join(f["models"]), f["source"]]
        for f in made["features"]
    ]
    models = [
        f"### {kind}\n\n```json\n{json.dumps(model, indent=1, sort_keys=True)}\n```"
        for kind, model in {**made["models"], "page order": made["page_order"]}.items()
    ]
    return [
        "## Features",
        _table(["feature", "kind", "side", "models", "source"], features),
        "## Lineage",
        _facts({f"seed of {name}": seed for name, seed in made["seeds"].items()}),
        *models,
    ]


def _listed(data: Mapping[str, Any], table: str) -> list[Any]:
    files = data["log_files"].get(table, {})
    return [files.get(key) for key in ("files", "first", "last")]


def _facts(facts: Mapping[str, Any]) -> str:
    return "\n".join(f"- {name}: {_cell(value)}" for name, value in facts.items())


def _table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    if not rows:
        return "None."
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(_cell(value) for value in line)} |" for line in lines)


def _cell(value: object) -> str:
    return "-" if value is None or value == "" else _escaped(str(value))


def _escaped(value: str) -> str:
    """Returns text that Markdown takes for text: names come from the data."""
    one_line = " ".join(value.split())
    return "".join(f"\\{c}" if c in "\\`*_[]<>|#" else c for c in one_line)


def figure(measured: Mapping[str, Any]) -> str:
    """Returns a figure with its interval, in four digits."""
    value = measured.get("value")
    if value is None or not math.isfinite(value):
        return "not measured"
    ends = measured.get("low"), measured.get("high")
    interval = "" if None in ends else f" [{ends[0]:.4g}, {ends[1]:.4g}]"
    return f"{value:.4g}{interval}"
