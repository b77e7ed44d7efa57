"""Where a model comes from, as recorded in its directory."""

import datetime
import os
import pathlib
from typing import Any

from features import dataset
from features.stores import door
from models.training import saved


def of_examples(examples_dir: str | os.PathLike[str], model: str) -> dict[str, Any]:
    """Returns paths, times and the transform's fingerprint of the examples; JSON values."""
    info = dataset.info(examples_dir)
    times: dict[str, Any] = {
        key: info[key] for key in ("from_s", "until_s", "train_until_s") if key in info
    }
    return {
        "examples": door.shown(pathlib.Path(examples_dir).resolve()),
        "transform": saved.transform_fingerprint(examples_dir, model),
        **times,
    }


def now() -> str:
    """Returns the time, UTC, ISO 8601."""
    return datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
