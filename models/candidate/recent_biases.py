"""Biases of the moment: each video is as likely as it was watched of late.

Softmax biases are fitted to the whole training window, and a video's popularity of last week is in
them as much as that of the last hour. Where content turns over fast, that puts yesterday's news on
top. So after the training the biases are moved until the model, asked as it will be served, gives
every video the share that it had of the newest watches; the newest are those of half a half-life
of the site (:mod:`features.half_life`): hours at a news site, weeks where videos live long. What a
user likes is left as it was learnt: only the biases change.

Counts of few watches are noise. With E_i the watches that the model expects of video i among the
newest and n_i those that it had, n_i is taken for a Poisson count of mean r_i E_i, and r_i for a
draw from a gamma distribution of mean 1 and shape a. The share is moved to the posterior mean

    r_i = (n_i + a) / (E_i + a),     var(n_i) = E_i + E_i^2 / a,

and a is found from the counts themselves: where the model expects what happens, it is large, and
nothing is moved.

Sources: DuMouchel, "Bayesian data mining in large frequency tables", 1999, for the shrinkage;
Koren, "Collaborative filtering with temporal dynamics", KDD 2009, for biases that move with time.
"""

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt
from absl import logging

from features import dataset, spec
from features.durations import HOUR_S
from features.spec import Kind, Side
from features.tables.site_facts import SiteFacts
from models.candidate.holdout import BAG, LABEL, in_batches
from models.candidate.model import CandidateModel
from models.candidate.video_features import VideoFeatures
from models.evaluation import metrics
from models.training import batches

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]
# Fewer of the newest watches say little; then a longer time is looked at.
_FEWEST_WATCHES = 200
_PART = 0.5  # Of the half-life of the site, which counts as newest.
_ROUNDS = 4
# The products of queries and videos are bounded, as those of the repeat bias.
_MAX_SCORES = 200_000_000
_QUERIES = (256, 8_192)
_MOST_SHAPE = 1e6


@dataclasses.dataclass(frozen=True)
class Recent:
    """The newest watches.

    Attributes:
        half_life_s: Half-life of the site, seconds; None where there are too few watches to tell.
        window_s: Length of the time that counts as newest, seconds.
        counts: Watches of id 1 to V in it, int64 [V].
        queries: Query features of some of them, as they will be served, by name.
    """

    half_life_s: float | None
    window_s: int
    counts: npt.NDArray[np.int64]
    queries: dict[str, Array]


def set_biases(
    model: CandidateModel, videos: VideoFeatures, examples_dir: dataset.Path, *, seed: int = 0
) -> dict[str, float]:
    """Moves the biases of a trained model, in place, to what was watched of late.

    Args:
        model: Candidate model; its repeat bias is set.
        videos: Content of the vocabulary's videos.
        examples_dir: What it was trained on; the newest watches of the training split count.
        seed: Seed of the choice of queries.

    Returns:
        Facts: ``half_life_h``, ``window_h``, ``watches``, ``shape`` (a) and ``moved``, the mean
        absolute change of the bias, of the newest watches; empty where nothing can be told.
    """
    if model.is_hierarchical:
        return {}
    recent = newest(model, examples_dir, seed=seed)
    if recent is None:
        return {}
    before = model.softmax_biases.rows.numpy()[1:, 0].copy()
    expect = _Expectation(model, videos, recent)
    expected = expect(np.zeros(model.num_videos))
    shape = gamma_shape(recent.counts, expected)
    target = expected * (recent.counts + shape) / (expected + shape)
    change = np.zeros(model.num_videos)
    for _ in range(_ROUNDS):
        change += np.log(np.maximum(target, 1e-9) / np.maximum(expected, 1e-9))
        expected = expect(change)
    biases = np.concatenate([[0.0], before + change]).astype(np.float32)
    model.softmax_biases.rows.assign(biases[:, np.newaxis])
    facts = {
        "half_life_h": round((recent.half_life_s or 0.0) / HOUR_S, 3),
        "window_h": round(recent.window_s / HOUR_S, 3),
        "watches": float(recent.counts.sum()),
        "shape": round(shape, 4),
        "moved": round(float(np.average(np.abs(change), weights=recent.counts)), 4),
    }
    logging.info(
        "Biases of the last %(window_h).1f h: %(watches)d watches, a = %(shape).2f.", facts
    )
    return facts


def gamma_shape(counts: npt.NDArray[np.int64], expected: Floats) -> float:
    """Returns a by the method of moments: sum E^2 / sum((n - E)^2 - E), in (0, 1e6]."""
    surplus = float(((counts - expected) ** 2 - expected).sum())
    square = float((expected**2).sum())
    return min(square / surplus, _MOST_SHAPE) if surplus > 0 else _MOST_SHAPE


def newest(model: CandidateModel, examples_dir: dataset.Path, *, seed: int = 0) -> Recent | None:
    """Reads the newest watches of the training split; None where there are none to learn from."""
    ids, times = [], []
    for part in batches.in_parts(examples_dir, spec.CANDIDATE, [LABEL, "time"]):
        of_part = part[LABEL].astype(np.int64)
        ids.append(of_part[of_part > 0])
        times.append(part["time"][of_part > 0].astype(np.int64))
    label, time = np.concatenate(ids), np.concatenate(times)
    if len(label) < _FEWEST_WATCHES or BAG not in model.query_columns:
        return None
    half_life_s = SiteFacts.of_info(dataset.info(examples_dir)).half_life_s
    end_s = int(time.max()) + 1
    newest_times = np.sort(time)
    first = end_s - int(_PART * (half_life_s or 0))
    first = min(first, int(newest_times[-_FEWEST_WATCHES]))
    counts = np.bincount(label[time >= first], minlength=model.num_videos + 1)[1:]
    low, high = _QUERIES
    wanted = int(np.clip(_MAX_SCORES // model.num_videos, low, high))
    drawn = min(1.0, wanted / max(int(counts.sum()), 1))
    rng = np.random.default_rng(seed)
    found: list[dict[str, Array]] = []
    columns = (*model.query_columns, LABEL, "time")
    for arrays in batches.in_parts(examples_dir, spec.CANDIDATE, columns):
        known = arrays[LABEL].astype(np.int64) > 0
        rows = np.flatnonzero(known & (arrays["time"].astype(np.int64) >= first))
        rows = rows[rng.random(len(rows)) < drawn]
        found.append({name: arrays[name][rows] for name in model.query_columns})
    queries = {name: np.concatenate([one[name] for one in found]) for name in found[0]}
    if not len(queries[BAG]):
        return None
    _as_served(model, queries)
    return Recent(half_life_s, end_s - first, counts.astype(np.int64), queries)


def _as_served(model: CandidateModel, queries: dict[str, Array]) -> None:
    """Sets the example age to the smallest, which it is when serving."""
    column = spec.vector_column(Side.QUERY, Kind.CONTINUOUS)
    names = model.resolved.vector_names(spec.CANDIDATE, Side.QUERY, Kind.CONTINUOUS)
    if column in queries and "example_age_s" in names:
        place = names.index("example_age_s")
        queries[column] = queries[column].copy()
        queries[column][:, place] = queries[column][:, place].min()


class _Expectation:
    """How many of the newest watches the model expects of each video.

    Args:
        model: Candidate model.
        videos: Content of the vocabulary's videos.
        recent: The newest watches.
    """

    def __init__(self, model: CandidateModel, videos: VideoFeatures, recent: Recent) -> None:
        everything = {name: array[1:] for name, array in videos.arrays.items()}
        everything[LABEL] = np.arange(1, model.num_videos + 1)
        self._videos = in_batches(model.video_embeddings, everything).T.copy()
        self._queries = in_batches(model.query_embeddings, recent.queries)
        self._bags = np.asarray(recent.queries[BAG], np.int64) - 1
        self._repeat_bias = float(model.repeat_bias.numpy())
        self._total = float(recent.counts.sum())

    def __call__(self, change: Floats) -> Floats:
        """Returns float64 [V], with ``change`` added to the biases."""
        size, count = self._videos.shape[1], len(self._queries)
        total = np.zeros(size)
        step = metrics.query_batch_size(size)
        added = change.astype(np.float32)
        for start in range(0, count, step):
            logits = self._queries[start : start + step] @ self._videos + added
            if self._repeat_bias:
                owner, place = np.nonzero(self._bags[start : start + step] >= 0)
                rows = self._bags[start : start + step][owner, place]
                cells = np.unique(owner * size + rows)
                logits.reshape(-1)[cells] += self._repeat_bias
            logits -= logits.max(axis=1, keepdims=True)
            chances = np.exp(logits)
            total += (chances / chances.sum(axis=1, keepdims=True)).sum(axis=0, dtype=np.float64)
        return total * self._total / count
