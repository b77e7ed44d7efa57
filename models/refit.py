r"""Lets a measured candidate model learn everything up to the end of the logs, before it serves.

python -m models.refit --examples=final_examples --measured_examples=examples \
        --model=candidate_model --output=final_candidate_model
"""

from collections.abc import Sequence

from absl import flags

from features import command

_EXAMPLES = flags.DEFINE_string(
    "examples", None, "What pipeline.join_holdout wrote.", required=True
)
_MEASURED_EXAMPLES = flags.DEFINE_string(
    "measured_examples", None, "What pipeline.preprocess wrote, of which it did.", required=True
)
_MODEL = flags.DEFINE_string("model", None, "What models.train_candidate wrote.", required=True)
_OUTPUT = flags.DEFINE_string("output", None, "Directory to create or replace.", required=True)
_EPOCHS = flags.DEFINE_integer(
    "epochs",
    3,
    "Passes over all examples; fewer where they would take over half of the first training.",
    lower_bound=1,
)
_LEARNING_RATE = flags.DEFINE_float("learning_rate", 0.001, "At the start; it falls to 0.")
_NEWEST_WEIGHT = flags.DEFINE_integer(
    "newest_weight", 7, "How often an example of the holdout counts.", lower_bound=1
)
_SEED = flags.DEFINE_integer("seed", 1, "Of everything random.", lower_bound=0)


def main(argv: Sequence[str]) -> None:
    """Refits, and says what to run next."""
    del argv
    command.quiet_tensorflow()
    from models.candidate import refitting

    try:
        settings = refitting.RefitConfig(
            epochs=_EPOCHS.value,
            learning_rate=_LEARNING_RATE.value,
            newest_weight=_NEWEST_WEIGHT.value,
            seed=_SEED.value,
        )
    except ValueError as error:
        raise command.InputError(str(error)) from None
    step = refitting.refit(
        _EXAMPLES.value,
        _MODEL.value,
        _OUTPUT.value,
        settings,
        measured_examples=_MEASURED_EXAMPLES.value,
    )
    print(
        f"Wrote the candidate model {_OUTPUT.value}, which has learnt {step['examples']:,} watches "
        f"of the holdout and knows {step['new_videos']:,} more videos."
    )
    following = command.shell_line(
        "serving.build_release",
        examples=_EXAMPLES.value,
        candidate_model=_OUTPUT.value,
        ranker_model="RANKER_MODEL",
        page_order="PAGE_ORDER",
        metrics="EVALUATION",
        serving_root="SERVING_ROOT",
    )
    print(
        f"Next: {following}\n"
        f"Measure {_MODEL.value}, not this one: its holdout is no longer kept aside."
    )


if __name__ == "__main__":
    command.run(main, reads=("examples", "measured_examples", "model"), writes=("output",))
