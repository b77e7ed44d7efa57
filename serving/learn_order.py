r"""Held-out watches -> the order of pages of the release that serves now.

    python -m serving.learn_order --serving_root=serving_root --logs=logs --output=page_order

Asks the whole funnel, as it would have stood, before some watches that no model was trained on
(the holdout of preprocessing), and learns which of its candidates were watched next; see
serving/page_order.py. Writes --output and <serving_root>/page_order/<release>.json, which servers
take over by themselves. Without it pages are in the order of expected watch time.
"""

import pathlib
import sys
import time
from collections.abc import Sequence

from absl import flags, logging

from features import command, files
from serving import release

_SERVING_ROOT = flags.DEFINE_string("serving_root", None, "Directory of releases.", required=True)
_LOGS = flags.DEFINE_string("logs", None, "Directory of the raw logs.", required=True)
_OUTPUT = flags.DEFINE_string("output", None, "Directory to write.", required=True)
_WATCHES = flags.DEFINE_integer(
    "watches", 1000, "Watches to learn from, spread over the holdout.", lower_bound=1
)


def main(argv: Sequence[str]) -> None:
    """Turns flags into arguments and hands over."""
    del argv
    command.quiet_tensorflow()
    from serving import page_order, page_replay, past_funnel

    started = time.monotonic()
    root = pathlib.Path(_SERVING_ROOT.value)
    found = release.load(root)
    info = found.manifest.lineage.get("examples", {}).get("info", {})
    until_s, train_until_s = int(info.get("until_s", 0)), int(info.get("train_until_s", 0))
    order = None
    if until_s > train_until_s:
        settings = past_funnel.ReplaySettings(
            from_s=until_s,
            until_s=until_s,
            lessons=_WATCHES.value,
            lessons_s=until_s - train_until_s,
        )
        logs_dir = pathlib.Path(_LOGS.value)
        order = page_replay.learn(found, serving_root=root, logs_dir=logs_dir, settings=settings)
    with files.atomic_directory(_OUTPUT.value) as output:
        if order is None:
            logging.warning(
                "Pages will be in the order of expected watch time: there are fewer than %d "
                "held-out watches to learn from, or no ranker.",
                page_order.MIN_SAMPLES,
            )
        else:
            order.save(output / "page_order.json")
            path = page_order.path_of(root, found.version)
            path.parent.mkdir(exist_ok=True)
            order.save(path)
        samples = order.samples if order else 0
        files.mark_complete(output, {"release": found.version, "samples": samples})
    sys.stdout.write(
        f"Wrote {_OUTPUT.value}: the order of pages of release {found.version}, learned from "
        f"{samples} watches in {time.monotonic() - started:.0f} s.\n"
        f"Next: {command.shell_line('serving.serve', serving_root=root, logs=_LOGS.value)}\n"
    )


if __name__ == "__main__":
    command.run(main)
