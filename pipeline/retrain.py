r"""Logs -> a published release: preprocess, train, evaluate, build the release.

    python -m pipeline.retrain --logs=logs --serving_root=serving_root

Each step is a command that can be typed by itself; --dry_run prints them. A step whose outcome
still holds (same logs, flags and code) is not run again, so a run that failed or was killed goes
on where it stopped when the same line is given again, and a schedule may call it at any time. Only
one run at a time may use a --work directory.

    python -m pipeline.retrain --logs=logs --serving_root=serving_root \
        --until=2022-05-08 --candidate_flags="--epochs=2" --preprocess_flags="--holdout_days=2"
    python -m pipeline.retrain --logs=logs --serving_root=serving_root \
        --every=24h --window_days=14 --hook=/usr/local/bin/page-me

Exit codes for schedulers: 0 done; 3 refused by a gate, and the release that serves goes on
(the same again is refused again); 75 in use by another run (try later); 2 bad input; 1 a fault.
"""

import functools
import os
import pathlib
import shlex
import signal
import sys
import time
import types
from collections.abc import Mapping, Sequence

from absl import flags

from features import command, config_flags
from features.stores import door
from pipeline.steps import (
    commands,
    declared,
    report_page,
    retraining,
    schedule,
    stored_work,
    tracking,
    warm_starting,
)
from serving.process import hooks

_LOGS = config_flags.path("logs", "reads", "Directory of the raw logs.", required=True)
_SERVING_ROOT = config_flags.path(
    "serving_root", "itself", "Directory in which the release is published.", required=True
)
_WORK = config_flags.path(
    "work",
    "itself",
    "Directory of examples, models and records; default: work beside --serving_root.",
)
_FROM = flags.DEFINE_string("from", None, "Learns from events from this ISO 8601 time on, UTC.")
_UNTIL = flags.DEFINE_string("until", None, "Learns from events before this ISO 8601 time, UTC.")
# Of steps whose flag is shorter than their name.
_SHORT = {
    **{"judge_examples": "judge", "train_candidate": "candidate", "train_ranker": "ranker"},
    **{"join_holdout": "join", "build_release": "release", "learn_order": "order"},
}
_STEP_FLAGS = {
    step.name: flags.DEFINE_string(
        f"{_SHORT.get(step.name, step.name)}_flags",
        "",
        f"Further flags of {step.binary}, in one string"
        + ("; default: Beam's of preprocess." if step.name == "join_holdout" else "."),
    )
    for step in declared.STEPS
}
_FORCE_PUBLISH = flags.DEFINE_string(
    "force_publish", None, "Publishes although a gate fails; the reason, which is recorded."
)
_LEARN_ORDER = flags.DEFINE_boolean(
    "learn_order",
    False,
    "Learns an order of pages also where a ranker gives one: for `serving.serve --order=learned`, "
    "or an arm of an experiment.",
)
_MLFLOW = flags.DEFINE_string(
    "mlflow",
    None,
    "Records the run, and registers the release, at this MLflow tracking URI: http://HOST:PORT, "
    "sqlite:///FILE. Needs pip install '.[mlflow]'.",
)
_SCHEDULE = config_flags.define(schedule.ScheduleConfig)
_DRY_RUN = flags.DEFINE_boolean("dry_run", False, "Prints what would be run, and runs nothing.")


def main() -> None:
    """Retrains, once or time and again, or says what a retraining would do."""
    config = _SCHEDULE.build()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    if config.hook:
        hooks.require(config.hook)
    tracker = tracking.Tracker(_MLFLOW.value) if _MLFLOW.value else None
    if tracker and not _DRY_RUN.value:
        tracker.require()
    run = functools.partial(_run, config, tracker)
    if config.every and not _DRY_RUN.value:
        schedule.repeat(run, schedule.parse(config.every))
    code = run()
    if code:
        raise SystemExit(code)


def _run(config: schedule.ScheduleConfig, tracker: tracking.Tracker | None) -> int:
    """Runs once; returns the exit code."""
    root = _SERVING_ROOT.value
    places = stored_work.Places(
        _WORK.value or os.path.join(os.path.dirname(root.rstrip("/")), "work"),
        root,
        declared.STEPS,
    )
    job = retraining.Retraining(
        logs=pathlib.Path(_LOGS.value),
        serving_root=places.serving_root,
        work=places.work,
        flags=_flags_of_steps(config.window_from(time.time())),
        unrecorded_flags=_unrecorded_flags(config, places.work),
        given={declared.SERVING_ROOT: root},
        besides=("learn_order",) if _LEARN_ORDER.value else (),
        keep_runs=config.keep_runs,
        keep=places.keep,
    )
    with places.opened():
        if _DRY_RUN.value:
            _print_plan(job)
            return 0
        try:
            steps = job.run()
        except command.InputError as error:
            if config.hook:
                event = "in_use" if isinstance(error, command.InUseError) else retraining.FAILED
                hooks.tell(config.hook, event, {"reason": str(error)})
            raise
        page = report_page.complete(job, steps)
        _print_table(steps)
        if tracker:
            tracker.record(job, steps)
        if config.hook:
            hooks.tell(config.hook, *job.news(steps))
        if steps[-1].outcome is retraining.Outcome.FAILED:
            return _say_failed(steps[-1])
        if config.starts_warm:
            warm_starting.remember(job)
    _say_done(job, page)
    return 0


def _print_plan(job: retraining.Retraining) -> None:
    for step in job.plan():
        would_run = step.outcome is retraining.Outcome.DONE
        print(f"# {step.name}: {'would run' if would_run else step.outcome.value}")
        print(step.command or f"#   {step.reason}")


def _say_done(job: retraining.Retraining, page: pathlib.Path) -> None:
    print(f"Wrote a release in {job.serving_root}; report: {page}")
    print(f"Metrics: {job.location('evaluation') / 'metrics.json'}")
    following = command.shell_line("serving.serve", serving_root=job.serving_root, logs=job.logs)
    print(f"Next: {following}", flush=True)


def _flags_of_steps(window_from: str | None) -> Mapping[str, Sequence[str]]:
    given = commands.split_flags(
        {step: flag.value for step, flag in _STEP_FLAGS.items()},
        {step: flag.name for step, flag in _STEP_FLAGS.items()},
    )
    if window_from and _FROM.value:
        raise command.InputError("give either --from or --window_days.")
    for name, value in (("from", _FROM.value or window_from), ("until", _UNTIL.value)):
        if value:
            command.parse_time(value, name=f"--{name}")
            given["preprocess"].append(f"--{name}={value}")
    return given


def _unrecorded_flags(
    config: schedule.ScheduleConfig, work: pathlib.Path
) -> Mapping[str, Sequence[str]]:
    """Returns flags that make no step run again: what they are changes from run to run."""
    # What serves is no part of what a day is: it makes no step run again.
    force = [f"--force_publish={_FORCE_PUBLISH.value}"] if _FORCE_PUBLISH.value else []
    given: dict[str, Sequence[str]] = {
        "judge_examples": [f"--serving_root={_SERVING_ROOT.value}", *force],
        report_page.BUILD: [*report_page.flags(work), *force],
    }
    if config.starts_warm:
        given |= warm_starting.flags(work, config.cold_every)
    return given


def _print_table(steps: Sequence[retraining.StepResult]) -> None:
    for step in steps:
        cost = f"  {step.cost}" if step.cost.cpu_s else ""
        text = f"{step.name:<16} {step.outcome.value:<11} {step.seconds:>8.1f} s"
        print(f"{text}{cost}  {step.reason}".rstrip())
    print(f"{'together':<28} {sum(step.seconds for step in steps):>8.1f} s")


def _say_failed(failed: retraining.StepResult) -> int:
    """Says which step failed and how to go on; returns the exit code."""
    sys.stdout.flush()
    word = "was refused by a gate" if failed.is_refused else "failed"
    sys.stderr.write(
        f"error: {failed.name} {word} ({failed.reason}); what it said stands above.\n"
        f"  This step alone: {door.shown(failed.command)}\n"
        f"  All, going on from here: {shlex.join([sys.executable, '-m', 'pipeline.retrain'])} "
        f"{shlex.join(sys.argv[1:])}\n"
    )
    sys.stderr.flush()
    return failed.exit_code if failed.exit_code > 0 else 1


def _stop(number: int, frame: types.FrameType | None) -> None:
    """Leaves through the ``finally`` blocks, which end the step that runs."""
    del frame
    raise SystemExit(128 + number)


if __name__ == "__main__":
    command.run(main)
