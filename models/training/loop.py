"""One training loop for both models: steps, holdout, early stopping, checkpoints, summaries."""

import dataclasses
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import tensorflow as tf
import tf_keras
from absl import logging
from tf_keras.optimizers import schedules

from features import command
from features.screen import progress
from models.config import TrainingConfig
from models.embeddings import EmbeddingTable
from models.training import collapse, distribution, optimizers
from models.training.batches import Examples
from models.training.checkpoints import Progress, RunDirectory
from models.training.workers import Step, Workers

_SHOW_EVERY_S = 1.0
_SAVE_EVERY_S = 600.0
_NORM_ROWS = 10_000
_PEAK_WARMUP_STEPS = 5  # The first steps trace and allocate; they say nothing about speed.


class DivergedError(command.InputError):
    """The loss is no longer a number."""


class Task(Protocol):
    """What is trained, and on what it is judged.

    Attributes:
        model: Model whose trainable variables are trained.
        stop_metric: Key of :meth:`evaluate` that decides which round is best.
        higher_is_better: Whether a higher stop metric is better.
    """

    model: tf_keras.Model
    stop_metric: str
    higher_is_better: bool

    def loss(self, batch: Mapping[str, tf.Tensor], step: tf.Tensor) -> tf.Tensor:
        """Returns the loss of a batch, float32 scalar; ``step`` (int64) seeds what is drawn."""

    def evaluate(self) -> dict[str, float]:
        """Returns holdout metrics; empty where there is no holdout."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
    """How a training went.

    Attributes:
        metrics: Holdout metrics of the returned weights; empty without a holdout.
        rounds: Number of looks at the holdout.
        best_round: The one whose weights were kept, from 1.
        steps: Number of steps in all.
        epochs: Passes over the examples, the last may be a part.
        examples_per_s: Median over rounds, of steps alone; 0 where nothing ran.
        train_loss: Mean of the last round.
        history: What each round came to, see :class:`models.training.checkpoints.History`.
    """

    metrics: dict[str, float]
    rounds: int
    best_round: int
    steps: int
    epochs: float
    examples_per_s: float
    train_loss: float
    history: Sequence[Mapping[str, Any]] = ()

    def summary(self) -> str:
        """Returns one line for people."""
        shown = {n: v for n, v in self.metrics.items() if n not in collapse.NAMES}
        figures = ", ".join(f"holdout {name} {value:.4f}" for name, value in shown.items())
        where = f"best of {self.rounds} rounds: {self.best_round}" if figures else "no holdout"
        return (
            f"{self.epochs:.1f} epochs, {self.steps:,} steps, {self.examples_per_s:,.0f} "
            f"examples/s; {figures + '; ' if figures else ''}{where}"
        )


class Trainer:
    """Trains a task; see :func:`fit`."""

    def __init__(
        self,
        task: Task,
        examples: Examples,
        settings: TrainingConfig,
        run: RunDirectory,
        *,
        workers: Workers,
    ) -> None:
        self._task = task
        self._workers = workers
        self._examples = workers.share(examples)
        self._settings = settings
        self._progress = Progress()
        tf.random.set_seed(settings.seed)
        with workers.scope():
            steps = self._examples.steps_per_epoch() * settings.epochs
            groups = _variable_groups(task.model, settings, steps)
        self._checkpoints = run.checkpoints(
            task.model, [optimizer for optimizer, _ in groups], self._progress
        )
        self._steps = workers.steps(_train_step(task, groups, settings.clip_norm, workers))
        self._writer = (
            tf.summary.create_file_writer(str(run.tensorboard))
            if workers.is_chief
            else tf.summary.create_noop_writer()
        )
        self._run, self._history = run, run.history(0)
        self._speeds: list[float] = []
        self._train_loss = float("nan")

    def run(self) -> Result:
        """Trains from the latest checkpoint on; returns with the best weights in the model."""
        if self._checkpoints.resume():
            done = int(self._progress.step.numpy())
            logging.info("Continuing from step %d.", done)
            self._history = self._run.history(int(self._progress.rounds.numpy()))
        per_epoch = self._examples.steps_per_epoch()
        last_step = per_epoch * self._settings.epochs
        left = max(last_step - int(self._progress.step.numpy()), 0) * self._settings.batch_size
        with progress.shown("training", total=left, unit="examples") as bar:
            while (step := int(self._progress.step.numpy())) < last_step and not self._stopped():
                self._run_epoch(step // per_epoch, skip=step % per_epoch, bar=bar)
        metrics: dict[str, float] = {}
        if int(self._progress.best_round.numpy()):
            self._workers.wait_for_all()  # The chief may still be writing them.
            self._checkpoints.restore_best()
            best = self._history.rounds[int(self._progress.best_round.numpy()) - 1]["holdout"]
            metrics = {name: value for name, value in best.items() if value is not None}
        elif int(self._progress.rounds.numpy()) and collapse.signs(metrics := self._evaluate()):
            logging.warning(
                "EVERY round collapsed, so none is the best: the last weights remain, and the "
                "gates of a release refuse them. More epochs, another --learning_rate, or "
                "--sampler_power may help."
            )
        return self._result(metrics, per_epoch)

    def _evaluate(self) -> dict[str, float]:
        return self._workers.agreed(self._task.evaluate())

    def _stopped(self) -> bool:
        best_round = int(self._progress.best_round.numpy())
        return bool(best_round) and self._progress.rounds_since_best >= self._settings.patience

    def _run_epoch(self, epoch: int, *, skip: int, bar: progress.Bar) -> None:
        ends = _round_ends(self._examples.steps_per_epoch(), self._settings.evaluations_per_epoch)
        meter = _Meter(self._settings.batch_size, epoch, self._settings.epochs)
        for step, batch in enumerate(self._examples.epoch(epoch, skip=skip), start=skip + 1):
            self._count(self._steps.begin(batch, self._progress.step), meter, bar)
            self._progress.step.assign_add(1)
            if step in ends:
                self._count(self._steps.rest(), meter, bar)
                self._end_round(meter)
                if self._stopped():
                    return
                meter = _Meter(self._settings.batch_size, epoch, self._settings.epochs)
            elif meter.save_is_due():
                self._count(self._steps.rest(), meter, bar)
                self._checkpoints.save()

    def _count(self, losses: Sequence[float], meter: "_Meter", bar: progress.Bar) -> None:
        """Takes in the losses of steps that have ended."""
        for loss in losses:
            if not math.isfinite(loss):
                raise DivergedError(
                    f"The loss is {loss} at step {int(self._progress.step.numpy())}. Nothing was "
                    "saved. Lower --learning_rate, or set --clip_norm=1, and check the examples "
                    "for absurd values."
                )
            meter.add(loss, bar)

    def _end_round(self, meter: "_Meter") -> None:
        progress = self._progress
        self._speeds.append(meter.examples_per_s)
        self._train_loss = meter.mean_loss
        progress.rounds.assign_add(1)
        metrics = self._evaluate()
        value = metrics.get(self._task.stop_metric, float("nan"))
        alarms = collapse.signs(metrics)
        for alarm in alarms:
            logging.warning(
                "Round %d collapsed and cannot be the best: %s.", int(progress.rounds), alarm
            )
        if metrics and not alarms and self._is_better(value):
            progress.best_value.assign(value)
            progress.best_round.assign(progress.rounds)
            self._checkpoints.save_best()
        step = int(progress.step.numpy())
        self._history.add(
            step=step,
            epoch=step / self._examples.steps_per_epoch(),
            train_loss=meter.mean_loss,
            speed=meter.examples_per_s,
            holdout=metrics,
        )
        self._checkpoints.save()
        logging.info(
            "Round %d: loss %.4f, %s; %s examples/s.",
            int(progress.rounds.numpy()),
            meter.mean_loss,
            ", ".join(f"holdout {name} {v:.4f}" for name, v in metrics.items()) or "no holdout",
            f"{meter.examples_per_s:,.0f}",
        )
        self._write_summaries(meter, metrics)

    def _is_better(self, value: float) -> bool:
        best = float(self._progress.best_value.numpy())
        if math.isnan(best):
            return not math.isnan(value)
        return value > best if self._task.higher_is_better else value < best

    def _write_summaries(self, meter: "_Meter", metrics: Mapping[str, float]) -> None:
        with self._writer.as_default(step=int(self._progress.step.numpy())):
            tf.summary.scalar("loss/train", meter.mean_loss)
            tf.summary.scalar("speed/examples_per_s", meter.examples_per_s)
            for name, value in metrics.items():
                tf.summary.scalar(f"holdout/{name}", value)
            for name, norm in embedding_norms(self._task.model).items():
                tf.summary.scalar(f"embedding_norm/{name}", norm)
        self._writer.flush()

    def _result(self, metrics: dict[str, float], per_epoch: int) -> Result:
        speeds = sorted(self._speeds)
        steps = int(self._progress.step.numpy())
        return Result(
            metrics=metrics,
            rounds=int(self._progress.rounds.numpy()),
            best_round=int(self._progress.best_round.numpy()),
            steps=steps,
            epochs=steps / per_epoch,
            examples_per_s=speeds[len(speeds) // 2] if speeds else 0.0,
            train_loss=self._train_loss,
            history=tuple(self._history.rounds),
        )


class _Meter:
    """Mean loss and speed of a round."""

    def __init__(self, batch_size: int, epoch: int, epochs: int) -> None:
        self._batch_size = batch_size
        self._epoch = f"epoch {epoch + 1}/{epochs}"
        self._losses: list[float] = []
        self._started = self._shown = self._saved = time.monotonic()
        self._timed_from = 0
        self.examples_per_s = 0.0

    @property
    def mean_loss(self) -> float:
        return math.fsum(self._losses) / len(self._losses)

    def add(self, loss: float, bar: progress.Bar) -> None:
        self._losses.append(loss)
        now = time.monotonic()
        if len(self._losses) == _PEAK_WARMUP_STEPS:
            self._started, self._timed_from = now, _PEAK_WARMUP_STEPS
        timed = len(self._losses) - self._timed_from
        if timed and now > self._started:
            self.examples_per_s = timed * self._batch_size / (now - self._started)
        bar.add(self._batch_size)
        if now - self._shown > _SHOW_EVERY_S:
            self._shown = now
            bar.at(f"{self._epoch}, loss {loss:.4f}")

    def save_is_due(self) -> bool:
        now = time.monotonic()
        if now - self._saved < _SAVE_EVERY_S:
            return False
        self._saved = now
        return True


def fit(
    task: Task,
    examples: Examples,
    settings: TrainingConfig,
    run: RunDirectory,
    *,
    workers: Workers | None = None,
) -> Result:
    """Trains until the holdout metric stops getting better, or for a fixed number of epochs.

    Each round (an epoch, or a part of one) ends with a look at the holdout and a checkpoint. A
    run that was killed continues from the last checkpoint, with the batch that was next. With a
    holdout the weights of the best round are what remains; without one, the last weights.

    Args:
        task: Model, loss and holdout.
        examples: Examples of the training split.
        settings: Settings of the training.
        run: Working directory of the run.
        workers: Workers where several processes train; the model was made in their scope.

    Returns:
        Outcome of the training.

    Raises:
        DivergedError: The loss became infinite or NaN.
    """
    return Trainer(task, examples, settings, run, workers=workers or Workers()).run()


def _round_ends(steps: int, rounds: int) -> list[int]:
    """Returns the steps of an epoch, from 1, after which a round ends; the last is ``steps``."""
    return sorted({max(1, round(steps * (i + 1) / rounds)) for i in range(rounds)})


def tables_of(model: tf_keras.Model) -> dict[str, EmbeddingTable]:
    """Returns the embedding tables of a model by name."""
    return {m.name: m for m in model.submodules if isinstance(m, EmbeddingTable)}


def embedding_norms(model: tf_keras.Model) -> dict[str, float]:
    """Returns the mean length of each table's rows, over the 10,000 most frequent ids."""
    norms = {}
    for name, table in tables_of(model).items():
        ids = tf.range(1, min(table.size, _NORM_ROWS) + 1)
        norms[name] = float(tf.reduce_mean(tf.norm(table.gather(ids), axis=1)))
    return {name: norm for name, norm in norms.items() if math.isfinite(norm)}


_Groups = Sequence[tuple[tf_keras.optimizers.Optimizer, list[tf.Variable]]]


def _variable_groups(model: tf_keras.Model, settings: TrainingConfig, steps: int) -> _Groups:
    """Pairs optimizers with variables: embedding tables may have a learning rate of their own.

    Args:
        model: Model that is trained.
        settings: Settings of the training.
        steps: Steps of the whole run, over which learning rates may fall.
    """

    def rate(first: float) -> Any:
        return schedules.PolynomialDecay(first, steps, 0.0) if settings.decay else first

    rows = [part for table in tables_of(model).values() for part in table.parts]
    is_row = {id(row) for row in rows}
    dense = [v for v in model.trainable_variables if id(v) not in is_row]
    table_rate = settings.embedding_learning_rate or settings.learning_rate
    table_optimizer = settings.embedding_optimizer or settings.optimizer
    groups = [
        (optimizers.make(settings.optimizer, rate(settings.learning_rate)), dense),
        (optimizers.make(table_optimizer, rate(table_rate)), rows),
    ]
    for optimizer, variables in groups:
        optimizer.build(variables)
    return groups


def compiled_step(task: Task, settings: TrainingConfig) -> Step:
    """Returns one training step, as :func:`fit` takes them: batch, number of the step -> loss."""
    groups = _variable_groups(task.model, settings, settings.epochs)
    return _train_step(task, groups, settings.clip_norm, Workers())


def _train_step(task: Task, groups: _Groups, clip_norm: float, workers: Workers) -> Step:
    """Returns the compiled step: batch, number of the step -> loss before the step."""
    variables = [variable for _, group in groups for variable in group]

    def replica_step(batch: Mapping[str, tf.Tensor], number: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            loss = task.loss(batch, number) / workers.count
        gradients = tape.gradient(loss, variables)
        if workers.count > 1:
            gradients = distribution.summed(gradients)
            (loss,) = distribution.summed([loss])
        if clip_norm:
            gradients = optimizers.clipped(gradients, clip_norm)
        by_variable = {id(v): g for v, g in zip(variables, gradients, strict=True)}
        for optimizer, group in groups:
            pairs = [(by_variable[id(v)], v) for v in group]
            optimizer.apply_gradients(
                [(g, v) for g, v in pairs if g is not None],
                skip_gradients_aggregation=True,
            )
        return loss

    @tf.function(reduce_retracing=True)
    def step(batch: Mapping[str, tf.Tensor], number: tf.Variable) -> tf.Tensor:
        if not workers.strategy:
            return replica_step(batch, tf.identity(number))
        return workers.strategy.run(replica_step, args=(batch, tf.identity(number)))

    return step
