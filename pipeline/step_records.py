"""What is known of finished steps: ``work/steps/<step>.json``.

A record is written after a step succeeded and removed before it starts again, so a killed or
failed run leaves nothing that looks finished. It holds what the step was made from (its
fingerprint, and the stamps of the very artefacts that it read: training twice from the same is not
the same model) and the stamp of what it made: when somebody makes that anew by hand, the record no
longer speaks of it.
"""

import dataclasses
import datetime
import json
import pathlib
from collections.abc import Mapping

from features import command, files
from pipeline import fingerprints, stages
from serving import release

_DIRECTORY = "steps"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Record:
    """A step that succeeded.

    Attributes:
        fingerprint: What it was made from.
        inputs: Stamp of each artefact of another step that it read, by name.
        stamp: Of the artefact that it made.
        finished: ISO 8601, UTC.
        seconds: Wall time.
    """

    fingerprint: str
    inputs: Mapping[str, str]
    stamp: str
    finished: str
    seconds: float


def path(work: pathlib.Path, stage: stages.Stage) -> pathlib.Path:
    """Returns where the record of a stage is kept."""
    return work / _DIRECTORY / f"{stage.name}.json"


def read(work: pathlib.Path, stage: stages.Stage) -> Record | None:
    """Returns the record of a stage; None where there is none that can be read."""
    try:
        return Record(**json.loads(path(work, stage).read_text()))
    except (OSError, ValueError, TypeError):
        return None


def write(work: pathlib.Path, stage: stages.Stage, record: Record) -> None:
    """Records that a stage succeeded."""
    files.atomic_write(path(work, stage), json.dumps(dataclasses.asdict(record), indent=1) + "\n")


def forget(work: pathlib.Path, stage: stages.Stage) -> None:
    """Removes the record of a stage, which is about to run."""
    path(work, stage).unlink(missing_ok=True)


def stamp(stage: stages.Stage, artefact: pathlib.Path, recorded: str = "") -> str | None:
    """Returns what identifies the artefact that stands; None where none is complete.

    Args:
        stage: That makes the artefact.
        artefact: Its path.
        recorded: Stamp of the record to compare with. A serving root holds several releases: the
            one that a record speaks of still stands when it was followed by others, or when an
            operator rolled back behind it, which must not publish it again.
    """
    if stage.writes[1] == stages.SERVING_ROOT:
        if recorded and release.manifest_path(artefact, recorded).is_file():
            return recorded
        try:
            return release.current(artefact)
        except command.InputError:
            return None
    marker = artefact / files.COMPLETE
    if not marker.is_file():
        return None
    return fingerprints.of_value([marker.read_text(), marker.stat().st_mtime_ns])


def utc_now() -> str:
    """Returns the time, ISO 8601 in UTC."""
    return datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
