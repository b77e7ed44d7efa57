"""WARP: the matrix factorisation under rank loss that the paper's system succeeded (section 3).

A query is the mean of the input embeddings of what the user watched, a video a row and a bias:

    f(v) = <mean_h a_h, b_v> + c_v                            h over the watches before the query
    loss = L(rank) [1 - f(label) + f(j)]_+                    j the first violator among draws
    L(k) = 1 + 1/2 + ... + 1/k,   rank ~ (N - 1) / draws until the first violator

Draws are made M at a time for a whole batch and the first violator among them is taken, which is
the algorithm's own draw with its number of trials cut at M; rows move by Adagrad.

Source: Weston, Bengio and Usunier, WSABIE, IJCAI 2011, the paper's reference [23].
"""

import dataclasses
import time

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from absl import logging

from features import spec
from features.catalogue import ragged_rows
from models.baselines.retrieval import Floats, Ints, Queries

_MARGIN = 1.0
_BATCH = 512


@dataclasses.dataclass(frozen=True, kw_only=True)
class WarpConfig:
    """Settings.

    Attributes:
        dim: D, width of the factors.
        draws: M, greatest number of trials per example and step.
        max_examples: Greatest number of examples that are learnt from, the newest ones.
        epochs: Greatest number of passes over the examples.
        steps: Greatest number of steps.
        learning_rate: Learning rate of Adagrad.
        seed: Seed of weights, order and draws.
    """

    dim: int = 64
    draws: int = 64
    max_examples: int = 500_000
    epochs: int = 30
    steps: int = 3000
    learning_rate: float = 0.1
    seed: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Warp:
    """A fitted factorisation.

    Attributes:
        inputs: Factors of watched videos, float32 [N + 1, D]; row 0 stands for none.
        videos: Factors of the videos, float32 [N, D].
        biases: Biases of the videos, float32 [N].
        tie_break: Popularity that breaks ties, float64 [N] in [0, 1).
        name: Name of the baseline in tables.
    """

    inputs: npt.NDArray[np.float32]
    videos: npt.NDArray[np.float32]
    biases: npt.NDArray[np.float32]
    tie_break: Floats
    name: str = "warp_factorisation"

    def score(self, queries: Queries) -> Floats:
        """Returns float64 [Q, N]."""
        bags = padded_bags(queries)
        sums = self.inputs[bags].sum(axis=1)
        means = sums / np.maximum((bags > 0).sum(axis=1, keepdims=True), 1)
        scores = means.astype(np.float64) @ self.videos.T.astype(np.float64) + self.biases
        return np.asarray(scores + 1e-9 * self.tie_break)


def padded_bags(queries: Queries, size: int = spec.WATCH_BAG) -> npt.NDArray[np.int32]:
    """Returns int32 [Q, size]: catalogue rows + 1 of the newest watches, 0 beyond and unknown."""
    lengths = np.minimum(queries.history_lengths, size)
    bags = np.zeros((len(queries), size), np.int32)
    flat = queries.history_rows[ragged_rows(queries.history_offsets[:-1], lengths)]
    bags[np.arange(size)[np.newaxis] < lengths[:, np.newaxis]] = flat + 1
    return bags


def fit(train: Queries, order: Floats, config: WarpConfig | None = None) -> Warp:
    """Fits the factorisation.

    Args:
        train: Training examples.
        order: Popularity that breaks ties, float64 [N] in [0, 1), see
            ``baselines.popularity_order``.
        config: Settings of the fit; None: the defaults.
    """
    config = config or WarpConfig()
    started = time.monotonic()
    train = train.take(train.label_rows >= 0)
    if len(train) > config.max_examples:
        train = train.take(np.argsort(train.times, kind="stable")[-config.max_examples :])
    learner = _Learner(len(order), config)
    bags, labels = padded_bags(train), train.label_rows
    rng = np.random.default_rng(config.seed)
    size = min(_BATCH, len(labels))
    order_of: Ints = np.zeros(0, np.int64)
    steps = min(config.steps, config.epochs * -(-len(labels) // size)) if size else 0
    for _ in range(steps):
        if len(order_of) < size:
            order_of = rng.permutation(len(labels))
        rows, order_of = order_of[:size], order_of[size:]
        drawn = rng.integers(0, len(order), (size, config.draws))
        learner.step(tf.constant(bags[rows]), tf.constant(labels[rows]), tf.constant(drawn))
    logging.info("fitted WARP in %.1f s", time.monotonic() - started)
    return Warp(
        inputs=learner.inputs.numpy() * (np.arange(len(order) + 1) > 0)[:, np.newaxis],
        videos=learner.videos.numpy(),
        biases=learner.biases.numpy()[:, 0],
        tie_break=order,
    )


class _Learner:
    """Weights, their Adagrad sums, and the step."""

    def __init__(self, num_videos: int, config: WarpConfig) -> None:
        shape = (num_videos, config.dim)
        rng = np.random.default_rng(config.seed)
        scale = 1 / np.sqrt(config.dim)
        self.inputs = tf.Variable(
            rng.normal(0, scale, (num_videos + 1, config.dim)).astype(np.float32)
        )
        self.videos = tf.Variable(rng.normal(0, 0.1 * scale, shape).astype(np.float32))
        self.biases = tf.Variable(np.zeros((num_videos, 1), np.float32))
        self._all = (self.inputs, self.videos, self.biases)
        self._sums = [tf.Variable(tf.fill(v.shape, 0.1)) for v in self._all]
        self._rate = config.learning_rate
        # L of rank 1 to N - 1, as a share of the largest, so that the rate means the same at any N.
        harmonic = np.cumsum(1.0 / np.arange(1, max(2, num_videos)))
        self._weights = tf.constant((harmonic / harmonic[-1]).astype(np.float32))

    @tf.function(reduce_retracing=True)
    def step(self, bags: tf.Tensor, labels: tf.Tensor, drawn: tf.Tensor) -> None:
        """Learns from a batch: bags [B, L], labels [B], drawn [B, M] catalogue rows."""
        with tf.GradientTape() as tape:
            known = tf.cast(bags > 0, tf.float32)[:, :, tf.newaxis]
            total = tf.reduce_sum(tf.gather(self.inputs, bags) * known, axis=1)
            queries = total / tf.maximum(tf.reduce_sum(known, axis=1), 1.0)
            right = self._score(queries, labels)
            wrong, weights = self._violators(queries, right, labels, drawn)
            hinge = _MARGIN - right + self._score(queries, wrong)
            loss = tf.reduce_sum(weights * tf.nn.relu(hinge))
        for variable, total_squares, gradient in zip(
            self._all, self._sums, tape.gradient(loss, self._all), strict=True
        ):
            rows, places = tf.unique(gradient.indices)
            sums = tf.math.unsorted_segment_sum(gradient.values, places, tf.size(rows))
            total_squares.scatter_add(tf.IndexedSlices(tf.square(sums), rows))
            lengths = tf.sqrt(tf.gather(total_squares, rows))
            variable.scatter_sub(tf.IndexedSlices(self._rate * sums / lengths, rows))

    def _score(self, queries: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
        products = tf.reduce_sum(queries * tf.gather(self.videos, rows), axis=-1)
        return products + tf.gather(self.biases, rows)[:, 0]

    def _violators(
        self, queries: tf.Tensor, right: tf.Tensor, labels: tf.Tensor, drawn: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns each example's first violator [B], and its weight, 0 where there is none."""
        scores = tf.einsum("bd,bmd->bm", queries, tf.gather(self.videos, drawn))
        scores += tf.gather(self.biases, drawn)[:, :, 0]
        violates = (scores > right[:, tf.newaxis] - _MARGIN) & (drawn != labels[:, tf.newaxis])
        first = tf.argmax(violates, axis=1)
        wrong = tf.gather(drawn, first, batch_dims=1)
        ranks = tf.shape(self._weights, out_type=tf.int64)[0] // (first + 1)
        weights = tf.gather(self._weights, tf.maximum(ranks, 1) - 1)
        has_violator = tf.cast(tf.reduce_any(violates, axis=1), tf.float32)
        return tf.stop_gradient(wrong), tf.stop_gradient(weights * has_violator)
