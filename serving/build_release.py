r"""Trained models -> a release that serves: index, SavedModels, manifest; gated, atomic.

    python -m serving.build_release --examples=examples --candidate_model=candidate_model \
        --ranker_model=ranker_model --page_order=page_order --serving_root=serving_root \
        --metrics=evaluation

Prints every gate. When one fails nothing is published and the exit code is 2.
"""

import pathlib
import sys
import time
from collections.abc import Sequence

from absl import flags

from features import command
from serving.building import config as build_config

_DEFAULT = build_config.BuildConfig()
_EXAMPLES = flags.DEFINE_string("examples", None, "What preprocess wrote.", required=True)
_CANDIDATE_MODEL = flags.DEFINE_string(
    "candidate_model", None, "What train_candidate wrote.", required=True
)
_RANKER_MODEL = flags.DEFINE_string(
    "ranker_model", None, "What train_ranker wrote. Without it there are no watch times."
)
_PAGE_ORDER = flags.DEFINE_string(
    "page_order", None, "What learn_order wrote. Without it pages follow the ranker, or retrieval."
)
_SERVING_ROOT = flags.DEFINE_string(
    "serving_root", None, "Directory of releases; created.", required=True
)
_METRICS = flags.DEFINE_string(
    "metrics", None, "metrics.json of models.evaluate, or its directory, for the metric gates."
)
_KEEP = flags.DEFINE_integer(
    "keep", _DEFAULT.keep, "Newest releases to keep; the current and the one before always stay."
)
_RECALL_TARGET = flags.DEFINE_float(
    "recall_target", _DEFAULT.recall_target, "Recall@200 that the index must reach."
)
_EXACT_BELOW = flags.DEFINE_integer(
    "exact_below", _DEFAULT.exact_below, "Catalogues with fewer videos are searched exactly."
)
_FORCE_PUBLISH = flags.DEFINE_string(
    "force_publish", "", "Reason to publish although a gate fails; recorded in the manifest."
)


def main(argv: Sequence[str]) -> None:
    """Turns flags into settings and hands over."""
    del argv
    command.quiet_tensorflow()
    from serving.building import assembly

    started = time.monotonic()
    root = pathlib.Path(_SERVING_ROOT.value)
    inputs = build_config.Inputs(
        examples=pathlib.Path(_EXAMPLES.value),
        candidate_model=pathlib.Path(_CANDIDATE_MODEL.value),
        ranker_model=_path(_RANKER_MODEL.value),
        page_order=_path(_PAGE_ORDER.value),
        metrics=_path(_METRICS.value),
    )
    settings = build_config.BuildConfig(
        keep=_KEEP.value,
        recall_target=_RECALL_TARGET.value,
        exact_below=_EXACT_BELOW.value,
        force_publish=_FORCE_PUBLISH.value,
    )
    manifest = assembly.publish(inputs, root, settings, report=lambda gate: print(gate, flush=True))
    examples = manifest.lineage["examples"]["info"]
    served = command.shell_line("serving.serve", serving_root=root, logs=examples["logs"])
    parts = ", ".join(name for name, files in manifest.components.items() if files)
    sys.stdout.write(
        f"Published release {manifest.version} in {root} ({parts}) "
        f"after {time.monotonic() - started:.0f} s.\n"
        f"Next: {served}\n"
        f"Back: {command.shell_line('serving.rollback', serving_root=root)}\n"
    )


def _path(value: str | None) -> pathlib.Path | None:
    return pathlib.Path(value) if value else None


if __name__ == "__main__":
    command.run(main)
