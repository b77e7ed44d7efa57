"""The steps of a retraining, in order: which binary reads what and leaves what."""

import dataclasses
import sys
from collections.abc import Mapping, Sequence

LOGS = "logs"
EXAMPLES = "examples"
FINAL_EXAMPLES = "final_examples"
SERVING_ROOT = "serving_root"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Step:
    """A binary, the artefacts that it reads, and the artefact that it must leave complete.

    Attributes:
        name: Name of the step.
        binary: Module to run.
        reads: Flag of the binary to the artefact that it names.
        writes: Flag and name of the one artefact that it makes.
        packages: Our packages whose code it runs.
        needs_ranking: Whether it is skipped where the logs have nothing to train a ranker on.
    """

    name: str
    binary: str
    reads: Mapping[str, str]
    writes: tuple[str, str]
    packages: tuple[str, ...]
    needs_ranking: bool = False

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
        name="preprocess",
        binary="pipeline.preprocess",
        reads={"logs": LOGS},
        writes=("examples", EXAMPLES),
        packages=("features", "pipeline"),
    ),
    Step(
        # Before hours of training on a day on which something broke.
        name="judge_examples",
        binary="serving.judge_examples",
        reads={"examples": EXAMPLES},
        writes=("output", "judged_examples"),
        packages=("features", "models", "serving"),
    ),
    Step(
        name="train_candidate",
        binary="models.train_candidate",
        reads={"examples": EXAMPLES},
        writes=("model", "candidate_model"),
        packages=("features", "models"),
    ),
    Step(
        name="train_ranker",
        binary="models.train_ranker",
        reads={"examples": EXAMPLES},
        writes=("model", "ranker_model"),
        packages=("features", "models"),
        needs_ranking=True,
    ),
    Step(
        name="evaluate",
        binary="models.evaluate",
        reads={
            "examples": EXAMPLES,
            "candidate_model": "candidate_model",
            "ranker_model": "ranker_model",
        },
        writes=("output", "evaluation"),
        packages=("features", "models"),
    ),
    Step(
        # By models that have not learnt the watches that it learns from.
        name="learn_order",
        binary="serving.learn_order",
        reads={
            "examples": EXAMPLES,
            "candidate_model": "candidate_model",
            "ranker_model": "ranker_model",
            "logs": LOGS,
        },
        writes=("output", "page_order"),
        packages=("features", "models", "serving"),
    ),
    Step(
        # After it was measured: what serves knows all that is in the holdout, too.
        name="join_holdout",
        binary="pipeline.join_holdout",
        reads={"examples": EXAMPLES},
        writes=("output", FINAL_EXAMPLES),
        packages=("features", "pipeline"),
    ),
    Step(
        name="refit",
        binary="models.refit",
        reads={
            "examples": FINAL_EXAMPLES,
            "measured_examples": EXAMPLES,
            "model": "candidate_model",
        },
        writes=("output", "final_candidate_model"),
        packages=("features", "models"),
    ),
    Step(
        name="build_release",
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
        packages=("features", "models", "serving"),
    ),
)
