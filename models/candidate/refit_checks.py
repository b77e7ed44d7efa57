"""Whether the model that serves is still the one that was measured, where that can be told.

No days are left that it has not learnt, so it has no figures. What can be asked of it, on the
watches of the holdout, as their users asked:

* agreement: of the videos that both models know, do both put the same ones into the lists of the
  same users? They need not agree wholly: a day of watches is between them, and two trainings of one
  model differ, too.
* the newest: are the watches of the holdout found better than before, and above all those of
  videos that nobody had watched before? It has learnt these very watches, so anything else means
  that the training went wrong.
"""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from features import dataset, spec, tensors
from models.candidate.holdout import LABEL
from models.candidate.model import CandidateModel
from models.evaluation import metrics

K = 100
_MAX_QUERIES = 2000
_KEYS = ("user_id", "time", "label_video_id")
Array = npt.NDArray[Any]


@dataclasses.dataclass(frozen=True)
class Side:
    """One of the two models with its own examples of the same watches.

    Attributes:
        model: Candidate model that is compared.
        queries: Transformed holdout queries, at most 2,000, sorted by user, time and video.
        videos: Embeddings of the catalogue, float32 [N, D + 1].
        known: bool [N], whether a video is in the vocabulary of the model.
        video_ids: Video ids of the catalogue, object (str) [N].
    """

    model: CandidateModel
    queries: Mapping[str, Array]
    videos: npt.NDArray[np.float32]
    known: npt.NDArray[np.bool_]
    video_ids: npt.NDArray[np.object_]

    @classmethod
    def of(cls, model: CandidateModel, examples_dir: str | os.PathLike[str]) -> "Side":
        """Embeds what is compared."""
        arrays = dataset.load(
            examples_dir, spec.CANDIDATE, "holdout", [*model.query_columns, *_KEYS]
        )
        order = np.lexsort([arrays[key] for key in reversed(_KEYS)])
        if len(order) > _MAX_QUERIES:
            order = order[np.linspace(0, len(order) - 1, _MAX_QUERIES).astype(np.int64)]
        catalogue = dataset.videos(examples_dir)
        video_ids = catalogue.pop("label_video_id")
        return cls(
            model,
            {name: values[order] for name, values in arrays.items()},
            tensors.in_batches(model.video_embeddings, catalogue),
            np.asarray(catalogue[LABEL]) > 0,
            video_ids,
        )


def compare(measured: Side, final: Side) -> dict[str, Any]:
    """Returns the figures, JSON values.

    Args:
        measured: Model that has not learnt the watches, with its examples.
        final: Model that has learnt the watches, with its examples.

    Returns:
        ``watches``; ``overlap_at_100`` of the lists of both, among the videos that both know, and
        ``listed``, how many those are; of the watches of known and of new videos their number and
        recall@100 (``known``, ``new``: ``watches``, ``measured``, ``final``); ``videos``.
    """
    for key in _KEYS:
        if not np.array_equal(measured.queries[key], final.queries[key]):
            raise ValueError("the two examples hold different watches in their holdouts.")
    both = np.flatnonzero(measured.known & final.known)
    size = min(K, len(both))
    scores = [_scores(side) for side in (measured, final)]
    overlap = float("nan")
    if size:
        lists = [_best(one[:, both], size) for one in scores]
        shared = [len(np.intersect1d(a, b)) for a, b in zip(*lists, strict=True)]
        overlap = float(np.mean(shared)) / size
    rows = _label_rows(final)
    is_new = (rows >= 0) & ~measured.known[rows]
    comparison: dict[str, Any] = {
        "watches": len(rows),
        "videos": len(final.known),
        "listed": len(both),
        "overlap_at_100": overlap if size else None,
    }
    for name, mask in (("known", (rows >= 0) & ~is_new), ("new", is_new)):
        comparison[name] = {"watches": int(mask.sum())} | {
            which: _recall(one[mask], rows[mask]) if mask.any() else None
            for which, one in zip(("measured", "final"), scores, strict=True)
        }
    return comparison


def _scores(side: Side) -> npt.NDArray[np.float32]:
    """Returns the logits of all videos, minus infinity for those without an embedding."""
    queries = tensors.in_batches(
        side.model.query_embeddings, {n: side.queries[n] for n in side.model.query_columns}
    )
    scores: npt.NDArray[np.float32] = queries @ side.videos.T
    if not side.model.has_content:
        scores[:, ~side.known] = -np.inf
    return scores


def _best(scores: npt.NDArray[np.float32], size: int) -> npt.NDArray[np.int64]:
    return np.argpartition(-scores, size - 1, axis=1)[:, :size].astype(np.int64)


def _label_rows(side: Side) -> npt.NDArray[np.int64]:
    """Returns the catalogue row of each label, int64 [Q]; -1 outside."""
    row_of = {video_id: row for row, video_id in enumerate(side.video_ids)}
    labels = side.queries["label_video_id"]
    return np.array([row_of.get(label.decode(), -1) for label in labels], np.int64)


def _recall(scores: npt.NDArray[np.float32], rows: npt.NDArray[np.int64]) -> float:
    mine = scores[np.arange(len(rows)), rows]
    better = (scores > mine[:, np.newaxis]).sum(axis=1)
    # A video without an embedding is in no list, however long.
    return metrics.recall_at_k(np.where(np.isfinite(mine), better, np.iinfo(np.int64).max), K)
