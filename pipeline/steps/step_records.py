"""What is known of finished steps: ``work/steps/<step>.json``.

A record is begun when a step starts and finished after it succeeded, so a killed or failed run
leaves nothing that looks finished. It holds what the step is made from (its fingerprint, and the
stamps of the very artefacts that it reads: training twice from the same is not the same model) and
the stamp of what it made: when somebody makes that anew by hand, the record no longer speaks of it.

A step outlives a run that is killed alone, and its work must not be for nothing. So it says itself
that it came to its end: the last thing that a binary does is to make ``<step>.done``
(:data:`features.command.DONE`). A record that was begun is finished by that file, if the artefact
was made between the two: another one may stand there by now, such as that of a backup.
"""

import dataclasses
import json
import pathlib
import time
from collections.abc import Mapping

from features import command, files
from pipeline.steps import declared, fingerprints
from serving.release import manifest as release

DIRECTORY = "steps"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Record:
    """A step that started, or succeeded.

    Attributes:
        fingerprint: Fingerprint of what it was made from.
        inputs: Stamp of each artefact of another step that it read, by name.
        stamp: Stamp of the artefact that it made; "" while it is not finished.
        finished: ISO 8601, UTC; "" while it is not.
        seconds: Wall time, seconds; 0 where it is not known.
    """

    fingerprint: str
    inputs: Mapping[str, str]
    stamp: str = ""
    finished: str = ""
    seconds: float = 0.0


def path(work: pathlib.Path, step: declared.Step) -> pathlib.Path:
    """Returns where the record of a step is kept."""
    return work / DIRECTORY / f"{step.name}.json"


def done_path(work: pathlib.Path, step: declared.Step) -> pathlib.Path:
    """Returns the file that the step makes last."""
    return path(work, step).with_suffix(".done")


def read(work: pathlib.Path, step: declared.Step, artefact: pathlib.Path) -> Record | None:
    """Returns the record of a finished step; None where there is none that can be read."""
    try:
        record = Record(**json.loads(path(work, step).read_text()))
        if record.finished:
            return record
        begun = path(work, step).stat().st_mtime
        done = done_path(work, step).stat().st_mtime
        if not begun <= _marker(step, artefact).stat().st_mtime <= done:
            return None
    except (OSError, ValueError, TypeError):
        return None
    stamped = stamp(step, artefact) or ""
    return dataclasses.replace(record, stamp=stamped, finished=_utc(done))


def write(work: pathlib.Path, step: declared.Step, record: Record) -> None:
    """Records that a step starts, or succeeded."""
    if not record.finished:
        done_path(work, step).unlink(missing_ok=True)
    files.atomic_write(path(work, step), json.dumps(dataclasses.asdict(record), indent=1) + "\n")


def forget(work: pathlib.Path, step: declared.Step) -> None:
    """Removes the record of a step, which failed."""
    done_path(work, step).unlink(missing_ok=True)
    path(work, step).unlink(missing_ok=True)


def _marker(step: declared.Step, artefact: pathlib.Path) -> pathlib.Path:
    """Returns the file that changes whenever the artefact does."""
    is_root = step.writes[1] == declared.SERVING_ROOT
    return artefact / (release.CURRENT if is_root else files.COMPLETE)


def stamp(step: declared.Step, artefact: pathlib.Path, recorded: str = "") -> str | None:
    """Returns what identifies the artefact that stands; None where none is complete.

    Args:
        step: Step that makes the artefact.
        artefact: Path of the artefact.
        recorded: Stamp of the record to compare with. A serving root holds several releases: the
            one that a record speaks of still stands when it was followed by others, or when an
            operator rolled back behind it, which must not publish it again.
    """
    if step.writes[1] == declared.SERVING_ROOT:
        if recorded and release.manifest_path(artefact, recorded).is_file():
            return recorded
        try:
            return release.current(artefact)
        except command.InputError:
            return None
    marker = _marker(step, artefact)
    if not marker.is_file():
        return None
    return fingerprints.of_value([marker.read_text(), marker.stat().st_mtime_ns])


def utc_now() -> str:
    """Returns the time, ISO 8601 in UTC."""
    return _utc(time.time())


def _utc(seconds: float) -> str:
    return command.format_time(int(seconds))
