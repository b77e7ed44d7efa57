"""Trains the candidate model: next watch among all videos (paper section 3)."""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from absl import logging

from features import command, dataset, spec
from features.spec import ResolvedSpec
from models import (
    batches,
    candidate_model,
    checkpoints,
    config,
    lineage,
    losses,
    metrics,
    negatives,
    saved,
    training,
)
from models.candidate_model import CandidateModel, VideoFeatures
from models.config import CandidateConfig, TrainingConfig

Path = str | os.PathLike[str]
Array = npt.NDArray[np.generic]
_LABEL = "video_id"
_MAP, _RECALL = "map_at_100", "recall_at_100"
STOP_METRICS = (_MAP, _RECALL)
_K = 100
# The product of all queries and all videos is bounded, so that a look at a corpus of millions
# does not take longer than the epoch before it.
_MAX_HOLDOUT_SCORES = 4e9
_EMBED_BATCH = 4096
_FULL_SOFTMAX_IS_SLOW = 100_000


class CandidateTask:
    """Loss and holdout of the candidate model.

    Args:
        model: What is trained.
        videos: Content of the vocabulary's videos.
        label_counts: int64 [V], how often each video is the label of a training example.
        holdout: Holdout, None where there is none.
        settings: Seed and stop metric.

    Raises:
        negatives.SamplerError: The negatives do not follow their probabilities.
    """

    def __init__(
        self,
        model: CandidateModel,
        videos: VideoFeatures,
        label_counts: npt.NDArray[np.int64],
        *,
        holdout: "Holdout | None",
        settings: TrainingConfig,
    ) -> None:
        self.model = model
        # MAP of one day is noisy; but among few videos nearly all labels are in the first 100.
        self.stop_metric = settings.stop_metric or (_RECALL if model.num_videos > 2 * _K else _MAP)
        self.higher_is_better = True
        self._videos = videos
        self._holdout = holdout
        cfg = model.config
        q = negatives.background(
            label_counts, power=cfg.sampler_power, smoothing=cfg.sampler_smoothing
        )
        self._sampler = negatives.NegativeSampler(q, num_draws=cfg.negatives, seed=settings.seed)
        # Labels of a batch are draws from the label counts themselves.
        self._labels = negatives.NegativeSampler(
            np.maximum(label_counts, 0).astype(np.float64), num_draws=1, seed=settings.seed
        )
        if cfg.loss in {config.SAMPLED, config.MIXED}:
            off = negatives.check(self._sampler)
            logging.info("Sampled softmax gradient agrees with the exact one within %.4f.", off)

    def loss(self, batch: Mapping[str, tf.Tensor], step: tf.Tensor) -> tf.Tensor:
        """Returns the mean loss of the batch's examples whose label is in the vocabulary."""
        known = tf.where(batch[_LABEL] > 0)[:, 0]
        batch = {name: tf.gather(tensor, known) for name, tensor in batch.items()}
        labels = tf.cast(batch[_LABEL], tf.int64)
        queries = self.model.query_embeddings(batch, training=True)
        by_name = {
            config.SAMPLED: self._sampled,
            config.FULL: self._full,
            config.IN_BATCH: self._in_batch,
            config.MIXED: self._mixed,
        }
        return losses.mean(by_name[self.model.config.loss](queries, labels, step))

    def _embed(self, ids: tf.Tensor) -> tf.Tensor:
        return self.model.video_embeddings(self._videos.of(ids), training=True)

    def _sampled(self, queries: tf.Tensor, labels: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
        draw = self._sampler.draw(step)
        return losses.sampled_softmax_loss(
            queries,
            self._embed(labels),
            self._embed(draw.ids),
            labels=labels,
            negatives=draw.ids,
            label_log_expected=self._sampler.log_expected(labels),
            negative_log_expected=draw.log_expected,
            negative_counts=draw.counts,
        )

    def _full(self, queries: tf.Tensor, labels: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
        del step
        everything = tf.range(1, self.model.num_videos + 1, dtype=tf.int64)
        logits = tf.matmul(queries, self._embed(everything), transpose_b=True)
        return losses.full_softmax_loss(logits, labels - 1)

    def _in_batch(self, queries: tf.Tensor, labels: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
        del step
        log_p = self._labels.log_probabilities(labels)
        return losses.in_batch_softmax_loss(queries, self._embed(labels), log_probabilities=log_p)

    def _mixed(self, queries: tf.Tensor, labels: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
        drawn = self._sampler.draw_ids(step)
        ids, columns, counts = tf.unique_with_counts(tf.concat([labels, drawn], axis=0))
        others = tf.cast(tf.maximum(tf.size(labels) - 1, 0), tf.float32)
        expected = others * tf.exp(self._labels.log_probabilities(ids)) + tf.exp(
            self._sampler.log_expected(ids)
        )
        return losses.counted_softmax_loss(
            queries,
            self._embed(ids),
            label_columns=columns[: tf.size(labels)],
            counts=counts,
            log_expected=tf.math.log(expected),
        )

    def evaluate(self) -> dict[str, float]:
        """Returns MAP@100 and recall@100 of the next watch over the full corpus."""
        return self._holdout.evaluate(self.model) if self._holdout else {}


class Holdout:
    """Watches after the training period, ranked among all videos of the catalogue.

    Args:
        queries: Query features, transformed, and ``label_video_id`` (bytes).
        videos: As ``features.dataset.videos`` returns it.
        limit: Queries looked at, at most; 0: all.
        seed: Of the choice.
    """

    def __init__(
        self, queries: Mapping[str, Array], videos: Mapping[str, Array], *, limit: int, seed: int
    ) -> None:
        self._videos = dict(videos)
        names = self._videos.pop("label_video_id")
        bound = max(1000, int(_MAX_HOLDOUT_SCORES / max(1, len(names))))
        self._queries = batches.sample(queries, min(limit or bound, bound), seed=seed)
        row_of = {name: row for row, name in enumerate(names)}
        labels = self._queries.pop("label_video_id")
        self._rows = np.array([row_of.get(label.decode(), -1) for label in labels], np.int64)

    def evaluate(self, model: CandidateModel) -> dict[str, float]:
        """Returns the metrics by name."""
        queries = _in_batches(model.query_embeddings, self._queries)
        videos = _in_batches(model.video_embeddings, self._videos)
        can_embed = model.can_embed(self._videos)
        # A video without an embedding cannot be recommended, and a label among them is a miss.
        places = np.where(can_embed, np.cumsum(can_embed) - 1, -1)
        rows = np.where(self._rows >= 0, places[self._rows], -1)
        ranks = metrics.label_ranks(queries, videos[can_embed], rows)
        return {
            _MAP: metrics.mean_average_precision(ranks, _K),
            _RECALL: metrics.recall_at_k(ranks, _K),
        }


def _in_batches(tower: Any, features: Mapping[str, Array]) -> npt.NDArray[np.float32]:
    rows = len(next(iter(features.values())))
    parts = [
        tower({name: array[i : i + _EMBED_BATCH] for name, array in features.items()}).numpy()
        for i in range(0, rows, _EMBED_BATCH)
    ]
    return np.concatenate(parts)


def train(
    examples_dir: Path, model_dir: Path, model_config: CandidateConfig, settings: TrainingConfig
) -> training.Result:
    """Trains a candidate model on the examples and saves it.

    Args:
        examples_dir: What pipeline.preprocess wrote.
        model_dir: Created or replaced when the training is over. Checkpoints and summaries are
            beside it, in ``<model_dir>.training``.
        model_config: Of the model.
        settings: Of the training.

    Returns:
        How it went.

    Raises:
        command.InputError: The examples or the settings cannot be trained with.
    """
    if (settings.stop_metric or _RECALL) not in STOP_METRICS:
        raise command.InputError(
            f"stop_metric must be one of {STOP_METRICS}, got {settings.stop_metric!r}."
        )
    if not batches.count(examples_dir, spec.CANDIDATE, "train"):
        raise command.InputError(
            f"{examples_dir} has no training example for the candidate model: no completed watch "
            "lies before the holdout. Give pipeline.preprocess more logs or a shorter holdout."
        )
    resolved = ResolvedSpec.load(examples_dir)
    sizes = dataset.vocabulary_sizes(examples_dir, spec.CANDIDATE)
    model = CandidateModel(resolved, sizes, model_config, seed=settings.seed)
    catalogue = dataset.videos(examples_dir)
    videos = VideoFeatures.of_catalogue(model, catalogue)
    label_counts = _label_counts(examples_dir, model.num_videos)
    settings = settings.fitted_to(int(label_counts.sum()))
    if model_config.popularity_bias:
        model.set_popularity_bias(label_counts)
    _advise(model, label_counts)
    task = CandidateTask(
        model,
        videos,
        label_counts,
        holdout=_holdout(examples_dir, model, catalogue, settings),
        settings=settings,
    )
    examples = batches.open_training(
        examples_dir,
        spec.CANDIDATE,
        columns=(*model.query_columns, _LABEL),
        settings=settings,
        keep=lambda part: part[_LABEL].astype(np.int64) > 0,
    )
    configs = {"model": model_config, "training": settings}
    facts = lineage.of_examples(examples_dir, spec.CANDIDATE)
    run = checkpoints.RunDirectory(
        f"{os.fspath(model_dir).rstrip('/')}.training",
        {"lineage": facts, "configs": config.to_json(configs)},
    )
    result = training.fit(task, examples, settings, run)
    contents = saved.Contents(
        configs=configs,
        vocabularies={s: dataset.vocabulary(examples_dir, spec.CANDIDATE, s) for s in sizes},
        metrics=result.metrics,
        lineage=facts | {"trained_at": lineage.now(), "steps": result.steps},
    )
    candidate_model.save(model, model_dir, contents=contents, videos=videos)
    run.remove()
    return result


def _label_counts(examples_dir: Path, num_videos: int) -> npt.NDArray[np.int64]:
    counts = np.zeros(num_videos + 1, np.int64)
    for part in batches.in_parts(examples_dir, spec.CANDIDATE, [_LABEL]):
        counts += np.bincount(part[_LABEL].astype(np.int64), minlength=num_videos + 1)
    if not counts[1:].any():
        raise command.InputError(
            f"No label in the training examples of {examples_dir} is in the video vocabulary. "
            "Lower the space's min_count, or give more logs."
        )
    return counts[1:]


def _holdout(
    examples_dir: Path,
    model: CandidateModel,
    catalogue: Mapping[str, Array],
    settings: TrainingConfig,
) -> Holdout | None:
    columns = [*model.query_columns, "label_video_id"]
    queries = dataset.load(examples_dir, spec.CANDIDATE, "holdout", columns)
    if not len(queries["label_video_id"]):
        logging.warning(
            "The holdout is empty: training for %d epochs without early stopping.", settings.epochs
        )
        return None
    return Holdout(queries, catalogue, limit=settings.holdout_examples, seed=settings.seed)


def _advise(model: CandidateModel, label_counts: npt.NDArray[np.int64]) -> None:
    cfg = model.config
    logging.info(
        "%s training labels over %s videos, %s parameters.",
        f"{int(label_counts.sum()):,}",
        f"{model.num_videos:,}",
        f"{sum(int(np.prod(v.shape)) for v in model.trainable_variables):,}",
    )
    if cfg.loss == config.FULL and model.num_videos > _FULL_SOFTMAX_IS_SLOW:
        logging.warning(
            "A full softmax over %s videos is slow; --loss=sampled costs the same at any size.",
            f"{model.num_videos:,}",
        )
