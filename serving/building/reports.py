"""The reports that a release holds: its model card, and how it came about.

    reports/<version>/
      retraining.html   gates, figures beside those of the release before, steps, learning curves,
                        drift, times of the models
      card.json         the model card; card.md says the same to people
      evaluation.html   report of models.evaluate, where metrics were given
      statistics.html   report of preprocessing

Files are in the manifest with their checksums, but no server needs them to serve.
"""

import dataclasses
import json
import pathlib
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

from features import dataset, files
from models.training import saved
from serving.building import card, card_text, retraining_page, trials
from serving.building.config import Inputs

RETRAINING = "retraining.html"
CARD, CARD_TEXT = "card.json", "card.md"
EVALUATION, STATISTICS = "evaluation.html", "statistics.html"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Making:
    """A release that is being made, or that was refused.

    Attributes:
        inputs: What it is made of.
        sources: What its card is made from.
        previous_figures: Figures of the release that serves until now.
        servables: SavedModel directories by name, to be timed.
    """

    inputs: Inputs
    sources: card.Sources
    previous_figures: Mapping[str, Any]
    servables: Mapping[str, pathlib.Path]


def recorded(inputs: Inputs) -> dict[str, Any]:
    """Returns what was recorded of what a release is made of, by field of its card's sources."""
    models = {"candidate": inputs.candidate_model, "ranker": inputs.ranker_model}
    metrics, order = inputs.metrics, inputs.page_order
    if metrics is not None and metrics.is_dir():
        metrics /= "metrics.json"
    return {
        "info": dataset.info(inputs.examples),
        "models": {kind: path for kind, path in models.items() if path is not None},
        "evaluation": (metrics and _read(metrics)) or {},
        "page_order": (order and files.read_complete(order)) or {},
    }


def write(making: Making, directory: pathlib.Path) -> None:
    """Writes the reports of a release."""
    made = card.card(making.sources)
    text = json.dumps(made, indent=1, allow_nan=False) + "\n"
    files.atomic_write(directory / CARD, text)
    files.atomic_write(directory / CARD_TEXT, card_text.text(made))
    metrics = making.inputs.metrics
    if metrics is not None and (metrics / "report.html").is_file():
        shutil.copyfile(metrics / "report.html", directory / EVALUATION)
    examined = _examined(making)
    if examined is not None and (examined / STATISTICS).is_file():
        shutil.copyfile(examined / STATISTICS, directory / STATISTICS)
    links = [name for name in (EVALUATION, STATISTICS) if (directory / name).is_file()]
    files.atomic_write(directory / RETRAINING, _page(making, made, [*links, CARD_TEXT, CARD]))


def refused(making: Making) -> str:
    """Returns the page of a release that a gate refused."""
    return _page(making, card.card(making.sources), [])


def _page(making: Making, made: Mapping[str, Any], links: Sequence[str]) -> str:
    examined = _examined(making)
    statistics = None if examined is None else _read(examined / "statistics.json")
    steps = _read(making.inputs.retraining) if making.inputs.retraining else None
    return retraining_page.page(
        made,
        previous_figures=making.previous_figures,
        training={kind: saved.read_history(path) for kind, path in making.sources.models.items()},
        steps=(steps or {}).get("steps", []),
        drift=(statistics or {}).get("drift"),
        times={
            name: trials.times_ms(path)
            for name, path in making.servables.items()
            if (path / "saved_model.pb").is_file()
        },
        links=links,
    )


def _examined(making: Making) -> pathlib.Path | None:
    """Returns the examples that have statistics: those that training and holdout are apart in."""
    measured = making.sources.evaluation.get("settings", {}).get("examples")
    for path in (making.inputs.examples, measured):
        if path is not None and (pathlib.Path(path) / "statistics.json").is_file():
            return pathlib.Path(path)
    return None


def _read(path: pathlib.Path) -> dict[str, Any] | None:
    """Returns a JSON object; None where there is no such file."""
    return dict(json.loads(path.read_text())) if path.is_file() else None
