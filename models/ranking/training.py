"""Trains the ranker: watch time of an impression (paper section 4)."""

import dataclasses
import math
import os
from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from absl import logging

from features import command, dataset, spec
from features.spec import ResolvedSpec
from features.tables import schema
from models import config, losses
from models.config import RankerConfig, TrainingConfig
from models.evaluation import metrics
from models.ranking import calibration
from models.ranking import model as ranker
from models.ranking.model import Ranker
from models.ranking.scoring import Rows, Scorer
from models.training import batches, checkpoints, loop, saved, warm_start

Path = str | os.PathLike[str]
Array = npt.NDArray[np.generic]
_CLICKED, _WATCH_TIME, _USER, _PAGE = "clicked", "watch_time_s", "user_id", "page_id"
_TIME = "time"
# What an example must hold besides the features.
LABELS = (_CLICKED, _WATCH_TIME, _USER, _PAGE)
_PAIRS_BATCH = 1024
# Curves are fitted once, to more than rounds look at: feedback is rare.
_CALIBRATION_EXAMPLES = 500_000
# The paper takes odds of E[T] / (1 - P) for E[T]: by how much it may be off before we warn.
_TOLERATED_BIAS = 0.1
LOSSES: Mapping[str, Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor]] = {
    config.EXACT: losses.exact_watch_time_loss,
    config.WEIGHTED: losses.weighted_logistic_loss,
    config.LOGISTIC: losses.logistic_loss,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Labels:
    """What the training impressions hold.

    Attributes:
        impressions: N, number of impressions.
        clicks: k, number of clicked impressions.
        watch_time_s: Sum of T over clicked impressions, seconds, after the cap.
    """

    impressions: int
    clicks: int
    watch_time_s: float

    @property
    def click_rate(self) -> float:
        """P, in [0, 1]."""
        return self.clicks / self.impressions

    def starting_logit(self, loss: str) -> float:
        """Returns the constant logit that minimises a loss.

        Raises:
            command.InputError: The labels lack a class that the loss needs, so that no logit is
                best.
        """
        unclicked = self.impressions - self.clicks
        odds = {
            config.EXACT: (self.watch_time_s, self.impressions),
            config.WEIGHTED: (self.watch_time_s, unclicked),
            config.LOGISTIC: (self.clicks, unclicked),
        }[loss]
        if not odds[0]:
            raise command.InputError(
                f"None of {self.impressions:,} training impressions was clicked and watched: "
                "there is nothing to learn. Check `clicked` and `watch_time_s` of the logs."
            )
        if not odds[1]:
            raise command.InputError(
                f"All {self.impressions:,} training impressions were clicked, so loss={loss} has "
                f"no negatives. loss={config.EXACT} can be trained on them, or log what was shown "
                "and not clicked."
            )
        return math.log(odds[0] / odds[1])


class RankerTask:
    """Loss and holdout of the ranker.

    Args:
        model: Ranker that is trained.
        holdout: Transformed holdout impressions with their labels, None where there are none.
        stop_metric: Name of the metric: ``objective`` (the training loss, pairs included),
            ``log_loss`` or ``per_user_loss``; "" is the first.
    """

    def __init__(
        self, model: Ranker, *, holdout: Mapping[str, Array] | None, stop_metric: str
    ) -> None:
        self.model = model
        self.stop_metric = stop_metric or config.OBJECTIVE
        self.higher_is_better = False
        self._holdout = None if holdout is None else _by_page(holdout)
        self._pairs = Rows(self._mean_pair_loss)
        self._loss = LOSSES[model.config.loss]
        self._score = Scorer(model)
        self._score_heads = Scorer(model, of_heads=True)
        is_pairs = self.stop_metric == config.PER_USER_LOSS
        if is_pairs and holdout is not None and not self._has_pairs(holdout):
            logging.warning(
                "No page of the holdout has both a clicked and an unclicked impression, so there "
                "is no %s: the best round is decided by %s.",
                config.PER_USER_LOSS,
                config.OBJECTIVE,
            )
            self.stop_metric = config.OBJECTIVE

    @staticmethod
    def _has_pairs(holdout: Mapping[str, Array]) -> bool:
        columns = [holdout[name] for name in LABELS]
        alike = np.zeros(len(columns[0]))
        return math.isfinite(metrics.weighted_per_user_loss(alike, *columns))

    def loss(self, batch: Mapping[str, tf.Tensor], step: tf.Tensor) -> tf.Tensor:
        """Returns the mean loss of a batch of impressions."""
        del step
        query, places = ranker.distinct_queries(batch, self.model.query_columns)
        outputs = self.model.outputs_of(query, batch, places=places, training=True)
        total = losses.mean(self._losses(outputs.order + outputs.level, batch))
        if self.model.config.pairwise:
            pairs = losses.mean(self._pair_losses(outputs.order, batch))
            total += self.model.config.pairwise * pairs
        heads = self.model.heads
        return total if heads is None else total + heads.loss(outputs.top, batch)

    def _mean_pair_loss(self, batch: Mapping[str, tf.Tensor]) -> tf.Tensor:
        query, places = ranker.distinct_queries(batch, self.model.query_columns)
        outputs = self.model.outputs_of(query, batch, places=places)
        return losses.mean(self._pair_losses(outputs.order, batch))

    def _losses(self, logits: tf.Tensor, labels: Mapping[str, tf.Tensor]) -> tf.Tensor:
        return self._loss(logits, labels[_CLICKED], self._worth(labels))

    def _pair_losses(self, order: tf.Tensor, labels: Mapping[str, tf.Tensor]) -> tf.Tensor:
        worth = self._worth(labels)
        if self.model.config.loss == config.LOGISTIC:
            worth = tf.ones_like(worth)
        users = labels[_USER]
        if users.dtype == tf.string:
            users = tf.strings.to_hash_bucket_fast(users, 2**62)
        return losses.same_user_pair_loss(order, labels[_CLICKED], worth, users)

    def _worth(self, labels: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Returns what a click weighs, float32 [n], seconds."""
        return capped(labels[_WATCH_TIME], self.model.config.watch_cap_s)

    def evaluate(self) -> dict[str, float]:
        """Returns the holdout's mean loss and its weighted, per-user loss where it has pages."""
        if self._holdout is None:
            return {}
        logits = self._score(self._holdout)
        log_loss = float(tf.reduce_mean(self._losses(tf.constant(logits), self._holdout)))
        figures = {
            config.OBJECTIVE: log_loss + self.model.config.pairwise * self._holdout_pair_loss(),
            config.LOG_LOSS: log_loss,
            config.PER_USER_LOSS: metrics.weighted_per_user_loss(
                logits, *(self._holdout[name] for name in LABELS)
            ),
        }
        if self.model.heads is not None:
            figures |= self.model.heads.log_losses(self._score_heads(self._holdout), self._holdout)
        return {name: value for name, value in figures.items() if math.isfinite(value)}

    def calibrate(self, impressions: Mapping[str, Array]) -> None:
        """Fits curves through the logits of labelled impressions, with the loss's own weights."""
        clicked = impressions[_CLICKED].astype(np.float64)
        worth = np.asarray(self._worth(impressions), np.float64)
        if self.model.config.loss == config.LOGISTIC:
            worth = np.ones_like(worth)
        negative = np.ones_like(clicked) if self.model.config.loss == config.EXACT else 1 - clicked
        self.model.calibration.set(calibration.Curve())
        curve = calibration.fit(self._score(impressions), clicked * worth, negative)
        self.model.calibration.set(curve)
        logging.info("Calibrated on the holdout: %s", curve)
        if self.model.heads is not None:
            self.model.heads.calibrate(self._score_heads(impressions), impressions)

    def _holdout_pair_loss(self) -> float:
        if self._holdout is None or not self.model.config.pairwise:
            return 0.0
        total, count = 0.0, len(self._holdout[_CLICKED])
        inputs = (*self.model.query_columns, *self.model.candidate_columns)
        names = (*inputs, *LABELS)
        for start in range(0, count, _PAIRS_BATCH):
            rows = slice(start, start + _PAIRS_BATCH)
            part = {name: tf.constant(self._holdout[name][rows]) for name in names}
            total += float(self._pairs(part)) * int(part[_CLICKED].shape[0])
        return total / max(count, 1)


def _by_page(arrays: Mapping[str, Array]) -> dict[str, Array]:
    """Returns the rows sorted by user and page, both as codes."""
    codes = {name: batches.codes_of(arrays[name]) for name in (_USER, _PAGE)}
    order = np.lexsort((codes[_PAGE], codes[_USER]))
    return {name: array[order] for name, array in {**arrays, **codes}.items()}


def capped(watch_time_s: tf.Tensor, cap_s: float) -> tf.Tensor:
    """Returns watch seconds, those above ``cap_s`` as ``cap_s``; 0 is no cap."""
    return tf.minimum(watch_time_s, cap_s) if cap_s else tf.convert_to_tensor(watch_time_s)


def read_labels(examples_dir: Path, cap_s: float) -> tuple[Labels, npt.NDArray[np.int64]]:
    """Checks the labels of the training impressions and sums them up.

    Returns:
        The sums; the times of the impressions, int64 [N], Unix seconds, in the order of the files.

    Raises:
        command.InputError: The split has no impressions, or labels are unfit; says which and how
            many.
    """
    impressions, clicks, total = 0, 0, 0.0
    faults = {"clicked is neither 0 nor 1": 0, "watch_time_s is not a number": 0}
    negative, absurd = "watch_time_s is negative", "watch_time_s is above 24 hours"
    faults |= {negative: 0, absurd: 0}
    times = []
    for part in batches.in_parts(examples_dir, spec.RANKER, [_CLICKED, _WATCH_TIME, _TIME]):
        times.append(part[_TIME])
        clicked, seconds = part[_CLICKED], part[_WATCH_TIME].astype(np.float64)
        impressions += len(clicked)
        clicks += int((clicked == 1).sum())
        faults["clicked is neither 0 nor 1"] += int((~np.isin(clicked, (0, 1))).sum())
        faults["watch_time_s is not a number"] += int((~np.isfinite(seconds)).sum())
        faults[negative] += int((seconds < 0).sum())
        faults[absurd] += int((np.isfinite(seconds) & (seconds > schema.MAX_WATCH_TIME_S)).sum())
        total += float(np.where(clicked == 1, np.minimum(seconds, cap_s or np.inf), 0.0).sum())
    problems = [f"{number:,} where {what}" for what, number in faults.items() if number]
    if problems:
        raise command.InputError(
            f"The ranker's training examples of {examples_dir} hold unusable labels: "
            f"{'; '.join(problems)}. pipeline.preprocess rejects such rows: run it again."
        )
    if not impressions:
        raise command.InputError(
            f"{examples_dir} has no training example for the ranker: "
            f"{dataset.info(examples_dir).get('no_ranking')}. A release does without a ranker."
        )
    labels = Labels(impressions=impressions, clicks=clicks, watch_time_s=total)
    return labels, np.concatenate(times).astype(np.int64)


def advise(labels: Labels, loss: str) -> None:
    """Logs what the labels hold, and a warning where a loss is biased on them."""
    rate = labels.click_rate
    logging.info(
        "%s impressions, click rate %.3f, %.1f watched seconds per impression.",
        f"{labels.impressions:,}",
        rate,
        labels.watch_time_s / labels.impressions,
    )
    # Where everything was clicked that loss is refused.
    if loss == config.WEIGHTED and 1 > rate > _TOLERATED_BIAS * (1 - rate):
        logging.warning(
            "The measured click rate is %.3f, not small: with loss=weighted exp(x) is E[T] / "
            "(1 - P), %.0f%% above the expected watch time. loss=exact has no such bias.",
            rate,
            100 * rate / (1 - rate),
        )


def together(model_config: RankerConfig) -> tuple[str, ...]:
    """Returns the columns by which examples share batches: pages, and for pairs users first."""
    return (_USER, _PAGE) if model_config.pairwise else (_PAGE,)


def train(
    examples_dir: Path,
    model_dir: Path,
    model_config: RankerConfig,
    settings: TrainingConfig,
    *,
    warm: config.WarmStart = config.COLD,
) -> loop.Result:
    """Trains a ranker on the examples and saves it; arguments as for the candidate model.

    Raises:
        command.InputError: The examples or the settings cannot be trained with.
    """
    _check(settings)
    labels, times = read_labels(examples_dir, model_config.watch_cap_s)
    advise(labels, model_config.loss)
    model = _new_model(examples_dir, model_config, labels, seed=settings.seed)
    columns = (*model.query_columns, *model.candidate_columns, *LABELS)
    columns += _started_heads(model, examples_dir, labels)
    start = warm_start.begun(
        model,
        examples_dir,
        settings,
        kind=spec.RANKER,
        warm=warm,
        load=ranker.load,
        num_examples=labels.impressions,
        times=lambda: times,
    )
    facts, settings = start.facts, start.settings
    holdout = _holdout(examples_dir, columns, settings, most=settings.holdout_examples)
    task = RankerTask(model, holdout=holdout, stop_metric=settings.stop_metric)
    examples = batches.open_training(
        examples_dir,
        spec.RANKER,
        columns=columns,
        settings=settings,
        together=together(model_config),
        newer=start.newer,
    )
    _advise_on_pairs(model_config, examples)
    configs = {"model": model_config, "training": settings}
    run = checkpoints.RunDirectory(
        f"{os.fspath(model_dir).rstrip('/')}.training",
        {"lineage": facts, "configs": config.to_json(configs)},
    )
    result = loop.fit(task, examples, settings, run)
    if holdout:
        task.calibrate(_more(holdout, examples_dir, columns, settings))
    result = dataclasses.replace(result, metrics={**result.metrics, **task.evaluate()})
    facts |= {"trained_at": saved.now(), "steps": result.steps, "click_rate": labels.click_rate}
    contents = saved.Contents(
        configs=configs,
        vocabularies=start.vocabularies,
        metrics=result.metrics,
        history=result.history,
        lineage=facts,
    )
    ranker.save(model, model_dir, contents=contents)
    run.remove()
    return result


def _check(settings: TrainingConfig) -> None:
    if settings.stop_metric not in {"", *config.RANKER_STOP_METRICS}:
        raise command.InputError(
            f"stop_metric must be one of {config.RANKER_STOP_METRICS}, got "
            f"{settings.stop_metric!r}."
        )


def _advise_on_pairs(model_config: RankerConfig, examples: object) -> None:
    if model_config.pairwise and isinstance(examples, batches.Streamed):
        logging.warning(
            "Streamed examples of one user meet in a batch by chance only: pairwise does little. "
            "Give --memory_gb more than the training examples take."
        )


def _new_model(
    examples_dir: Path, model_config: RankerConfig, labels: Labels, *, seed: int
) -> Ranker:
    resolved = ResolvedSpec.load(examples_dir)
    sizes = dataset.vocabulary_sizes(examples_dir, spec.RANKER)
    model = Ranker(resolved, sizes, model_config, seed=seed)
    model.set_bias(labels.starting_logit(model_config.loss))
    return model


def _started_heads(model: Ranker, examples_dir: Path, labels: Labels) -> tuple[str, ...]:
    """Starts the heads at their rates; returns the columns of their labels."""
    if model.heads is None:
        return ()
    model.heads.start(examples_dir, worth=labels.watch_time_s / labels.clicks)
    return model.heads.labels


def _more(
    holdout: dict[str, Array],
    examples_dir: Path,
    columns: tuple[str, ...],
    settings: TrainingConfig,
) -> dict[str, Array]:
    """Returns what curves are fitted to: more, where what was looked at is not the holdout."""
    if not 0 < settings.holdout_examples <= len(holdout[_CLICKED]):
        return holdout
    return _holdout(examples_dir, columns, settings, most=_CALIBRATION_EXAMPLES) or holdout


def _holdout(
    examples_dir: Path, columns: tuple[str, ...], settings: TrainingConfig, *, most: int
) -> dict[str, Array] | None:
    """Returns holdout impressions of whole users, some ``most`` of them; None where none are."""
    arrays = dataset.load(examples_dir, spec.RANKER, "holdout", columns)
    if not len(arrays[_CLICKED]):
        logging.warning(
            "The holdout is empty: training for %d epochs without early stopping.", settings.epochs
        )
        return None
    return batches.sample_users(arrays, most, seed=settings.seed)
