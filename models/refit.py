r"""Lets a measured candidate model learn everything up to the end of the logs, before it serves.

    python -m models.refit --examples=final_examples --measured_examples=examples \
        --model=candidate_model --output=final_candidate_model

No figure is taken from the result: those of the model before stand for it.
"""

from features import command, config_flags
from models import config

_EXAMPLES = config_flags.path(
    "examples", "reads", "What pipeline.join_holdout wrote.", required=True
)
_MEASURED_EXAMPLES = config_flags.path(
    "measured_examples", "reads", "What pipeline.preprocess wrote, of which it did.", required=True
)
_MODEL = config_flags.path("model", "reads", "What models.train_candidate wrote.", required=True)
_OUTPUT = config_flags.path("output", "writes", "Directory to create or replace.", required=True)
_SETTINGS = config_flags.define(config.RefitConfig)


def main() -> None:
    """Refits, and says what to run next."""
    settings = _SETTINGS.build()
    from models.candidate import refitting

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
    command.run(main)
