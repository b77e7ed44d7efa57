"""The candidate model and what is watched right now, in one score.

Where videos live for hours, a model of last night cannot know what is hot, and recent popularity
knows nothing of the user. A multinomial logit puts both together, over all videos that are there
at the moment of the query:

    P(v | query, t) = softmax_v( w . x_v )       x_v: the model's logit, log rates of watches by
                                                 all users at several half-lives, age, seen before

A handful of weights, convex, fitted by Newton's method on a day that the model has not seen, so
that it learns how far to trust the model on videos of that age.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from absl import logging

from features.catalogue import Catalogue
from features.durations import HOUR_S, MINUTE_S
from models.baselines.live_popularity import Live
from models.baselines.retrieval import Floats, Ints, Queries
from models.evaluation import metrics
from models.evaluation.config import RetrievalConfig
from models.evaluation.retrieval import Embeddings, Ranked, rank_with_scores

HALF_LIVES_S = (HOUR_S // 2, 3 * HOUR_S, 24 * HOUR_S)
# Watches that a video is credited with before it has any; the age says the rest.
_PRIOR_WATCHES = 0.1
_NEW_H = (1.0, 6.0)
_BATCH_CELLS = 1_000_000
_RIDGE = 1e-3
_NEWTON_STEPS, _CONVERGED = 25, 1e-6
NAMES = (
    "model",
    *(f"log_rate_{half_life // MINUTE_S}min" for half_life in HALF_LIVES_S),
    "log_age_h",
    *(f"younger_than_{age:.0f}h" for age in _NEW_H),
    "seen",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inputs:
    """All that the score is made of, for some queries.

    Attributes:
        embeddings: Embeddings of these queries and all videos; None leaves the model out.
        queries: Queries, Q of them.
        live: Watches of all users.
        catalogue: Catalogue of all videos.
    """

    embeddings: Embeddings | None
    queries: Queries
    live: Live
    catalogue: Catalogue

    def take(self, part: slice) -> "Inputs":
        """Returns the same for some of the queries."""
        embeddings = self.embeddings
        if embeddings is not None:
            embeddings = dataclasses.replace(embeddings, queries=embeddings.queries[part])
        return dataclasses.replace(self, embeddings=embeddings, queries=self.queries.take(part))

    def parts(self) -> Iterator[slice]:
        """Yields slices of queries that are small enough to be worked on at once."""
        step = max(1, _BATCH_CELLS // max(1, len(self.catalogue)))
        for start in range(0, len(self.queries), step):
            yield slice(start, min(start + step, len(self.queries)))

    def features(self, part: slice) -> tuple[Floats, npt.NDArray[np.bool_]]:
        """Returns float64 [q, N, F] in the order of NAMES, and bool [q, N]: uploaded by then."""
        queries = self.queries.take(part)
        age_s = queries.times[:, np.newaxis] - self.catalogue.upload_times[np.newaxis]
        there = age_s >= 0
        age_h = np.maximum(age_s, 0) / HOUR_S
        columns = [self._logits(part, there)]
        for half_life in HALF_LIVES_S:
            rates = self.live.rates(queries.times, half_life)
            columns.append(np.log(rates + _PRIOR_WATCHES))
        columns.append(np.log1p(age_h))
        columns += [(age_h < age).astype(np.float64) for age in _NEW_H]
        columns.append(_seen(queries, len(self.catalogue)))
        return np.stack(columns, axis=2), there

    def _logits(self, part: slice, there: npt.NDArray[np.bool_]) -> Floats:
        if self.embeddings is None:
            return np.zeros(there.shape)
        logits = self.embeddings.queries[part].astype(np.float64) @ self.embeddings.videos.T
        # A video that the model cannot embed gets the mean of those that it can.
        known = self.embeddings.embeddable
        logits[:, ~known] = logits[:, known].mean(axis=1, keepdims=True)
        return np.asarray(logits)


def _seen(queries: Queries, num_videos: int) -> Floats:
    seen = np.zeros((len(queries), num_videos))
    owner = np.repeat(np.arange(len(queries)), queries.history_lengths)
    known = queries.history_rows >= 0
    seen[owner[known], queries.history_rows[known]] = 1.0
    return seen


@dataclasses.dataclass(frozen=True, kw_only=True)
class LiveBlend:
    """A fitted blend.

    Attributes:
        weights: float64 [F], in the order of NAMES; 0 for what was left out.
        loss: Mean negative log likelihood of the labels that it was fitted to.
    """

    weights: Floats
    loss: float = float("nan")

    def rank(self, inputs: Inputs, settings: RetrievalConfig) -> Ranked:
        """Ranks all videos for each query; those uploaded later stand last."""

        def score(part: slice) -> Floats:
            batch, blocks = inputs.take(part), []
            for inside in batch.parts():
                features, there = batch.features(inside)
                blocks.append(np.where(there, features @ self.weights, -np.inf))
            return np.concatenate(blocks)

        return rank_with_scores(
            score, inputs.queries, catalogue=inputs.catalogue, settings=settings
        )


def fit(inputs: Inputs) -> LiveBlend:
    """Fits the weights to the labels of queries, those of videos that were there.

    Args:
        inputs: Queries and watches of a day after the model's training.
    """
    used = np.array([name != "model" or inputs.embeddings is not None for name in NAMES])
    weights = np.zeros(len(NAMES))
    loss = np.inf
    for step in range(_NEWTON_STEPS):
        before = loss
        loss, gradient, hessian, count = _derivatives(inputs, weights)
        loss += 0.5 * _RIDGE * float(weights @ weights)
        if before - loss < _CONVERGED * abs(loss):
            break
        gradient += _RIDGE * weights
        hessian += _RIDGE * np.eye(len(NAMES))
        move = np.zeros(len(NAMES))
        move[used] = np.linalg.solve(hessian[np.ix_(used, used)], gradient[used])
        # Full Newton steps of a logit may overshoot far from the optimum.
        weights = weights - move / max(1.0, float(np.abs(move).max()) / 2.0)
        logging.info("blend, step %d: loss %.4f over %d watches", step + 1, loss, count)
    return LiveBlend(weights=weights, loss=loss)


def _derivatives(inputs: Inputs, weights: Floats) -> tuple[float, Floats, Floats, int]:
    """Returns mean loss, gradient [F], Hessian [F, F] and the number of labels."""
    size = len(weights)
    loss, gradient, hessian, count = 0.0, np.zeros(size), np.zeros((size, size)), 0
    for part in inputs.parts():
        rows: Ints = inputs.queries.label_rows[part]
        features, there = inputs.features(part)
        fits = (rows >= 0) & there[np.arange(len(rows)), np.maximum(rows, 0)]
        features, there, rows = features[fits], there[fits], rows[fits]
        scores = np.where(there, features @ weights, -np.inf)
        top = scores.max(axis=1, keepdims=True)
        chances = np.exp(scores - top)
        total = chances.sum(axis=1, keepdims=True)
        chances /= total
        label = np.arange(len(rows)), rows
        loss += float((np.log(total) + top)[:, 0].sum() - scores[label].sum())
        means = np.einsum("qn,qnf->qf", chances, features)
        gradient += (means - features[label]).sum(axis=0)
        weighted = features * chances[:, :, np.newaxis]
        flat = features.reshape(-1, size)
        hessian += weighted.reshape(-1, size).T @ flat - means.T @ means
        count += len(rows)
    if not count:
        raise ValueError("no query has a label that was uploaded before it.")
    return loss / count, gradient / count, hessian / count, count


def label_share_younger_than(queries: Queries, catalogue: Catalogue, age_s: int) -> float:
    """Returns the share of labels whose video was younger than that at the watch."""
    known = queries.label_rows >= 0
    ages = queries.times[known] - catalogue.upload_times[queries.label_rows[known]]
    return metrics.recall_at_k(ages, age_s - 1)
