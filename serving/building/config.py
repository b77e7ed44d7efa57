"""What a release is made of and how: plain values, readable without TensorFlow."""

import dataclasses
import pathlib

from features import command
from serving.release.publication import KEEP, MIN_KEEP

RECALL_TARGET = 0.95
# Below this exact search takes about a millisecond, so there is nothing to win.
EXACT_BELOW = 20_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inputs:
    """What a release is made of.

    Attributes:
        examples: Examples directory of pipeline.preprocess.
        candidate_model: Model directory of models.train_candidate.
        ranker_model: Model directory of models.train_ranker; None publishes without a ranker.
        page_order: Directory of serving.learn_order; None publishes without a learned order.
        metrics: metrics.json of models.evaluate, or its directory; None leaves gates unchecked.
    """

    examples: pathlib.Path
    candidate_model: pathlib.Path
    ranker_model: pathlib.Path | None = None
    page_order: pathlib.Path | None = None
    metrics: pathlib.Path | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class BuildConfig:
    """How it is made.

    Attributes:
        keep: Newest releases to keep, at least 2.
        recall_target: Mean recall of the index to reach, in (0, 1].
        exact_below: Number of videos below which a catalogue is searched exactly.
        force_publish: Reason to publish although a gate fails; "" refuses.
    """

    keep: int = KEEP
    recall_target: float = RECALL_TARGET
    exact_below: int = EXACT_BELOW
    force_publish: str = ""

    def __post_init__(self) -> None:
        if self.keep < MIN_KEEP:
            raise command.InputError(
                f"--keep must be {MIN_KEEP} or more, so that a release can be rolled "
                f"back, got {self.keep}."
            )
        if not 0 < self.recall_target <= 1:
            raise command.InputError(
                f"--recall_target must be in (0, 1], got {self.recall_target}."
            )
