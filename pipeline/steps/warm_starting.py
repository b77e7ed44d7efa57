"""The models that the next retraining may start from: those of the last run that published."""

import pathlib
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

from features import files
from pipeline.steps.retraining import Retraining

_DIRECTORY = "warm_start"
# Step to the artefact that the next one starts from.
_MODELS = {"train_candidate": "candidate_model", "train_ranker": "ranker_model"}


def flags(work: pathlib.Path, cold_every: int) -> Mapping[str, Sequence[str]]:
    """Returns flags by step; none of a model that starts from nothing.

    Args:
        work: Directory of the records of runs.
        cold_every: Number of published runs of which one starts from nothing; 0: none does but the
            first, which has nothing to start from.
    """
    return {
        step: [f"--warm_start={work / _DIRECTORY / name}", "--warm_or_cold"]
        for step, name in _MODELS.items()
        if (made := files.read_complete(work / _DIRECTORY / name)) is not None
        and not 0 < cold_every <= _starts(made) + 1
    }


def _starts(made: Mapping[str, Any]) -> int:
    """Returns how many warm starts led to a model since it started from nothing."""
    return int(made.get("lineage", {}).get("warm_start", {}).get("starts", 0))


def remember(job: Retraining) -> None:
    """Keeps the measured models of a run that published, which the next run replaces."""
    for name in _MODELS.values():
        if files.read_complete(job.location(name)) is None:
            continue
        target = job.work / _DIRECTORY / name
        target.parent.mkdir(parents=True, exist_ok=True)
        new = target.with_name(f".{name}")
        shutil.rmtree(new, ignore_errors=True)
        files.link_tree(job.location(name), new)
        shutil.rmtree(target, ignore_errors=True)
        new.rename(target)
