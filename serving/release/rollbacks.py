"""What was rolled back, when, by whom and why: ``rollbacks/<time>.json``."""

import dataclasses
import datetime
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from absl import logging

from features import files

DIRECTORY = "rollbacks"
OPERATOR, CONSOLE, GUARD = "operator", "console", "guard"
_MOST = 1000

Path = str | os.PathLike[str]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rollback:
    """A change of the release that serves, to one that was published before.

    Attributes:
        old: Release that was left; whatever CURRENT said, where that named none.
        new: Release that serves since then.
        time: ISO 8601, UTC.
        by: Who decided: ``operator`` (the command), ``console`` or ``guard``.
        reason: Reason, in words; "" where none was given.
        evidence: Figures behind it, plain values.
    """

    old: str
    new: str
    time: str
    by: str = OPERATOR
    reason: str = ""
    evidence: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def write(serving_root: Path, record: Rollback) -> None:
    """Writes down a rollback that was carried out."""
    stamp = datetime.datetime.now(datetime.timezone.utc).strftime("%Y%m%d%H%M%S%f")
    path = pathlib.Path(serving_root) / DIRECTORY / f"{stamp}.json"
    files.atomic_write(path, json.dumps(dataclasses.asdict(record), indent=1) + "\n")


def read(serving_root: Path) -> list[Rollback]:
    """Returns the rollbacks of a serving root, newest first, the last thousand."""
    records = []
    paths = sorted((pathlib.Path(serving_root) / DIRECTORY).glob("[!.]*.json"), reverse=True)
    for path in paths[:_MOST]:
        try:
            records.append(Rollback(**json.loads(path.read_text())))
        except (OSError, ValueError, TypeError) as error:
            logging.warning("%s tells of no rollback: %s", path, error)
    return records
