"""The steps of a retraining, in order: which binary reads what and leaves what."""

import dataclasses
import sys
from collections.abc import Mapping, Sequence

LOGS = "logs"
EXAMPLES = "examples"
FINAL_EXAMPLES = "final_examples"
SERVING_ROOT = "serving_root"


# Package of a command to the packages whose code it runs: those that its layer may import.
_RUNS = {
    "pipeline": ("features", "pipeline"),
    "models": ("features", "models"),
    "serving": ("features", "models", "serving"),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Step:
    """A binary, the artefacts that it reads, and the artefact that it must leave complete.

    Attributes:
        binary: Module to run.
        reads: Flag of the binary to the artefact that it names.
        writes: Flag and name of the one artefact that it makes.
        needs_ranking: Whether it is skipped where the logs have nothing to train a ranker on.
        is_instead: Whether it stands in for a ranker: it is skipped where there is one, unless it
            is asked for.
    """

    binary: str
    reads: Mapping[str, str]
    writes: tuple[str, str]
    needs_ranking: bool = False
    is_instead: bool = False

    @property
    def name(self) -> str:
        """Name of the step, that of its command."""
        return self.binary.rpartition(".")[2]

    @property
    def packages(self) -> tuple[str, ...]:
        """Our packages whose code it runs: its own, and those that it may import."""
        return _RUNS.get(self.binary.partition(".")[0], ())

    def command(self, locations: Mapping[str, str], flags: Sequence[str] = ()) -> list[str]:
        """Returns the line that an operator would type.

        Args:
            locations: Path of each artefact; a flag whose artefact is not there is left out.
            flags: Further flags, as ``--name=value``.
        """
        artefacts = (*self.reads.items(), self.writes)
        paths = [f"--{flag}={locations[name]}" for flag, name in artefacts if name in locations]
        return [sys.executable, "-m", self.binary, *paths, *flags]


STEPS = (
    Step(
        binary="pipeline.preprocess",
        reads={"logs": LOGS},
        writes=("examples", EXAMPLES),
    ),
    Step(
        # Before hours of training on a day on which something broke.
        binary="serving.judge_examples",
        reads={"examples": EXAMPLES},
        writes=("output", "judged_examples"),
    ),
    Step(
        binary="models.train_candidate",
        reads={"examples": EXAMPLES},
        writes=("model", "candidate_model"),
    ),
    Step(
        binary="models.train_ranker",
        reads={"examples": EXAMPLES},
        writes=("model", "ranker_model"),
        needs_ranking=True,
    ),
    Step(
        binary="models.evaluate",
        reads={
            "examples": EXAMPLES,
            "candidate_model": "candidate_model",
            "ranker_model": "ranker_model",
        },
        writes=("output", "evaluation"),
    ),
    Step(
        # By models that have not learnt the watches that it learns from.
        binary="serving.learn_order",
        reads={
            "examples": EXAMPLES,
            "candidate_model": "candidate_model",
            "ranker_model": "ranker_model",
            "logs": LOGS,
        },
        writes=("output", "page_order"),
        is_instead=True,
    ),
    Step(
        # After it was measured: what serves knows all that is in the holdout, too.
        binary="pipeline.join_holdout",
        reads={"examples": EXAMPLES},
        writes=("output", FINAL_EXAMPLES),
    ),
    Step(
        binary="models.refit",
        reads={
            "examples": FINAL_EXAMPLES,
            "measured_examples": EXAMPLES,
            "model": "candidate_model",
        },
        writes=("output", "final_candidate_model"),
    ),
    Step(
        binary="serving.build_release",
        reads={
            "examples": FINAL_EXAMPLES,
            "candidate_model": "final_candidate_model",
            "ranker_model": "ranker_model",
            "page_order": "page_order",
            "metrics": "evaluation",
            "judged_examples": "judged_examples",
        },
        writes=("serving_root", SERVING_ROOT),
    ),
)
