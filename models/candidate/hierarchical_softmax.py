"""Hierarchical softmax: the alternative to sampling that the paper tried and left.

The videos are the leaves of a binary tree, and a path is a chain of decisions, each a logistic
regression on the query's embedding u:

    P(i | u) = prod over the nodes n on the way to i of sigmoid(+- (<u, w_n> + b_n))

A step costs log2(V) products of vectors per example instead of V, and the probabilities sum to 1
without a correction. But a node separates sets of videos that are often unrelated, which no
vector does well, and log P is no inner product, so no nearest-neighbour index can serve it.

The tree is a heap: node n has the children 2 n and 2 n + 1, the inner nodes are 1 to V - 1, the
leaf of id i is V - 1 + i. So it is balanced, the path is a matter of shifting bits, and since
vocabularies are ordered by frequency, neighbours are about equally popular and popular videos
are never deeper than rare ones.

Source: Morin & Bengio, AISTATS 2005; Covington et al., RecSys 2016, section 3.1.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import tensorflow as tf

# A probability per video and query is computed in full, and a video's embedding is as long as the
# vocabulary.
MAX_VIDEOS = 20_000


def loss(
    queries: tf.Tensor,
    labels: tf.Tensor,
    *,
    num_videos: int,
    nodes_of: Callable[[tf.Tensor], tf.Tensor],
) -> tf.Tensor:
    """Returns -log P of each label.

    Args:
        queries: u and a 1, float32 [B, D + 1].
        labels: Ids of the labels, int [B], from 1 to V.
        num_videos: V, number of videos, the leaves of the tree.
        nodes_of: Function from inner nodes, int64 [N], to w_n and b_n, float32 [N, D + 1]; zero for
            0.

    Returns:
        Loss of each example, float32 [B], nats.
    """
    leaf = tf.cast(labels, tf.int64) + (num_videos - 1)
    shifts = tf.range(max(1, (2 * num_videos - 1).bit_length() - 1), dtype=tf.int64)
    # [B, L]: the node of each decision, 0 above the root, and which child it was.
    nodes = tf.bitwise.right_shift(leaf[:, tf.newaxis], shifts[tf.newaxis] + 1)
    right = tf.bitwise.right_shift(leaf[:, tf.newaxis], shifts[tf.newaxis]) % 2
    distinct, places = tf.unique(tf.reshape(nodes, [-1]))
    vectors = tf.reshape(
        tf.gather(nodes_of(distinct), places), [*tf.unstack(tf.shape(nodes)), queries.shape[1]]
    )
    scores = tf.einsum("bd,bld->bl", queries, vectors)
    sign = 1.0 - 2.0 * tf.cast(right, tf.float32)
    taken = tf.cast(nodes > 0, tf.float32)
    return tf.reduce_sum(taken * tf.nn.softplus(-sign * scores), axis=1)


def log_probabilities(queries: tf.Tensor, nodes: tf.Tensor, *, num_videos: int) -> tf.Tensor:
    """Returns log P of every video by walking down the whole tree, level by level.

    Args:
        queries: u and a 1, float32 [B, D + 1].
        nodes: w_n and b_n of inner nodes 1 to V - 1, float32 [V - 1, D + 1].
        num_videos: V, number of videos, the leaves of the tree.

    Returns:
        float32 [B, V], column i - 1 is id i.
    """
    scores = tf.matmul(queries, nodes, transpose_b=True)
    level = tf.zeros([tf.shape(queries)[0], 1])
    first, leaves = 1, []
    while first < 2 * num_videos:
        # The level holds nodes `first` to `last`; from V on they are leaves.
        last = min(2 * first, 2 * num_videos)
        inner = min(max(num_videos - first, 0), last - first)
        leaves.append(level[:, inner:])
        mine = scores[:, first - 1 : first - 1 + inner]
        children = tf.stack(
            [
                level[:, :inner] + tf.math.log_sigmoid(mine),
                level[:, :inner] + tf.math.log_sigmoid(-mine),
            ],
            axis=2,
        )
        if not inner:
            break
        level = tf.reshape(children, [-1, 2 * inner])
        first *= 2
    return tf.concat(leaves, axis=1)


def popularity_biases(label_counts: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """Returns b_n that give each video its share of the labels at w = 0.

    Args:
        label_counts: int64 [V], of id 1 to V. One is added to each, so that none is impossible.

    Returns:
        float32 [V - 1], of node 1 to V - 1.
    """
    num_videos = len(label_counts)
    sums = np.zeros(2 * num_videos)
    sums[num_videos:] = np.asarray(label_counts) + 1.0
    level = 1 << (2 * num_videos - 1).bit_length()
    while level > 1:
        level //= 2
        parents = np.arange(level // 2, min(level, num_videos))
        sums[parents] = sums[2 * parents] + sums[2 * parents + 1]
    inner = np.arange(1, num_videos)
    return np.log(sums[2 * inner] / sums[2 * inner + 1]).astype(np.float32)
