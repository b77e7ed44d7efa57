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

from features import files
from features.spec import ResolvedSpec
from models.training import saved
from serving.building import card, card_text, retraining_page, trials
from serving.building.config import Inputs
from serving.building.gates import Gate

RETRAINING = "retraining.html"
CARD, CARD_TEXT = "card.json", "card.md"
EVALUATION, STATISTICS = "evaluation.html", "statistics.html"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Making:
    """A release that is being made, or that was refused.

    Attributes:
        version: Its id.
        inputs: What it is made of.
        info: What preprocessing recorded of the examples.
        resolved: Features of the data set.
        gates: Gates so far.
        forced: Reason to publish although a gate failed; "" for none.
        index: Facts of the index; empty before there is one.
        previous: Id of the release that serves until now; None for none.
        previous_figures: Its figures.
        servables: SavedModel directories by name, to be timed.
    """

    version: str
    inputs: Inputs
    info: Mapping[str, Any]
    resolved: ResolvedSpec
    gates: Sequence[Gate]
    forced: str
    index: Mapping[str, Any]
    previous: str | None
    previous_figures: Mapping[str, Any]
    servables: Mapping[str, pathlib.Path]

    @property
    def models(self) -> dict[str, pathlib.Path]:
        """Directories of the models by kind."""
        pairs = {"candidate": self.inputs.candidate_model, "ranker": self.inputs.ranker_model}
        return {kind: path for kind, path in pairs.items() if path is not None}

    def evaluation(self) -> dict[str, Any]:
        """Returns the content of metrics.json; empty without."""
        path = self.inputs.metrics
        if path is None:
            return {}
        return _read(path / "metrics.json" if path.is_dir() else path) or {}

    def card(self) -> dict[str, Any]:
        """Returns the model card."""
        order = self.inputs.page_order
        return card.card(
            card.Sources(
                version=self.version,
                previous=self.previous,
                info=self.info,
                resolved=self.resolved,
                models=self.models,
                evaluation=self.evaluation(),
                gates=self.gates,
                forced=self.forced,
                index=self.index,
                page_order=(order and files.read_complete(order)) or {},
            )
        )


def write(making: Making, directory: pathlib.Path) -> None:
    """Writes the reports of a release."""
    made = making.card()
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
    return _page(making, making.card(), [])


def _page(making: Making, made: Mapping[str, Any], links: Sequence[str]) -> str:
    examined = _examined(making)
    statistics = None if examined is None else _read(examined / "statistics.json")
    steps = _read(making.inputs.retraining) if making.inputs.retraining else None
    return retraining_page.page(
        made,
        previous_figures=making.previous_figures,
        training={kind: saved.read_history(path) for kind, path in making.models.items()},
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
    measured = making.evaluation().get("settings", {}).get("examples")
    for path in (making.inputs.examples, measured):
        if path is not None and (pathlib.Path(path) / "statistics.json").is_file():
            return pathlib.Path(path)
    return None


def _read(path: pathlib.Path) -> dict[str, Any] | None:
    """Returns a JSON object; None where there is no such file."""
    return dict(json.loads(path.read_text())) if path.is_file() else None
