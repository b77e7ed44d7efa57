"""Keeps the releases that arms of an experiment name, until the experiment is over.

    python -m serving.pin_releases --serving_root=serving_root --experiment=experiment.json
    python -m serving.pin_releases --serving_root=serving_root --unpin=NAME

A pinned release is not removed when newer ones are published, and the model server goes on
holding its models. ``serving.serve --experiment`` pins by itself where it may write to the serving
root. Nothing unpins by itself: do it when the experiment is over.
"""

import pathlib
import sys

from absl import flags

from features import command, config_flags
from serving.funnel import experiment as ab_experiment
from serving.release import manifest as release
from serving.release import publication, stored_root

_SERVING_ROOT = config_flags.path("serving_root", "itself", "Directory of releases.", required=True)
_EXPERIMENT = config_flags.path("experiment", "reads", "JSON file whose releases are pinned.")
_UNPIN = flags.DEFINE_string("unpin", None, "Name of an experiment that is over.")


def main() -> None:
    """Pins, unpins, and says what is pinned then."""
    if bool(_EXPERIMENT.value) == bool(_UNPIN.value):
        raise command.InputError("give either --experiment=FILE or --unpin=NAME.")
    with stored_root.changed(_SERVING_ROOT.value) as root:
        _change(root)
        pins = release.pins(root)
    for name, versions in pins.items():
        sys.stdout.write(f"Pinned by {name}: {', '.join(versions)}\n")


def _change(root: pathlib.Path) -> None:
    if _EXPERIMENT.value:
        experiment = ab_experiment.load(_EXPERIMENT.value)
        have = release.versions(root)
        missing = sorted(experiment.releases - set(have))
        if missing:
            raise command.InputError(
                f"{root} has no release {', '.join(missing)} to pin; it has: {', '.join(have)}."
            )
        publication.pin(root, experiment.name, experiment.releases)
    else:
        if _UNPIN.value not in release.pins(root):
            pinned = ", ".join(release.pins(root)) or "nothing"
            raise command.InputError(f"{root} has no pins of {_UNPIN.value}; there is {pinned}.")
        publication.pin(root, _UNPIN.value, ())
    if not release.pins(root):
        sys.stdout.write("Nothing is pinned.\n")


if __name__ == "__main__":
    command.run(main)
