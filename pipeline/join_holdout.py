r"""Examples -> those that the candidate model that serves is made from: with the holdout in them.

    python -m pipeline.join_holdout --examples=examples --output=final_examples

Vocabularies and quantiles of the candidate model are fitted anew, on training examples and holdout
together, so that models.refit can teach it what is new in the holdout. Everything else is that of
--examples, in hard links. Further flags go to Beam; without any, those of pipeline.preprocess do.
"""

import sys
from collections.abc import Sequence

from features import command, config_flags

_EXAMPLES = config_flags.path("examples", "reads", "What preprocess wrote.", required=True)
_OUTPUT = config_flags.path("output", "writes", "Directory to create or replace.", required=True)


def main(beam_args: Sequence[str]) -> None:
    """Joins, and says what to run next."""
    from pipeline.preprocessing import holdout_joining

    info = holdout_joining.run(_EXAMPLES.value, _OUTPUT.value, beam_args[1:])
    following = command.shell_line(
        "models.refit",
        examples=_OUTPUT.value,
        measured_examples=_EXAMPLES.value,
        model="CANDIDATE_MODEL",
        output="FINAL_CANDIDATE_MODEL",
    )
    count = info["counts"]["candidate_train"]
    sys.stdout.write(f"Wrote {_OUTPUT.value}: {count} examples.\nNext: {following}\n")


if __name__ == "__main__":
    command.run(main, passes_unknown_flags=True)
