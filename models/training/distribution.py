r"""Training by several processes that run the very same command, with their cluster in TF_CONFIG.

Workers alone hold a copy of every table each, and see one part of every batch each:

    export TF_CONFIG='{"cluster": {"worker": ["host0:2222", "host1:2222"]},
                       "task": {"type": "worker", "index": 0}}'
    python -m models.train_candidate --examples=EXAMPLES --model=MODEL

Gradients are summed over the workers (tf.distribute.MultiWorkerMirroredStrategy), so N workers
take the steps that one would take with the same --batch_size; sparse gradients stay sparse, their
rows are gathered. Examples and model directory must be on a file system that all workers mount:
worker 0, the chief, is the only one that writes, and after a failure all go on from its
checkpoint when they are started again.

With parameter servers tables are parted: :mod:`models.training.parameter_servers`.
"""

import json
import os
from typing import Any

import tensorflow as tf
from absl import logging

from features import command
from models.training import parameter_servers
from models.training.parameter_servers import CHIEF, SERVER, WORKER
from models.training.workers import Workers

_VARIABLE = "TF_CONFIG"


def from_environment() -> Workers:
    """Joins the processes of TF_CONFIG; must come before anything else that TensorFlow runs.

    Does not return where this process is a worker of a chief, or a parameter server.

    Raises:
        command.InputError: TF_CONFIG cannot be read, or names roles that this training lacks.
    """
    text = os.environ.get(_VARIABLE, "")
    if not text:
        return Workers()
    try:
        described = json.loads(text)
        cluster = {role: list(addresses) for role, addresses in described["cluster"].items()}
        role, index = described["task"]["type"], int(described["task"]["index"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise command.InputError(
            f"{_VARIABLE} must be a JSON object with cluster (lists of host:port by role) and "
            f"task.type and task.index, got {text!r} ({error!r})."
        ) from None
    if set(cluster) not in ({WORKER}, {CHIEF, WORKER, SERVER}) or not all(cluster.values()):
        raise command.InputError(
            f"{_VARIABLE} must have the role {WORKER!r} alone, or {CHIEF!r}, {WORKER!r} and "
            f"{SERVER!r}, each with an address, got {cluster}."
        )
    if not 0 <= index < len(cluster.get(role, [])) or len(cluster.get(CHIEF, "1")) > 1:
        raise command.InputError(
            f"{_VARIABLE} must name one {CHIEF} at most, and a task of the cluster, got "
            f"{role!r} {index} of {cluster}."
        )
    if role == CHIEF:
        return parameter_servers.Chief(cluster)
    if SERVER in cluster:
        parameter_servers.serve(cluster, role=role, index=index)
    if len(cluster[WORKER]) == 1:
        return Workers()
    options = tf.distribute.experimental.CommunicationOptions(
        implementation=tf.distribute.experimental.CommunicationImplementation.RING
    )
    strategy = tf.distribute.MultiWorkerMirroredStrategy(communication_options=options)
    logging.info("Worker %d of %d.", index, len(cluster[WORKER]))
    return Workers(strategy, index=index, count=len(cluster[WORKER]))


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
