"""Which videos are drawn as negatives, how often, and the proof that the two agree.

A sampled softmax is right only if the correction (log of expected counts) describes the draws
that really happen. So sampler and correction come from one table of cumulative probabilities,
and :func:`check` compares the gradient they give with the exact one before a training starts.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from models import losses

_CHECK_ROUNDS = 24
_CHECK_DRAWS = 16_384
_CHECK_WIDTH = 8
_CHECK_QUERIES = 4
# Of the gradient's length. Sampling noise is allowed for on top; a wrong q gives 0.05 and more.
_TOLERANCE = 0.02
_STANDARD_ERRORS = 6.0


class SamplerError(Exception):
    """The draws of a sampler do not follow the probabilities that its correction assumes."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Draw:
    """Negatives of one step: S draws with replacement, each video once with its count.

    Attributes:
        ids: Ids of the drawn videos, int64 [U], distinct, from 1.
        counts: Number of draws of each, int32 [U], 1 or more; their sum is S.
        log_expected: float32 [U], log(S q), log of the expected count.
    """

    ids: tf.Tensor
    counts: tf.Tensor
    log_expected: tf.Tensor


class NegativeSampler:
    """Draws video ids with replacement from a fixed distribution q.

    A draw looks up a uniform number in the cumulative sums of q, O(log V). The q of the
    correction are the differences of these very sums.

    Args:
        probabilities: float64 [V], q of id 1 to V; 0 or more, with a sum above 0. An id with
            q = 0 is never drawn.
        num_draws: S, draws per step.
        seed: Draws are a function of this and the step, so a resumed training repeats them.
    """

    def __init__(
        self, probabilities: npt.NDArray[np.float64], *, num_draws: int, seed: int = 0
    ) -> None:
        q = np.asarray(probabilities, np.float64)
        if q.ndim != 1 or not q.size or not np.isfinite(q).all() or (q < 0).any() or not q.any():
            raise ValueError("probabilities must be finite, 0 or more, and not all 0.")
        sums = np.cumsum(q)
        cumulative = sums / sums[-1]
        exact = np.diff(cumulative, prepend=0.0)
        log_q = np.log(np.maximum(exact, np.finfo(np.float64).tiny))
        self.num_videos = len(q)
        self.num_draws = num_draws
        self._seed = seed
        self._cumulative = tf.constant(cumulative, tf.float64)
        # Row 0, out of vocabulary, is never drawn; its entry only keeps rows and ids aligned.
        self._log_q = tf.constant(np.concatenate([[0.0], log_q]), tf.float32)

    def log_probabilities(self, ids: tf.Tensor) -> tf.Tensor:
        """Returns log q of ids, float32, same shape; 0 for id 0."""
        return tf.gather(self._log_q, ids)

    def log_expected(self, ids: tf.Tensor) -> tf.Tensor:
        """Returns log(S q) of ids, float32: the log of the expected count per step."""
        return self.log_probabilities(ids) + float(np.log(self.num_draws))

    def draw_ids(self, step: tf.Tensor) -> tf.Tensor:
        """Returns the S draws of a step, int64 [S], ascending, repeats included."""
        seed = tf.stack([tf.constant(self._seed, tf.int64), tf.cast(step, tf.int64)])
        uniform = tf.random.stateless_uniform([self.num_draws], seed=seed, dtype=tf.float64)
        # In order, so that neighbours are found, and their rows then read, near each other.
        rows = tf.searchsorted(self._cumulative, tf.sort(uniform), side="right", out_type=tf.int64)
        # A uniform number just below 1 may be rounded up to the last sum, which is 1.
        return tf.minimum(rows, self.num_videos - 1) + 1

    def draw(self, step: tf.Tensor) -> Draw:
        """Returns the negatives of a step."""
        ids, _, counts = tf.unique_with_counts(self.draw_ids(step))
        return Draw(ids=ids, counts=counts, log_expected=self.log_expected(ids))


def background(
    label_counts: npt.NDArray[np.int64], *, power: float = 1.0, smoothing: float = 1.0
) -> npt.NDArray[np.float64]:
    """Returns q from how often each video was watched: (count + smoothing)^power, normalised.

    Args:
        label_counts: Number of times that each video is a label, int64 [V], of id 1 to V.
        power: 1 is the background distribution of the paper, 0 is uniform.
        smoothing: Addend to each label count, so that videos that are no label can be negatives
            too.

    Returns:
        Probabilities q, float64 [V], sum 1.
    """
    weights = (np.asarray(label_counts, np.float64) + smoothing) ** power
    total = weights.sum()
    if not total > 0:
        raise ValueError("label_counts must hold a count above 0 where smoothing is 0.")
    return weights / total


def check(sampler: NegativeSampler, *, seed: int = 0) -> float:
    """Compares the sampled gradient with that of the full softmax; refuses a sampler that is off.

    On random embeddings of this very corpus, with scores near log q, the mean sampled gradient
    with respect to the queries must equal the exact one up to sampling noise. Costs less than a
    second at a million videos.

    Args:
        sampler: Sampler whose ``draw_ids`` and ``log_expected`` are compared.
        seed: Seed of the embeddings.

    Returns:
        Length of the difference as a share of the exact gradient's length.

    Raises:
        SamplerError: The difference is beyond noise and 2%.
    """
    rng = np.random.default_rng(seed)
    log_q = sampler.log_probabilities(tf.range(1, sampler.num_videos + 1, dtype=tf.int64)).numpy()
    drawable = np.flatnonzero(log_q > np.log(np.finfo(np.float32).tiny))
    videos = rng.standard_normal((sampler.num_videos, _CHECK_WIDTH)).astype(np.float32)
    queries = 0.3 * rng.standard_normal((_CHECK_QUERIES, _CHECK_WIDTH)).astype(np.float32)
    labels = rng.choice(drawable, _CHECK_QUERIES)
    exact = _exact_gradient(queries, videos, log_q, labels)
    draws_of = tf.function(lambda numbers: tf.map_fn(sampler.draw_ids, numbers))
    rounds = [
        _sampled_gradient(sampler, queries, videos, labels, round_number=i, draws_of=draws_of)
        for i in range(_CHECK_ROUNDS)
    ]
    difference = np.linalg.norm(np.mean(rounds, axis=0) - exact)
    noise = np.sqrt(np.sum(np.var(rounds, axis=0, ddof=1)) / len(rounds))
    length = np.linalg.norm(exact)
    if not difference <= _TOLERANCE * length + _STANDARD_ERRORS * noise:
        raise SamplerError(
            f"The sampled softmax gradient is off by {difference / length:.3f} of its length "
            f"(sampling noise explains {noise / length:.4f}): the sampler's draws do not follow "
            "the probabilities that its correction subtracts."
        )
    return float(difference / length)


def _exact_gradient(
    queries: npt.NDArray[np.float32],
    videos: npt.NDArray[np.float32],
    log_q: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int64],
) -> npt.NDArray[np.float64]:
    """Gradient of the full softmax loss with respect to the queries: sum_c P(c) v_c - v_y."""
    gradients = []
    for query, label in zip(queries, labels, strict=True):
        scores = (videos @ query + log_q).astype(np.float64)
        weights = np.exp(scores - scores.max())
        gradients.append(weights @ videos / weights.sum() - videos[label])
    return np.stack(gradients)


def _sampled_gradient(
    sampler: NegativeSampler,
    queries: npt.NDArray[np.float32],
    videos: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int64],
    *,
    round_number: int,
    draws_of: Callable[[tf.Tensor], tf.Tensor],
) -> npt.NDArray[np.float64]:
    # Draws of several steps together are one step with that many draws.
    steps = -(-_CHECK_DRAWS // sampler.num_draws)
    numbers = tf.range(round_number * steps, (round_number + 1) * steps, dtype=tf.int64)
    ids, _, counts = tf.unique_with_counts(tf.reshape(draws_of(numbers), [-1]))
    more = float(np.log(steps))
    label_ids = tf.constant(labels + 1, tf.int64)
    query_tensor = tf.constant(queries)
    # Scores near log q: the log as one more column, so that no score is far from the others.
    log_q = sampler.log_probabilities(tf.range(1, sampler.num_videos + 1, dtype=tf.int64))
    embeddings = np.concatenate([videos, log_q.numpy()[:, np.newaxis]], axis=1)
    with tf.GradientTape() as tape:
        tape.watch(query_tensor)
        loss = losses.sampled_softmax_loss(
            tf.concat([query_tensor, tf.ones([len(labels), 1])], axis=1),
            tf.constant(embeddings[labels]),
            tf.constant(embeddings[ids.numpy() - 1]),
            labels=label_ids,
            negatives=ids,
            label_log_expected=sampler.log_expected(label_ids) + more,
            negative_log_expected=sampler.log_expected(ids) + more,
            negative_counts=counts,
        )
        total = tf.reduce_sum(loss)
    return tape.gradient(total, query_tensor).numpy().astype(np.float64)
