r"""Training with tables that are parted over parameter servers, by workers and a chief.

Each process runs the very same command, with the cluster described in TF_CONFIG:

    export TF_CONFIG='{"cluster": {"chief": ["host0:2222"], "worker": ["host1:2222", "host2:2222"],
                                   "ps": ["host3:2222", "host4:2222"]},
                       "task": {"type": "ps", "index": 0}}'
    python -m models.train_candidate --examples=EXAMPLES --model=MODEL

Embedding tables, and the slots of their optimizers, are parted by rows over the parameter servers
(tf.distribute.ParameterServerStrategy). The chief reads the examples and hands batches to the
workers, which take their steps side by side: the rows of a batch are read, and their gradients
applied, where they are. So N workers are N - 1 steps behind each other's, and two trainings of one
seed are not equal to the bit. Examples and model directory must be on a file system that all
processes mount: each server writes its own part of a checkpoint.

The chief alone holds whole tables, one at a time, when it starts them from counts and when it
measures.

A worker that dies is done without, and taken up when it is back at its address. When a server dies
its rows are gone: the chief ends, and started again, with all servers there, it goes on from the
last checkpoint. Workers and servers run until they are stopped.

Source: Li et al., "Scaling distributed machine learning with the parameter server", OSDI 2014.
"""

import collections
import contextlib
import math
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NoReturn

import tensorflow as tf
from absl import logging

from features import command
from models import embeddings
from models.training.workers import Step, Steps, Workers

CHIEF, WORKER, SERVER = "chief", "worker", "ps"
ROLES = (CHIEF, WORKER, SERVER)
# A part of a table is no larger: initial values go over the network in one message.
_MOST_BYTES = 256 << 20
_LEAST_BYTES = 16 << 10
# Batches in flight per worker: one is worked on while the next one is on its way.
_IN_FLIGHT = 2
_LOST = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.FailedPreconditionError)


class ServerLostError(command.InputError):
    """A parameter server is gone, and its rows with it; the same command may do later."""

    exit_code = 75


def serve(cluster: Mapping[str, Sequence[str]], *, role: str, index: int) -> NoReturn:
    """Is a worker or a parameter server until a signal ends it."""
    tf.config.set_visible_devices([], "GPU")
    settings = tf.compat.v1.ConfigProto()
    # What waits for a server, or for a worker, holds a thread.
    settings.inter_op_parallelism_threads = max(
        os.cpu_count() or 1, sum(map(len, cluster.values())) + 2
    )
    server = tf.distribute.Server(
        tf.train.ClusterSpec(cluster),
        job_name=role,
        task_index=index,
        protocol="grpc",
        config=settings,
    )
    logging.info("%s %d serves at %s until it is stopped.", role, index, server.target)
    while True:
        signal.pause()


class Chief(Workers):
    """The process that reads examples, hands out steps, and writes.

    Args:
        cluster: Addresses by role.
    """

    def __init__(self, cluster: Mapping[str, Sequence[str]]) -> None:
        servers = len(cluster[SERVER])
        resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
            tf.train.ClusterSpec(cluster), task_type=CHIEF, task_id=0, rpc_layer="grpc"
        )
        super().__init__(
            tf.distribute.ParameterServerStrategy(
                resolver, variable_partitioner=lambda shape, dtype: _parts(shape, dtype, servers)
            )
        )
        self._coordinator = tf.distribute.coordinator.ClusterCoordinator(self.strategy)
        self._in_flight = _IN_FLIGHT * len(cluster[WORKER])
        logging.info("Chief of %d workers and %d servers.", len(cluster[WORKER]), servers)

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Turns the loss of a server into one clear error, wherever it is seen."""
        try:
            yield
        except _LOST as error:
            raise ServerLostError(
                f"a parameter server is gone ({error.message.splitlines()[0][:200]}). Start it "
                "again, then this command: it goes on from the last checkpoint."
            ) from None

    def steps(self, step: Step) -> Steps:
        """Returns steps that workers take side by side."""
        return _Scheduled(self._coordinator, step, most=self._in_flight)


def _parts(shape: tf.TensorShape, dtype: tf.DType, servers: int) -> list[int]:
    """Returns into how many parts a variable is cut along each axis: tables by their rows."""
    size = shape.num_elements() * dtype.size
    if not embeddings.is_table() or size < _LEAST_BYTES:
        return [1] * shape.rank
    parts = min(shape[0], servers * math.ceil(size / servers / _MOST_BYTES))
    logging.info("A table of %s has %d parts.", shape.as_list(), parts)
    return [parts, *[1] * (shape.rank - 1)]


class _Scheduled:
    """Steps of several workers; at most ``most`` are not over."""

    def __init__(self, coordinator: Any, step: Step, *, most: int) -> None:
        self._coordinator = coordinator
        self._step = step
        self._most = most
        self._running: collections.deque[Any] = collections.deque()

    def begin(self, batch: Mapping[str, tf.Tensor], number: tf.Variable) -> list[float]:
        """Hands out one step; returns the losses of those that are over."""
        arguments = (batch, number.read_value())
        self._running.append(self._coordinator.schedule(self._step, args=arguments))
        over = []
        while len(self._running) >= self._most:
            over.append(float(self._running.popleft().fetch()))
        return over

    def rest(self) -> list[float]:
        """Waits for all steps; returns the losses that were not returned yet."""
        self._coordinator.join()
        over = [float(one.fetch()) for one in self._running]
        self._running.clear()
        return over
