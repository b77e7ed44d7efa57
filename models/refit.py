r"""Lets a measured candidate model learn the holdout too, before it serves.

python -m models.refit --examples=EXAMPLES --model=MODEL --output=FINAL_MODEL
"""

from collections.abc import Sequence

from absl import flags

from features import command

_EXAMPLES = flags.DEFINE_string("examples", None, "What pipeline.preprocess wrote.", required=True)
_MODEL = flags.DEFINE_string("model", None, "What models.train_candidate wrote.", required=True)
_OUTPUT = flags.DEFINE_string("output", None, "Directory to create or replace.", required=True)
_EPOCHS = flags.DEFINE_integer("epochs", 3, "Passes over the holdout.", lower_bound=1)
_LEARNING_RATE = flags.DEFINE_float("learning_rate", 0.0003, "At the start; it falls to 0.")
_REPLAY = flags.DEFINE_float(
    "replay", 1.0, "Training examples for each one of the holdout.", lower_bound=0.0
)
_SEED = flags.DEFINE_integer("seed", 1, "Of everything random.", lower_bound=0)


def main(argv: Sequence[str]) -> None:
    """Refits, and says what to run next."""
    del argv
    command.quiet_tensorflow()
    from models import refitting

    try:
        settings = refitting.RefitConfig(
            epochs=_EPOCHS.value,
            learning_rate=_LEARNING_RATE.value,
            replay=_REPLAY.value,
            seed=_SEED.value,
        )
    except ValueError as error:
        raise command.InputError(str(error)) from None
    count = refitting.refit(_EXAMPLES.value, _MODEL.value, _OUTPUT.value, settings)
    print(f"Wrote the candidate model {_OUTPUT.value}, which has seen {count:,} holdout examples.")
    following = command.shell_line(
        "serving.build_release",
        examples=_EXAMPLES.value,
        candidate_model=_OUTPUT.value,
        ranker_model="RANKER_MODEL",
        metrics="EVALUATION",
        serving_root="SERVING_ROOT",
    )
    print(
        f"Next: {following}\n"
        f"Measure {_MODEL.value}, not this one: its holdout is no longer kept aside."
    )


if __name__ == "__main__":
    command.run(main)
