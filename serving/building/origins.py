"""What a release is made of: whether it is there and belongs together, and where it comes from."""

import pathlib
from collections.abc import Mapping
from typing import Any

from features import dataset, files, spec
from features.stores import door
from models.training import saved
from serving.building.config import Inputs


def require(inputs: Inputs) -> Mapping[str, Any]:
    """Returns what preprocess recorded.

    Raises:
        command.InputError: Something is incomplete, or a model was trained on another transform.
    """
    info = dataset.info(inputs.examples)
    for directory, kind in (
        (inputs.candidate_model, spec.CANDIDATE),
        (inputs.ranker_model, spec.RANKER),
    ):
        if directory is not None:
            saved.open_directory(directory, kind=kind, examples_dir=inputs.examples)
    return info


def lineage(directory: pathlib.Path | None) -> Mapping[str, Any] | None:
    """Returns where a directory is and what it says of itself; None of none."""
    if directory is None:
        return None
    return {"path": door.shown(directory.resolve()), "info": files.read_complete(directory)}
