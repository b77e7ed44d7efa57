r"""Gives logs of another recommender the sources and scores of our candidate generation.

    python -m pipeline.backfill_nominations --logs=logs --output=filled_logs
    python -m pipeline.retrain --logs=filled_logs --serving_root=serving_root

The ranker reads which sources nominated a video, and with which score: our own funnel logs both.
This makes them for the impressions that lack them. Each block of days is scored by a candidate
model trained on what came before it only. Impressions that our funnel logged stay as they are. The
same line again goes on where it was stopped.
"""

import pathlib
from collections.abc import Sequence

from absl import flags

from features import command
from pipeline.steps import commands

_LOGS = flags.DEFINE_string("logs", None, "Directory of the raw logs.", required=True)
_OUTPUT = flags.DEFINE_string("output", None, "Directory of logs to create.", required=True)
_WORK = flags.DEFINE_string(
    "work", None, "Directory of the models on the way; default: OUTPUT.work, may go afterwards."
)
_BLOCKS = flags.DEFINE_integer("blocks", 3, "How often a new model is trained.", lower_bound=1)
_FIRST_SHARE = flags.DEFINE_float(
    "first_share", 0.2, "Share of the watches that the first model has, between 0 and 1."
)
_FROM = flags.DEFINE_string("from", None, "Models learn from this ISO 8601 time on, UTC.")
_UNTIL = flags.DEFINE_string(
    "until",
    None,
    "Reads events before this ISO 8601 time, UTC; impressions from it on are left out of --output.",
)
_STEP_FLAGS = {
    "preprocess": flags.DEFINE_string(
        "preprocess_flags", "", "Further flags of pipeline.preprocess, in one string."
    ),
    "train_candidate": flags.DEFINE_string(
        "candidate_flags", "", "Further flags of models.train_candidate."
    ),
    "refit": flags.DEFINE_string("refit_flags", "", "Further flags of models.refit."),
}


def main(argv: Sequence[str]) -> None:
    """Fills in, and says what to run next."""
    del argv
    from pipeline.paper import nomination_backfill

    output = pathlib.Path(_OUTPUT.value)
    step_flags = commands.split_flags(
        {step: flag.value for step, flag in _STEP_FLAGS.items()},
        {step: flag.name for step, flag in _STEP_FLAGS.items()},
    )
    if _FROM.value:
        command.parse_time(_FROM.value, name="--from")
        step_flags["preprocess"].append(f"--from={_FROM.value}")
    counts = nomination_backfill.Backfill(
        logs=pathlib.Path(_LOGS.value),
        output=output,
        work=pathlib.Path(_WORK.value or f"{output}.work"),
        blocks=_BLOCKS.value,
        first_share=_FIRST_SHARE.value,
        until_s=command.parse_time(_UNTIL.value, name="--until"),
        flags=step_flags,
    ).run()
    print(
        f"Wrote {output}: {counts.impressions:,} impressions, nominations made for "
        f"{counts.filled:,} ({counts.retrieved:,} would have been retrieved), {counts.logged:,} "
        "as our funnel logged them, the others without."
    )
    following = command.shell_line("pipeline.retrain", logs=output, serving_root="SERVING_ROOT")
    print(f"Next: {following}")


if __name__ == "__main__":
    command.run(main, reads=("logs",), creates=("output",), updates=("work",))
