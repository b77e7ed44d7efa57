"""Trains the candidate model: next watch among all videos (paper section 3)."""

import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from absl import logging

from features import command, dataset, spec, tensors
from features.spec import ResolvedSpec
from models import config, losses
from models.candidate import model as candidate_model
from models.candidate import negatives, recent_biases, spectral_start
from models.candidate.holdout import BAG, LABEL, Holdout, K
from models.candidate.model import CandidateModel
from models.candidate.video_features import VideoFeatures
from models.config import CANDIDATE_STOP_METRICS, MAP, RECALL, CandidateConfig, TrainingConfig
from models.embeddings import EmbeddingTable
from models.evaluation import metrics, repeat_bias
from models.training import batches, distribution, loop, saved, warm_start
from models.training.workers import Workers

Path = str | os.PathLike[str]
Array = npt.NDArray[np.generic]
# Repeats are rare, so it takes many examples to tell how rare; but each is a pass over the corpus.
_MAX_REPEAT_SCORES = 200_000_000
_REPEAT_EXAMPLES = (512, 16_384)
_FULL_SOFTMAX_IS_SLOW = 100_000


class CandidateTask:
    """Loss and holdout of the candidate model.

    Args:
        model: Model that is trained.
        videos: Content of the vocabulary's videos.
        label_counts: int64 [V], how often each video is the label of a training example.
        holdout: Holdout that rounds are judged on; None where there is none.
        settings: Settings of the training, of which the seed and the stop metric are read.

    Raises:
        negatives.SamplerError: The negatives do not follow their probabilities.
    """

    def __init__(
        self,
        model: CandidateModel,
        videos: VideoFeatures,
        label_counts: npt.NDArray[np.int64],
        *,
        holdout: Holdout | None,
        settings: TrainingConfig,
    ) -> None:
        self.model = model
        # MAP of one day is noisy; but among few videos nearly all labels are in the first 100.
        self.stop_metric = settings.stop_metric or (RECALL if model.num_videos > 2 * K else MAP)
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
        if cfg.loss == config.SAMPLED:
            off = negatives.check(self._sampler)
            logging.info("Sampled softmax gradient agrees with the exact one within %.4f.", off)

    def loss(self, batch: Mapping[str, tf.Tensor], step: tf.Tensor) -> tf.Tensor:
        """Returns the mean loss of the batch's examples whose label is in the vocabulary."""
        known = tf.where(batch[LABEL] > 0)[:, 0]
        batch = {name: tf.gather(tensor, known) for name, tensor in batch.items()}
        labels = tf.cast(batch[LABEL], tf.int64)
        queries = self.model.query_embeddings(batch, training=True)
        by_name = {
            config.SAMPLED: self._sampled,
            config.FULL: self._full,
            config.IN_BATCH: self._in_batch,
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
        if not self.model.has_content:
            return losses.full_softmax_loss(self.model.logits_of_all(queries), labels - 1)
        everything = tf.range(1, self.model.num_videos + 1, dtype=tf.int64)
        logits = tf.matmul(queries, self._embed(everything), transpose_b=True)
        return losses.full_softmax_loss(logits, labels - 1)

    def _in_batch(self, queries: tf.Tensor, labels: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
        del step
        log_p = self._labels.log_probabilities(labels)
        return losses.in_batch_softmax_loss(queries, self._embed(labels), log_probabilities=log_p)

    def evaluate(self) -> dict[str, float]:
        """Returns MAP@100 and recall@100 of the next watch over the full corpus."""
        return self._holdout.evaluate(self.model) if self._holdout else {}


def train(
    examples_dir: Path,
    model_dir: Path,
    model_config: CandidateConfig,
    settings: TrainingConfig,
    *,
    warm: config.WarmStart = config.COLD,
) -> loop.Result:
    """Trains a candidate model on the examples and saves it.

    Args:
        examples_dir: Directory that pipeline.preprocess wrote.
        model_dir: Model directory, created or replaced when the training is over. Checkpoints and
            summaries are beside it, in ``<model_dir>.training``.
        model_config: Settings of the model.
        settings: Settings of the training.
        warm: Older model to start from, see :mod:`models.training.warm_start`.

    Returns:
        Outcome of the training.

    Raises:
        command.InputError: The examples or the settings cannot be trained with.
    """
    workers = distribution.from_environment()
    with workers.together():
        return _train(examples_dir, model_dir, model_config, settings, warm=warm, workers=workers)


def _train(
    examples_dir: Path,
    model_dir: Path,
    model_config: CandidateConfig,
    settings: TrainingConfig,
    *,
    warm: config.WarmStart,
    workers: Workers,
) -> loop.Result:
    model = _new_model(examples_dir, model_config, settings, workers)
    catalogue = dataset.videos(examples_dir)
    videos = VideoFeatures.of_catalogue(
        catalogue, columns=model.content_columns, num_videos=model.num_videos
    )
    label_counts = label_counts_of(examples_dir, model)
    started = _start_from_counts(examples_dir, model, seed=settings.seed)
    start = warm_start.begun(
        model,
        examples_dir,
        settings,
        kind=spec.CANDIDATE,
        warm=warm,
        load=lambda directory: recent_biases.unmoved(candidate_model.load(directory)),
        num_examples=int(label_counts.sum()),
        times=lambda: batches.times(examples_dir, spec.CANDIDATE),
        started=started,
    )
    facts, settings = start.facts, start.settings
    _advise(model, label_counts)
    holdout = _holdout(examples_dir, model, catalogue, settings)
    task = CandidateTask(model, videos, label_counts, holdout=holdout, settings=settings)
    examples = open_examples(examples_dir, model, settings, newer=start.newer)
    configs = {"model": model_config, "training": settings}
    run = workers.open_run(
        f"{os.fspath(model_dir).rstrip('/')}.training",
        {"lineage": facts, "configs": config.to_json(configs)},
    )
    result = loop.fit(task, examples, settings, run, workers=workers)
    fit_repeat_bias(model, videos, examples)
    if model_config.recent_biases:
        facts |= {"recent": recent_biases.set_biases(model, examples_dir)}
    result = dataclasses.replace(result, metrics=workers.agreed(task.evaluate()))
    if workers.is_chief:
        contents = saved.Contents(
            configs=configs,
            vocabularies=start.vocabularies,
            metrics=result.metrics,
            history=result.history,
            lineage=facts | {"trained_at": saved.now(), "steps": result.steps},
        )
        candidate_model.save(model, model_dir, contents=contents)
        run.remove()
    workers.wait_for_all()
    return result


def open_examples(
    examples_dir: Path,
    model: CandidateModel,
    settings: TrainingConfig,
    *,
    splits: Sequence[str] = ("train",),
    newer: batches.Newer | None = None,
) -> batches.InMemory | batches.Streamed:
    """Opens the examples whose next watch is in the vocabulary; others teach nothing.

    Args:
        examples_dir: What pipeline.preprocess or pipeline.join_holdout wrote.
        model: What is trained.
        settings: Settings of the training.
        splits: Splits to read one after the other; one that is named twice counts twice.
        newer: Choice of the examples; None: all of them.
    """
    return batches.open_training(
        examples_dir,
        spec.CANDIDATE,
        columns=(*model.query_columns, LABEL),
        settings=settings,
        keep=lambda part: part[LABEL].astype(np.int64) > 0,
        splits=splits,
        newer=newer,
    )


def _new_model(
    examples_dir: Path,
    model_config: CandidateConfig,
    settings: TrainingConfig,
    workers: Workers,
) -> CandidateModel:
    dataset.info(examples_dir)  # Refuses what are no examples before anything else.
    sizes = dataset.vocabulary_sizes(examples_dir, spec.CANDIDATE)
    _check(examples_dir, settings)
    resolved = ResolvedSpec.load(examples_dir)
    with workers.scope():
        return CandidateModel(resolved, sizes, model_config, seed=settings.seed)


def _check(examples_dir: Path, settings: TrainingConfig) -> None:
    if settings.stop_metric not in {"", *CANDIDATE_STOP_METRICS}:
        raise command.InputError(
            f"stop_metric must be one of {CANDIDATE_STOP_METRICS}, got {settings.stop_metric!r}."
        )
    if not batches.count(examples_dir, spec.CANDIDATE, "train"):
        raise command.InputError(
            f"{examples_dir} has no training example for the candidate model: no completed watch "
            "lies before the holdout. Give pipeline.preprocess more logs or a shorter holdout."
        )


def fit_repeat_bias(
    model: CandidateModel, videos: VideoFeatures, examples: batches.Examples
) -> None:
    """Sets the model's repeat bias (:mod:`models.evaluation.repeat_bias`) by training examples."""
    if BAG not in model.query_columns:
        return
    wanted = int(np.clip(_MAX_REPEAT_SCORES // model.num_videos, *_REPEAT_EXAMPLES))
    parts: list[Mapping[str, tf.Tensor]] = []
    for part in examples.epoch(0, skip=0):
        parts.append(part)
        wanted -= len(part[LABEL])
        if wanted <= 0:
            break
    some = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    bags = np.asarray(some[BAG], np.int64)
    labels = np.asarray(some[LABEL], np.int64)
    everything = {n: array[1:] for n, array in videos.arrays.items()}
    everything[LABEL] = np.arange(1, model.num_videos + 1)
    mass = repeat_bias.bag_mass(
        tensors.in_batches(model.query_embeddings, some),
        tensors.in_batches(model.video_embeddings, everything),
        bags - 1,
        batch=metrics.query_batch_size(model.num_videos),
    )
    bias = repeat_bias.fit(mass, (bags == labels[:, np.newaxis]).any(axis=1))
    model.repeat_bias.assign(bias)
    logging.info("A video that was watched before gets %+.2f on its logit.", bias)


def label_counts_of(examples_dir: Path, model: CandidateModel) -> npt.NDArray[np.int64]:
    """Counts the labels of each video, int64 [V]; starts the biases there where that is asked."""
    num_videos = model.num_videos
    counts = np.zeros(num_videos + 1, np.int64)
    for part in batches.in_parts(examples_dir, spec.CANDIDATE, [LABEL]):
        counts += np.bincount(part[LABEL].astype(np.int64), minlength=num_videos + 1)
    if not counts[1:].any():
        raise command.InputError(
            f"No label in the training examples of {examples_dir} is in the video vocabulary. "
            "Lower the space's min_count, or give more logs."
        )
    if model.config.popularity_bias:
        model.set_popularity_bias(counts[1:])
    return counts[1:]


def _start_from_counts(examples_dir: Path, model: CandidateModel, *, seed: int) -> tuple[str, ...]:
    """Sets watched videos and softmax rows by what followed what, where that is asked.

    Returns:
        The names of these tables.
    """
    names = []
    for table, rows in _starts(examples_dir, model, seed=seed):
        # Videos that were not counted, and columns beyond the counts', start at random.
        counted = np.flatnonzero(rows.any(axis=1))
        started = table.rows.numpy()
        started[counted, : rows.shape[1]] = rows[counted]
        table.rows.assign(started)
        names.append(table.name)
    return tuple(names)


def place_new_videos(
    examples_dir: Path, model: CandidateModel, *, known: Array, new: Array, seed: int
) -> None:
    """Sets the rows of videos that a model has not learnt by what they followed and what followed.

    Args:
        examples_dir: Examples that have them.
        model: Model of a vocabulary that has them.
        known: Ids of the videos whose rows it has learnt.
        new: Ids of the others.
        seed: Seed of the factors.
    """
    for table, rows in _starts(examples_dir, model, seed=seed):
        started = table.rows.numpy()
        placed = spectral_start.placed(rows, started, known=known, new=new)
        counted = placed.any(axis=1)
        started[new[counted]] = placed[counted]
        table.rows.assign(started)


def _starts(
    examples_dir: Path, model: CandidateModel, *, seed: int
) -> Iterator[tuple[EmbeddingTable, spectral_start.Floats]]:
    """Yields the table of watched videos, and that of labels, each with its factors."""
    cfg = model.config
    if not (cfg.spectral_start and model.has_item_to_item):
        return
    parts = batches.in_parts(examples_dir, spec.CANDIDATE, [BAG, LABEL])
    follows = spectral_start.counts(((part[BAG], part[LABEL]) for part in parts), model.num_videos)
    starts = spectral_start.embeddings(follows, cfg.embedding_dim, seed=seed)
    logging.info("Starts from %s pairs of videos that follow one another.", f"{follows.nnz:,}")
    tables = (model.tables[candidate_model.VIDEO_SPACE], model.softmax_rows)
    yield from zip(tables, starts, strict=True)


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
