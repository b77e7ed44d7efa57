r"""Logs -> a published release: preprocess, train, evaluate, build the release.

    python -m pipeline.retrain --logs=logs --serving_root=serving_root

Each step is a command that can be typed by itself; --dry_run prints them. A step whose outcome
still holds (same logs, flags and code) is not run again, so a run that failed or was killed goes
on where it stopped when the same line is given again, and a schedule may call it at any time. Only
one run at a time may use a --work directory.

    python -m pipeline.retrain --logs=logs --serving_root=serving_root \
        --until=2022-05-08 --candidate_flags="--epochs=2" --preprocess_flags="--holdout_days=2"
"""

import os
import pathlib
import shlex
import signal
import sys
import types
from collections.abc import Mapping, Sequence

from absl import flags

from features import command
from features.stores import door
from pipeline.steps import commands, declared, report_page, retraining, stored_work, tracking

_LOGS = flags.DEFINE_string("logs", None, "Directory of the raw logs.", required=True)
_SERVING_ROOT = flags.DEFINE_string(
    "serving_root", None, "Directory in which the release is published.", required=True
)
_WORK = flags.DEFINE_string(
    "work", None, "Directory of examples, models and records; default: work beside --serving_root."
)
_FROM = flags.DEFINE_string("from", None, "Learns from events from this ISO 8601 time on, UTC.")
_UNTIL = flags.DEFINE_string("until", None, "Learns from events before this ISO 8601 time, UTC.")
_STEP_FLAGS = {
    "preprocess": flags.DEFINE_string(
        "preprocess_flags", "", "Further flags of pipeline.preprocess, in one string."
    ),
    "train_candidate": flags.DEFINE_string(
        "candidate_flags", "", "Further flags of models.train_candidate."
    ),
    "train_ranker": flags.DEFINE_string(
        "ranker_flags", "", "Further flags of models.train_ranker."
    ),
    "evaluate": flags.DEFINE_string("evaluate_flags", "", "Further flags of models.evaluate."),
    "join_holdout": flags.DEFINE_string(
        "join_flags", "", "Further flags of pipeline.join_holdout; default: Beam's of preprocess."
    ),
    "refit": flags.DEFINE_string("refit_flags", "", "Further flags of models.refit."),
    "build_release": flags.DEFINE_string(
        "release_flags", "", "Further flags of serving.build_release."
    ),
    "learn_order": flags.DEFINE_string("order_flags", "", "Further flags of serving.learn_order."),
}
_FORCE_PUBLISH = flags.DEFINE_string(
    "force_publish", None, "Publishes although a gate fails; the reason, which is recorded."
)
_MLFLOW = flags.DEFINE_string(
    "mlflow",
    None,
    "Records the run, and registers the release, at this MLflow tracking URI: http://HOST:PORT, "
    "sqlite:///FILE. Needs pip install '.[mlflow]'.",
)
_DRY_RUN = flags.DEFINE_boolean("dry_run", False, "Prints what would be run, and runs nothing.")


def main(argv: Sequence[str]) -> None:
    """Retrains, or says what a retraining would do."""
    del argv
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
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
        flags=_flags_of_steps(),
        unrecorded_flags={report_page.BUILD: _build_flags(places.work)},
        given={declared.SERVING_ROOT: root},
        keep=places.keep,
    )
    with places.opened():
        _run(job)


def _run(job: retraining.Retraining) -> None:
    if _DRY_RUN.value:
        for step in job.plan():
            would_run = step.outcome is retraining.Outcome.DONE
            print(f"# {step.name}: {'would run' if would_run else step.outcome.value}")
            print(step.command or f"#   {step.reason}")
        return
    tracker = tracking.Tracker(_MLFLOW.value) if _MLFLOW.value else None
    if tracker:
        tracker.require()
    steps = job.run()
    page = report_page.complete(job, steps)
    _print_table(steps)
    if tracker:
        tracker.record(job, steps)
    if steps[-1].outcome is retraining.Outcome.FAILED:
        _refuse(steps[-1])
    print(f"Wrote a release in {job.serving_root}; report: {page}")
    print(f"Metrics: {job.location('evaluation') / 'metrics.json'}")
    following = command.shell_line("serving.serve", serving_root=job.serving_root, logs=job.logs)
    print(f"Next: {following}")


def _flags_of_steps() -> Mapping[str, Sequence[str]]:
    given = commands.split_flags(
        {step: flag.value for step, flag in _STEP_FLAGS.items()},
        {step: flag.name for step, flag in _STEP_FLAGS.items()},
    )
    for name, flag in (("from", _FROM), ("until", _UNTIL)):
        if flag.value:
            command.parse_time(flag.value, name=f"--{name}")
            given["preprocess"].append(f"--{name}={flag.value}")
    return given


def _build_flags(work: pathlib.Path) -> list[str]:
    reason = _FORCE_PUBLISH.value
    return [*report_page.flags(work), *([f"--force_publish={reason}"] if reason else [])]


def _print_table(steps: Sequence[retraining.StepResult]) -> None:
    for step in steps:
        print(f"{step.name:<16} {step.outcome.value:<11} {step.seconds:>8.1f} s  {step.reason}")
    print(f"{'together':<28} {sum(step.seconds for step in steps):>8.1f} s")


def _refuse(failed: retraining.StepResult) -> None:
    sys.stdout.flush()
    sys.stderr.write(
        f"error: {failed.name} failed ({failed.reason}); what it said stands above.\n"
        f"  This step alone: {door.shown(failed.command)}\n"
        f"  All, going on from here: {shlex.join([sys.executable, '-m', 'pipeline.retrain'])} "
        f"{shlex.join(sys.argv[1:])}\n"
    )
    raise SystemExit(failed.exit_code if failed.exit_code > 0 else 1)


def _stop(number: int, frame: types.FrameType | None) -> None:
    """Leaves through the ``finally`` blocks, which end the step that runs."""
    del frame
    raise SystemExit(128 + number)


if __name__ == "__main__":
    command.run(main, reads=("logs",), itself=("serving_root", "work"))
