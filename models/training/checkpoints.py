"""Where a training stands, kept so that a killed process goes on instead of starting over.

<model>.training/
  settings.json   what the run was started with; other settings start over
  latest/         weights, optimizers, position: what a resumed run continues from
  best/           weights of the best round so far
  tensorboard/    summaries
  history.json    what each round came to
"""

import json
import math
import os
import pathlib
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf
import tf_keras
from absl import logging

from features import files

Path = str | os.PathLike[str]
_LATEST, _BEST, _SUMMARIES = "latest", "best", "tensorboard"
_HISTORY = "history.json"


class Progress(tf.Module):
    """The position of a training.

    Attributes:
        step: int64, steps done; epoch and place in it follow.
        rounds: int64, looks at the holdout done.
        best_value: float32, best holdout metric so far.
        best_round: int64, the round of ``best_value``, from 1; 0 before the first.
    """

    def __init__(self) -> None:
        super().__init__(name="progress")
        self.step = tf.Variable(0, dtype=tf.int64, trainable=False)
        self.rounds = tf.Variable(0, dtype=tf.int64, trainable=False)
        self.best_value = tf.Variable(float("nan"), dtype=tf.float32, trainable=False)
        self.best_round = tf.Variable(0, dtype=tf.int64, trainable=False)

    @property
    def rounds_since_best(self) -> int:
        """Rounds without a better metric."""
        return int(self.rounds.numpy()) - int(self.best_round.numpy())


class RunDirectory:
    """The working directory of one training run.

    Args:
        path: Directory, created where it is absent.
        settings: JSON values that the result depends on. Where they differ from those that
            the directory was made with, its checkpoints are dropped.
        read_only: Whether all writing is left to another process, the chief of several workers.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any], *, read_only: bool = False) -> None:
        self.path = pathlib.Path(path)
        self.tensorboard = self.path / _SUMMARIES
        self.read_only = read_only
        if read_only:
            return
        wanted = json.dumps(settings, indent=1, sort_keys=True) + "\n"
        stamp = self.path / "settings.json"
        if stamp.is_file() and stamp.read_text() != wanted:
            logging.warning(
                "%s was made with other settings or examples: the training starts over.", self.path
            )
        if not stamp.is_file() or stamp.read_text() != wanted:
            # A finished run leaves its summaries; a new one would be drawn over them.
            for name in (_LATEST, _BEST, _SUMMARIES):
                shutil.rmtree(self.path / name, ignore_errors=True)
            (self.path / _HISTORY).unlink(missing_ok=True)
        files.atomic_write(stamp, wanted)

    def checkpoints(
        self,
        model: tf_keras.Model,
        optimizers: Sequence[tf_keras.optimizers.Optimizer],
        progress: Progress,
    ) -> "Checkpoints":
        """Returns the checkpoints of a run of ``model``."""
        return Checkpoints(self, model, optimizers, progress)

    def history(self, rounds: int) -> "History":
        """Returns the history of the first ``rounds`` rounds, to go on with."""
        return History(self.path / _HISTORY, rounds=rounds, read_only=self.read_only)

    def remove(self) -> None:
        """Removes what a finished training no longer needs: all but the summaries."""
        if self.read_only:
            return
        for name in (_LATEST, _BEST):
            shutil.rmtree(self.path / name, ignore_errors=True)
        for name in ("settings.json", _HISTORY):  # The model has the history.
            (self.path / name).unlink(missing_ok=True)


class History:
    """What each round of a training came to, for learning curves.

    Attributes:
        rounds: One mapping for each round, in order: ``step`` and ``epoch`` (steps and passes
            done), ``train_loss`` (mean of the round), ``examples_per_s``, and ``holdout``, its
            metrics by name; what is not finite is None.
    """

    def __init__(self, path: pathlib.Path, *, rounds: int, read_only: bool = False) -> None:
        """Reads what a killed run left.

        Args:
            path: File of the history.
            rounds: Number of rounds that were done; later ones are repeated, so they are dropped.
            read_only: Whether all writing is left to another process.
        """
        self._path, self._read_only = path, read_only
        self.rounds: list[dict[str, Any]] = []
        if rounds and path.is_file():
            self.rounds = json.loads(path.read_text())[:rounds]

    def add(
        self,
        *,
        step: int,
        epoch: float,
        train_loss: float,
        speed: float,
        holdout: Mapping[str, float],
    ) -> None:
        """Adds a round.

        Args:
            step: Steps done.
            epoch: Passes over the examples done.
            train_loss: Mean loss of the round.
            speed: Examples a second.
            holdout: Holdout metrics after the round; empty without a holdout.
        """
        self.rounds.append(
            {
                "step": step,
                "epoch": epoch,
                "train_loss": _finite(train_loss),
                "examples_per_s": _finite(speed),
                "holdout": {name: _finite(value) for name, value in holdout.items()},
            }
        )
        if not self._read_only:
            files.atomic_write(self._path, json.dumps(self.rounds, indent=1) + "\n")


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


class Checkpoints:
    """Saves and restores a run; see :class:`RunDirectory`, which makes it."""

    def __init__(
        self,
        run: RunDirectory,
        model: tf_keras.Model,
        optimizers: Sequence[tf_keras.optimizers.Optimizer],
        progress: Progress,
    ) -> None:
        self._read_only = run.read_only
        latest = tf.train.Checkpoint(model=model, optimizers=list(optimizers), progress=progress)
        best = tf.train.Checkpoint(model=model)
        self._latest = tf.train.CheckpointManager(latest, str(run.path / _LATEST), max_to_keep=1)
        self._best = tf.train.CheckpointManager(best, str(run.path / _BEST), max_to_keep=1)

    def resume(self) -> bool:
        """Restores the latest checkpoint; returns False where there is none."""
        return self._latest.restore_or_initialize() is not None

    def save(self) -> None:
        """Saves weights, optimizers and position."""
        if not self._read_only:
            self._latest.save()

    def save_best(self) -> None:
        """Saves the weights as the best so far.

        Call it before :meth:`save` of the same round: a run killed in between repeats the round
        and overwrites them.
        """
        if not self._read_only:
            self._best.save()

    def restore_best(self) -> None:
        """Restores the weights of the best round."""
        # Not the manager's own memory: of several workers only the chief has saved.
        self._best.checkpoint.restore(tf.train.latest_checkpoint(self._best.directory))
