"""Biases of the moment: how far what was watched of late says what is watched next.

Softmax biases and embeddings are fitted to the whole training window, and the softmax is sure of
what it learnt there. Where content turns over fast, both put yesterday's news on top: a user's own
old watches pull up what stood beside them then, and is dead now. So after the training the logit z
of each video is weighed against counts of its watches, decayed to the end of the training:

    P(i | query) ~ exp(s z_i + sum_k w_k log(c_ik + 0.3) + r [i was watched before])

c_ik counts the watches of video i with half-lives of a quarter of the site's own half-life
(:mod:`features.tables.half_life`), of it, of four of it, and without end. A ranking does not change
when it is divided by s, so what comes out is a change of the bias of each video and of the repeat
bias (:mod:`models.evaluation.repeat_bias`), and nothing else:

    b_i <- b_i + sum_k (w_k / s) log(c_ik + 0.3)        repeat bias <- r / s

The few weights are those of greatest likelihood on watches that the model has not learnt, the
holdout: the same that chooses its best round. But a day of news is a dozen videos that everybody
watched, and how these fared is as many observations, however many the watches were. So the
likelihood counts for as much as watches of different videos would (the design effect of clusters),
and a penalty holds the weights to what is usual for sites that forget as fast: s = 1, w = 0 where
the half-life is days, s = .25 and .75 for the shortest counts where it is up to six hours. Only r
is told by every watch, since each has a past of its own. The training cannot tell it: it has learnt
who had watched what before, so that a repeat is no surprise to it.

Where videos have a vector, one more weight says what it adds to be new
(:mod:`models.candidate.youth`); a video can then be watched only once it is uploaded.

The model that serves learns the holdout besides (:mod:`models.candidate.refitting`), so no watch is
left to weigh it by: it takes the weights of the measured one, and counts to the end of the logs.
Both hold what was moved (``moved_biases``): whoever goes on from a model takes that back first.

Sources: Kish, "Survey Sampling", 1965, for the design effect; McFadden, "Conditional logit analysis
of qualitative choice behavior", 1974; Koren, "Collaborative filtering with temporal dynamics", KDD
2009, for biases that move with time.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from absl import logging

from features import dataset, spec, tensors
from features.catalogue import UPLOAD_TIME
from features.durations import DAY_S, HOUR_S
from features.tables.site_facts import SiteFacts
from models.candidate import youth
from models.candidate.holdout import BAG, LABEL
from models.candidate.model import CandidateModel
from models.training import batches

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
# In units of the half-life of the site; the last does not decay.
PARTS = (0.25, 1.0, 4.0, np.inf)
SCORE, REPEAT, NEW, YOUNG = "score", "repeat", "new", "young"
_OWN = (SCORE, REPEAT)  # Of what differs from query to query.
NAMES = (*_OWN, *(f"log_watches_{part:g}" for part in PARTS), NEW)
_PRIOR_WATCHES = 0.3
# Half-lives of counts stay within these; a site without a known one counts by the day.
_SHORTEST_S, _LONGEST_S = HOUR_S / 2, 90.0 * DAY_S
_FEWEST_LABELS = 200
_MOST_QUERIES = 3_000
_MOST_VIDEOS = 8_000  # Of more, the most watched half and a sample of the others.
# One over the variance of weights from site to site and day to day, around what is usual.
_RIDGE, _STEPS, _CONVERGED = 200.0, 20, 1e-3
# Of being new nothing is usual: sites differ by more than 1.
_RIDGE_OF_YOUNG = 1.0
_RIDGE_OF_REPEAT = 5.0  # Of single watches: before the design effect.
# What is usual: of sites that forget within hours, less with each further half-life of 12 hours.
_FAST_SCORE, _FAST_SHORT = 0.25, 0.75
_FAST_S, _SLOWER_S = 6 * HOUR_S, 12 * HOUR_S
_LEAST_SCORE = 0.05
_NEVER = -1e4  # Logit of what cannot be watched; infinite would be no number times chance 0.
_BLOCK = 512


def counts(model: CandidateModel, examples_dir: dataset.Path) -> Floats:
    """Returns log(c + 0.3) of each video of the vocabulary, float64 [parts, V].

    Args:
        model: Candidate model.
        examples_dir: Examples; the labels of the training split are counted.
    """
    half_life_s = SiteFacts.of_info(dataset.info(examples_dir)).half_life_s
    return counts_of(*labels(examples_dir), model.num_videos, half_life_s)


def labels(examples_dir: dataset.Path) -> tuple[Ints, Ints]:
    """Returns the labels of the training split and their times, int64 [n] each, Unix seconds."""
    ids, times = [], []
    for part in batches.in_parts(examples_dir, spec.CANDIDATE, [LABEL, "time"]):
        of_part = part[LABEL].astype(np.int64)
        ids.append(of_part[of_part > 0])
        times.append(part["time"][of_part > 0].astype(np.int64))
    return np.concatenate(ids), np.concatenate(times)


def counts_of(label: Ints, time: Ints, num_videos: int, half_life_s: float | None) -> Floats:
    """Returns log(c + 0.3) of each video, float64 [parts, V], decayed to the newest label.

    Args:
        label: Ids of the labels, int64 [n], in [1, V].
        time: Their times, int64 [n], Unix seconds.
        num_videos: V, number of videos.
        half_life_s: Half-life of the site, seconds; None where it is not known.
    """
    site = half_life_s or float(DAY_S)
    since = time.max(initial=0) - time
    rows = []
    for part_of_site in PARTS:
        half_life = part_of_site * site
        if np.isfinite(half_life):
            half_life = float(np.clip(half_life, _SHORTEST_S, _LONGEST_S))
        weights = np.exp2(-since / half_life)
        rows.append(np.bincount(label, weights=weights, minlength=num_videos + 1)[1:])
    return np.log(np.stack(rows) + _PRIOR_WATCHES)


def fit(
    model: CandidateModel,
    examples_dir: dataset.Path,
    watches: Floats,
    *,
    limit: int = _MOST_QUERIES,
    seed: int = 0,
) -> dict[str, float] | None:
    """Returns the weights by :data:`NAMES`; None where the holdout is too small to tell them.

    Args:
        model: Candidate model that has not learnt the holdout; its repeat bias is set.
        examples_dir: Its examples.
        watches: What :func:`counts` returned.
        limit: Number of watches of the holdout at most.
        seed: Seed of the choice of watches and videos.
    """
    columns = [*model.query_columns, "label_video_id", "time"]
    queries = dataset.load(examples_dir, spec.CANDIDATE, "holdout", columns)
    queries = batches.sample(queries, limit, seed=seed)
    info = dataset.info(examples_dir)
    problem = _problem(
        model, queries, dataset.videos(examples_dir), watches, until_s=_until_s(info), seed=seed
    )
    if len(problem.target) < _FEWEST_LABELS:
        return None
    prior = usual(SiteFacts.of_info(info).half_life_s)
    prior[NAMES.index(REPEAT)] = float(model.repeat_bias.numpy())
    weights = problem.weights(prior)
    names = (*NAMES, YOUNG)[: len(weights)]
    told = ", ".join(f"{n} {w:+.2f}" for n, w in zip(names, weights, strict=True))
    logging.info("Weights of logits, repeats and decayed watches: %s.", told)
    return dict(zip(names, weights.round(6).tolist(), strict=True))


def usual(half_life_s: float | None) -> Floats:
    """Returns the weights that are usual for a site, float64 [F], in the order of :data:`NAMES`.

    That of repeats is 0: it is the model's own.
    """
    fast = 0.0
    if half_life_s is not None:
        fast = min(1.0, 2.0 ** ((_FAST_S - half_life_s) / _SLOWER_S))
    weights = dict.fromkeys(NAMES, 0.0)
    weights[SCORE] = 1 - (1 - _FAST_SCORE) * fast
    weights[NAMES[len(_OWN)]] = _FAST_SHORT * fast
    return np.array(list(weights.values()))


def _until_s(info: Mapping[str, Any]) -> float:
    """Returns the end of the training, Unix seconds."""
    return float(str(info["train_until_s"]))


def apply(
    model: CandidateModel, watches: Floats, weights: Mapping[str, float], *, until_s: float
) -> float:
    """Moves the biases of a model, in place, that of repeats included; an earlier move is undone.

    Args:
        model: Candidate model.
        watches: What :func:`counts` returned.
        weights: Weights by :data:`NAMES`, and of :data:`YOUNG` where the model has it.
        until_s: End of its training, Unix seconds.

    Returns:
        The mean absolute change of a bias, after that of all together is taken off.
    """
    score, repeat, *of_counts, new = (float(weights[name]) for name in NAMES)
    score = max(score, _LEAST_SCORE)
    change = (np.array(of_counts) @ watches - new) / score
    unmoved(model)
    model.moved_biases.assign(np.concatenate([[0.0], change])[:, np.newaxis].astype(np.float32))
    model.softmax_biases.rows.assign_add(model.moved_biases)
    model.repeat_bias.assign(repeat / score)
    model.youth.assign([weights.get(YOUNG, 0.0) / score, until_s])
    return float(np.abs(change - change.mean()).mean())


def unmoved(model: CandidateModel) -> CandidateModel:
    """Takes the last move of the biases back, in place, and returns the model.

    What a model starts from has to be what another one has learnt: moves would add up, and what
    was watched before would count as if it were watched today.
    """
    model.softmax_biases.rows.assign_sub(model.moved_biases)
    model.moved_biases.assign(tf.zeros_like(model.moved_biases))
    return model


def set_biases(
    model: CandidateModel, examples_dir: dataset.Path, *, limit: int = _MOST_QUERIES
) -> dict[str, float]:
    """Fits the weights on the holdout and moves the biases of a model that has not learnt it.

    Returns:
        The weights; empty where there is too little to tell them.
    """
    if BAG not in model.query_columns:
        return {}
    watches = counts(model, examples_dir)
    weights = fit(model, examples_dir, watches, limit=limit)
    if weights is None:
        return {}
    apply(model, watches, weights, until_s=_until_s(dataset.info(examples_dir)))
    return weights


def carry_over(
    model: CandidateModel, examples_dir: dataset.Path, weights: Mapping[str, float]
) -> None:
    """Moves the biases of a model that has learnt the holdout, by the weights of the measured one.

    Args:
        model: Candidate model.
        examples_dir: Its examples, to the end of the logs.
        weights: What :func:`set_biases` returned for the measured model.
    """
    until_s = _until_s(dataset.info(examples_dir))
    apply(model, counts(model, examples_dir), weights, until_s=until_s)


@dataclasses.dataclass(frozen=True)
class _Problem:
    """What the weights are fitted on.

    Attributes:
        logits: float32 [Q, M]: of each query and candidate.
        watched: bool [Q, M]: whether the user had watched the candidate before.
        shared: float64 [F, M]: what does not depend on the query.
        offset: float64 [M]: minus the log of the chance that a candidate was drawn.
        target: int64 [Q]: which candidate was watched.
    """

    logits: npt.NDArray[np.float32]
    watched: npt.NDArray[np.bool_]
    shared: Floats
    offset: Floats
    target: npt.NDArray[np.int64]

    @property
    def design_effect(self) -> float:
        """Mean number of watches of the video of a watch, itself included, 1 or more."""
        together = np.bincount(self.target)
        return float((together**2).sum() / together.sum())

    def weights(self, prior: Floats) -> Floats:
        """Returns the weights of greatest penalised likelihood, float64 [2 + F], by Newton."""
        size, effect = len(_OWN) + len(self.shared), self.design_effect
        prior = np.concatenate([prior, np.zeros(size - len(prior))])
        ridge = np.where(np.arange(size) < len(NAMES), _RIDGE, _RIDGE_OF_YOUNG)
        ridge[_OWN.index(REPEAT)] = _RIDGE_OF_REPEAT / effect
        weights = prior.copy()
        for _ in range(_STEPS):
            gradient, hessian = np.zeros(size), np.zeros((size, size))
            for start in range(0, len(self.target), _BLOCK):
                part = self._derivatives(slice(start, start + _BLOCK), weights)
                gradient += part[0] / effect
                hessian += part[1] / effect
            gradient -= ridge * (weights - prior)
            step = np.linalg.solve(hessian + np.diag(ridge), gradient)
            step /= max(1.0, float(np.abs(step).max()))  # Far from the optimum, no wild leaps.
            weights = weights + step
            if np.abs(step).max() < _CONVERGED:
                break
        return weights

    def _derivatives(self, part: slice, weights: Floats) -> tuple[Floats, Floats]:
        """Returns the gradient and the information of some queries."""
        target, number = self.target[part], len(_OWN)
        own = np.stack([self.logits[part], self.watched[part]]).astype(np.float64)
        scores = np.tensordot(weights[:number], own, 1) + weights[number:] @ self.shared
        scores += self.offset
        scores -= scores.max(axis=1, keepdims=True)
        p = np.exp(scores)
        p /= p.sum(axis=1, keepdims=True)
        weighted = p * own
        mean = np.concatenate([weighted.sum(axis=2), self.shared @ p.T])
        mine = np.concatenate([own[:, np.arange(len(target)), target], self.shared[:, target]])
        information = -mean @ mean.T
        information[:number, :number] += np.tensordot(weighted, own, ([1, 2], [1, 2]))
        across = weighted.sum(axis=1) @ self.shared.T
        information[:number, number:] += across
        information[number:, :number] += across.T
        information[number:, number:] += (self.shared * p.sum(axis=0)) @ self.shared.T
        return (mine - mean).sum(axis=1), information


def _problem(
    model: CandidateModel,
    queries: dict[str, Array],
    videos: dict[str, Array],
    watches: Floats,
    *,
    until_s: float,
    seed: int,
) -> _Problem:
    """Puts together logits and counts of the candidates: all videos, or a sample of very many."""
    times, uploaded = queries.pop("time"), videos.pop(UPLOAD_TIME, np.zeros(0, np.int64))
    row_of = {name: row for row, name in enumerate(videos.pop("label_video_id"))}
    labels = queries.pop("label_video_id")
    label_rows = np.array([row_of.get(label.decode(), -1) for label in labels], np.int64)
    ids = np.asarray(videos[LABEL], np.int64)
    # What is new has no counts, which says nothing against it.
    shared = np.zeros((len(watches) + 1, len(ids)))
    shared[:-1, ids > 0] = watches[:, ids[ids > 0] - 1]
    shared[-1] = ids == 0
    if model.has_vectors:
        shared = np.concatenate([shared, youth.decayed(uploaded, until_s)[np.newaxis]])
    usable = np.flatnonzero(model.can_embed(videos))
    chosen, offset = _chosen(shared[len(watches) - 1], usable, label_rows, seed=seed)
    place = np.full(len(ids), -1)
    place[chosen] = np.arange(len(chosen))
    target = np.where(label_rows >= 0, place[label_rows], -1)
    kept = np.flatnonzero(target >= 0)
    queries = {name: queries[name][kept] for name in model.query_columns}
    candidates = {name: values[chosen] for name, values in videos.items()}
    if not len(kept):
        nothing = np.zeros((0, 0), np.float32)
        return _Problem(nothing, nothing > 0, shared, offset, kept)
    logits = tensors.in_batches(model.query_embeddings, queries)
    logits = logits @ tensors.in_batches(model.video_embeddings, candidates).T
    logits -= logits.max(axis=1, keepdims=True)
    if model.has_vectors:
        logits[times[kept][:, np.newaxis] <= uploaded[chosen]] = _NEVER
    watched = _watched(np.asarray(queries[BAG], np.int64), ids[chosen], model.num_videos)
    return _Problem(logits, watched, shared[:, chosen], offset, target[kept])


def _chosen(
    popularity: Floats, usable: npt.NDArray[np.int64], labels: Array, *, seed: int
) -> tuple[npt.NDArray[np.int64], Floats]:
    """Returns which videos are candidates, int64 [M], and minus the log of their chance."""
    if len(usable) <= _MOST_VIDEOS:
        return usable, np.zeros(len(usable))
    by_count = usable[np.argsort(-popularity[usable], kind="stable")]
    sure = np.union1d(by_count[: _MOST_VIDEOS // 2], np.intersect1d(labels, usable))
    others = np.setdiff1d(usable, sure)
    number = min(len(others), _MOST_VIDEOS // 2)
    drawn = np.random.default_rng(seed).choice(others, number, replace=False)
    offset = np.concatenate([np.zeros(len(sure)), np.full(number, np.log(len(others) / number))])
    return np.concatenate([sure, drawn]), offset


def _watched(
    bags: npt.NDArray[np.int64], ids: npt.NDArray[np.int64], num_videos: int
) -> npt.NDArray[np.bool_]:
    """Returns which candidates each query has watched, bool [Q, M]."""
    column_of = np.full(num_videos + 1, -1)
    column_of[ids[ids > 0]] = np.flatnonzero(ids > 0)
    columns = column_of[bags]
    watched = np.zeros((len(bags), len(ids) + 1), np.bool_)
    watched[np.arange(len(bags))[:, np.newaxis], columns] = True  # -1: the last, which is cut off.
    return watched[:, :-1]
