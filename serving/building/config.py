"""What a release is made of and how: plain values, readable without TensorFlow."""

import dataclasses
import pathlib
from typing import Annotated

from features.config import Bounds, check
from serving.release.publication import KEEP, MIN_KEEP

RECALL_TARGET = 0.95
# Below this exact search takes about a millisecond, so there is nothing to win.
EXACT_BELOW = 20_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inputs:
    """What a release is made of.

    Attributes:
        examples: Examples directory of pipeline.preprocess.
        candidate_model: Model directory of models.train_candidate or, where it serves, of
            models.refit.
        ranker_model: Model directory of models.train_ranker; without one there are no expected
            watch times.
        page_order: Directory of serving.learn_order; without one pages follow the ranker, or
            retrieval.
        metrics: metrics.json of models.evaluate, or its directory; without it the gates of metrics
            are not checked.
        retraining: retrain.json of pipeline.retrain, whose steps the report tells.
    """

    examples: pathlib.Path
    candidate_model: pathlib.Path
    ranker_model: pathlib.Path | None = None
    page_order: pathlib.Path | None = None
    metrics: pathlib.Path | None = None
    retraining: pathlib.Path | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class BuildConfig:
    """How it is made.

    Attributes:
        keep: Newest releases to keep, at least 2, so that one can be rolled back; the current one
            and the one before it always stay.
        recall_target: Mean recall@200 of the index to reach, in (0, 1].
        exact_below: Number of videos below which a catalogue is searched exactly.
        force_publish: Reason to publish although a gate fails, recorded in the manifest; without
            one it is refused.
        report: File to write the report to besides, also where a gate fails.
    """

    keep: Annotated[int, Bounds(ge=MIN_KEEP)] = KEEP
    recall_target: Annotated[float, Bounds(gt=0, le=1)] = RECALL_TARGET
    exact_below: Annotated[int, Bounds(ge=0)] = EXACT_BELOW
    force_publish: str = ""
    report: pathlib.Path | None = None

    def __post_init__(self) -> None:
        check(self)
