"""Optimizers whose step costs what the batch touches, not what the tables hold.

An embedding table of a million rows gets a gradient of a few thousand rows per step
(tf.IndexedSlices). Keras' Adam decays the moments of all rows all the same: its step grows with
the table. The optimizers here read and write only the rows of the gradient.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras

from models import config

# A megabyte of float32.
_BLOCK_WEIGHTS = 2**18


class SparseAdam(tf_keras.optimizers.Optimizer):
    """Adam that leaves untouched rows alone: each row of a table runs its own Adam.

    For row r, at the t-th step whose gradient g holds r (t is counted per row):

        m = beta_1 m + (1 - beta_1) g
        v = beta_2 v + (1 - beta_2) g^2
        row -= learning_rate * (m / (1 - beta_1^t)) / (sqrt(v / (1 - beta_2^t)) + epsilon)

    A row that every step touches moves exactly as under Adam, as do dense variables. Counting
    per row matters for rare ids: with the global step count their first step would be
    (1 - beta_1) / sqrt(1 - beta_2), about three times, too long.

    A repeated row of a gradient is summed first, so it counts once.

    Args:
        learning_rate: Learning rate, above 0.
        beta_1: Decay of the mean of gradients, in [0, 1).
        **kwargs: Arguments of every Keras optimizer.

    Source: Kingma & Ba, ICLR 2015, algorithm 1; the count per row is ours.
    """

    beta_2, epsilon = 0.999, 1e-7

    def __init__(self, learning_rate: float = 0.001, *, beta_1: float = 0.9, **kwargs: Any) -> None:
        # Keras' default weight decay of 0 is not None: it would rewrite whole tables each step.
        kwargs = {"name": "SparseAdam", "weight_decay": None, **kwargs, "jit_compile": False}
        super().__init__(**kwargs)
        self._learning_rate = self._build_learning_rate(learning_rate)
        self.beta_1 = beta_1

    def build(self, var_list: Sequence[tf.Variable]) -> None:
        """Creates the moments, and a step count per row, of each variable."""
        super().build(var_list)
        if getattr(self, "_built", False):
            return
        self._means = [self.add_variable_from_reference(v, "m") for v in var_list]
        self._squares = [self.add_variable_from_reference(v, "v") for v in var_list]
        # One count per row, so [rows, 1, ...], which broadcasts over the row.
        self._counts = [
            self.add_variable_from_reference(v, "count", shape=_count_shape(v)) for v in var_list
        ]
        self._built = True

    def update_step(self, gradient: tf.Tensor | tf.IndexedSlices, variable: tf.Variable) -> None:
        """Moves ``variable`` by one step, or the rows that ``gradient`` holds."""
        index = self._index_dict[self._var_key(variable)]
        mean, square, count = self._means[index], self._squares[index], self._counts[index]
        if not isinstance(gradient, tf.IndexedSlices):
            count.assign_add(tf.ones_like(count))
            mean.assign(self._decayed(mean, gradient, self.beta_1))
            square.assign(self._decayed(square, tf.square(gradient), self.beta_2))
            variable.assign_sub(self._move(mean, square, count))
            return
        rows, values = gradient.indices, gradient.values

        def move_rows(part: slice) -> None:
            self._move_rows(variable, (mean, square, count), rows[part], values[part])

        _in_blocks(move_rows, tf.size(rows), width=int(np.prod(variable.shape[1:])))

    def _move_rows(
        self,
        variable: tf.Variable,
        slots: tuple[tf.Variable, tf.Variable, tf.Variable],
        rows: tf.Tensor,
        values: tf.Tensor,
    ) -> None:
        mean, square, count = slots
        counts = tf.gather(count, rows) + 1.0
        means = self._decayed(tf.gather(mean, rows), values, self.beta_1)
        squares = self._decayed(tf.gather(square, rows), tf.square(values), self.beta_2)
        # Rows are distinct, and writing them is three times as fast as subtracting from them.
        moved = tf.gather(variable, rows) - self._move(means, squares, counts)
        for target, value in (
            (count, counts),
            (mean, means),
            (square, squares),
            (variable, moved),
        ):
            target.scatter_update(tf.IndexedSlices(value, rows))

    def _deduplicate_sparse_grad(self, grads: Sequence[Any]) -> list[Any]:
        """Sums repeated rows, as the base class does, but only where there are any."""
        return [distinct_rows(g) if isinstance(g, tf.IndexedSlices) else g for g in grads]

    @staticmethod
    def _decayed(old: tf.Tensor, new: tf.Tensor, decay: float) -> tf.Tensor:
        return old + (new - old) * (1.0 - decay)

    def _move(self, mean: tf.Tensor, square: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
        # With c = sqrt(1 - beta_2^t): (m / (1 - beta_1^t)) / (sqrt(v) / c + epsilon), both sides
        # multiplied by c, so that the corrections cost a pass over rows, not over values.
        correction = tf.sqrt(1.0 - tf.pow(self.beta_2, count))
        rate = tf.cast(self.learning_rate, mean.dtype) / (1.0 - tf.pow(self.beta_1, count))
        return mean * (rate * correction) / (tf.sqrt(square) + self.epsilon * correction)

    def get_config(self) -> dict[str, Any]:
        """Returns what the constructor takes."""
        return {
            **super().get_config(),
            "learning_rate": self._serialize_hyperparameter(self._learning_rate),
            "beta_1": self.beta_1,
        }


class SparseAdagrad(tf_keras.optimizers.Optimizer):
    """Adagrad in one fused pass over the rows of a gradient.

        a = a + g^2,    row -= learning_rate * g / (sqrt(a) + epsilon)

    It keeps one number per weight where Adam keeps two.

    Args:
        learning_rate: Learning rate, above 0; about ten times that of Adam.
        **kwargs: Arguments of every Keras optimizer.

    Source: Duchi et al., JMLR 2011.
    """

    # a before the first step: keeps first steps short.
    initial_accumulator, epsilon = 0.1, 1e-7

    def __init__(self, learning_rate: float = 0.01, **kwargs: Any) -> None:
        kwargs = {"name": "SparseAdagrad", "weight_decay": None, **kwargs, "jit_compile": False}
        super().__init__(**kwargs)
        self._learning_rate = self._build_learning_rate(learning_rate)

    def build(self, var_list: Sequence[tf.Variable]) -> None:
        """Creates the accumulator of each variable."""
        super().build(var_list)
        if getattr(self, "_built", False):
            return
        self._accumulators = [
            self.add_variable_from_reference(
                v, "accumulator", initial_value=tf.fill(v.shape, self.initial_accumulator)
            )
            for v in var_list
        ]
        self._built = True

    def update_step(self, gradient: tf.Tensor | tf.IndexedSlices, variable: tf.Variable) -> None:
        """Moves ``variable`` by one step, or the rows that ``gradient`` holds."""
        accumulator = self._accumulators[self._index_dict[self._var_key(variable)]]
        common = {
            "var": variable.handle,
            "accum": accumulator.handle,
            "lr": tf.cast(self.learning_rate, variable.dtype),
            "epsilon": tf.constant(self.epsilon, variable.dtype),
        }
        if isinstance(gradient, tf.IndexedSlices):
            tf.raw_ops.ResourceSparseApplyAdagradV2(
                **common, grad=gradient.values, indices=gradient.indices
            )
        else:
            tf.raw_ops.ResourceApplyAdagradV2(**common, grad=gradient)

    def _deduplicate_sparse_grad(self, grads: Sequence[Any]) -> list[Any]:
        """Sums repeated rows, as the base class does, but only where there are any."""
        return [distinct_rows(g) if isinstance(g, tf.IndexedSlices) else g for g in grads]

    def get_config(self) -> dict[str, Any]:
        """Returns what the constructor takes."""
        return {
            **super().get_config(),
            "learning_rate": self._serialize_hyperparameter(self._learning_rate),
        }


def distinct_rows(gradient: tf.IndexedSlices) -> tf.IndexedSlices:
    """Returns the same gradient with each row once, repeated rows summed."""
    rows = gradient.indices

    def summed() -> tuple[tf.Tensor, tf.Tensor]:
        distinct, places = tf.unique(rows)
        number = tf.size(distinct)
        return distinct, tf.math.unsorted_segment_sum(gradient.values, places, number)

    # Our look-ups sort their rows, so one glance is enough for most gradients.
    rows, values = tf.cond(
        tf.reduce_all(rows[1:] > rows[:-1]), lambda: (rows, gradient.values), summed
    )
    return tf.IndexedSlices(values, rows, gradient.dense_shape)


def clipped(gradients: Sequence[Any], norm: float) -> list[Any]:
    """Returns gradients scaled so that their global norm, over all of them, is ``norm`` at most.

    The rows of a table that a step reads more than once (labels, negatives, bags) come several
    times in its gradient, and TensorFlow would take the norm of each apart: of 16 times the same
    row 4 in place of 16. So they are summed first, which the optimizers would do afterwards: the
    cost is that of a look at the rows, whatever the table's size.

    Args:
        gradients: Dense, tf.IndexedSlices or None; summed over workers, so that all of them
            scale alike.
        norm: Largest global norm, above 0.
    """
    whole = [distinct_rows(g) if isinstance(g, tf.IndexedSlices) else g for g in gradients]
    scaled, _ = tf.clip_by_global_norm(whole, norm)
    return list(scaled)


def _in_blocks(move: Callable[[slice], None], number: tf.Tensor, *, width: int) -> None:
    """Calls ``move`` for one block of rows after the other.

    The dozen intermediate results of a block stay in the processor's cache. Those of all rows
    of a gradient would each go to memory and back.

    Args:
        move: Updates the rows of a slice.
        number: Number of rows, int32 scalar.
        width: Weights per row.
    """
    size = max(1, _BLOCK_WEIGHTS // max(1, width))

    def body(start: tf.Tensor) -> list[tf.Tensor]:
        move(slice(start, start + size))
        return [start + size]

    tf.while_loop(lambda start: start < number, body, [tf.constant(0)], parallel_iterations=1)


def _count_shape(variable: tf.Variable) -> list[int]:
    rank = variable.shape.rank
    return [variable.shape[0], *[1] * (rank - 1)] if rank else []


def make(name: str, learning_rate: Any) -> tf_keras.optimizers.Optimizer:
    """Returns the optimizer of a ``TrainingConfig``.

    Args:
        name: Name of the optimizer, ``adam`` (:class:`SparseAdam`) or ``adagrad``
            (:class:`SparseAdagrad`).
        learning_rate: Learning rate, above 0, or a schedule.
    """
    if name == config.ADAM:
        return SparseAdam(learning_rate)
    if name == config.ADAGRAD:
        return SparseAdagrad(learning_rate)
    raise ValueError(f"optimizer must be in {config.OPTIMIZERS}, got {name!r}.")
