"""Makes a release of trained models: components, gates, publication.

A release is assembled under temporary names and everything is tried as written, before any of it
can be seen: SavedModels answer their warm-up requests, the index is searched with real user
queries, and what the SavedModels make of raw features is compared with what training read.
"""

import dataclasses
import pathlib
import shutil
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
from absl import logging

from features import command, dataset, files, replay, spec
from features.catalogue import Catalogue
from features.spec import ResolvedSpec, Side
from models import candidate_model, ranker
from serving import (
    export,
    gates,
    index,
    publication,
    release,
    signatures,
    skew,
    trials,
    warmup,
)
from serving.gates import Gate
from serving.index_tuning import Floats

VIDEOS = "videos.parquet"
STATISTICS = "video_statistics.parquet"
USERS = "users.parquet"
# Half of them tune the index, half measure it.
NUM_QUERIES = 2000
_BATCH = 4096
_LIGHT_WATCHES = 10

Path = str | os.PathLike[str]


class GatesFailedError(command.InputError):
    """At least one gate failed, so nothing was published."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inputs:
    """What a release is made of.

    Attributes:
        examples: Written by pipeline.preprocess.
        candidate_model: Written by models.train_candidate.
        ranker_model: Written by models.train_ranker; None publishes without a ranker.
        metrics: metrics.json of models.evaluate, or its directory; None leaves gates unchecked.
    """

    examples: pathlib.Path
    candidate_model: pathlib.Path
    ranker_model: pathlib.Path | None = None
    metrics: pathlib.Path | None = None
