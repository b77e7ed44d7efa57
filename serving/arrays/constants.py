"""The directory beside a SavedModel that holds its numbers as NumPy files, and a plan of them.

    assets.extra/arrays/plan.json      what is read in which order, sizes, switches
    assets.extra/arrays/NAME.npy       a weight, a table, boundaries of quantiles, a vocabulary

``assets.extra`` is where a SavedModel keeps what is not its own; TensorFlow Serving ignores it. The
release's manifest has a checksum of each file, as of all others.
"""

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from features import command, files
from serving.release import mapping

DIRECTORY = "assets.extra/arrays"
FORMAT = 2  # One tower of a ranker; 1 had several, and a factor beside them.
_PLAN = "plan.json"


@dataclasses.dataclass(frozen=True)
class Constants:
    """Numbers of one model.

    Attributes:
        plan: Plain values for JSON.
        arrays: Arrays by name; names may have points, no slashes.
    """

    plan: Mapping[str, Any]
    arrays: Mapping[str, np.ndarray]

    @property
    def unsupported(self) -> str:
        """Why NumPy does not run this model; "" where it does."""
        return str(self.plan.get("unsupported", ""))


def write(saved_model: pathlib.Path, constants: Constants) -> None:
    """Writes the directory, the plan last."""
    directory = pathlib.Path(saved_model) / DIRECTORY
    directory.mkdir(parents=True)
    for name, values in constants.arrays.items():
        np.save(directory / f"{name}.npy", np.ascontiguousarray(values), allow_pickle=False)
    plan = {"format": FORMAT, **constants.plan, "arrays": sorted(constants.arrays)}
    files.atomic_write(directory / _PLAN, json.dumps(plan, indent=1) + "\n")


def load(saved_model: pathlib.Path) -> Constants | None:
    """Opens what :func:`write` wrote; None where a SavedModel has no such directory.

    Raises:
        InputError: A file of it is missing or broken.
    """
    directory = pathlib.Path(saved_model) / DIRECTORY
    if not (directory / _PLAN).is_file():
        return None
    try:
        plan = json.loads((directory / _PLAN).read_text())
        if plan["format"] != FORMAT:
            other = f"its arrays are of format {plan['format']}, this program runs {FORMAT}"
            return Constants({"unsupported": other}, {})
        arrays = {name: mapping.opened(directory / f"{name}.npy") for name in plan["arrays"]}
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise command.InputError(
            f"{directory} cannot be read: {error}. Build the release again, or roll back "
            "(`python -m serving.rollback`)."
        ) from error
    return Constants(plan, arrays)
