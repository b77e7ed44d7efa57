"""What a release is made of and how: plain values, readable without TensorFlow."""

import dataclasses
import pathlib
from typing import Annotated

from features.config import Bounds, Config, Place
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
        page_order: Directory of serving.learn_order: the order of pages where there is no ranker,
            or a server is told --order=learned.
        metrics: metrics.json of models.evaluate, or its directory; without it the gates of metrics
            are not checked.
        judged_examples: Directory of serving.judge_examples, whose gates are recorded with the
            release.
        retraining: retrain.json of pipeline.retrain, whose steps the report tells.
    """

    examples: Annotated[pathlib.Path, Place("reads")]
    candidate_model: Annotated[pathlib.Path, Place("reads")]
    ranker_model: Annotated[pathlib.Path | None, Place("reads")] = None
    page_order: Annotated[pathlib.Path | None, Place("reads")] = None
    metrics: Annotated[pathlib.Path | None, Place("reads")] = None
    judged_examples: Annotated[pathlib.Path | None, Place("reads")] = None
    retraining: Annotated[pathlib.Path | None, Place("reads")] = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class DayLimits(Config):
    """How much the newest day of a log may differ from the days before it.

    Attributes:
        fewest: Least number of rows of a table, as a share of the quietest day before.
        most: Largest number of rows of a table, in times of the busiest day before.
        watch_time_factor: Times by which the mean watch time may leave the range of the days
            before.
        missing_rise: Share of rows by which a column, or a feature of the holdout, may be missing
            more often than at most before.
        silent_hours: Hours on end without rows, where the days before have some, that are too many.
        least_left: Share of the rows that the release that serves has learnt which must still be in
            the logs.
        least_days: Days before the newest that are needed to tell, the oldest not counted.
        least_rows: Rows of a day that are needed to tell.
    """

    fewest: Annotated[float, Bounds(ge=0, le=1)] = 0.5
    most: Annotated[float, Bounds(ge=1)] = 3.0
    watch_time_factor: Annotated[float, Bounds(gt=1)] = 1.4
    missing_rise: Annotated[float, Bounds(gt=0, le=1)] = 0.3
    silent_hours: Annotated[int, Bounds(ge=1, le=24)] = 3
    least_left: Annotated[float, Bounds(ge=0, le=1)] = 0.8
    least_days: Annotated[int, Bounds(ge=1)] = 3
    least_rows: Annotated[int, Bounds(ge=1)] = 200


@dataclasses.dataclass(frozen=True, kw_only=True)
class HourLimits(Config):
    """How much an hour between nights may differ from the hours before it.

    Attributes:
        fewest: Least number of watches of the last hour, as a share of that hour of the quietest
            day before.
        most: Largest number of watches of the last hour, in times of that of the busiest day.
        watch_time_factor: Times by which an hour's mean watch time may leave the range of the
            hours before.
        flood: Share of an hour's watches that may be of one video, also where no hour before had
            half of it.
        least_days: Days before that are needed to tell.
        least_rows: Watches of an hour that are needed to tell.
    """

    fewest: Annotated[float, Bounds(ge=0, le=1)] = 0.2
    most: Annotated[float, Bounds(ge=1)] = 5.0
    watch_time_factor: Annotated[float, Bounds(gt=1)] = 1.4
    flood: Annotated[float, Bounds(gt=0, le=1)] = 0.5
    least_days: Annotated[int, Bounds(ge=1)] = 2
    least_rows: Annotated[int, Bounds(ge=1)] = 50


@dataclasses.dataclass(frozen=True, kw_only=True)
class BuildConfig(Config):
    """How it is made.

    Attributes:
        keep: Newest releases to keep, at least 2, so that one can be rolled back; the current one
            and the one before it always stay.
        recall_target: Mean recall@200 of the index to reach, in (0, 1].
        exact_below: Number of videos below which a catalogue, or a shard, is searched exactly.
        index_shards: Number of shards of the index, which are built one after the other; servers
            hold them in one process, or in a cluster (serving.serve --index_cluster).
        force_publish: Reason to publish although a gate fails, recorded in the manifest; without
            one it is refused.
        report: File to write the report to besides, also where a gate fails.
    """

    keep: Annotated[int, Bounds(ge=MIN_KEEP)] = KEEP
    recall_target: Annotated[float, Bounds(gt=0, le=1)] = RECALL_TARGET
    exact_below: Annotated[int, Bounds(ge=0)] = EXACT_BELOW
    index_shards: Annotated[int, Bounds(ge=1, le=10_000)] = 1
    force_publish: str = ""
    report: Annotated[pathlib.Path | None, Place("itself")] = None
