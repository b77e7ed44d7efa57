r"""Trained models -> a release that serves: index, SavedModels, manifest; gated, atomic.

    python -m serving.build_release --examples=examples --candidate_model=candidate_model \
        --ranker_model=ranker_model --page_order=page_order --serving_root=serving_root \
        --metrics=evaluation

Prints every gate. When one fails nothing is published and the exit code is 3.
"""

import sys
import time

from features import command, config_flags
from features.screen import progress
from serving.building import config as build_config
from serving.release import stored_root

_INPUTS = config_flags.define(build_config.Inputs)
_SERVING_ROOT = config_flags.path(
    "serving_root", "itself", "Directory of releases; created.", required=True
)
_SETTINGS = config_flags.define(build_config.BuildConfig)


def main() -> None:
    """Turns flags into settings and hands over."""
    inputs, settings = _INPUTS.build(), _SETTINGS.build()
    from serving.building import assembly

    started = time.monotonic()
    root = _SERVING_ROOT.value
    with stored_root.changed(root, what=f"{root}, where a release is built,") as local:
        manifest = assembly.publish(
            inputs, local, settings, report=lambda gate: progress.write(str(gate))
        )
    examples = manifest.lineage["examples"]["info"]
    served = command.shell_line("serving.serve", serving_root=root, logs=examples["logs"])
    parts = ", ".join(name for name, files in manifest.components.items() if files)
    sys.stdout.write(
        f"Published release {manifest.version} in {root} ({parts}) "
        f"after {time.monotonic() - started:.0f} s.\n"
        f"Next: {served}\n"
        f"Back: {command.shell_line('serving.rollback', serving_root=root)}\n"
    )


if __name__ == "__main__":
    command.run(main)
