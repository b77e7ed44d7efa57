"""Settings of the preprocessing job."""

import dataclasses
import os
import pathlib
from typing import Annotated

from absl import logging

from features import command
from features.as_of import replay
from features.config import Bounds, OneOf, Place, Time, check
from features.durations import DAY_S
from features.id_spaces import VocabularyConfig
from features.tables.site_facts import SiteFacts

# Table to why the logs must have it, and what its absence switches off.
NEEDED_TABLES = {"watches": "Candidate generation learns from watches"}
OPTIONAL_TABLES = {
    "videos": "videos exist from their first watch, and nothing but their ids is known of them",
    "impressions": "no ranking examples, so no ranker; pages are ordered by retrieval score",
    "searches": "no search features",
    "users": "no demographic features, and user ids cannot be checked",
}
# Few logs have these, and nothing is lost without: not a word of it.
EXTRA_TABLES = {"feedback": "no likes, hides and the like as features or objectives"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class PreprocessConfig:
    """Settings of the preprocessing job.

    Attributes:
        from_s: First moment of the events that are read, an ISO 8601 time, UTC; servers count no
            earlier ones. Default: all.
        until_s: First moment of the events that are not read, an ISO 8601 time, UTC. Default: all
            are read.
        holdout_days: Last days, up to ``--until`` or the newest event, that are not trained on; 0
            trains on all.
        examples_per_user: Largest number K of candidate examples of one user; 0 for all (section
            3.4).
        completed_only: Whether only completed watches are labels of candidate examples. Default:
            unless what is watched is forgotten within hours (half of it within 12), where few
            watches are all there is.
        seed: Seed of the choice of K.
        label: Watch that a candidate example of the training split predicts: the ``next``, or a
            ``held_out`` one, from all other watches, which leaks the future into training and is
            for experiments (Figure 5).
        vocabularies: Sizes and cuts of vocabularies.
        max_rejected_fraction: Part of the rows of a table, in [0, 1], above which its loss is a
            problem and preprocessing refuses the logs. Exact duplicates do not count: nothing is
            lost with them.
        cache: Directory that keeps raw examples by day: a later run replays only the days that are
            new or have changed. Needs ``--until``. Default: none is kept.
    """

    from_s: Annotated[int | None, Time()] = None
    until_s: Annotated[int | None, Time()] = None
    holdout_days: Annotated[float, Bounds(ge=0)] = 1.0
    examples_per_user: Annotated[int, Bounds(ge=0)] = 64
    completed_only: bool | None = None
    seed: int = 0
    label: Annotated[str, OneOf(*replay.LABELS)] = replay.NEXT
    vocabularies: VocabularyConfig = dataclasses.field(default_factory=VocabularyConfig)
    max_rejected_fraction: Annotated[float, Bounds(ge=0, le=1)] = 0.1
    cache: Annotated[str | None, Place("updates")] = None

    def __post_init__(self) -> None:
        check(self)
        if self.cache is not None:
            self._refuse_ragged_days()

    def for_site(self, site: SiteFacts) -> "PreprocessConfig":
        """Returns the settings with labels chosen, where nobody has."""
        if self.completed_only is not None:
            return self
        if site.is_short_lived:
            logging.info(
                "What is watched is forgotten within hours: all watches are labels, completed or "
                "not. --completed_only learns from completed ones alone."
            )
        return dataclasses.replace(self, completed_only=not site.is_short_lived)

    def train_until_s(self, until_s: int) -> int:
        """Returns where the holdout begins, Unix seconds, of events up to ``until_s``."""
        return int(until_s - self.holdout_days * DAY_S)

    def _refuse_ragged_days(self) -> None:
        """Refuses settings under which two runs would not cut a log into the same days."""
        if self.until_s is None:
            raise command.InputError(
                "--cache needs --until: days are counted back from there, and the newest event is "
                "at another second of the day in every run. Give the same time of day in every "
                "run, for example --until=$(date -u +%F)."
            )
        if self.holdout_days != int(self.holdout_days):
            raise command.InputError(
                f"--cache needs whole days of holdout, got --holdout_days={self.holdout_days}."
            )
        if self.label != replay.NEXT:
            raise command.InputError(
                f"--cache keeps examples that do not depend on later days; those of "
                f"--label={self.label} do. Leave one of the two flags out."
            )


def rejected_dir(examples_dir: str | os.PathLike[str]) -> pathlib.Path:
    """Returns where a run that fails leaves the rows that it set aside, with their reasons.

    One that succeeds has them below the examples, in ``rejected``.
    """
    examples = pathlib.Path(examples_dir)
    return examples.with_name(f"{examples.name}.rejected")
