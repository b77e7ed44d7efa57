"""The order of a page: which candidate is watched next, learned from watches that just happened.

The ranker says how long a video would be watched by whoever is shown it. It learned that from
impressions, among videos that some page had chosen already. Candidates are chosen by nobody: among
hundreds of them, what matters first is what people come for at this moment. Where the catalogue
turns over fast, ordering by expected watch time alone loses to counting the watches of the last
hour.

So the two are put together by a conditional logit: the probability that of its candidates a viewer
watches video i next is

    p_i = exp(w . x_i) / sum_j exp(w . x_j)

with x the logarithm of the expected watch time, the live statistics, the retrieval score, the age
and the sources of a candidate. About 25 weights are learned by Newton's method, from watches that
happened after the funnel could have been asked (:mod:`serving.page_replay`). Negatives are sampled
evenly from the candidates, which leaves the weights right (McFadden, 1978).

Without learned weights a page is in the order of expected watch time, as in the paper.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
from typing import Any

import numpy as np
from absl import logging

from features import command, files, spec
from serving import sources
from serving.candidates import Candidates
from serving.live_state import LiveView

DIRECTORY = "page_order"
NEGATIVES = 200
MIN_SAMPLES = 200
# Of columns that are logarithms, scores and flags; fitted ones stay far below.
MAX_WEIGHT = 1e6
_MAX_BYTES = 1 << 20
_SOURCES = (*sources.NAMES, sources.CO_WATCH)
_RATIO_WINDOWS = ("1h", "1d")
NAMES = (
    *(f"log_live_{m}_{w}" for m in ("watches", "impressions") for w in spec.LIVE_WINDOWS_S),
    *(f"log_watches_per_impression_{window}" for window in _RATIO_WINDOWS),
    *("log_expected_watch_time_s", "retrieval_score", "has_retrieval_score", "co_watch_score"),
    "log_age_h",
    *(f"from_{name}" for name in _SOURCES),
)


def columns(
    view: LiveView,
    found: Candidates,
    *,
    now: int,
    upload_times: np.ndarray,
    seconds: np.ndarray,
) -> np.ndarray:
    """Returns x, float64 [n, len(NAMES)].

    Args:
        view: What everybody watches.
        found: Candidates.
        now: Unix seconds.
        upload_times: int64 [N], of the catalogue.
        seconds: float32 [n], expected watch times.
    """
    live = view.columns(found.rows, np.full(len(found), now, np.int64))
    values = [
        np.log1p(live[f"video_live_{measure}_{window}"])
        for measure in ("watches", "impressions")
        for window in spec.LIVE_WINDOWS_S
    ]
    for window in _RATIO_WINDOWS:
        # Smoothed, so that a video without impressions is neither good nor bad.
        watches = live[f"video_live_watches_{window}"] + 0.5
        values.append(np.log(watches / (live[f"video_live_impressions_{window}"] + 5.0)))
    values.append(np.log(np.maximum(seconds, 0) + 1e-3))
    scored = np.isfinite(found.retrieval_scores)
    best = found.retrieval_scores[scored].max() if scored.any() else 0.0
    values += [np.where(scored, found.retrieval_scores - best, 0.0), scored]
    values.append(np.nan_to_num(_scores_of(found, sources.CO_WATCH)))
    age_h = np.maximum(now - upload_times[found.rows], 0) / 3600
    values.append(np.log1p(age_h))
    values += [np.isfinite(_scores_of(found, name)) for name in _SOURCES]
    return np.stack(values, axis=1).astype(np.float64)


def _scores_of(found: Candidates, name: str) -> np.ndarray:
    if name not in found.source_names:
        return np.full(len(found), np.nan, np.float32)
    return found.source_scores[found.source_names.index(name)]


@dataclasses.dataclass(frozen=True)
class PageOrder:
    """Learned weights.

    Attributes:
        weights: float64 [F], for :data:`NAMES` as they are.
        samples: Watches that they were learned from.
    """

    weights: np.ndarray
    samples: int

    def scores(self, x: np.ndarray) -> np.ndarray:
        """Returns w . x, float64 [n]."""
        found: np.ndarray = x @ self.weights
        return found

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes JSON that :meth:`load` reads, with its SHA-256; it appears when it is whole.

        Raises:
            InputError: The weights are beyond what :meth:`load` takes.
        """
        if not _are_sane(self.weights):
            raise command.InputError(
                f"the learned page order has weights beyond {MAX_WEIGHT:.0e}; pages stay in the "
                "order of expected watch time. Learn it from more watches, with --watches."
            )
        order = {
            "samples": self.samples,
            "weights": dict(zip(NAMES, self.weights.tolist(), strict=True)),
        }
        text = json.dumps({"sha256": _sha256(order), "order": order}, indent=1)
        files.atomic_write(pathlib.Path(path), text + "\n")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "PageOrder":
        """Reads what :meth:`save` wrote.

        Raises:
            InputError: It is not that, or was changed.
        """
        try:
            with open(path, "rb") as file:
                signed: dict[str, Any] = json.loads(file.read(_MAX_BYTES).decode())
            order = signed["order"]
            is_whole = signed["sha256"] == _sha256(order)
            weights = np.array([float(order["weights"][name]) for name in NAMES])
            samples = int(order["samples"])
        except (
            OSError,
            LookupError,
            TypeError,
            ValueError,
            OverflowError,
            RecursionError,
        ) as error:
            raise command.InputError(
                f"{path} holds no learned page order: {type(error).__name__} {str(error)[:200]}."
            ) from None
        if not is_whole:
            raise command.InputError(f"{path} has other content (its SHA-256 differs).")
        if not _are_sane(weights):
            raise command.InputError(f"{path} holds weights that are not within {MAX_WEIGHT:.0e}.")
        return cls(weights, samples)


def _are_sane(weights: np.ndarray) -> bool:
    return bool((np.abs(weights) <= MAX_WEIGHT).all())  # NaN is not.


def _sha256(order: Any) -> str:
    return hashlib.sha256(json.dumps(order, sort_keys=True).encode()).hexdigest()


def path_of(serving_root: str | os.PathLike[str], version: str) -> pathlib.Path:
    """Returns where the learned order of a release lies; it is learned after the release."""
    return pathlib.Path(serving_root) / DIRECTORY / f"{version}.json"


def of_release(serving_root: str | os.PathLike[str], version: str) -> PageOrder | None:
    """Returns the learned order of a release; None where it has none, or a broken one."""
    path = path_of(serving_root, version)
    if not os.path.lexists(path):
        return None
    try:
        return PageOrder.load(path)
    except command.InputError as error:
        # The order of expected watch time is better than no page.
        logging.error("%s Pages are in the order of expected watch time.", error)
        return None


def fit(x: np.ndarray, target: np.ndarray, *, l2: float = 1.0, steps: int = 12) -> np.ndarray:
    """Returns the weights that maximise the likelihood of the targets, float64 [F].

    Args:
        x: float [S, M, F], the candidates of each sample; rows of NaN are no candidates.
        target: int [S], which of them was watched.
        l2: Weight of the penalty on squared weights of standardised columns.
        steps: Newton steps at most.
    """
    is_there = ~np.isnan(x[:, :, 0])
    real = x[is_there]
    mean, scale = real.mean(axis=0), real.std(axis=0)
    scale = np.where(scale > 1e-9, scale, np.inf)  # A column that says nothing gets weight 0.
    z = np.where(is_there[:, :, np.newaxis], (x - mean) / scale, 0.0)
    watched = z[np.arange(len(z)), target].sum(axis=0)
    flat = z.reshape(-1, z.shape[2])
    weights = np.zeros(z.shape[2])
    for _ in range(steps):
        logits = np.where(is_there, z @ weights, -np.inf)
        p = np.exp(logits - logits.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        expected = np.einsum("sm,smf->sf", p, z)
        gradient = watched - expected.sum(axis=0) - l2 * weights
        hessian = flat.T @ (flat * p.reshape(-1, 1)) - expected.T @ expected
        step = np.linalg.solve(hessian + l2 * np.eye(len(weights)), gradient)
        step /= max(1.0, float(np.abs(step).max()))  # Far from the optimum, no wild leaps.
        weights += step
        if np.abs(step).max() < 1e-4:
            break
    return weights / scale


class Lessons:
    """Watches to learn from: for each, some candidates, the watched one first."""

    def __init__(self) -> None:
        self._samples: list[np.ndarray] = []
        self._rng = np.random.default_rng(0)

    def __len__(self) -> int:
        return len(self._samples)

    def add(self, x: np.ndarray, watched: int) -> None:
        """Takes in the candidates of a page, float [n, F], and which of them was watched."""
        others = np.delete(np.arange(len(x)), watched)
        if len(others) > NEGATIVES:
            others = self._rng.choice(others, NEGATIVES, replace=False)
        sample = np.full((NEGATIVES + 1, x.shape[1]), np.nan, np.float32)
        sample[: len(others) + 1] = x[np.concatenate([[watched], others])]
        self._samples.append(sample)

    def learned(self) -> PageOrder | None:
        """Returns what there is to learn; None from fewer than :data:`MIN_SAMPLES` watches."""
        if len(self._samples) < MIN_SAMPLES:
            return None
        x = np.stack(self._samples).astype(np.float64)
        return PageOrder(fit(x, np.zeros(len(x), np.int64)), len(x))
