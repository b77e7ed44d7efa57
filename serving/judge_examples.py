r"""Judges the newest day of examples before anything is trained on it; a bad day is refused.

    python -m serving.judge_examples --examples=examples --serving_root=serving_root \
        --output=judged_examples

Prints every gate: rows of the day, watch time, hours, columns and features beside the days before,
the holdout, and the logs beside those of the release that serves, which is in --serving_root. When
one fails, nothing is written and the exit code is 3.
"""

import dataclasses
import pathlib
import sys

from absl import flags, logging

from features import command, config_flags, files
from features.stores import locations
from serving.building import config as build_config
from serving.release import stored_root

_EXAMPLES = config_flags.path("examples", "reads", "What pipeline.preprocess wrote.", required=True)
_SERVING_ROOT = config_flags.path(
    "serving_root", "itself", "Directory of releases, whose current one is compared with."
)
_OUTPUT = config_flags.path("output", "writes", "Directory to write.", required=True)
_LIMITS = config_flags.define(build_config.DayLimits)
_FORCE_PUBLISH = flags.DEFINE_string(
    "force_publish", "", "Reason to go on although a gate fails, which is recorded."
)


def main() -> None:
    """Judges, and says what to run next."""
    limits = _LIMITS.build()
    from serving.building import day_gates, gates

    judged = day_gates.of_examples(pathlib.Path(_EXAMPLES.value), limits, _root())
    for gate in judged:
        sys.stdout.write(f"{gate}\n")
    failing = gates.failed(judged)
    if failing:
        causes = "; ".join(
            f"{gate.rule}: {gate.value} (asked: {gate.threshold})" for gate in failing
        )
        if not _FORCE_PUBLISH.value:
            raise command.RefusedError(
                f"these examples are not trained on, since {len(failing)} of {len(judged)} gates "
                f"failed: {causes}. The release that serves stays. Mend the logs, or go on all the "
                'same with --force_publish="REASON", which is recorded.'
            )
        logging.warning("Going on although %s. Reason given: %s", causes, _FORCE_PUBLISH.value)
    with files.atomic_directory(_OUTPUT.value) as output:
        info = {
            "gates": [dataclasses.asdict(gate) for gate in judged],
            "forced": _FORCE_PUBLISH.value if failing else "",
        }
        files.mark_complete(output, info)
    following = command.shell_line(
        "models.train_candidate", examples=_EXAMPLES.value, model="CANDIDATE_MODEL"
    )
    sys.stdout.write(f"Wrote {_OUTPUT.value}: {len(judged)} gates.\nNext: {following}\n")


def _root() -> pathlib.Path | None:
    """Returns the serving root to read; None where nothing was published there yet."""
    root = _SERVING_ROOT.value
    if not root or not locations.is_remote(root):
        return pathlib.Path(root) if root else None
    try:
        return stored_root.read(root)
    except command.InputError as error:
        logging.info("Nothing to compare with: %s", error)
        return None


if __name__ == "__main__":
    command.run(main)
