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

import tensorflow as tf
import tf_keras

from models.environment import tfrs

# exp(40) is 2e17 seconds; float32 overflows at exp(88.7).
MAX_LOGIT = 40.0


def full_softmax_loss(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Softmax cross-entropy over all videos.

        loss_i = -s_iy + log sum_c exp(s_ic)

    Args:
        logits: s, float32 [B, V].
        labels: int [B], column of the label.

    Returns:
        float32 [B], nats.
    """
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)


def sampled_softmax_loss(
    label_logits: tf.Tensor,
    negative_logits: tf.Tensor,
    *,
    labels: tf.Tensor,
    negatives: tf.Tensor,
    label_log_expected: tf.Tensor,
    negative_log_expected: tf.Tensor,
    negative_counts: tf.Tensor,
) -> tf.Tensor:
    """Softmax cross-entropy of the label against draws that the batch shares.

        a_i  = s_iy + log(1 + h_i) - log e_y             h_i: how often label y was drawn
        b_ic = s_ic + log n_c - log e_c, or -inf where c = y
        loss_i = -a_i + log(exp(a_i) + sum_c exp(b_ic))

    Args:
        label_logits: s_iy, float32 [B].
        negative_logits: s_ic, float32 [B, U].
        labels: int64 [B], ids.
        negatives: int64 [U], the distinct ids that were drawn.
        label_log_expected: log e_y, float32 [B], log of the expected number of draws.
        negative_log_expected: log e_c, float32 [U].
        negative_counts: n_c, int [U], 1 or more.

    Returns:
        float32 [B], nats.

    Source: Covington et al., RecSys 2016, section 3.1, and its reference Jean et al. 2014; the
    counting of hits is ours, see the module.
    """
    counts = tf.cast(negative_counts, tf.float32)
    hit = labels[:, tf.newaxis] == negatives[tf.newaxis, :]
    hits = tf.linalg.matvec(tf.cast(hit, tf.float32), counts)
    positive = label_logits + tf.math.log1p(hits) - label_log_expected
    corrected = negative_logits + (tf.math.log(counts) - negative_log_expected)[tf.newaxis, :]
    masked = tf.where(hit, -float("inf"), corrected)
    logits = tf.concat([positive[:, tf.newaxis], masked], axis=1)
    return full_softmax_loss(logits, tf.zeros_like(labels, tf.int32))


def counted_softmax_loss(
    logits: tf.Tensor,
    *,
    label_columns: tf.Tensor,
    counts: tf.Tensor,
    log_expected: tf.Tensor,
) -> tf.Tensor:
    """Softmax cross-entropy where label and negatives come from one shared multiset.

        loss_i = -(s_iy + log n_y - log e_y) + log sum_c exp(s_ic + log n_c - log e_c)

    For the mixed loss: the multiset is all labels of the batch and the sampled negatives, so
    e_c = (B - 1) p_c + S q_c. Each row's own label is in it, hence hits need no mask.

    Args:
        logits: s, float32 [B, U], over the distinct videos of the multiset.
        label_columns: int [B], the column of each label.
        counts: n, int [U], 1 or more.
        log_expected: log e, float32 [U].

    Returns:
        float32 [B], nats.
    """
    correction = tf.math.log(tf.cast(counts, tf.float32)) - log_expected
    return full_softmax_loss(logits + correction[tf.newaxis, :], label_columns)


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
        query_embeddings: float32 [B, D].
        label_embeddings: float32 [B, D]; row i is the label of query i.
        log_probabilities: log p, float32 [B], chance that an example's label is this video.

    Returns:
        float32 [B], nats.

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
    """Returns the mean of float32 [B], 0 where B is 0."""
    return tf.reduce_sum(values) / tf.maximum(tf.cast(tf.size(values), tf.float32), 1.0)


def weighted_logistic_loss(
    logits: tf.Tensor, clicked: tf.Tensor, watch_time_s: tf.Tensor
) -> tf.Tensor:
    """The paper's loss: clicked impressions weigh their watch seconds T, others 1.

        loss = T log(1 + exp(-x)) if clicked, else log(1 + exp(x))

    Smallest at odds exp(x) = sum T / (N - k), N impressions of which k clicked: expected watch
    time per impression, E[T], divided by 1 - P. At a click rate P = k / N near 0 that is E[T].

    Args:
        logits: x, float32 [B].
        clicked: float32 [B], 0 or 1.
        watch_time_s: T, float32 [B], seconds, 0 or more; read where clicked.

    Returns:
        float32 [B].

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
    """
    return clicked * watch_time_s * tf.nn.softplus(-logits) + tf.nn.softplus(logits)


def logistic_loss(logits: tf.Tensor, clicked: tf.Tensor, watch_time_s: tf.Tensor) -> tf.Tensor:
    """Plain logistic loss: clicked or not, watch time unread. Smallest at odds P / (1 - P)."""
    del watch_time_s
    return clicked * tf.nn.softplus(-logits) + (1.0 - clicked) * tf.nn.softplus(logits)


def expected_watch_time_s(logits: tf.Tensor) -> tf.Tensor:
    """Returns exp(x), float32, finite: x counts as at most :data:`MAX_LOGIT`."""
    return tf.exp(tf.minimum(logits, MAX_LOGIT))
