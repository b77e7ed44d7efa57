"""The order of a page: which candidate is watched next, learned from watches that just happened.

The ranker says how long a video would be watched by whoever is shown it. It learned that from
impressions, among videos that some page had chosen already. Candidates are chosen by nobody: among
hundreds of them, what matters first is what people come for at this moment. Where the catalogue
turns over fast, ordering by expected watch time alone loses to counting the watches of the last
hour. And a site that logs no impressions has no ranker at all, but watches it has.

So the two are put together by a conditional logit: the probability that of its candidates a viewer
watches video i next is

    p_i = exp(w . x_i) / sum_j exp(w . x_j)

with x the logarithm of the expected watch time where there is a ranker, the live statistics, the
retrieval score, the age and the sources of a candidate, and its place among what a source
nominated. The weights are learned by :mod:`serving.batch.order_learning`.

Watches that happen are not those that a page brings about: the next one of a followed channel is
watched whatever is shown. By the truth of simulated sites pages in the order of expected watch time
serve people better (docs/results/living-site.md), so they are in that order where there is a
ranker, as in the paper, and the learned order is one to try (``--order=learned``, or an arm). Where
there is no ranker it decides; without learned weights either, the retrieval score.
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
from features.durations import HOUR_S
from serving.funnel import sources
from serving.funnel.candidates import Candidates
from serving.funnel.page import LEARNED, POPULAR, RETRIEVAL, WATCH_TIME, FunnelConfig
from serving.funnel.viewer import Viewer
from serving.live.state import Rates
from serving.live.view import LiveView
from serving.ordering import page_value
from serving.release import manifest as release

DIRECTORY = release.PAGE_ORDER
FILE = "page_order.json"  # In the directory that serving.learn_order writes.
# Of columns that are logarithms, scores and flags; fitted ones stay far below.
MAX_WEIGHT = 1e6
_MAX_BYTES = 1 << 20
_RATIO_WINDOWS = ("1h", "1d")
PLACED = (
    *(sources.RETRIEVAL, sources.TRENDING, sources.POPULAR, sources.CO_WATCH),
    sources.AGAIN,
)
_RATES = ("short", "middle", "half_life", "day")  # See serving.live.state.half_lives.
_NO_PLACE = 1000  # What was not nominated stands behind all that were.
EXPECTED_WATCH_TIME = "log_expected_watch_time_s"
NAMES = (
    *(f"log_live_{m}_{w}" for m in ("watches", "impressions") for w in spec.LIVE_WINDOWS_S),
    *(f"log_watches_per_impression_{window}" for window in _RATIO_WINDOWS),
    *(EXPECTED_WATCH_TIME, "retrieval_score", "has_retrieval_score", "co_watch_score"),
    *(f"log_rate_{name}" for name in _RATES),
    *("log_region_lift", "log_co_watch_score"),
    *("is_watched", "log_times_watched", "log_h_since_watched"),
    "log_age_h",
    *(f"from_{name}" for name in sources.NAMES),
    *(f"log_place_in_{name}" for name in PLACED),
)


def columns(
    view: LiveView,
    candidates: Candidates,
    *,
    viewer: Viewer,
    upload_times: np.ndarray,
    seconds: np.ndarray | None,
    rates: Rates,
) -> np.ndarray:
    """Returns x, float64 [n, len(NAMES)].

    Args:
        view: View of what everybody watches now.
        candidates: The n candidates of a page.
        viewer: User who asks, and the moment.
        upload_times: int64 [N], of the catalogue.
        seconds: float32 [n], expected watch times, seconds; None without a ranker.
        rates: Rates of the candidates' live counts, at that moment.
    """
    now = viewer.now
    live = view.columns(candidates.rows, np.full(len(candidates), now, np.int64))
    values = [
        np.log1p(live[f"video_live_{measure}_{window}"])
        for measure in ("watches", "impressions")
        for window in spec.LIVE_WINDOWS_S
    ]
    for window in _RATIO_WINDOWS:
        # Smoothed, so that a video without impressions is neither good nor bad.
        watches = live[f"video_live_watches_{window}"] + 0.5
        values.append(np.log(watches / (live[f"video_live_impressions_{window}"] + 5.0)))
    values.append(
        np.zeros(len(candidates)) if seconds is None else np.log(np.maximum(seconds, 0) + 1e-3)
    )
    scored = np.isfinite(candidates.retrieval_scores)
    best = candidates.retrieval_scores[scored].max() if scored.any() else 0.0
    values += [np.where(scored, candidates.retrieval_scores - best, 0.0), scored]
    values.append(np.nan_to_num(_scores_of(candidates, sources.CO_WATCH)))
    values += [*np.log(rates.counts + 0.1), rates.region_lift]
    values.append(np.log(np.nan_to_num(_scores_of(candidates, sources.CO_WATCH)) + 1e-3))
    values += _watched(candidates.rows, viewer)
    age_h = np.maximum(now - upload_times[candidates.rows], 0) / HOUR_S
    values.append(np.log1p(age_h))
    values += [np.isfinite(_scores_of(candidates, name)) for name in sources.NAMES]
    values += [np.log(_places(_scores_of(candidates, name))) for name in PLACED]
    return np.stack(values, axis=1).astype(np.float64)


def _watched(rows: np.ndarray, viewer: Viewer) -> list[np.ndarray]:
    """Returns whether, how often and when the viewer watched each video: float64 [n] each."""
    watches = viewer.history.watches
    order = np.argsort(watches.video, kind="stable")
    videos = watches.video[order]
    first, end = (np.searchsorted(videos, rows, side=side) for side in ("left", "right"))
    times = end - first
    newest = np.zeros(len(rows))
    if len(order):  # The events of a user are sorted by time, and the order is stable.
        newest = np.where(times > 0, watches.time[order][np.maximum(end - 1, 0)], 0)
    hours = np.maximum(viewer.now - newest, 0) / HOUR_S
    return [times > 0, np.log1p(times), np.where(times > 0, np.log(hours + 0.1), 0.0)]


def _scores_of(candidates: Candidates, name: str) -> np.ndarray:
    if name not in candidates.source_names:
        return np.full(len(candidates), np.nan, np.float32)
    return candidates.source_scores[candidates.source_names.index(name)]


def _places(scores: np.ndarray) -> np.ndarray:
    """Returns each candidate's place by the scores of a source, from 1: float64 [n]."""
    places = np.full(len(scores), float(_NO_PLACE))
    nominated = np.flatnonzero(np.isfinite(scores))
    best = nominated[np.argsort(-scores[nominated], kind="stable")]
    places[best] = np.arange(1, len(best) + 1)
    return places


@dataclasses.dataclass(frozen=True)
class PageOrder:
    """Learned weights.

    Attributes:
        weights: float64 [F], for :data:`NAMES` as they are.
        samples: Number of watches that they were learned from.
    """

    weights: np.ndarray
    samples: int

    @property
    def needs_ranker(self) -> bool:
        """Whether it looks at expected watch times."""
        return bool(self.weights[NAMES.index(EXPECTED_WATCH_TIME)])

    def scores(self, x: np.ndarray) -> np.ndarray:
        """Returns w . x, float64 [n]."""
        return x @ self.weights

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


def deciding(
    order: PageOrder | None, settings: FunnelConfig, *, is_ranked: bool
) -> PageOrder | None:
    """Returns the learned order where it decides a page: it is wanted, or nothing was ranked.

    Args:
        order: Learned order of the release, None where it has none.
        settings: Settings of the page.
        is_ranked: Whether there are expected watch times; an order that looks at them needs them.
    """
    if order is None or (order.needs_ranker and not is_ranked):
        return None
    is_default = page_value.parse(settings.page_value).is_default
    is_wanted = settings.order == LEARNED and (is_default or not is_ranked)
    return order if is_wanted or (settings.order == WATCH_TIME and not is_ranked) else None


def in_words(order: PageOrder | None, settings: FunnelConfig, *, is_ranked: bool) -> str:
    """Returns what decides the order of pages, in words; see :func:`deciding`."""
    learned = deciding(order, settings, is_ranked=is_ranked)
    if learned is not None:
        return f"learned from {learned.samples} watches"
    if settings.order == POPULAR:
        return "of popularity"
    if settings.order == RETRIEVAL or not is_ranked:
        return "of the retrieval score"
    formula = page_value.parse(settings.page_value)
    return "of expected watch time" if formula.is_default else f"of the value {formula.text}"


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
        # Another order is better than no page.
        logging.error("%s Pages are not in a learned order.", error)
        return None
