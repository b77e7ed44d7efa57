"""Runs the stages in order, and only those whose outcome no longer holds.

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
import os
import pathlib
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from absl import logging

from features import command, files
from features.stores import door
from features.tables import log_files
from pipeline.steps import fingerprints, stages, step_records, work_lock
from serving.events import compaction

REPORT = "retrain.json"
UNFINISHED = "unfinished"
_SCRATCH = ".tmp"
# A socket in a temporary directory has a name of at most 107 bytes; Python's have 32 of their own.
_MAX_SCRATCH_CHARACTERS = 75
_TERMINATE_WAIT_S = 20
_NO_IMPRESSIONS = "the logs have no impressions"


class Outcome(str, enum.Enum):
    """What became of a step, or in a plan: what would."""

    DONE = "done"
    UP_TO_DATE = "up to date"
    SKIPPED = "skipped"
    FAILED = "failed"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Step:
    """What became of a stage in this run.

    Attributes:
        name: Name of the stage.
        outcome: Outcome of the stage.
        command: The line to type for this step alone; empty where it is skipped.
        seconds: Wall time in this run, seconds.
        reason: Reason why it was skipped, or how it failed.
        exit_code: Exit code of the process where it failed.
    """

    name: str
    outcome: Outcome
    command: str = ""
    seconds: float = 0.0
    reason: str = ""
    exit_code: int = 0


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
        chain: Stages of the retraining, in order.
        given: What steps are given for an artefact that is not at its :meth:`location`.
        keep: Function that is called with the name of an artefact, of the records, or of the
            report, when it is complete; it may take them elsewhere.
    """

    logs: pathlib.Path
    serving_root: pathlib.Path
    work: pathlib.Path
    flags: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)
    unrecorded_flags: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)
    chain: Sequence[stages.Stage] = stages.STAGES
    given: Mapping[str, str] = dataclasses.field(default_factory=dict)
    keep: Callable[[str], None] = lambda _: None

    def run(self) -> list[Step]:
        """Runs what has to be run and returns what became of the stages.

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
        with work_lock.held(self.work) as lock, _scratch(self.work) as scratch, report:
            # What servers logged until now is then in the tables, and counts as new logs.
            compaction.compact(self.logs, wall_s=time.time())
            for number, stage in enumerate(self.chain, start=1):
                report.write(UNFINISHED, at=stage.name)
                title = f"[{number}/{len(self.chain)}] {stage.name}"
                report.steps.append(self._perform(stage, title, lock, scratch))
                if report.steps[-1].outcome is Outcome.FAILED:
                    report.write("failed")
                    self.keep(REPORT)
                    return report.steps
            report.write("done")
            self.keep(REPORT)
        return report.steps

    def plan(self) -> list[Step]:
        """Returns what :meth:`run` would do now; DONE marks what would be run.

        Raises:
            command.InputError: There are no logs.
        """
        self._require_logs()
        return [self._skipped(s) or self._up_to_date(s) or self._outlook(s) for s in self.chain]

    def location(self, artefact: str) -> pathlib.Path:
        """Returns the path of an artefact."""
        outside = {stages.LOGS: self.logs, stages.SERVING_ROOT: self.serving_root}
        return outside.get(artefact) or self.work / artefact

    def _perform(
        self, stage: stages.Stage, title: str, lock: int, scratch: Mapping[str, str]
    ) -> Step:
        skipped = self._skipped(stage)
        if skipped:
            logging.warning("%s: SKIPPED: %s", title, skipped.reason)
            return skipped
        up_to_date = self._up_to_date(stage)
        if up_to_date:
            logging.info("%s: up to date; not run again", title)
            return up_to_date
        outlook = self._outlook(stage)
        logging.info("%s: %s", title, outlook.command)
        begun = step_records.Record(
            fingerprint=self._fingerprints[stage.name], inputs=self._stamps_read(stage)
        )
        step_records.write(self.work, stage, begun)
        clock = time.monotonic()
        environment = {
            command.DONE: str(step_records.done_path(self.work, stage)),
            door.STANDS_FOR: door.for_children(),
            **scratch,
        }
        code = _run_process(self._command(stage), lock, environment)
        seconds = time.monotonic() - clock
        if not code:
            self.keep(stage.writes[1])
        reason = _exit_reason(code) or self._record(stage, begun, seconds)
        if reason:
            step_records.forget(self.work, stage)
        self.keep(step_records.DIRECTORY)
        if reason:
            logging.error("%s: FAILED after %.1f s: %s", title, seconds, reason)
        else:
            logging.info("%s: done in %.1f s", title, seconds)
        return dataclasses.replace(
            outlook,
            outcome=Outcome.FAILED if reason else Outcome.DONE,
            seconds=round(seconds, 2),
            reason=reason,
            exit_code=code,
        )

    def _skipped(self, stage: stages.Stage) -> Step | None:
        cause = self._no_ranking() if stage.needs_ranking else ""
        if not cause:
            return None
        return Step(
            name=stage.name,
            outcome=Outcome.SKIPPED,
            reason=f"{cause}: there will be no ranker",
        )

    def _up_to_date(self, stage: stages.Stage) -> Step | None:
        if not self._holds(stage):
            return None
        return dataclasses.replace(self._outlook(stage), outcome=Outcome.UP_TO_DATE)

    def _holds(self, stage: stages.Stage) -> bool:
        record = step_records.read(self.work, stage, self._output(stage))
        return (
            record is not None
            and record.fingerprint == self._fingerprints[stage.name]
            and record.stamp == step_records.stamp(stage, self._output(stage), record.stamp)
            and all(self._holds(maker) for maker in self._makers(stage))
            and record.inputs == self._stamps_read(stage)
        )

    def _makers(self, stage: stages.Stage) -> list[stages.Stage]:
        """Returns the stages whose artefacts a stage reads, without those that are skipped."""
        return [
            other
            for other in self.chain
            if other.writes[1] in stage.reads.values() and not self._skipped(other)
        ]

    def _stamps_read(self, stage: stages.Stage) -> dict[str, str]:
        return {
            maker.writes[1]: step_records.stamp(maker, self._output(maker)) or ""
            for maker in self._makers(stage)
        }

    def _outlook(self, stage: stages.Stage) -> Step:
        line = shlex.join(self._command(stage))
        return Step(name=stage.name, outcome=Outcome.DONE, command=line)

    def _record(self, stage: stages.Stage, begun: step_records.Record, seconds: float) -> str:
        """Records a success and returns "", or how the step broke its word."""
        stamp = step_records.stamp(stage, self._output(stage))
        if stamp is None:
            return f"it ended well but left nothing complete in {self._output(stage)}"
        record = dataclasses.replace(
            begun, stamp=stamp, finished=step_records.utc_now(), seconds=round(seconds, 2)
        )
        step_records.write(self.work, stage, record)
        return ""

    def _no_ranking(self) -> str:
        """Returns why there is no ranker: what preprocessing says, or what the logs look like."""
        maker = next((s for s in self.chain if s.writes[1] == stages.EXAMPLES), None)
        if maker is not None and self._holds(maker):
            info = files.read_complete(self._output(maker)) or {}
            return "" if info.get("has_ranking") else str(info.get("no_ranking") or _NO_IMPRESSIONS)
        return "" if log_files.find(self.logs, "impressions").files else _NO_IMPRESSIONS

    def _output(self, stage: stages.Stage) -> pathlib.Path:
        return self.location(stage.writes[1])

    def _command(self, stage: stages.Stage) -> list[str]:
        absent = {other.writes[1] for other in self.chain if self._skipped(other)}
        names = {*stage.reads.values(), stage.writes[1]} - absent
        given = [*self.flags.get(stage.name, ()), *self.unrecorded_flags.get(stage.name, ())]
        places = {name: self.given.get(name) or str(self.location(name)) for name in names}
        return stage.command(places, given)

    @functools.cached_property
    def _fingerprints(self) -> dict[str, str]:
        """Fingerprint of each stage, as things stood when this run started."""
        made = {stages.LOGS: fingerprints.of_tree(self.logs)}
        for stage in self.chain:
            made[stage.writes[1]] = fingerprints.of_value(
                {
                    "binary": stage.binary,
                    "flags": list(self.flags.get(stage.name, ())),
                    "code": fingerprints.of_code(stage.packages),
                    "reads": {name: made[name] for name in stage.reads.values()},
                }
            )
        return {stage.name: made[stage.writes[1]] for stage in self.chain}

    def _require_logs(self) -> None:
        if not self.logs.is_dir() or not any(self.logs.iterdir()):
            raise command.InputError(
                f"{self.logs} holds no logs. Make some with `python -m pipeline.simulate` or "
                "`python -m pipeline.import_dataset`, or name them with --logs."
            )


class _Report:
    """The file ``work/retrain.json``; a context that notes when the run is stopped inside."""

    def __init__(self, job: Retraining) -> None:
        self.steps: list[Step] = []
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
            self.write("stopped")

    def write(self, outcome: str, *, at: str = "") -> None:
        report = {
            "outcome": outcome,
            "at": at,
            "started": self._started,
            "seconds": round(time.monotonic() - self._clock, 2),
            "logs": door.shown(self._job.logs),
            "serving_root": door.shown(self._job.serving_root),
            "steps": [dataclasses.asdict(step) for step in self.steps],
        }
        files.atomic_write(self._job.work / REPORT, json.dumps(report, indent=1) + "\n")


def _exit_reason(code: int) -> str:
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return f"exit code {code}" if code else ""


def _run_process(arguments: Sequence[str], lock: int, environment: Mapping[str, str]) -> int:
    """Runs a step to its end, or ends it when this process is asked to stop."""
    process = subprocess.Popen(arguments, pass_fds=(lock,), env={**os.environ, **environment})
    with _ended(process):
        return process.wait()


@contextlib.contextmanager
def _scratch(work: pathlib.Path) -> Iterator[dict[str, str]]:
    """Yields the variables that make steps keep temporary files in the work directory.

    There the next run removes what a killed one left; it has the lock, so nobody writes there.
    """
    directory = (work / _SCRATCH).absolute()
    shutil.rmtree(directory, ignore_errors=True)
    if len(str(directory)) > _MAX_SCRATCH_CHARACTERS:
        logging.info(
            "%s is too long a path for sockets: steps keep temporary files in the system's "
            "directory, where a killed step leaves them.",
            directory,
        )
        yield {}
        return
    directory.mkdir()
    try:
        yield {"TMPDIR": str(directory)}
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextlib.contextmanager
def _ended(process: subprocess.Popen[bytes]) -> Iterator[None]:
    try:
        yield
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(_TERMINATE_WAIT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
