"""Queries of real users, to tune and judge an index with, and what was watched on their days."""

import dataclasses
import pathlib
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from absl import logging

from features import command, dataset, spec, tensors
from features.catalogue import Catalogue, combined
from features.durations import DAY_S
from features.spec import ResolvedSpec, Side
from features.tables.site_facts import SiteFacts
from models.candidate.model import CandidateModel
from serving.index.exact_search import Floats

# Half of them tune the index, half measure it.
NUM_QUERIES = 2000
_FEWEST_LATELY = 300  # Watches that are enough to tell how spread they are.
_BATCH = 4096
_LIGHT_WATCHES = 10


@dataclasses.dataclass(frozen=True)
class UserQueries:
    """Queries as users asked them on the days of the holdout.

    Attributes:
        embeddings: float32 [Q, D + 1], of different users as long as there are any.
        user_ids: object [Q], ids of the users.
        watches: int64 [Q], how many watches stand in the query; None where the model reads none.
    """

    embeddings: Floats
    user_ids: npt.NDArray[np.object_]
    watches: npt.NDArray[np.int64] | None

    @property
    def slices(self) -> dict[str, npt.NDArray[np.bool_]]:
        """Kinds of user: bool [Q] by name."""
        if self.watches is None:
            return {}
        return {
            "no watches": self.watches == 0,
            "light users": (self.watches > 0) & (self.watches < _LIGHT_WATCHES),
            "heavy users": self.watches >= _LIGHT_WATCHES,
        }

    def first(self, count: int) -> "UserQueries":
        """Returns the first of them."""
        watches = None if self.watches is None else self.watches[:count]
        return UserQueries(self.embeddings[:count], self.user_ids[:count], watches)

    def of_known_users(self, limit: int) -> Floats:
        """Returns one query of each user who had watched something, at most ``limit``.

        Those of whom nothing is known may well get one list for all of them.
        """
        known = np.arange(len(self.embeddings))
        if self.watches is not None:
            known = known[self.watches > 0]
        _, first = np.unique(self.user_ids[known], return_index=True)
        return self.embeddings[known[np.sort(first)][:limit]]


def of_held_out_users(
    model: CandidateModel, examples: pathlib.Path, resolved: ResolvedSpec
) -> UserQueries:
    """Embeds queries of as many held-out users as possible.

    Without a holdout, training queries stand in: the index still meets real users.
    """
    for split in ("holdout", "train"):
        arrays = _sample(examples, split)
        if arrays:
            break
        logging.warning("%s has no %s examples of users to query with.", examples, split)
    else:
        raise command.InputError(f"{examples} has no candidate examples; preprocess more logs.")
    watches = None
    if "watched_video_ids" in arrays:
        watches = (arrays["watched_video_ids"] > 0).sum(axis=1).astype(np.int64)
    return UserQueries(
        tensors.in_batches(
            model.query_embeddings,
            tensors.side_features(resolved, spec.CANDIDATE, Side.QUERY, arrays),
            phase="embedding the queries",
        ),
        arrays["user_id"],
        watches,
    )


def watched(examples: pathlib.Path, catalogue: Catalogue) -> npt.NDArray[np.int64]:
    """Returns how often each video was watched when the queries were made, int64 [N].

    That is of late where a day is long for the site, or where the holdout is an hour alone, and
    else on the days of the holdout.
    """
    info = dataset.info(examples)
    fewest = 1 if "held_out_from_s" in info else _FEWEST_LATELY
    half_life_s = SiteFacts.of_info(info).half_life_s
    lately = watched_lately(examples, catalogue, half_life_s, fewest=fewest)
    if lately is not None:
        return lately
    daily = pq.read_table(examples / "video_statistics").combine_chunks()
    from_s = int(str(info.get("measured_until_s", info["train_until_s"])))
    return watched_then(daily, catalogue, from_s=from_s)


def watched_then(daily: pa.Table, catalogue: Catalogue, *, from_s: int) -> npt.NDArray[np.int64]:
    """Returns how often each video was watched on the days of the holdout, int64 [N].

    Args:
        daily: Video statistics by day.
        catalogue: Catalogue that numbers the videos.
        from_s: Start of the holdout, Unix seconds; without one the last day counts.
    """
    if not daily.num_rows:
        return np.zeros(len(catalogue), np.int64)
    day = np.asarray(combined(daily["day"]), np.int64)
    rows = catalogue.rows(daily["video_id"])
    mine = (day >= min(from_s // DAY_S, int(day.max()))) & (rows >= 0)
    # Where nobody logs watches, clicks are what there is.
    names = ("watches", "clicks")
    counts = [np.asarray(combined(daily[name]), np.float64)[mine] for name in names]
    activity = counts[0] if counts[0].any() else counts[1]
    return np.bincount(rows[mine], weights=activity, minlength=len(catalogue)).astype(np.int64)


def watched_lately(
    examples: pathlib.Path,
    catalogue: Catalogue,
    half_life_s: float | None,
    *,
    fewest: int = _FEWEST_LATELY,
) -> npt.NDArray[np.int64] | None:
    """Counts the newest watches of the holdout by video, where a day is long for the site.

    The index is asked as of one moment. At a news site what was watched in the morning is gone by
    then, and lists of the moment cannot hold what people watched over the whole day.

    Args:
        examples: Examples directory; the labels of its holdout are counted.
        catalogue: Catalogue that numbers the videos.
        half_life_s: Half-life of the site, seconds; None where it is not known.
        fewest: Watches that are enough to tell how spread they are, 1 or more.

    Returns:
        int64 [N], watches of the last half-life, of more where that holds hardly any; None where
        that is a day or more.
    """
    if half_life_s is None or half_life_s >= DAY_S:
        return None
    holdout = dataset.load(examples, spec.CANDIDATE, "holdout", ["time", "label_video_id"])
    if len(holdout["time"]) < fewest:
        return None
    first = min(int(holdout["time"].max() - half_life_s), int(np.sort(holdout["time"])[-fewest]))
    labels = holdout["label_video_id"][holdout["time"] >= first]
    rows = catalogue.rows(pa.array([label.decode() for label in labels.tolist()], pa.string()))
    return np.bincount(rows[rows >= 0], minlength=len(catalogue)).astype(np.int64)


def _sample(examples: pathlib.Path, split: str) -> dict[str, npt.NDArray[Any]]:
    """Returns at most :data:`NUM_QUERIES` examples in random order, different users first."""
    kept: dict[str, npt.NDArray[Any]] = {}
    rng = np.random.default_rng(0)
    for batch in dataset.batches(
        examples, spec.CANDIDATE, split, batch_size=_BATCH
    ).as_numpy_iterator():
        merged = {n: np.concatenate([kept[n], v]) if kept else v for n, v in batch.items()}
        order = rng.permutation(len(merged["time"]))
        _, first = np.unique(merged["user_id"][order], return_index=True)
        again = np.setdiff1d(np.arange(len(order)), first)
        chosen = order[np.concatenate([rng.permutation(first), again])][:NUM_QUERIES]
        kept = {name: values[chosen] for name, values in merged.items()}
    return kept
