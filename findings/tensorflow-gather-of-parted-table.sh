#!/usr/bin/env bash
# TensorFlow, parameter servers: tf.gather gives the rows of a parted table in another order
#
# Packages   tensorflow 2.21.0, numpy 2.4.6
#
# Expected   tf.gather(table, [5, 0, 3]) answers rows 5, 0 and 3, in this order, whether the table is
#            one variable or was parted by rows over parameter servers, as it does for a tensor.
# Seen       Of a variable that ParameterServerStrategy parted, the rows come part by part: those of
#            the first server in the order of their ids among themselves, then those of the second.
#            Nothing is missing and the shape is right. Ascending ids, and ids that all lie in one
#            part, come out right. tf.nn.embedding_lookup of the same table keeps the order, and so
#            does tf.gather where the ids are a Python list: then it copies the whole table first.
# Matters    Embeddings of a batch belong to other examples, so that a model learns half nonsense
#            without an error. With popular items first in the vocabulary, as is usual, small tests
#            touch the first part alone and pass.
# Pointer    ShardedVariableMixin.sparse_read in tensorflow/python/distribute/sharded_variable.py
#            joins what the parts answer; its embedding_lookup puts the rows back in their places.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check --only-binary :all: --no-compile \
    tensorflow==2.21.0 numpy==2.4.6

cat > "$work/show.py" <<'PY'
import socket
from importlib.metadata import version

import tensorflow as tf

print("tensorflow", version("tensorflow"))


def free_ports(number):
    sockets = [socket.socket() for _ in range(number)]
    for one in sockets:
        one.bind(("localhost", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


first, second, third = (f"localhost:{port}" for port in free_ports(3))
cluster = tf.train.ClusterSpec({"worker": [first], "ps": [second, third]})
servers = [
    tf.distribute.Server(cluster, job_name=role, task_index=index, protocol="grpc")
    for role, index in (("worker", 0), ("ps", 0), ("ps", 1))
]
strategy = tf.distribute.ParameterServerStrategy(
    tf.distribute.cluster_resolver.SimpleClusterResolver(cluster, rpc_layer="grpc"),
    variable_partitioner=tf.distribute.experimental.partitioners.FixedShardsPartitioner(2),
)
with strategy.scope():
    table = tf.Variable(tf.range(6.0)[:, tf.newaxis])  # Row i holds i.
print("parts", [part.shape.as_list() for part in table.variables])


def rows(values):
    return [int(value) for value in tf.reshape(values, [-1])]


for ids, seen in (
    ([5, 0, 3], [0, 5, 3]),
    ([4, 1, 4, 0], [1, 0, 4, 4]),
    ([0, 3, 5], [0, 3, 5]),
    ([2, 0, 1], [2, 0, 1]),
):
    gathered = rows(tf.gather(table, tf.constant(ids)))
    looked_up = rows(tf.nn.embedding_lookup(table, tf.constant(ids)))
    of_list = rows(tf.gather(table, ids))
    print(f"{ids!s:14} gather {gathered}, embedding_lookup {looked_up}, gather by a list {of_list}")
    assert gathered == seen
    assert looked_up == of_list == ids
# In a step of a training it is the same.
step = tf.function(lambda ids: tf.gather(table, ids))
assert rows(step(tf.constant([5, 0, 3]))) == [0, 5, 3]
PY
export TF_CPP_MIN_LOG_LEVEL=3 CUDA_VISIBLE_DEVICES=-1
"$work/venv/bin/python" "$work/show.py" 2> "$work/log" || { cat "$work/log" >&2; exit 1; }
echo "as described"
