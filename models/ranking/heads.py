"""Further objectives of the ranker: the chance that an impression gets some feedback.

    p_k = sigmoid(curve_k(w_k h + b_k)),   h: the tower's last hidden layer

One logit for each kind of feedback that the logs have, on the layers that are there for the
expected watch time, and trained together with it. A like weighs as much in the shared layers as a
click of average watch time. Calibrated on the holdout, as the watch time is.

Source: Zhao et al., RecSys 2019, "Recommending What Video to Watch Next": several objectives over
a shared bottom, whose weighted combination orders a page.
"""

import math
import os
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import tensorflow as tf
import tf_keras
from absl import logging

from features import feedback, spec
from models import losses
from models.ranking import calibration
from models.training import batches

Array = npt.NDArray[np.generic]
# Low deciles hold hardly any positives, and lie where the curve's first piece leads to: it takes so
# many for it to lead there better than the straight line of all kinds.
_POSITIVES_PER_PIECE = 2000


class Heads(tf_keras.layers.Layer):
    """A logit for each kind of feedback over the top of the tower.

    Args:
        kinds: K kinds of feedback.
        width: Length of the top of the tower.
        seed: Seed of the initial weights.
    """

    def __init__(self, kinds: Sequence[str], *, width: int, seed: int) -> None:
        super().__init__(name="heads")
        self.kinds = tuple(kinds)
        # What a positive weighs beside the loss of the watch time; of the training alone.
        self.worth = 1.0
        initial = tf_keras.initializers.GlorotUniform(seed=seed)
        self.logits = tf_keras.layers.Dense(
            len(self.kinds), kernel_initializer=initial, name="logits"
        )
        self.logits.build([None, width])
        self.curves = [calibration.Calibration() for _ in self.kinds]

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the columns of examples that the objectives are."""
        return tuple(feedback.label(kind) for kind in self.kinds)

    def call(self, top: tf.Tensor) -> dict[str, tf.Tensor]:
        """Returns the probability of each kind, float32 [N] in [0, 1], by name.

        Args:
            top: Last hidden layer of the tower, float32 [N, width].
        """
        columns = tf.unstack(self.logits(top), axis=1)
        return {
            kind: tf.sigmoid(curve(logits))
            for kind, curve, logits in zip(self.kinds, self.curves, columns, strict=True)
        }

    def loss(self, top: tf.Tensor, labels: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Returns the mean logistic loss, summed over kinds, times what they weigh."""
        wanted = tf.stack([tf.cast(labels[name], tf.float32) for name in self.labels], axis=1)
        each = losses.logistic_loss(self.logits(top), wanted, tf.zeros_like(wanted))
        return self.worth * losses.mean(tf.reduce_sum(each, axis=1))

    def start(self, examples_dir: str | os.PathLike[str], *, worth: float) -> None:
        """Starts every logit at that of its mean rate in training.

        Args:
            examples_dir: Directory that pipeline.preprocess wrote.
            worth: Watch seconds that a positive weighs as much as.
        """
        total, rows = np.zeros(len(self.kinds)), 0
        for part in batches.in_parts(examples_dir, spec.RANKER, list(self.labels)):
            rows += len(part[self.labels[0]])
            total += [float(part[name].sum()) for name in self.labels]
        rates = (total + 0.5) / (rows + 1)
        self.logits.bias.assign(np.log(rates / (1 - rates)))
        self.worth = worth
        said = (f"{kind} {n:,.0f}" for kind, n in zip(self.kinds, total, strict=True))
        logging.info("Of %s impressions got feedback: %s.", f"{rows:,}", ", ".join(said))

    def calibrate(self, logits: npt.NDArray[np.float32], labels: Mapping[str, Array]) -> None:
        """Fits the curve of each kind: a line, of one slope for all kinds that are rare.

        Args:
            logits: Logits of impressions before calibration, float32 [n, K].
            labels: The impressions' labels by name, [n] each.
        """
        given = np.stack([np.asarray(labels[name], np.float64) for name in self.labels], axis=1)
        positives = given.sum(axis=0)
        known = np.flatnonzero((positives > 0) & (positives < len(given)))
        lines = calibration.fit_together(logits[:, known], given[:, known]) if len(known) else []
        for column, fitted in zip(known.tolist(), lines, strict=True):
            if positives[column] >= 2 * _POSITIVES_PER_PIECE:
                said, x = given[:, column], logits[:, column]
                fitted = calibration.fit(x, said, 1 - said, clicks_per_piece=_POSITIVES_PER_PIECE)
            self.curves[column].set(fitted)
            logging.info("Calibrated %s on the holdout: %s", self.kinds[column], fitted)

    def log_losses(
        self, logits: npt.NDArray[np.float32], labels: Mapping[str, Array]
    ) -> dict[str, float]:
        """Returns the mean logistic loss of each kind; arguments as of :meth:`calibrate`."""
        by_name = {}
        for column, (kind, curve) in enumerate(zip(self.kinds, self.curves, strict=True)):
            x = np.asarray(curve(tf.constant(logits[:, column])), np.float64)
            given = np.asarray(labels[feedback.label(kind)], np.float64)
            loss = given * np.logaddexp(0, -x) + (1 - given) * np.logaddexp(0, x)
            by_name[f"{kind}_log_loss"] = float(loss.mean()) if len(loss) else math.nan
        return by_name
