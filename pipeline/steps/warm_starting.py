"""The models that the next retraining may start from: those of the last run that published."""

import pathlib
import shutil
from collections.abc import Mapping, Sequence

from features import files
from pipeline.steps.retraining import Retraining

_DIRECTORY = "warm_start"
# Step to the artefact that the next one starts from.
_MODELS = {"train_candidate": "candidate_model", "train_ranker": "ranker_model"}


def flags(work: pathlib.Path) -> Mapping[str, Sequence[str]]:
    """Returns flags by step; none where no run has published yet."""
    return {
        step: [f"--warm_start={work / _DIRECTORY / name}", "--warm_or_cold"]
        for step, name in _MODELS.items()
        if files.read_complete(work / _DIRECTORY / name) is not None
    }


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
