"""Retrieval baselines under the model's own protocol: every video ranked, known at training's end.

A baseline is fitted on the training examples alone. Of a holdout query it may see what the model
sees: the user's region and what they had watched before the query. Scores have no ties, since
ties count against whoever makes them: equal scores are ordered by popularity, then freshness.
"""

import dataclasses
import os
import pathlib
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from features import command, spec
from features.catalogue import Catalogue, combined, ragged_rows
from features.durations import DAY_S, HOUR_S

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

LAST_HOURS = 6
# A region's own counts outweigh the world's after about this many watches.
_REGION_PRIOR_WATCHES = 50.0
# Watches before the label that are paired with it: all of the bag. On KuaiRand this and the
# discount 1 / sqrt(1 + position) gave recall@100 .353 (cosine), ten watches and 1 / (1 + position)
# .303: a weak baseline would flatter the model.
_PAIR_DEPTH = spec.WATCH_BAG
_MAX_PAIR_EXAMPLES = 1_000_000  # The newest ones; more would only cost time.
# Followers kept per video: 1,000 lose nothing on KuaiRand (500 lose .02 of recall@500) and bound
# time and memory where a popular video is followed by everything.
_MAX_FOLLOWERS = 1_000
_MAX_PAIRS = 8_000_000  # Pairs counted at a time, 64 MB of keys.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Queries:
    """Watches to predict, and what was known before each.

    Attributes:
        user_ids: User ids, object (str) [Q].
        times: int64 [Q], Unix seconds of the watch.
        label_ids: object (str) [Q], the video that was watched.
        label_rows: int64 [Q], its row of the catalogue, -1 outside it.
        regions: Region of each query, object (str) [Q], "" where unknown.
        history_offsets: Offsets of each query's slice of ``history_rows``, int64 [Q + 1].
        history_rows: int64 [sum], videos watched before, newest first, -1 outside the catalogue.
    """

    user_ids: npt.NDArray[Any]
    times: Ints
    label_ids: npt.NDArray[Any]
    label_rows: Ints
    regions: npt.NDArray[Any]
    history_offsets: Ints
    history_rows: Ints

    def __len__(self) -> int:
        return len(self.times)

    @property
    def history_lengths(self) -> Ints:
        """int64 [Q]."""
        return np.diff(self.history_offsets)

    def take(self, rows: Any) -> "Queries":
        """Returns the queries at ``rows`` (a slice, row numbers or a mask), in that order."""
        chosen = np.arange(len(self))[rows]
        lengths = self.history_lengths[chosen]
        inside = ragged_rows(self.history_offsets[:-1][chosen], lengths)
        return Queries(
            user_ids=self.user_ids[chosen],
            times=self.times[chosen],
            label_ids=self.label_ids[chosen],
            label_rows=self.label_rows[chosen],
            regions=self.regions[chosen],
            history_offsets=np.concatenate([[0], np.cumsum(lengths)]),
            history_rows=self.history_rows[inside],
        )


def read_queries(examples_dir: str | os.PathLike[str], split: str, catalogue: Catalogue) -> Queries:
    """Reads the raw candidate examples of a split; no rows where the split has none.

    Raises:
        command.InputError: The examples lack a column that every data set has.
    """
    path = pathlib.Path(examples_dir) / "candidate_examples" / split
    wanted = ["user_id", "time", "label_video_id", "region", "watched_video_ids"]
    parts = sorted(path.glob("*.parquet"))
    table = pa.table({"user_id": [], "time": [], "label_video_id": []})
    if parts:
        stored = ds.dataset([str(part) for part in parts], format="parquet")
        table = stored.to_table(columns=[name for name in wanted if name in stored.schema.names])
    missing = [name for name in wanted[:3] if name not in table.column_names]
    if missing:
        raise command.InputError(
            f"{path} has no column {missing[0]!r}; make it anew: python -m pipeline.preprocess"
        )
    offsets, rows = _histories(table, catalogue)
    label_ids = table["label_video_id"].cast(pa.string())
    return Queries(
        user_ids=_strings(table["user_id"]),
        times=np.asarray(combined(table["time"].cast(pa.int64())), np.int64),
        label_ids=_strings(label_ids),
        label_rows=_rows_of(combined(label_ids), catalogue),
        regions=_strings(table["region"])
        if "region" in table.column_names
        else np.full(table.num_rows, "", object),
        history_offsets=offsets,
        history_rows=rows,
    )


def _strings(column: pa.ChunkedArray) -> npt.NDArray[Any]:
    return combined(column.cast(pa.string()).fill_null("")).to_numpy(zero_copy_only=False)


def _rows_of(video_ids: pa.Array, catalogue: Catalogue) -> Ints:
    rows = pc.index_in(video_ids.cast(pa.string()), catalogue.video_ids.cast(pa.string()))
    return np.asarray(rows.fill_null(-1), np.int64)


def _histories(table: pa.Table, catalogue: Catalogue) -> tuple[Ints, Ints]:
    if "watched_video_ids" not in table.column_names:
        return np.zeros(table.num_rows + 1, np.int64), np.zeros(0, np.int64)
    lists = combined(table["watched_video_ids"])
    lengths = np.asarray(pc.fill_null(pc.list_value_length(lists), 0), np.int64)
    return np.concatenate([[0], np.cumsum(lengths)]), _rows_of(lists.flatten(), catalogue)


class Baseline(Protocol):
    """Something that scores every video for every query."""

    @property
    def name(self) -> str:
        """Its name in tables and metric keys."""

    def score(self, queries: Queries) -> Floats:
        """Returns float64 [Q, N] over catalogue rows; the caller may change it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Popularity:
    """Scores that are the same for everybody."""

    name: str
    scores: Floats

    def score(self, queries: Queries) -> Floats:
        """Returns float64 [Q, N]."""
        return np.repeat(self.scores[np.newaxis], len(queries), axis=0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RegionalPopularity:
    """Popularity in the query's region, leaning on the world where the region has said little."""

    name: str
    by_region: dict[str, Floats]
    world: Floats

    def score(self, queries: Queries) -> Floats:
        """Returns float64 [Q, N]."""
        return np.stack([self.by_region.get(region, self.world) for region in queries.regions])


@dataclasses.dataclass(frozen=True, kw_only=True)
class ItemToItem:
    """Adds up what followed the query's own watches, the newest ones counting most.

        score(v) = sum over watched videos h at position p of weight(h, v) / sqrt(1 + p)

    Attributes:
        name: Name of the baseline in tables.
        offsets: int64 [N + 1], CSR by watched video.
        targets: int64 [nnz], videos that followed.
        weights: Weight of each target, float64 [nnz], above 0.
        tie_break: float64 [N] in [0, 1), far below any weight once scaled.
        depth: Watches of the query that are used, from the newest.
    """

    name: str
    offsets: Ints
    targets: Ints
    weights: Floats
    tie_break: Floats
    depth: int

    def score(self, queries: Queries) -> Floats:
        """Returns float64 [Q, N]."""
        num_videos = len(self.tie_break)
        owner, position, watched = newest(queries, self.depth)
        lengths = self.offsets[watched + 1] - self.offsets[watched]
        followers = ragged_rows(self.offsets[watched], lengths)
        cell = np.repeat(owner * num_videos, lengths) + self.targets[followers]
        weight = self.weights[followers] / np.sqrt(1.0 + np.repeat(position, lengths))
        scores = np.bincount(cell, weights=weight, minlength=len(queries) * num_videos)
        return scores.reshape(len(queries), num_videos) + 1e-12 * self.tie_break


def newest(queries: Queries, depth: int) -> tuple[Ints, Ints, Ints]:
    """Returns (query, position from 0, video row) of each query's last ``depth`` watches."""
    lengths = np.minimum(queries.history_lengths, depth)
    rows = queries.history_rows[ragged_rows(queries.history_offsets[:-1], lengths)]
    owner = np.repeat(np.arange(len(queries)), lengths)
    position = np.arange(len(owner)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    known = rows >= 0
    return owner[known], position[known], rows[known]


def fit_all(train: Queries, catalogue: Catalogue, *, train_until_s: int) -> list[Baseline]:
    """Fits every baseline on the training examples.

    Args:
        train: The training split; what lies at or after ``train_until_s`` is refused.
        catalogue: Catalogue of all videos, N rows.
        train_until_s: Unix seconds; "last day" and "last hours" end here.

    Raises:
        ValueError: A training example lies in the holdout.
    """
    if len(train) and int(train.times.max()) >= train_until_s:
        raise ValueError(f"train must end before {train_until_s}, got {int(train.times.max())}.")
    order = popularity_order(train, catalogue)
    windows = (
        ("all", None),
        ("last_day", DAY_S),
        (f"last_{LAST_HOURS}h", LAST_HOURS * HOUR_S),
        ("last_1h", HOUR_S),
    )
    fitted: list[Baseline] = []
    for name, window_s in windows:
        since = train_until_s - window_s if window_s else 0
        counts = watch_counts(train, len(catalogue), since_s=since)
        fitted.append(Popularity(name=f"popularity_{name}", scores=counts + order))
    fitted.append(popularity_by_freshness(train, catalogue, order, train_until_s=train_until_s))
    regional = regional_popularity(train, order)
    # Without regions it would be popularity over all time once more.
    fitted.extend([regional] if regional.by_region else [])
    fitted.extend(item_to_item(train, order))
    return fitted


def watch_counts(train: Queries, num_videos: int, *, since_s: int = 0) -> Floats:
    """Returns float64 [N], how often each video was the label since a time."""
    rows = train.label_rows[(train.label_rows >= 0) & (train.times >= since_s)]
    return np.bincount(rows, minlength=num_videos).astype(np.float64)


def popularity_order(train: Queries, catalogue: Catalogue) -> Floats:
    """Returns float64 [N] in [0, 1), all different: rising with popularity, then upload time."""
    counts = watch_counts(train, len(catalogue))
    order = np.lexsort((catalogue.upload_times, counts))
    rank = np.empty(len(catalogue), np.float64)
    rank[order] = np.arange(len(catalogue))
    return rank / max(1, len(catalogue))


def popularity_by_freshness(
    train: Queries, catalogue: Catalogue, order: Floats, *, train_until_s: int
) -> Popularity:
    """Fits watches per day of a video's life, so that what is new need not have had its time.

    A day is added to each life: a video of minutes with one watch is no hit yet. A video uploaded
    after training has none.
    """
    life_days = np.maximum(train_until_s - catalogue.upload_times, 0) / DAY_S
    rate = watch_counts(train, len(order)) / (1.0 + life_days)
    return Popularity(name="popularity_by_freshness", scores=rate + 1e-6 * order)


def regional_popularity(train: Queries, order: Floats) -> RegionalPopularity:
    """Fits counts per region, each with :data:`_REGION_PRIOR_WATCHES` drawn from the world's."""
    counts = watch_counts(train, len(order))
    prior = _REGION_PRIOR_WATCHES * counts / max(1.0, counts.sum())
    by_region = {}
    for region in np.unique(train.regions[train.regions != ""].astype(str)):
        inside = train.take(train.regions == region)
        by_region[str(region)] = watch_counts(inside, len(order)) + prior + 1e-6 * order
    return RegionalPopularity(
        name="popularity_by_region", by_region=by_region, world=counts + order
    )


def item_to_item(train: Queries, order: Floats) -> Sequence[ItemToItem]:
    """Fits co-visitation, its cosine form, and item-to-item from the last watch alone."""
    num_videos = len(order)
    if len(train) > _MAX_PAIR_EXAMPLES:
        train = train.take(np.argsort(train.times, kind="stable")[-_MAX_PAIR_EXAMPLES:])
    sources, targets, counts = followed_by(train, num_videos, _PAIR_DEPTH)
    last_sources, last_targets, last_counts = followed_by(train, num_videos, 1)
    by_source = np.bincount(sources, weights=counts, minlength=num_videos)
    by_target = np.bincount(targets, weights=counts, minlength=num_videos)
    by_last = np.bincount(last_sources, weights=last_counts, minlength=num_videos)
    cosine = counts / np.sqrt(by_source[sources] * by_target[targets])
    return (
        _csr("co_visitation", (sources, targets, counts / by_source[sources]), order=order),
        _csr("item_cosine", (sources, targets, cosine), order=order),
        _csr(
            "last_watch",
            (last_sources, last_targets, last_counts / by_last[last_sources]),
            order=order,
            depth=1,
        ),
    )


def _csr(
    name: str, triples: tuple[Ints, Ints, Floats], *, order: Floats, depth: int = _PAIR_DEPTH
) -> ItemToItem:
    sources, targets, weights = triples
    best_first = np.lexsort((-weights, sources))
    counts = np.bincount(sources, minlength=len(order))
    place = np.arange(len(sources)) - np.repeat(np.cumsum(counts) - counts, counts)
    kept = best_first[place < _MAX_FOLLOWERS]
    sources, targets, weights = sources[kept], targets[kept], weights[kept]
    counts = np.bincount(sources, minlength=len(order))
    return ItemToItem(
        name=name,
        offsets=np.concatenate([[0], np.cumsum(counts)]),
        targets=targets,
        weights=weights,
        tie_break=order,
        depth=depth,
    )


def followed_by(train: Queries, num_videos: int, depth: int) -> tuple[Ints, Ints, Floats]:
    """Counts how often watching one video came up to ``depth`` watches before another.

    Returns:
        source rows int64 [nnz] (sorted), target rows int64 [nnz], counts float64 [nnz] > 0.
    """
    step = max(1, _MAX_PAIRS // depth)
    keys: Ints = np.zeros(0, np.int64)
    counts: Floats = np.zeros(0, np.float64)
    for start in range(0, len(train), step):
        part = train.take(slice(start, start + step))
        owner, _, watched = newest(part, depth)
        labels = part.label_rows[owner]
        pairs = (watched * num_videos + labels)[(labels >= 0) & (labels != watched)]
        merged, inverse = np.unique(np.concatenate([keys, pairs]), return_inverse=True)
        added = np.concatenate([counts, np.ones(len(pairs))])
        keys = merged.astype(np.int64)
        counts = np.bincount(inverse, weights=added).astype(np.float64)
    return keys // max(1, num_videos), keys % max(1, num_videos), counts
