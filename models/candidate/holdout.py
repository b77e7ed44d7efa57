"""The candidate model's look at the holdout: next watches ranked among the whole corpus."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from features import tensors
from models.candidate.model import CandidateModel
from models.config import MAP, RECALL
from models.evaluation import metrics
from models.training import batches, collapse

Array = npt.NDArray[np.generic]
LABEL, BAG = "video_id", "watched_video_ids"
K = 100
# The product of all queries and all videos is bounded, so that a look at a corpus of millions
# does not take longer than the epoch before it.
_MAX_HOLDOUT_SCORES = 4e9


class Holdout:
    """Watches after the training period, ranked among all videos of the catalogue.

    Args:
        queries: Query features, transformed, ``label_video_id`` and perhaps ``user_id`` (bytes).
        videos: Features of all videos, as ``features.dataset.videos`` returns them.
        limit: Greatest number of queries looked at; 0: all.
        seed: Seed of the choice of queries.

    Attributes:
        users: Ids of the users of the queries, object (bytes) [n]; None where they were not given.
    """

    def __init__(
        self, queries: Mapping[str, Array], videos: Mapping[str, Array], *, limit: int, seed: int
    ) -> None:
        self._videos = dict(videos)
        names = self._videos.pop("label_video_id")
        bound = max(1000, int(_MAX_HOLDOUT_SCORES / max(1, len(names))))
        self._queries = batches.sample(queries, min(limit or bound, bound), seed=seed)
        ids = np.asarray(self._videos[LABEL], np.int64)
        self._row_of_id = np.full(int(ids.max(initial=0)) + 1, -1, np.int64)
        self._row_of_id[ids[ids > 0]] = np.flatnonzero(ids > 0)
        row_of = {name: row for row, name in enumerate(names)}
        self.users = self._queries.pop("user_id", None)
        labels = self._queries.pop("label_video_id")
        self._rows = np.array([row_of.get(label.decode(), -1) for label in labels], np.int64)

    def evaluate(self, model: CandidateModel) -> dict[str, float]:
        """Returns the metrics by name."""
        ranks, queries, videos = self._ranked(model)
        return {
            MAP: metrics.mean_average_precision(ranks, K),
            RECALL: metrics.recall_at_k(ranks, K),
            **collapse.measure(queries, videos),
        }

    def ranks(self, model: CandidateModel) -> npt.NDArray[np.int64]:
        """Returns the rank of each watch among all videos, from 1, int64 [n]."""
        return self._ranked(model)[0]

    def ranks_by(
        self, scores: npt.NDArray[np.float64], model: CandidateModel
    ) -> npt.NDArray[np.int64]:
        """Returns ranks as :meth:`ranks` by one score of each video, with the model's repeats.

        Args:
            scores: float64 [V], of the videos of the vocabulary, by id; others are below all.
            model: Model whose repeat bias is added for what a user had watched.
        """
        of_id = np.concatenate([[scores.min() - 1], scores]).astype(np.float32)
        videos = of_id[np.asarray(self._videos[LABEL], np.int64)][:, np.newaxis]
        queries = np.ones((len(self._rows), 1), np.float32)
        return self._ranked(model, (queries, videos))[0]

    def _ranked(
        self, model: CandidateModel, given: tuple[Array, Array] | None = None
    ) -> tuple[npt.NDArray[np.int64], Array, Array]:
        """Returns ranks, embeddings of the queries, and of the videos that have one."""
        queries, videos = given or (
            tensors.in_batches(model.query_embeddings, self._queries),
            tensors.in_batches(model.video_embeddings, self._videos),
        )
        can_embed = model.can_embed(self._videos)
        # A video without an embedding cannot be recommended, and a label among them is a miss.
        places = np.where(can_embed, np.cumsum(can_embed) - 1, -1)
        rows = np.where(self._rows >= 0, places[self._rows], -1)
        watched = None
        if BAG in self._queries and float(model.repeat_bias.numpy()):
            bag = self._row_of_id[self._queries[BAG]]
            watched = np.where(bag >= 0, places[bag], -1)
        ranks = metrics.label_ranks(
            queries,
            videos[can_embed],
            rows,
            watched=watched,
            repeat_bias=float(model.repeat_bias.numpy()),
        )
        return ranks, queries, videos[can_embed]
