"""The page of the last retraining, ``work/report.html``.

``serving.build_release`` writes it, for what it published and for what a gate refused. Of a run
that ended before, it tells the steps and what failed.
"""

import dataclasses
import pathlib
import time
from collections.abc import Sequence

from features import files
from features.stores import door
from pipeline.steps.retraining import REPORT, Outcome, Retraining, StepResult

PAGE = "report.html"
BUILD = "build_release"
_CLOCK_SLACK_S = 2.0  # File systems round times.


def flags(work: pathlib.Path) -> list[str]:
    """Returns the flags by which the build writes the page."""
    return [f"--retraining={work / REPORT}", f"--report={work / PAGE}"]


def complete(job: Retraining, steps: Sequence[StepResult]) -> pathlib.Path:
    """Writes the page of a run that the build did not write one for; returns where it is."""
    path, last = job.work / PAGE, steps[-1]
    if last.outcome is Outcome.FAILED and not _is_of(path, last):
        from serving.building import retraining_page  # Jinja2, and what draws.

        told = [dataclasses.asdict(step) | {"outcome": step.outcome.value} for step in steps]
        told[-1]["command"] = door.shown(last.command)
        files.atomic_write(path, retraining_page.failed_page(told))
    if path.is_file():
        job.keep(PAGE)
    return path


def _is_of(path: pathlib.Path, step: StepResult) -> bool:
    """Whether the build that failed just now has written the page."""
    begun_s = time.time() - step.seconds - _CLOCK_SLACK_S
    return step.name == BUILD and path.is_file() and path.stat().st_mtime >= begun_s
