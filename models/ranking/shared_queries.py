"""Rows of one page have one query: what the model makes of it is made once, in training too.

All impressions of a page have the features of the page's start, so rows of a page that stand next
to each other differ in their videos alone. Which rows do is read off the features themselves, not
off page ids: the model then gives what it would give row by row, whatever a batch holds.
"""

from collections.abc import Collection

import tensorflow as tf

from models.embeddings import Tensors


def distinct(rows: Tensors, columns: Collection[str]) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
    """Returns the queries of a batch, each run of equal ones once.

    Args:
        rows: Transformed features by name, leading dimension N, 1 or more.
        columns: Names of the query's columns; others are left out.

    Returns:
        The columns, leading dimension Q; int32 [N], ascending: which query is each row's.
    """
    changes = [
        tf.reduce_any(values[1:] != values[:-1], axis=list(range(1, values.shape.rank)))
        for values in (tf.convert_to_tensor(rows[name]) for name in columns)
    ]
    is_first = tf.concat([[True], tf.reduce_any(tf.stack(changes), axis=0)], axis=0)
    places = tf.cumsum(tf.cast(is_first, tf.int32)) - 1
    firsts = tf.where(is_first)[:, 0]
    return {name: tf.gather(rows[name], firsts) for name in columns}, places
