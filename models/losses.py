"""Losses as pure functions: formulas, shapes, no weights and no files.

Candidate generation is a softmax over the corpus (paper section 3.1),

    P(w = i | u) = exp(s_i) / sum_j exp(s_j),      s_i = <u, v_i> + b_i

whose sum is too long to compute. The sampled losses replace it by a sum over a *multiset* of
videos: the label, plus draws whose expected counts are known. With n_c the number of times that
video c is in the multiset and e_c its expected number of draws, video c enters with

    s_c + log n_c - log e_c

and the loss is the softmax cross-entropy of the label among these. Two things follow.

* Consistency at every sample size. The chance that label y came with this multiset is
  P(y) Pr(n - 1_y), and for independent draws Pr(n - 1_y) is proportional to n_y / e_y. So the
  posterior of the label is the softmax of log P(c) + log n_c - log e_c: the loss is smallest
  where s_c = log P(c) + constant, however few negatives are drawn.
* With many draws n_c / e_c tends to 1, and loss and gradient tend to those of the full softmax.

An *accidental hit*, a draw that is the label itself, is no negative: it leaves the negatives and
counts in the label's n. Leaving it out of the label's count as well, which is common, makes
videos that are drawn often (e_y near 1 or above) diverge.

The ranker's losses are logistic with weights (section 4.2).
"""

from collections.abc import Callable

import tensorflow as tf
import tf_keras

from models.environment import tfrs

_Gradient = Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]

# exp(40) is 2e17 seconds; float32 overflows at exp(88.7).
MAX_LOGIT = 40.0


def full_softmax_loss(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Softmax cross-entropy over all videos.

        loss_i = -s_iy + log sum_c exp(s_ic)

    Args:
        logits: Logits s, float32 [B, V].
        labels: int [B], column of the label.

    Returns:
        Loss of each example, float32 [B], nats.

    Example:
        >>> loss = full_softmax_loss(tf.zeros([1, 4]), tf.constant([2]))  # log 4
        >>> round(float(loss[0]), 4)
        1.3863
    """
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)


def sampled_softmax_loss(
    query_embeddings: tf.Tensor,
    label_embeddings: tf.Tensor,
    negative_embeddings: tf.Tensor,
    *,
    labels: tf.Tensor,
    negatives: tf.Tensor,
    label_log_expected: tf.Tensor,
    negative_log_expected: tf.Tensor,
    negative_counts: tf.Tensor,
) -> tf.Tensor:
    """Softmax cross-entropy of the label against draws that the batch shares.

        a_i  = <u_i, v_y> + log(1 + h_i) - log e_y       h_i: how often label y was drawn
        b_ic = <u_i, v_c> + log n_c - log e_c, or -inf where c = y
        loss_i = -a_i + log(exp(a_i) + sum_c exp(b_ic))

    Args:
        query_embeddings: Query embeddings u, float32 [B, D].
        label_embeddings: Embeddings v_y of the labels, float32 [B, D].
        negative_embeddings: Embeddings v_c of the negatives, float32 [U, D].
        labels: Ids of the labels, int64 [B].
        negatives: int64 [U], the distinct ids that were drawn.
        label_log_expected: log e_y, float32 [B], log of the expected number of draws.
        negative_log_expected: log e_c of the negatives, float32 [U].
        negative_counts: Number of draws n_c of each negative, int32 [U], 1 or more.

    Returns:
        Loss of each example, float32 [B], nats.

    Example:
        >>> label, drawn = tf.constant([1], tf.int64), tf.constant([2, 3], tf.int64)
        >>> loss = sampled_softmax_loss(  # All alike, each drawn as often as expected: log 3
        ...     *(tf.zeros([1, 2]), tf.zeros([1, 2]), tf.zeros([2, 2])), labels=label,
        ...     negatives=drawn, label_log_expected=tf.zeros(1), negative_log_expected=tf.zeros(2),
        ...     negative_counts=tf.constant([1, 1]))
        >>> round(float(loss[0]), 4)
        1.0986

    Source: Covington et al., RecSys 2016, section 3.1, and its reference Jean et al. 2014; the
    counting of hits is ours, see the module.
    """
    counts = tf.cast(negative_counts, tf.float32)
    hit_rows, hit_columns = _accidental_hits(labels, negatives)
    hits = tf.scatter_nd(
        hit_rows[:, tf.newaxis], tf.gather(counts, hit_columns), tf.shape(labels, tf.int64)
    )
    positive = tf.reduce_sum(query_embeddings * label_embeddings, axis=1)
    positive += tf.math.log1p(hits) - label_log_expected
    negative = _corrected_logits(
        query_embeddings, negative_embeddings, tf.math.log(counts) - negative_log_expected
    )
    negative = tf.tensor_scatter_nd_update(
        negative,
        tf.stack([hit_rows, hit_columns], axis=1),
        tf.fill(tf.shape(hit_rows), -float("inf")),
    )
    return _cross_entropy(positive, negative)


def _accidental_hits(labels: tf.Tensor, negatives: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns row and column, int64 [H], of each (label, negative) pair that is one video."""
    # The negatives are distinct, so they keep their places; a label that is among them gets
    # the place of its twin. Comparing all pairs costs more than the softmax.
    _, places = tf.unique(tf.concat([negatives, labels], axis=0), out_idx=tf.int64)
    num_negatives = tf.size(negatives, tf.int64)
    columns = places[num_negatives:]
    rows = tf.where(columns < num_negatives)[:, 0]
    return rows, tf.gather(columns, rows)


def _corrected_logits(
    query_embeddings: tf.Tensor, video_embeddings: tf.Tensor, correction: tf.Tensor
) -> tf.Tensor:
    """Returns <u_i, v_c> + correction_c, float32 [B, U]."""
    # As one more column of the embeddings the correction costs no pass over [B, U].
    one = tf.ones_like(query_embeddings[:, :1])
    queries = tf.concat([query_embeddings, one], axis=1)
    videos = tf.concat([video_embeddings, correction[:, tf.newaxis]], axis=1)
    return tf.matmul(queries, videos, transpose_b=True)


@tf.custom_gradient
def _cross_entropy(positive: tf.Tensor, negative: tf.Tensor) -> tuple[tf.Tensor, _Gradient]:
    """-a + log(exp(a) + sum_c exp(b_c)), in as few passes over [B, U] as possible.

    Args:
        positive: Logits a of the labels, float32 [B], finite.
        negative: Logits b of the negatives, float32 [B, U]; may be -inf.
    """
    largest = tf.maximum(tf.reduce_max(negative, axis=1), positive)
    weights = tf.exp(negative - largest[:, tf.newaxis])
    own_weight = tf.exp(positive - largest)
    total = own_weight + tf.reduce_sum(weights, axis=1)

    def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        share = upstream / total
        return own_weight * share - upstream, weights * share[:, tf.newaxis]

    return tf.math.log(total) + largest - positive, gradient


def in_batch_softmax_loss(
    query_embeddings: tf.Tensor, label_embeddings: tf.Tensor, *, log_probabilities: tf.Tensor
) -> tf.Tensor:
    """Softmax cross-entropy of each label among the labels of its batch, through TFRS.

        s_ij = <q_i, v_j> - log p_j
        loss_i = -s_ii + log sum_j exp(s_ij)

    A label that the batch holds n times stands n times in the sum, which is the multiset of the
    module: a repeated label is never pushed away from its own query.

    The correction travels as one more column of the embeddings: TFRS' own clips p at 1e-6, which
    is wrong for most videos of a corpus above a million.

    Args:
        query_embeddings: Query embeddings, float32 [B, D].
        label_embeddings: Label embeddings, float32 [B, D]; row i is the label of query i.
        log_probabilities: log p, float32 [B], chance that an example's label is this video.

    Returns:
        Loss of each example, float32 [B], nats.

    Example:
        >>> same, log_p = tf.zeros([4, 2]), tf.math.log(tf.fill([4], 0.25))
        >>> loss = in_batch_softmax_loss(same, same, log_probabilities=log_p)
        >>> round(float(tf.reduce_mean(loss)), 4)  # log 4
        1.3863

    Source: Yi et al., RecSys 2019, section 3.
    """
    one = tf.ones_like(log_probabilities)[:, tf.newaxis]
    queries = tf.concat([query_embeddings, one], axis=1)
    videos = tf.concat([label_embeddings, -log_probabilities[:, tf.newaxis]], axis=1)
    per_row = tf_keras.losses.CategoricalCrossentropy(
        from_logits=True, reduction=tf_keras.losses.Reduction.NONE
    )
    task = tfrs.tasks.Retrieval(loss=per_row)
    return task(queries, videos, compute_metrics=False, compute_batch_metrics=False)


def mean(values: tf.Tensor) -> tf.Tensor:
    """Returns the mean of float32 [B], 0 where B is 0.

    Example:
        >>> float(mean(tf.constant([1.0, 2.0]))), float(mean(tf.constant([])))
        (1.5, 0.0)
    """
    return tf.reduce_sum(values) / tf.maximum(tf.cast(tf.size(values), tf.float32), 1.0)


def weighted_logistic_loss(
    logits: tf.Tensor, clicked: tf.Tensor, watch_time_s: tf.Tensor
) -> tf.Tensor:
    """The paper's loss: clicked impressions weigh their watch seconds T, others 1.

        loss = T log(1 + exp(-x)) if clicked, else log(1 + exp(x))

    Smallest at odds exp(x) = sum T / (N - k), N impressions of which k clicked: expected watch
    time per impression, E[T], divided by 1 - P. At a click rate P = k / N near 0 that is E[T].

    Args:
        logits: Logits x, float32 [B].
        clicked: Whether each impression was clicked, float32 [B], 0 or 1.
        watch_time_s: T, float32 [B], seconds, 0 or more; read where clicked.

    Returns:
        Loss of each impression, float32 [B].

    Example:
        >>> clicked, seconds = tf.constant([1.0, 0.0]), tf.constant([10.0, 0.0])
        >>> loss = weighted_logistic_loss(tf.zeros(2), clicked, seconds)  # 10 log 2, log 2
        >>> [round(value, 4) for value in loss.numpy().tolist()]
        [6.9315, 0.6931]

    Source: Covington et al., RecSys 2016, section 4.2.
    """
    return clicked * watch_time_s * tf.nn.softplus(-logits) + (1.0 - clicked) * tf.nn.softplus(
        logits
    )


def exact_watch_time_loss(
    logits: tf.Tensor, clicked: tf.Tensor, watch_time_s: tf.Tensor
) -> tf.Tensor:
    """As :func:`weighted_logistic_loss`, but each click is a negative of weight 1 besides.

        loss = [clicked] T log(1 + exp(-x)) + log(1 + exp(x))

    Smallest at odds exp(x) = sum T / N = E[T], at any click rate.

    Example:
        >>> clicked, seconds = tf.constant([1.0, 0.0]), tf.constant([10.0, 0.0])
        >>> loss = exact_watch_time_loss(tf.zeros(2), clicked, seconds)  # 11 log 2, log 2
        >>> [round(value, 4) for value in loss.numpy().tolist()]
        [7.6246, 0.6931]
    """
    return clicked * watch_time_s * tf.nn.softplus(-logits) + tf.nn.softplus(logits)


def logistic_loss(logits: tf.Tensor, clicked: tf.Tensor, watch_time_s: tf.Tensor) -> tf.Tensor:
    """Plain logistic loss: clicked or not, watch time unread. Smallest at odds P / (1 - P).

    Example:
        >>> loss = logistic_loss(tf.zeros(1), tf.ones(1), tf.fill([1], 10.0))  # log 2
        >>> round(float(loss[0]), 4)
        0.6931
    """
    del watch_time_s
    return clicked * tf.nn.softplus(-logits) + (1.0 - clicked) * tf.nn.softplus(logits)


def same_user_pair_loss(
    logits: tf.Tensor, clicked: tf.Tensor, watch_time_s: tf.Tensor, users: tf.Tensor
) -> tf.Tensor:
    """Logistic loss of the order within a user, what section 4.3 of the paper measures.

        loss_i = [clicked] T_i sum_j log(1 + exp(x_j - x_i)) / n_i

    The sum is over the unclicked impressions j that the batch has of the same user, n_i is how
    many impressions of that user it has. What moves all of a user's logits alike moves nothing.

    Args:
        logits: Logits x, float32 [B].
        clicked: Whether each impression was clicked, float32 [B], 0 or 1.
        watch_time_s: T, float32 [B], seconds, 0 or more; read where clicked.
        users: int [B], a code for each user.

    Returns:
        float32 [B], 0 where not clicked. Memory grows with B squared.

    Example:
        >>> clicked, seconds = tf.constant([1.0, 0.0, 0.0]), tf.constant([10.0, 0.0, 0.0])
        >>> loss = same_user_pair_loss(tf.zeros(3), clicked, seconds, tf.constant([7, 7, 8]))
        >>> [round(value, 4) for value in loss.numpy().tolist()]  # 10 log 2 / 2
        [3.4657, 0.0, 0.0]

    Sources: Burges et al., ICML 2005, "Learning to Rank using Gradient Descent", for the loss of
    a pair; Sculley, KDD 2010, "Combined Regression and Ranking", for adding it to a loss of rows.
    """
    same = tf.cast(tf.equal(users[:, tf.newaxis], users[tf.newaxis, :]), tf.float32)
    rivals = same * (1.0 - clicked)[tf.newaxis, :]
    lost = tf.nn.softplus(logits[tf.newaxis, :] - logits[:, tf.newaxis])
    shares = tf.reduce_sum(rivals * lost, axis=1) / tf.reduce_sum(same, axis=1)
    return clicked * watch_time_s * shares


def expected_watch_time_s(logits: tf.Tensor) -> tf.Tensor:
    """Returns exp(x), float32, finite: x counts as at most :data:`MAX_LOGIT`.

    Example:
        >>> round(float(expected_watch_time_s(tf.math.log(60.0))), 3)
        60.0
    """
    return tf.exp(tf.minimum(logits, MAX_LOGIT))
