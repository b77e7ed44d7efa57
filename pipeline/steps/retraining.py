"""Runs the steps in order, and only those whose outcome no longer holds.

What a step is made from (its flags, the code that it runs, what it reads; for the first step the
names, sizes and times of the log files) gives its fingerprint. A step is up to date when its
record has the fingerprint of now, and what it read and what it made still are the artefacts that
were recorded.
"""

import contextlib
import dataclasses
import enum
import functools
import json
import pathlib
import re
import shlex
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from absl import logging

from features import command, files
from features.stores import door
from features.tables import log_files
from pipeline.steps import (
    costs,
    declared,
    fingerprints,
    processes,
    step_records,
    work_lock,
)
from serving.events import compaction
from serving.release import manifest as release

REPORT = "retrain.json"
RUNS = "runs"
KEEP_RUNS = 30
DONE, REFUSED, FAILED, UNFINISHED, STOPPED = "done", "refused", "failed", "unfinished", "stopped"
_NO_IMPRESSIONS = "the logs have no impressions"


class Outcome(str, enum.Enum):
    """What became of a step, or in a plan: what would."""

    DONE = "done"
    UP_TO_DATE = "up to date"
    SKIPPED = "skipped"
    FAILED = "failed"


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepResult:
    """What became of a step in this run.

    Attributes:
        name: Name of the step.
        outcome: Outcome of the step.
        command: The line to type for this step alone; empty where it is skipped.
        seconds: Wall time in this run, seconds.
        cost: What else it cost in this run.
        reason: Reason why it was skipped, or how it failed.
        exit_code: Exit code of the process where it failed.
    """

    name: str
    outcome: Outcome
    command: str = ""
    seconds: float = 0.0
    cost: costs.Cost = costs.NOTHING
    reason: str = ""
    exit_code: int = 0

    @property
    def is_refused(self) -> bool:
        """Whether a gate failed in it."""
        return self.exit_code == command.RefusedError.exit_code


@dataclasses.dataclass(frozen=True, kw_only=True)
class Retraining:
    """One retraining: from logs to a published release.

    Attributes:
        logs: Directory of the raw logs.
        serving_root: Directory in which the release is published.
        work: Directory in which examples, models and records are kept.
        flags: Further flags of a step, by its name.
        unrecorded_flags: Further flags of a step that do not change what is made, so that they do
            not make a step that is up to date run again.
        chain: Steps of the retraining, in order.
        besides: Names of steps to run although a ranker makes them needless.
        given: What steps are given for an artefact that is not at its :meth:`location`.
        keep_runs: Number of reports of runs to keep in ``runs`` of the work directory.
        keep: Function that is called with the name of an artefact, of the records, or of the
            report, when it is complete; it may take them elsewhere.
    """

    logs: pathlib.Path
    serving_root: pathlib.Path
    work: pathlib.Path
    flags: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)
    unrecorded_flags: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)
    chain: Sequence[declared.Step] = declared.STEPS
    besides: Collection[str] = ()
    given: Mapping[str, str] = dataclasses.field(default_factory=dict)
    keep_runs: int = KEEP_RUNS
    keep: Callable[[str], None] = lambda _: None

    def run(self) -> list[StepResult]:
        """Runs what has to be run and returns what became of the declared.

        What servers acknowledged and did not move into the tables yet is moved first. Impressions
        of the last half hour wait: their click may still come.

        Stops after a step that failed, which then is the last one returned. ``work/retrain.json``
        is rewritten before and after each step. It says "unfinished" while a run is under way, as
        it does for ever when that is killed; whether one is, the lock of ``work`` tells.

        Raises:
            command.InputError: There are no logs, or another run is under way in ``work``.
        """
        self._require_logs()
        report = _Report(self)
        with work_lock.held(self.work) as lock, processes.scratch(self.work) as scratch, report:
            # What servers logged until now is then in the tables, and counts as new logs.
            compaction.compact(self.logs, wall_s=time.time())
            for number, step in enumerate(self.chain, start=1):
                report.write(UNFINISHED, at=step.name)
                title = f"[{number}/{len(self.chain)}] {step.name}"
                report.steps.append(self._perform(step, title, lock, scratch))
                if report.steps[-1].outcome is Outcome.FAILED:
                    report.finish(REFUSED if report.steps[-1].is_refused else FAILED)
                    return report.steps
            report.finish(DONE)
        return report.steps

    def plan(self) -> list[StepResult]:
        """Returns what :meth:`run` would do now; DONE marks what would be run.

        Raises:
            command.InputError: There are no logs.
        """
        self._require_logs()
        return [self._skipped(s) or self._up_to_date(s) or self._outlook(s) for s in self.chain]

    def news(self, steps: Sequence[StepResult]) -> tuple[str, dict[str, Any]]:
        """Returns how a run ended, ``done``, ``refused`` or ``failed``, and what a hook is told."""
        last = steps[-1]
        event = DONE
        if last.outcome is Outcome.FAILED:
            event = REFUSED if last.is_refused else FAILED
        return event, {
            "step": last.name if event != DONE else "",
            "reason": last.reason,
            "release": release.stated_current(self.serving_root),
            "serving_root": door.shown(self.serving_root),
            "report": door.shown(self.work / REPORT),
            "steps": [
                {"name": s.name, "outcome": s.outcome.value, "seconds": s.seconds}
                | dataclasses.asdict(s.cost)
                for s in steps
            ],
        }

    def location(self, artefact: str) -> pathlib.Path:
        """Returns the path of an artefact."""
        outside = {declared.LOGS: self.logs, declared.SERVING_ROOT: self.serving_root}
        return outside.get(artefact) or self.work / artefact

    def _perform(
        self, step: declared.Step, title: str, lock: int, scratch: Mapping[str, str]
    ) -> StepResult:
        skipped = self._skipped(step)
        if skipped:
            level = logging.WARNING if step.needs_ranking else logging.INFO
            logging.log(level, "%s: SKIPPED: %s", title, skipped.reason)
            return skipped
        up_to_date = self._up_to_date(step)
        if up_to_date:
            logging.info("%s: up to date; not run again", title)
            return up_to_date
        outlook = self._outlook(step)
        logging.info("%s: %s", title, outlook.command)
        begun = step_records.Record(
            fingerprint=self._fingerprints[step.name], inputs=self._stamps_read(step)
        )
        step_records.write(self.work, step, begun)
        clock = time.monotonic()
        environment = {
            command.DONE: str(step_records.done_path(self.work, step)),
            command.STANDS_FOR: door.for_children(),
            **scratch,
        }
        code, cost = processes.run(self._command(step), lock, environment)
        seconds = time.monotonic() - clock
        if not code:
            self.keep(step.writes[1])
        reason = processes.exit_reason(code) or self._record(step, begun, seconds)
        if not reason:
            size = costs.size_of(step.writes[1], self._output(step))
            cost = dataclasses.replace(cost, output_bytes=size)
        if reason:
            step_records.forget(self.work, step)
        self.keep(step_records.DIRECTORY)
        if reason:
            logging.error("%s: FAILED after %.1f s: %s", title, seconds, reason)
        else:
            logging.info("%s: done in %.1f s: %s", title, seconds, cost)
        return dataclasses.replace(
            outlook,
            outcome=Outcome.FAILED if reason else Outcome.DONE,
            seconds=round(seconds, 2),
            cost=cost,
            reason=reason,
            exit_code=code,
        )

    def _skipped(self, step: declared.Step) -> StepResult | None:
        reason = ""
        if step.needs_ranking and (cause := self._no_ranking()):
            reason = f"{cause}: there will be no ranker"
        elif step.is_instead and step.name not in self.besides and not self._no_ranking():
            reason = "a ranker does it"
        return (
            StepResult(name=step.name, outcome=Outcome.SKIPPED, reason=reason) if reason else None
        )

    def _up_to_date(self, step: declared.Step) -> StepResult | None:
        if not self._holds(step):
            return None
        return dataclasses.replace(self._outlook(step), outcome=Outcome.UP_TO_DATE)

    def _holds(self, step: declared.Step) -> bool:
        record = step_records.read(self.work, step, self._output(step))
        return (
            record is not None
            and record.fingerprint == self._fingerprints[step.name]
            and record.stamp == step_records.stamp(step, self._output(step), record.stamp)
            and all(self._holds(maker) for maker in self._makers(step))
            and record.inputs == self._stamps_read(step)
        )

    def _makers(self, step: declared.Step) -> list[declared.Step]:
        """Returns the steps whose artefacts a step reads, without those that are skipped."""
        return [
            other
            for other in self.chain
            if other.writes[1] in step.reads.values() and not self._skipped(other)
        ]

    def _stamps_read(self, step: declared.Step) -> dict[str, str]:
        return {
            maker.writes[1]: step_records.stamp(maker, self._output(maker)) or ""
            for maker in self._makers(step)
        }

    def _outlook(self, step: declared.Step) -> StepResult:
        line = shlex.join(self._command(step))
        return StepResult(name=step.name, outcome=Outcome.DONE, command=line)

    def _record(self, step: declared.Step, begun: step_records.Record, seconds: float) -> str:
        """Records a success and returns "", or how the step broke its word."""
        stamp = step_records.stamp(step, self._output(step))
        if stamp is None:
            return f"it ended well but left nothing complete in {self._output(step)}"
        record = dataclasses.replace(
            begun, stamp=stamp, finished=step_records.utc_now(), seconds=round(seconds, 2)
        )
        step_records.write(self.work, step, record)
        return ""

    def _no_ranking(self) -> str:
        """Returns why there is no ranker: what preprocessing says, or what the logs look like."""
        maker = next((s for s in self.chain if s.writes[1] == declared.EXAMPLES), None)
        if maker is not None and self._holds(maker):
            info = files.read_complete(self._output(maker)) or {}
            return "" if info.get("has_ranking") else str(info.get("no_ranking") or _NO_IMPRESSIONS)
        return "" if log_files.find(self.logs, "impressions").files else _NO_IMPRESSIONS

    def _output(self, step: declared.Step) -> pathlib.Path:
        return self.location(step.writes[1])

    def _command(self, step: declared.Step) -> list[str]:
        absent = {other.writes[1] for other in self.chain if self._skipped(other)}
        names = {*step.reads.values(), step.writes[1]} - absent
        given = [*self.flags.get(step.name, ()), *self.unrecorded_flags.get(step.name, ())]
        places = {name: self.given.get(name) or str(self.location(name)) for name in names}
        return step.command(places, given)

    @functools.cached_property
    def _fingerprints(self) -> dict[str, str]:
        """Fingerprint of each step, as things stood when this run started."""
        made = {declared.LOGS: fingerprints.of_tree(self.logs)}
        for step in self.chain:
            made[step.writes[1]] = fingerprints.of_value(
                {
                    "binary": step.binary,
                    "flags": list(self.flags.get(step.name, ())),
                    "code": fingerprints.of_code(step.packages),
                    "reads": {name: made[name] for name in step.reads.values()},
                }
            )
        return {step.name: made[step.writes[1]] for step in self.chain}

    def _require_logs(self) -> None:
        if not self.logs.is_dir() or not any(self.logs.iterdir()):
            raise command.InputError(
                f"{self.logs} holds no logs. Make some with `python -m pipeline.simulate` or "
                "`python -m pipeline.import_dataset`, or name them with --logs."
            )


class _Report:
    """The file ``work/retrain.json``; a context that notes when the run is stopped inside."""

    def __init__(self, job: Retraining) -> None:
        self.steps: list[StepResult] = []
        self._job = job
        self._started = step_records.utc_now()
        self._clock = time.monotonic()

    def __enter__(self) -> "_Report":
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
            last = json.loads((self._job.work / REPORT).read_text())
            if last["outcome"] == UNFINISHED:  # We hold the lock, so it does not run.
                logging.warning(
                    "The last run was killed during %s; going on from there.", last["at"]
                )
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self.write(STOPPED)

    def finish(self, outcome: str) -> None:
        """Writes how the run ended, also among the reports of runs, of which the newest stay."""
        text = self.write(outcome)
        self._job.keep(REPORT)
        name = f"{RUNS}/{re.sub('[^0-9TZ]', '', self._started)}.json"
        files.atomic_write(self._job.work / name, text)
        self._job.keep(name)
        reports = sorted((self._job.work / RUNS).glob("[!.]*.json"))
        for old in reports[: len(reports) - self._job.keep_runs]:
            old.unlink()

    def write(self, outcome: str, *, at: str = "") -> str:
        report = {
            "outcome": outcome,
            "at": at,
            "started": self._started,
            "seconds": round(time.monotonic() - self._clock, 2),
            "logs": door.shown(self._job.logs),
            "serving_root": door.shown(self._job.serving_root),
            "steps": [dataclasses.asdict(step) for step in self.steps],
        }
        text = json.dumps(report, indent=1) + "\n"
        files.atomic_write(self._job.work / REPORT, text)
        return text
