"""Candidate generation measured on the holdout: the whole corpus ranked for every query.

Protocol: a query is a holdout watch, its label the video that was watched. What the model and the
baselines know was fixed at training's end; of the query they see what came before the watch.
"""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from absl import logging

from features import command, spec, tensors
from features.catalogue import UPLOAD_TIME, Catalogue
from features.durations import DAY_S
from features.screen import progress
from features.spec import ResolvedSpec, Side
from models.baselines.retrieval import Baseline, Queries, watch_counts
from models.evaluation import metrics, repeat_bias
from models.evaluation.config import RetrievalConfig
from models.evaluation.intervals import Sheet

Array = npt.NDArray[Any]
Masks = Mapping[str, npt.NDArray[np.bool_]]
MODEL = "model"
_MAX_REGIONS = 5
_LIGHT_WATCHES, _HEAVY_WATCHES = 10, spec.WATCH_BAG
# The tail: all but the most watched fifth of the corpus.
_HEAD_FRACTION = 0.2


class CandidateModel(Protocol):
    """What evaluation needs of the candidate model.

    Attributes:
        repeat_bias: Addend to the score of what a query has watched, see
            models.evaluation.repeat_bias.
    """

    repeat_bias: Any

    def query_embeddings(self, features: Mapping[str, Any]) -> Any:
        """Returns float32 [B, D]."""

    def video_embeddings(self, video_features: Mapping[str, Any]) -> Any:
        """Returns float32 [N, D]; the inner product is the score."""

    def can_embed(self, video_features: Mapping[str, Any]) -> Any:
        """Returns bool [N], whether a video has an embedding; one without is never recommended."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Embeddings:
    """Both towers' output.

    Attributes:
        queries: Query embeddings, float32 [Q, D].
        videos: Video embeddings, float32 [N, D].
        embeddable: bool [N], False for videos that the model can never recommend.
        repeat_bias: Addend to the score of what a query has watched.
    """

    queries: Array
    videos: Array
    embeddable: npt.NDArray[np.bool_]
    repeat_bias: float = 0.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ranked:
    """How one system ranked the corpus for all queries.

    Attributes:
        ranks: int64 [Q], rank of the label.
        recommended: bool [N], videos that some query's list had.
        mean_age_days: float64 [Q], mean age of the list's videos at the time of the query.
    """

    ranks: metrics.Ints
    recommended: npt.NDArray[np.bool_]
    mean_age_days: metrics.Floats


def embed(
    model: CandidateModel,
    resolved: ResolvedSpec,
    *,
    query_features: Mapping[str, Array],
    video_features: Mapping[str, Array],
) -> Embeddings:
    """Runs both towers in batches over transformed features."""
    queries = tensors.side_features(resolved, spec.CANDIDATE, Side.QUERY, query_features)
    videos = tensors.side_features(resolved, spec.CANDIDATE, Side.CANDIDATE, video_features)
    videos |= {name: video_features[name] for name in (UPLOAD_TIME,) if name in video_features}
    return Embeddings(
        queries=tensors.in_batches(model.query_embeddings, queries, phase="embedding the queries"),
        videos=tensors.in_batches(model.video_embeddings, videos, phase="embedding the videos"),
        embeddable=np.asarray(model.can_embed(videos), bool),
        repeat_bias=float(model.repeat_bias),
    )


def aligned(queries: Queries, arrays: Mapping[str, Array]) -> Queries:
    """Returns the raw queries in the order of the transformed examples.

    Args:
        queries: Queries of the raw Parquet files.
        arrays: ``user_id``, ``label_video_id`` (bytes) and ``time`` of the transformed examples.

    Raises:
        command.InputError: The two are not the same examples.
    """
    raw = (queries.user_ids, queries.label_ids)
    transformed = (arrays["user_id"], arrays["label_video_id"])
    orders, sorted_keys = [], []
    size = len(queries)
    both = [
        metrics.codes_of(np.concatenate([a.astype("U"), b.astype("U")]).astype(object))
        for a, b in zip(raw, transformed, strict=True)
    ]
    for part, times in ((slice(0, size), queries.times), (slice(size, None), arrays["time"])):
        keys = np.stack([both[1][part], both[0][part], times])
        order = np.lexsort(keys)
        orders.append(order)
        sorted_keys.append(keys[:, order])
    if not np.array_equal(sorted_keys[0], sorted_keys[1]):
        raise command.InputError(
            f"candidate_examples/holdout has {size} examples and transformed/candidate/holdout "
            f"{len(arrays['time'])}, and they are not the same. Make them anew: "
            "python -m pipeline.preprocess"
        )
    position = np.empty(size, np.int64)
    position[orders[1]] = orders[0]
    return queries.take(position)


def rank_with_model(
    embeddings: Embeddings,
    queries: Queries,
    *,
    catalogue: Catalogue,
    settings: RetrievalConfig,
) -> Ranked:
    """Ranks by inner product; ``queries`` row i is that of query embedding i."""
    videos = np.ascontiguousarray(embeddings.videos.T)
    hidden = np.flatnonzero(~embeddings.embeddable)

    def score(part: slice) -> Array:
        scores: Array = embeddings.queries[part] @ videos
        batch = queries.take(part)
        owner = np.repeat(np.arange(len(batch)), batch.history_lengths)
        repeat_bias.add_to(scores, owner, batch.history_rows, bias=embeddings.repeat_bias)
        scores[:, hidden] = -np.inf
        return scores

    return rank_with_scores(score, queries, catalogue=catalogue, settings=settings)


def rank_with_baseline(
    baseline: Baseline, queries: Queries, *, catalogue: Catalogue, settings: RetrievalConfig
) -> Ranked:
    """Ranks by a baseline's scores."""
    return rank_with_scores(
        lambda part: baseline.score(queries.take(part)),
        queries,
        catalogue=catalogue,
        settings=settings,
    )


def rank_with_scores(
    score: Callable[[slice], Array],
    queries: Queries,
    *,
    catalogue: Catalogue,
    settings: RetrievalConfig,
) -> Ranked:
    """Ranks by what ``score`` gives for a slice of the queries: float [q, N], changed in place."""
    ranks = np.empty(len(queries), np.int64)
    ages = np.empty(len(queries), np.float64)
    recommended = np.zeros(len(catalogue), bool)
    # Half the usual batch: baselines score in float64.
    step = metrics.query_batch_size(2 * len(catalogue))
    for start in range(0, len(queries), step):
        part = slice(start, min(start + step, len(queries)))
        scores, batch = score(part), queries.take(part)
        seen = (batch.history_offsets, batch.history_rows)
        exclude = seen if settings.exclude_watched else None
        ranks[part] = metrics.score_ranks(scores, batch.label_rows, exclude=exclude)
        shown = metrics.top_rows(scores, settings.list_size)
        recommended[shown] = True
        age_s = np.maximum(batch.times[:, np.newaxis] - catalogue.upload_times[shown], 0)
        ages[part] = age_s.mean(axis=1) / DAY_S
        progress.add(len(batch))
    return Ranked(ranks=ranks, recommended=recommended, mean_age_days=ages)


def slices(queries: Queries, train: Queries, catalogue: Catalogue) -> Masks:
    """Returns bool [Q] by slice name; ``all`` first, empty slices left out.

    Users are new, light (1-9), medium (10-49) or heavy by the watches of their bag at the query;
    videos are those of the label.
    """
    lengths = queries.history_lengths
    label = np.maximum(queries.label_rows, 0)
    known = queries.label_rows >= 0
    age_s = queries.times - catalogue.upload_times[label]
    watched = watch_counts(train, len(catalogue))
    head = np.zeros(len(catalogue), bool)
    head[np.argsort(-watched, kind="stable")[: int(len(catalogue) * _HEAD_FRACTION)]] = True
    masks = {
        "all": np.ones(len(queries), bool),
        "new_users": lengths == 0,
        "light_users": (lengths > 0) & (lengths < _LIGHT_WATCHES),
        "medium_users": (lengths >= _LIGHT_WATCHES) & (lengths < _HEAVY_WATCHES),
        "heavy_users": lengths >= _HEAVY_WATCHES,
        "fresh_videos_1d": known & (age_s < DAY_S),
        "fresh_videos_7d": known & (age_s < 7 * DAY_S),
        "tail_videos": known & ~head[label],
        "videos_new_since_training": known & (watched[label] == 0),
    }
    names, counts = np.unique(queries.regions.astype("U"), return_counts=True)
    for name in names[np.argsort(-counts, kind="stable")][:_MAX_REGIONS]:
        if name:
            masks[f"region_{name}"] = queries.regions == name
    return {name: mask for name, mask in masks.items() if mask.any()}


def measure(
    ranked: Mapping[str, Ranked],
    queries: Queries,
    masks: Masks,
    *,
    settings: RetrievalConfig,
    user_codes: metrics.Ints,
    sheet: Sheet,
) -> None:
    """Writes every system's figures, and the model's difference to each baseline, to ``sheet``.

    Keys are ``candidate.<system>.<slice>.<metric>`` and
    ``candidate.model_minus_<system>.<slice>.<metric>``.
    """
    num_users = int(user_codes.max(initial=-1)) + 1
    for system, result in ranked.items():
        for name, mask in masks.items():
            values = _metrics_of(result, settings, full=name == "all")
            for metric, column in values.items():
                sums = metrics.sums_by_user(column, user_codes, num_users, where=mask)
                sheet.add(f"candidate.{system}.{name}.{metric}", sums, n=int(mask.sum()))
                if MODEL in ranked and system != MODEL:
                    sheet.compare(
                        f"candidate.{MODEL}_minus_{system}.{name}.{metric}",
                        f"candidate.{MODEL}.{name}.{metric}",
                        f"candidate.{system}.{name}.{metric}",
                    )
        coverage = float(result.recommended.mean())
        key = f"candidate.{system}.all.coverage_at_{settings.list_size}"
        sheet.state(key, coverage, n=len(queries))


def _metrics_of(
    result: Ranked, settings: RetrievalConfig, *, full: bool
) -> dict[str, metrics.Floats]:
    """Returns one value per query by metric; slices show the main ones only."""
    ks: Sequence[int] = settings.ks if full else (settings.main_k,)
    values = {f"recall_at_{k}": (result.ranks <= k).astype(np.float64) for k in ks}
    if full and settings.ndcg:
        values |= {f"ndcg_at_{k}": metrics.discounted_gains(result.ranks, k) for k in ks}
    values["map"] = metrics.reciprocal_ranks(result.ranks)
    if full:
        size = settings.list_size
        values[f"map_at_{size}"] = metrics.reciprocal_ranks(result.ranks, size)
        values[f"mean_video_age_days_at_{size}"] = result.mean_age_days
    return values


def rank_all(
    baselines: Sequence[Baseline],
    embeddings: Embeddings | None,
    queries: Queries,
    *,
    catalogue: Catalogue,
    settings: RetrievalConfig,
) -> dict[str, Ranked]:
    """Ranks with the model (where there is one) and every baseline, by system name."""
    result = {}
    if embeddings is not None:
        progress.at("ranking with the model", total=len(queries), unit="queries")
        started = time.monotonic()
        result[MODEL] = rank_with_model(embeddings, queries, catalogue=catalogue, settings=settings)
        logging.info("ranked with the model in %.1f s", time.monotonic() - started)
    for baseline in baselines:
        progress.at(f"ranking with {baseline.name}", total=len(queries), unit="queries")
        started = time.monotonic()
        result[baseline.name] = rank_with_baseline(
            baseline, queries, catalogue=catalogue, settings=settings
        )
        logging.info("ranked with %s in %.1f s", baseline.name, time.monotonic() - started)
    return result
