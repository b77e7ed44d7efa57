"""The processes of one training, of which this is one, and how they take its steps."""

import contextlib
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import tensorflow as tf

from models.training.batches import Examples
from models.training.checkpoints import RunDirectory

Step = Callable[[Mapping[str, tf.Tensor], tf.Variable], tf.Tensor]


class Steps(Protocol):
    """Takes steps, whose losses are known at once or later."""

    def begin(self, batch: Mapping[str, tf.Tensor], number: tf.Variable) -> list[float]:
        """Begins one step; returns the losses of steps that have ended, oldest first."""

    def rest(self) -> list[float]:
        """Returns, when all steps have ended, the losses that were not returned yet."""


class _OneByOne:
    """Steps that end before the next one begins."""

    def __init__(self, step: Step) -> None:
        self._step = step

    def begin(self, batch: Mapping[str, tf.Tensor], number: tf.Variable) -> list[float]:
        """Takes the step; returns its loss."""
        return [float(self._step(batch, number))]

    def rest(self) -> list[float]:
        """Returns nothing: no step is under way."""
        return []


class Workers:
    """The processes of one training, of which this is one.

    Args:
        strategy: Strategy of the workers; None where the process is alone.
        index: Index of this worker, in [0, N).
        count: N, number of all workers.
    """

    def __init__(
        self, strategy: tf.distribute.Strategy | None = None, *, index: int = 0, count: int = 1
    ) -> None:
        self.strategy = strategy
        self.index = index
        self.count = count
        self._mean = _mean_over(strategy) if strategy else None

    @property
    def is_chief(self) -> bool:
        """Whether this worker writes."""
        return self.index == 0

    def scope(self) -> contextlib.AbstractContextManager[Any]:
        """Returns the context in which variables are made, so that all workers hold the same."""
        return self.strategy.scope() if self.strategy else contextlib.nullcontext()

    def together(self) -> contextlib.AbstractContextManager[None]:
        """Returns the context of all that needs the other processes."""
        return contextlib.nullcontext()

    def share(self, examples: Examples) -> Examples:
        """Returns this worker's part of every batch."""
        return _Share(examples, self.index, self.count) if self.strategy else examples

    def agreed(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """Returns the mean of each metric over the workers, so that all decide alike."""
        if self._mean is None or not metrics:
            return dict(metrics)
        names = sorted(metrics)
        values = self._mean(tf.constant([metrics[name] for name in names], tf.float32))
        return dict(zip(names, values.numpy().tolist(), strict=True))

    def steps(self, step: Step) -> Steps:
        """Returns how the compiled step is taken: batch, number of the step -> loss."""
        return _OneByOne(step)

    def open_run(self, path: str | os.PathLike[str], settings: Mapping[str, Any]) -> RunDirectory:
        """Opens the run directory: the chief prepares it, then the others read what it holds."""
        if self.is_chief:
            run = RunDirectory(path, settings)
            self.wait_for_all()
            return run
        self.wait_for_all()
        return RunDirectory(path, settings, read_only=True)

    def wait_for_all(self) -> None:
        """Returns when every worker has come here."""
        if self._mean is not None:
            self._mean(tf.constant([0.0]))


def _mean_over(strategy: tf.distribute.Strategy) -> Callable[[tf.Tensor], tf.Tensor]:
    def mean(mine: tf.Tensor) -> tf.Tensor:
        context = tf.distribute.get_replica_context()
        # A copy made here has a device, which an argument of a graph lacks.
        return context.all_reduce(tf.distribute.ReduceOp.MEAN, tf.identity(mine))

    return tf.function(lambda mine: strategy.run(mean, args=(mine,)), reduce_retracing=True)


class _Share:
    """Every N-th example of each batch; what is left of an uneven batch nobody sees."""

    def __init__(self, examples: Examples, index: int, count: int) -> None:
        self.count = examples.count
        self._examples = examples
        self._index = index
        self._workers = count

    def steps_per_epoch(self) -> int:
        """Returns the number of batches of an epoch."""
        return self._examples.steps_per_epoch()

    def epoch(self, number: int, *, skip: int) -> Iterable[dict[str, tf.Tensor]]:
        """Yields this worker's part of the batches of epoch ``number``."""
        for batch in self._examples.epoch(number, skip=skip):
            yield {name: self._part(tensor) for name, tensor in batch.items()}

    def _part(self, tensor: tf.Tensor) -> tf.Tensor:
        whole = int(tensor.shape[0]) // self._workers * self._workers
        return tensor[self._index : whole : self._workers]
