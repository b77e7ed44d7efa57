r"""Held-out watches -> the order of pages.

    python -m serving.learn_order --examples=examples --candidate_model=candidate_model \
        --ranker_model=ranker_model --logs=logs --output=page_order

Asks the whole funnel, as it would have stood, before some watches of the holdout of preprocessing,
and learns which of its candidates were watched next; see serving/batch/order_learning.py. The
models are those that were measured: what serves later has learnt those very watches, and its
scores would know the answers. serving.build_release takes --output into the release. It decides
pages where there is no ranker; where there is one, only those of ``serving.serve --order=learned``.
"""

import pathlib
import sys
import tempfile
import time
from typing import TYPE_CHECKING

from absl import flags, logging

from features import command, config_flags, files
from features.screen import progress
from serving.building import config as build_config

if TYPE_CHECKING:
    from serving.batch import order_learning

_INPUTS = config_flags.define(
    build_config.Inputs, without={"page_order", "metrics", "judged_examples", "retraining"}
)
_LOGS = config_flags.path("logs", "reads", "Directory of the raw logs.", required=True)
_OUTPUT = config_flags.path("output", "writes", "Directory to write.", required=True)
_WATCHES = flags.DEFINE_integer(
    "watches", 1000, "Watches to learn from, spread over the holdout.", lower_bound=1
)


def main() -> None:
    """Turns flags into arguments and hands over."""
    inputs = _INPUTS.build()
    from serving.batch import order_learning
    from serving.funnel import page_order

    started = time.monotonic()
    logs_dir = pathlib.Path(_LOGS.value)
    with progress.shown("learn_order"), files.atomic_directory(_OUTPUT.value) as output:
        with tempfile.TemporaryDirectory(dir=output, prefix=".release") as root:
            learned = _learned(inputs, root=pathlib.Path(root), logs_dir=logs_dir)
        if learned.order is None:
            logging.warning(
                "No order of pages: %d held-out watches were among the candidates, and %d are "
                "needed to learn one.",
                learned.figures["lessons"],
                order_learning.MIN_SAMPLES,
            )
        else:
            learned.order.save(output / page_order.FILE)
        files.mark_complete(output, {"judged": learned.figures, "watches": _WATCHES.value})
    following = command.shell_line(
        "pipeline.join_holdout", examples=inputs.examples, output="FINAL_EXAMPLES"
    )
    sys.stdout.write(
        f"Wrote {_OUTPUT.value}: {learned.summary()}, in {time.monotonic() - started:.0f} s.\n"
        f"Next: {following}\n"
    )


def _learned(
    inputs: build_config.Inputs, *, root: pathlib.Path, logs_dir: pathlib.Path
) -> "order_learning.Learned":
    """Returns the order of pages that watches of the holdout teach."""
    from features import dataset
    from serving.batch import past_funnel
    from serving.batch.config import BacktestConfig
    from serving.batch.order_learning import Lessons
    from serving.building import assembly

    info = dataset.info(inputs.examples)
    from_s, until_s = int(str(info["train_until_s"])), int(str(info["until_s"]))
    if from_s >= until_s:
        return Lessons().learned()
    settings = BacktestConfig(from_s=from_s, until_s=until_s, sample=_WATCHES.value)
    unpublished = assembly.unpublished(inputs, root)
    return past_funnel.opened(unpublished, root, logs_dir, settings).lessons().learned()


if __name__ == "__main__":
    command.run(main)
