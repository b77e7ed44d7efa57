"""The model card of a release: what it learnt from what, how good it is, for whom, and its limits.

The form follows Mitchell et al., *Model Cards for Model Reporting* (FAT* 2019): intended use, data,
metrics with intervals and by slice, limits. All of it is taken from what was recorded while the
release was made; a value that nobody recorded is null. :mod:`serving.building.card_text` says the
same to people.
"""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from features import command, reports, spec
from features.spec import ResolvedSpec
from models.training import saved
from serving.building import card_text
from serving.building.gates import NOT_CHECKED, Gate

FORMAT = 1
_MODEL, _ALL = "model", "all"
_MAIN = {"candidate": "recall_at_100", "ranker": "weighted_per_user_loss"}
_LOWER_IS_BETTER = frozenset({"weighted_per_user_loss"})
PARTS = {"candidate": "Candidate generation", "ranker": "Ranking"}
# Groups of impressions that calibration looks at; they are no slices of users or videos.
_GROUPS = ("decile_", "duration_", "position_")
_USE = (
    "Recommends videos of one site to its users: a candidate model finds some hundreds of videos "
    "by one inner product, a ranker orders them by expected watch time."
)
_NOT_FOR = (
    "Anything but choosing what to show on the site whose logs it learnt from: scores are no "
    "statement about a person, and ids mean nothing elsewhere."
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sources:
    """What a card is made from.

    Attributes:
        version: Id of the release.
        previous: Id of the release that serves until then; None for the first.
        info: What preprocessing recorded of the examples.
        resolved: Features of the data set.
        models: Directories of ``candidate`` and, where there is one, ``ranker``.
        evaluation: Content of metrics.json; empty without.
        gates: Gates, in order.
        forced: Reason to publish although a gate failed; "" for none.
        index: Facts of the index.
        page_order: What was recorded of the learned order of pages; empty without one.
    """

    version: str
    previous: str | None
    info: Mapping[str, Any]
    resolved: ResolvedSpec
    models: Mapping[str, pathlib.Path]
    evaluation: Mapping[str, Any]
    gates: Sequence[Gate]
    forced: str
    index: Mapping[str, Any]
    page_order: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def card(sources: Sources) -> dict[str, Any]:
    """Returns the card, JSON values."""
    models = {kind: _model(kind, directory) for kind, directory in sources.models.items()}
    figures = sources.evaluation.get("figures", {})
    return {
        "format": FORMAT,
        "release": sources.version,
        "previous": sources.previous,
        "forced": sources.forced,
        "made": reports.stamp() | {"at": saved.now()},
        "use": {"intended": _USE, "not_for": _NOT_FOR},
        "data": _data(sources.info),
        "features": [_feature(one) for one in sources.resolved.features],
        "models": models,
        "seeds": _seeds(sources, models),
        "metrics": _metrics(figures),
        "baselines": _baselines(figures),
        "slices": _slices(figures),
        "measured_on": {
            "settings": sources.evaluation.get("settings", {}),
            "data": sources.evaluation.get("data", {}),
            "notes": sources.evaluation.get("notes", []),
        },
        "index": dict(sources.index),
        "page_order": {"pages": _pages_in(sources), **sources.page_order},
        "gates": [dataclasses.asdict(gate) for gate in sources.gates],
        "limits": _limits(sources, figures),
    }


def _time(seconds: object) -> str | None:
    return command.format_time(int(seconds)) if isinstance(seconds, int | float) else None


def _data(info: Mapping[str, Any]) -> dict[str, Any]:
    measured = info.get("measured_until_s", info.get("train_until_s"))
    return {
        "logs": info.get("logs"),
        "from": _time(info.get("from_s")),
        "until": _time(info.get("until_s")),
        "measured_from": _time(measured),
        "holdout_days": info.get("holdout_days"),
        "videos": info.get("num_videos"),
        "rows": info.get("rows", {}),
        "log_files": info.get("log_files", {}),
        "partitions": info.get("partitions", {}),
        "examples": info.get("counts", {}),
        "site": info.get("site", {}),
        "preprocessing": info.get("config", {}),
    }


def _feature(feature: spec.Feature) -> dict[str, Any]:
    return {
        "name": feature.name,
        "kind": feature.kind.value,
        "side": feature.side.value,
        "models": list(feature.models),
        "source": feature.source,
    }


def _model(kind: str, directory: pathlib.Path) -> dict[str, Any]:
    opened = saved.open_directory(directory, kind=kind)
    lineage = {key: value for key, value in opened.info["lineage"].items() if key != "recent"}
    return {
        "config": opened.configs,
        "vocabulary_sizes": opened.vocabulary_sizes,
        "lineage": lineage,
        "holdout_metrics": opened.info["metrics"],
    }


def _seeds(sources: Sources, models: Mapping[str, Any]) -> dict[str, int | None]:
    configs = {kind: model["config"] for kind, model in models.items()}
    return {
        "preprocess": sources.info.get("config", {}).get("seed"),
        **{kind: config.get("training", {}).get("seed") for kind, config in configs.items()},
        "refit": configs.get(spec.CANDIDATE, {}).get("refit", {}).get("seed"),
        "evaluation": sources.evaluation.get("settings", {}).get("seed"),
    }


# ---- figures -------------------------------------------------------------------------------------


def _of(figures: Mapping[str, Any], part: str) -> list[tuple[str, str, str, Mapping[str, Any]]]:
    """Returns system, slice, metric and figure of all that was measured of a part."""
    keys = ((key.split("."), figure) for key, figure in figures.items())
    return [(*key[1:], figure) for key, figure in keys if key[0] == part and len(key) == 4]


def _metrics(figures: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {"part": part, "metric": metric, **figure}
        for part in PARTS
        for system, slice_name, metric, figure in _of(figures, part)
        if (system, slice_name) == (_MODEL, _ALL)
    ]


def _baselines(figures: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns the baselines of each part by its main metric, and the model minus each."""
    rows = []
    for part, metric in _MAIN.items():
        known = {
            system: figure
            for system, slice_name, name, figure in _of(figures, part)
            if (slice_name, name) == (_ALL, metric)
        }
        rows += [
            {
                "part": part,
                "system": system,
                "metric": metric,
                **figure,
                "model_minus_it": known.get(f"{_MODEL}_minus_{system}"),
            }
            for system, figure in known.items()
            if system != _MODEL and "_minus_" not in system
        ]
    return rows


def _slices(figures: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {"part": part, "slice": slice_name, "metric": metric, **figure}
        for part in PARTS
        for system, slice_name, metric, figure in _of(figures, part)
        if system == _MODEL
        and metric == _MAIN[part]
        and slice_name != _ALL
        and not slice_name.startswith(_GROUPS)
    ]


def _pages_in(sources: Sources) -> str:
    """Returns what orders pages where the server is told nothing else."""
    if "ranker" in sources.models:
        return "the order of expected watch time"
    is_learned = "chosen" in sources.page_order.get("judged", {})
    return "the learned order" if is_learned else "the order of the retrieval score"


# ---- limits --------------------------------------------------------------------------------------


def _limits(sources: Sources, figures: Mapping[str, Any]) -> list[str]:
    info = sources.info
    until = _time(info.get("until_s"))
    told = [
        "Figures are of one holdout of watches and impressions that earlier pages led to: they do "
        "not tell what other pages would have brought, nor how another day would have come out.",
    ]
    if until is not None:
        told.append(
            f"It knows nothing of videos and tastes after {until}, but for what serving looks up "
            "live."
        )
    if not figures:
        told.append("Nothing was measured for it: no metrics were given.")
    if not info.get("has_ranking", True):
        told.append(f"It has no ranker: {info.get('no_ranking') or 'there were no impressions'}.")
    elif "ranker" not in sources.models:
        told.append(f"It has no ranker: pages are in {_pages_in(sources)}.")
    elif "measured_until_s" in info:
        known = _time(info["measured_until_s"])
        told.append(f"Its ranker has learnt up to {known} only; the candidate model to the end.")
    slices = _slices(figures)
    told += [_weakness(one) for one in slices if _is_weak(one, figures)]
    if slices:
        names = ", ".join(sorted({one["slice"] for one in slices}))
        told.append(f"By slice it was measured for {names}; for no other group of people.")
    told += [
        f"Not checked before publication: {gate.rule}."
        for gate in sources.gates
        if gate.verdict == NOT_CHECKED
    ]
    if sources.forced:
        told.append(f"It was published although a gate failed. Reason given: {sources.forced}")
    told += list(sources.evaluation.get("notes", []))
    return told


def _is_weak(one: Mapping[str, Any], figures: Mapping[str, Any]) -> bool:
    """Whether a slice's interval lies wholly on the worse side of the figure of all."""
    overall = figures.get(f"{one['part']}.{_MODEL}.{_ALL}.{one['metric']}", {}).get("value")
    if overall is None or one.get("low") is None or one.get("high") is None:
        return False
    if one["metric"] in _LOWER_IS_BETTER:
        return bool(one["low"] > overall)
    return bool(one["high"] < overall)


def _weakness(one: Mapping[str, Any]) -> str:
    return (
        f"{PARTS[one['part']]} is worse for {one['slice']} than for all: {one['metric']} "
        f"{card_text.figure(one)}, n = {one.get('n')}."
    )
