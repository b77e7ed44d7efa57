"""The index of a release: its videos are embedded and indexed, a shard at a time."""

import functools
import pathlib
from collections.abc import Callable

import pyarrow as pa

from features import dataset, spec, tensors
from features.catalogue import UPLOAD_TIME
from features.screen import progress
from features.spec import ResolvedSpec, Side
from models.candidate.model import CandidateModel
from serving.building import gates
from serving.building.config import BuildConfig
from serving.building.gates import Gate
from serving.building.user_queries import UserQueries
from serving.index import sharded_building
from serving.index.building import IndexReport
from serving.index.exact_search import Floats
from serving.servables import export


def write(
    directory: pathlib.Path,
    model: CandidateModel,
    examples: pathlib.Path,
    video_ids: pa.Array,
    *,
    settings: BuildConfig,
    users: UserQueries,
    require: Callable[[Gate], None],
) -> IndexReport:
    """Embeds and indexes the videos of a release.

    Args:
        directory: Index directory, empty.
        model: Candidate model.
        examples: Examples directory with its videos.
        video_ids: string [N], of the catalogue, in the order of its rows.
        settings: Settings of the build.
        users: Queries to tune and measure with.
        require: Function that records a gate, and raises where it failed.
    """
    resolved = ResolvedSpec.load(examples)
    videos = dataset.videos(examples)
    features = tensors.side_features(resolved, spec.CANDIDATE, Side.CANDIDATE, videos)
    features[UPLOAD_TIME] = videos[UPLOAD_TIME]
    shards = min(settings.index_shards, max(1, len(video_ids)))

    def embedded(shard: int) -> Floats:
        embeddings = tensors.in_batches(
            functools.partial(export.video_embeddings, model),
            {name: values[shard::shards] for name, values in features.items()},
            phase="embedding the videos",
        )
        # Vectors that are not finite cannot be indexed at all.
        require(gates.finite_embeddings(embeddings, users.embeddings))
        progress.at("building the index")
        return embeddings

    return sharded_building.build(
        directory,
        video_ids,
        map(embedded, range(shards)),
        shards=shards,
        tuning_queries=users.embeddings,
        query_slices=users.slices,
        recall_target=settings.recall_target,
        exact_below=settings.exact_below,
        repeat_bias=float(model.repeat_bias),
    )
