r"""Training by several processes, one replica each, that see one part of every batch each.

Each worker runs the very same command, with the cluster described in TF_CONFIG:

    export TF_CONFIG='{"cluster": {"worker": ["host0:2222", "host1:2222"]},
                       "task": {"type": "worker", "index": 0}}'
    python -m models.train_candidate --examples=EXAMPLES --model=MODEL

Gradients are summed over the workers (tf.distribute.MultiWorkerMirroredStrategy), so N workers
take the steps that one would take with the same --batch_size; sparse gradients stay sparse, their
rows are gathered. Examples and model directory must be on a file system that all workers mount:
worker 0, the chief, is the only one that writes, and after a failure all go on from its
checkpoint when they are started again.
"""

import contextlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import tensorflow as tf
from absl import logging

from features import command
from models.training.batches import Examples
from models.training.checkpoints import RunDirectory

_VARIABLE = "TF_CONFIG"
_WORKER = "worker"


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


def from_environment() -> Workers:
    """Joins the workers of TF_CONFIG; must come before anything else that TensorFlow runs.

    Raises:
        command.InputError: TF_CONFIG cannot be read, or names roles that this training lacks.
    """
    text = os.environ.get(_VARIABLE, "")
    if not text:
        return Workers()
    try:
        described = json.loads(text)
        addresses = list(described["cluster"][_WORKER])
        others = sorted(set(described["cluster"]) - {_WORKER})
        role, index = described["task"]["type"], int(described["task"]["index"])
    except (ValueError, KeyError, TypeError) as error:
        raise command.InputError(
            f"{_VARIABLE} must be a JSON object with cluster.worker (a list of host:port) and "
            f"task.type and task.index, got {text!r} ({error!r})."
        ) from None
    if others or role != _WORKER or not 0 <= index < len(addresses):
        raise command.InputError(
            f"{_VARIABLE} must have the role {_WORKER!r} alone and an index in "
            f"[0, {len(addresses)}), got roles {[_WORKER, *others]}, task {role!r} {index}."
        )
    if len(addresses) == 1:
        return Workers()
    options = tf.distribute.experimental.CommunicationOptions(
        implementation=tf.distribute.experimental.CommunicationImplementation.RING
    )
    strategy = tf.distribute.MultiWorkerMirroredStrategy(communication_options=options)
    logging.info("Worker %d of %d.", index, len(addresses))
    return Workers(strategy, index=index, count=len(addresses))


def summed(gradients: list[Any]) -> list[Any]:
    """Returns the sum of each gradient over the workers; None stays None.

    Called inside a replica. Rows of sparse gradients are put together, not added up: that the
    optimizer does.
    """
    context = tf.distribute.get_replica_context()
    given = [
        g if g is None or isinstance(g, tf.IndexedSlices) else tf.identity(g) for g in gradients
    ]
    given = [g for g in given if g is not None]
    totals = iter(context.all_reduce(tf.distribute.ReduceOp.SUM, given))
    return [None if g is None else next(totals) for g in gradients]
