"""Tells what an experiment showed: the arms, their differences from the first, whether to trust it.

    python -m serving.analyse_experiment --logs=logs --experiment=experiment.json --output=ab.json

Reads the impressions that were served with ``serving.serve --experiment``, the newest of them from
the event log, also while a server runs; it says of how many pages more may come. Look as often as
you like: "differs" is said by a test that is wrong with 5 % however often it is asked, see
models/evaluation/sequential.py. In brackets stands the interval of a bootstrap over users, for a
reader who looks once. Where the arms do not have the shares of users that the file gives them,
something else differs between them: no difference is read, and the exit code is 2.
"""

import json
import pathlib
import sys
from collections.abc import Mapping
from typing import Any

from absl import flags

from features import command, config_flags, files
from models.evaluation import sequential
from serving.funnel import experiment as ab_experiment

_LOGS = config_flags.path("logs", "reads", "Raw logs.", required=True)
_EXPERIMENT = config_flags.path("experiment", "reads", "The file that was served.", required=True)
_OUTPUT = config_flags.path("output", "writes", "JSON file to write.", required=True)
_FROM = flags.DEFINE_string("from", None, "Only impressions from this ISO 8601 time on.")
_UNTIL = flags.DEFINE_string("until", None, "Only impressions before this ISO 8601 time.")
_PLANNED_PAGES = flags.DEFINE_integer(
    "planned_pages",
    sequential.PLANNED_PAGES,
    "Pages of two arms at which the test decides most easily, chosen before the experiment; it is "
    "right at any other number, too.",
    lower_bound=1,
)
_SEED = flags.DEFINE_integer("seed", 0, "Of the resamples.")


def main() -> None:
    """Analyses, writes, prints."""
    from serving.batch import experiment_analysis

    experiment = ab_experiment.load(_EXPERIMENT.value)
    analysis = experiment_analysis.analyse(
        pathlib.Path(_LOGS.value),
        experiment,
        from_s=command.parse_time(_FROM.value, name="--from"),
        until_s=command.parse_time(_UNTIL.value, name="--until"),
        planned_pages=_PLANNED_PAGES.value,
        seed=_SEED.value,
    )
    files.atomic_write(_OUTPUT.value, json.dumps(analysis, indent=2) + "\n")
    for line in _lines(analysis):
        sys.stdout.write(line + "\n")
    sys.stdout.write(f"Written to {_OUTPUT.value}.\n")
    if analysis["split"]["is_mismatch"]:
        raise command.InputError(_mismatch(analysis["split"]))


def _mismatch(split: Mapping[str, Any]) -> str:
    planned = ", ".join(f"{name} {count:.0f}" for name, count in split["expected"].items())
    users = ", ".join(f"{name} {count}" for name, count in split["users"].items())
    return (
        f"the arms have {users} users, where their shares ask for {planned} (p = {split['p']:.2g} "
        "at any time). Users are lost or added by something that differs between the arms, and "
        "whoever is left cannot be compared. Look for an arm that fails, is slow or is not logged, "
        "and for a changed file; then begin anew with another salt."
    )


def _lines(analysis: Mapping[str, Any]) -> list[str]:
    split = analysis["split"]
    users = ", ".join(f"{name} {count}" for name, count in split["users"].items())
    verdict = "NOT as planned" if split["is_mismatch"] else "as planned"
    lines = [f"Users: {users}. The split is {verdict} (p = {split['p']:.3g})."]
    if analysis["pages_waiting"]:
        lines.append(
            f"{analysis['pages_waiting']} pages are so new that they still wait in the event log: "
            "more may be clicked and watched of them."
        )
    for name, arm in analysis["arms"].items():
        figures = ", ".join(f"{k} {_figure(v)}" for k, v in arm["metrics"].items())
        lines.append(f"{name}: {figures}")
    for name, metrics in analysis["differences"].items():
        for metric, figure in metrics.items():
            at_any_time = figure["at_any_time"]
            word = "differs" if at_any_time["excludes_zero"] else "no difference shown"
            if at_any_time["low"] is None:
                word = f"too few users to tell (at least {sequential.MIN_USERS} in each arm)"
            lines.append(f"{name} - control, {metric}: {_figure(figure)}: {word}")
    return lines


def _figure(figure: Mapping[str, Any]) -> str:
    if figure["value"] is None:
        return "unknown"
    return f"{figure['value']:.4g} [{figure['low']:.4g}, {figure['high']:.4g}]"


if __name__ == "__main__":
    command.run(main)
