"""Offline retrieval: queries in Parquet -> the best videos of each, by the current release.

Raw features come from :mod:`features.as_of.examples`, as in the funnel: each query is a user of
its own whose history is what its row says, asked at the row's time. What lies at or after that
time is not looked at.
"""

import dataclasses
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import tensorflow as tf
from absl import logging

from features import command, spec, tensors
from features.as_of import examples
from features.as_of.examples import Request, Users
from features.as_of.history import History
from features.catalogue import Catalogue, combined, ragged_rows
from features.event_columns import Queries
from features.screen import progress
from features.spec import ResolvedSpec, Side
from serving.batch import output as batch_output
from serving.batch import query_files
from serving.index.exact_search import Floats, Rows
from serving.index.index import Index
from serving.release.manifest import Release
from serving.servables import signatures

_BATCH = 2048


def retrieve(
    release: Release,
    *,
    queries: pathlib.Path,
    output: pathlib.Path,
    k: int,
    candidates: pathlib.Path | None = None,
    exclude_watched: bool = False,
) -> int:
    """Writes ``query_id, rank, video_id, score``, k rows per query, best first.

    Args:
        release: Release whose query tower and index answer.
        queries: Parquet file: ``query_id``, ``time`` (Unix seconds), ``watched_video_ids`` (list,
            oldest first), optional ``watched_times``, ``search_queries`` (lists, oldest first),
            ``user_id``, and columns of the users table and of the request.
        output: Parquet file to write; it appears when it is whole.
        k: Number of videos per query. Fewer come where there are no more.
        candidates: Parquet file with ``video_id``: nothing else is retrieved.
        exclude_watched: Whether videos of ``watched_video_ids`` are left out.

    Returns:
        Number of rows written.

    Raises:
        command.InputError: A file or column is missing or of a wrong type.
    """
    table = query_files.read(queries)
    retriever = _Retriever.load(release, table.column_names)
    among = None if candidates is None else _candidate_rows(candidates, retriever.catalogue)
    results = retriever.results(table, k, among=among, exclude_watched=exclude_watched)
    return batch_output.write(output, _schema(table), results)


def _candidate_rows(path: pathlib.Path, catalogue: Catalogue) -> Rows:
    table = batch_output.read_parquet(path, flag="candidates")
    if "video_id" not in table.column_names:
        have = ", ".join(table.column_names)
        raise command.InputError(f"--candidates {path} lacks the column 'video_id'; has {have}.")
    rows = catalogue.rows(pc.unique(table["video_id"].cast(pa.string())))
    known = rows[rows >= 0]
    if len(known) < len(rows):
        logging.warning(
            "%d of %d candidates are not in the release, so they cannot be retrieved.",
            len(rows) - len(known),
            len(rows),
        )
    if not len(known):
        raise command.InputError(f"--candidates {path}: the release has none of these videos.")
    return np.sort(known)


def _schema(queries: pa.Table) -> pa.Schema:
    return pa.schema(
        {
            "query_id": queries["query_id"].type,
            "rank": pa.int64(),
            "video_id": pa.string(),
            "score": pa.float32(),
        }
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Retriever:
    """What one release needs to answer queries."""

    resolved: ResolvedSpec
    catalogue: Catalogue
    profiles: Users
    index: Index
    signature: Any

    @classmethod
    def load(cls, release: Release, columns: list[str]) -> "_Retriever":
        resolved = ResolvedSpec.load(release.videos)
        origins = {"users", "context"}
        read = {f.column for f in resolved.of(spec.CANDIDATE, Side.QUERY) if f.origin in origins}
        absent = sorted(read - set(columns) - {"hour", "weekday", "example_age_s"})
        if absent:
            logging.info("The queries have no %s: missing, or the user's profile.", absent)
        loaded = tf.saved_model.load(str(release.query_tower))
        return cls(
            resolved=resolved,
            catalogue=Catalogue(pq.read_table(release.videos / "videos.parquet").combine_chunks()),
            profiles=Users(pq.read_table(release.videos / "users.parquet").combine_chunks()),
            index=Index.load(release.index, hash_contents=False),
            signature=loaded.signatures[signatures.DEFAULT],
        )

    def results(
        self, queries: pa.Table, k: int, *, among: Rows | None, exclude_watched: bool
    ) -> Iterator[pa.Table]:
        """Yields the output rows of one batch of queries after the other."""
        progress.at("retrieving", total=queries.num_rows, unit="queries")
        for start in range(0, queries.num_rows, _BATCH):
            batch = queries.slice(start, _BATCH).combine_chunks()
            history = self._history(batch)
            embeddings = self._embed(batch, history)
            bias = -np.inf if exclude_watched else self.index.repeat_bias
            watched = _watched(history, len(self.catalogue)) if bias else None
            rows, scores = self._search(embeddings, k, among=among, watched=watched, bias=bias)
            yield self._output(batch, rows, scores)
            progress.add(batch.num_rows)

    def _history(self, batch: pa.Table) -> History:
        """Returns the history of a batch; the user of row i has code i."""
        users = {str(row): row for row in range(batch.num_rows)}
        now = np.asarray(combined(batch["time"]), np.int64)
        owner, times = _event_times(batch, "watched_video_ids", "watched_times", now)
        # Later watches must not be seen at all, also where they would be excluded.
        before = pa.array(times < now[owner])
        watches = pa.table(
            {
                "user_id": pa.array(owner).cast(pa.string()),
                "video_id": combined(batch["watched_video_ids"]).flatten(),
                "time": times,
                "watch_time_s": np.zeros(len(times)),
            }
        ).filter(before)
        searches = None
        if "search_queries" in batch.column_names:
            owner, times = _event_times(batch, "search_queries", "search_times", now)
            searches = pa.table(
                {
                    "user_id": pa.array(owner).cast(pa.string()),
                    "time": times,
                    "query": combined(batch["search_queries"]).flatten(),
                }
            )
        return History.of(
            self.catalogue,
            users,
            watches=watches,
            searches=searches,
            from_s=self.resolved.history_from_s,
        )

    def _embed(self, batch: pa.Table, history: History) -> Floats:
        count = batch.num_rows
        moments = Queries(np.arange(count), np.asarray(combined(batch["time"]), np.int64))
        context = {n: combined(batch[n]) for n in ("device", "surface") if n in batch.column_names}
        raw = examples.query_batch(
            self.resolved,
            spec.CANDIDATE,
            request=Request(moments, np.arange(count), context),
            users=Users(self._profiles_of(batch)),
            history=history,
        )
        inputs = tensors.to_arrays(raw, self.resolved, spec.CANDIDATE, Side.QUERY)
        given = {name: tf.constant(values) for name, values in inputs.items()}
        return np.asarray(self.signature(**given)["embedding"], np.float32)

    def _profiles_of(self, batch: pa.Table) -> pa.Table:
        """Returns one profile per query: its own columns, then those of a known user."""
        if "user_id" not in batch.column_names:
            return batch
        get = self.profiles.row_of.get
        ids = batch["user_id"].cast(pa.string()).to_pylist()
        rows = pa.array([get(user) for user in ids], pa.int64())
        for name in self.profiles.table.column_names:
            if name not in batch.column_names:
                known = combined(self.profiles.table[name]).take(rows)
                batch = batch.append_column(name, known)
        return batch

    def _search(
        self,
        embeddings: Floats,
        k: int,
        *,
        among: Rows | None,
        watched: tuple[npt.NDArray[np.int64], int] | None,
        bias: float,
    ) -> tuple[Rows, Floats]:
        """Returns rows int32 [Q, at most k] and scores; -1 where there are no more.

        ``bias`` moves what was watched; at minus infinity it leaves.
        """
        most = 0 if watched is None else watched[1]
        if among is None:
            rows, scores = self.index.search(embeddings, k + most)
        else:
            rows, scores = self.index.search_among(embeddings, k + most, rows=among)
        if watched is None:
            return rows, scores
        keys = np.arange(len(rows))[:, np.newaxis] * len(self.catalogue) + rows
        is_watched = np.isin(keys, watched[0]) & (rows >= 0)
        if bias > 0:
            # What it lifts may lie far below what was found: all of it is scored.
            scores = np.where(is_watched, -np.inf, scores)
            lifted = self._lifted(embeddings, watched[0], most, among=among, bias=bias)
            rows = np.concatenate([rows, lifted[0]], axis=1)
            scores = np.concatenate([scores, lifted[1]], axis=1)
        else:
            scores = scores + np.where(is_watched, np.float32(bias), np.float32(0.0))
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        scores = np.take_along_axis(scores, order, 1)
        return np.where(np.isneginf(scores), -1, np.take_along_axis(rows, order, 1)), scores

    def _lifted(
        self,
        embeddings: Floats,
        keys: npt.NDArray[np.int64],
        most: int,
        *,
        among: Rows | None,
        bias: float,
    ) -> tuple[Rows, Floats]:
        """Returns what each query has watched, int32 [Q, most], and its scores with the bias."""
        owner, video = np.divmod(keys, len(self.catalogue))
        if among is not None:
            kept = np.isin(video, among)
            owner, video = owner[kept], video[kept]
        rows = np.full((len(embeddings), most), -1, np.int32)
        scores = np.full((len(embeddings), most), -np.inf, np.float32)
        place = np.arange(len(owner)) - np.searchsorted(owner, owner)
        products = np.einsum("nd,nd->n", embeddings[owner], self.index.embeddings[video])
        rows[owner, place] = video
        scores[owner, place] = products + np.float32(bias)
        return rows, scores

    def _output(self, batch: pa.Table, rows: Rows, scores: Floats) -> pa.Table:
        # Videos without an embedding are in the index, with a score that means "never".
        is_real = (rows >= 0) & (scores > signatures.UNREACHABLE_BIAS / 2)
        owner, rank = np.nonzero(is_real)
        return pa.table(
            {
                "query_id": combined(batch["query_id"]).take(pa.array(owner)),
                "rank": rank + 1,
                "video_id": self.catalogue.video_ids.take(pa.array(rows[is_real])),
                "score": scores[is_real],
            }
        )


def _event_times(
    batch: pa.Table, name: str, times_name: str, now: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Returns the row and the time of every list entry, int64 [sum of lengths] each.

    Without times, the last entry is one second before the query, the one before it two, and so
    on: their order is all that is known.
    """
    lengths = query_files.lengths(batch[name])
    owner = np.repeat(np.arange(len(lengths)), lengths)
    if times_name in batch.column_names:
        times = combined(batch[times_name]).flatten()
        return owner, np.asarray(pc.coalesce(times, pa.scalar(0, pa.int64())), np.int64)
    place = ragged_rows(np.zeros(len(lengths), np.int64), lengths)
    return owner, now[owner] - (lengths[owner] - place)


def _watched(history: History, num_videos: int) -> tuple[npt.NDArray[np.int64], int]:
    """Returns user and video of every watch in one number, and the most of any user."""
    watches = history.watches
    known = watches.video >= 0
    keys = np.unique(watches.user[known] * num_videos + watches.video[known])
    counts = np.bincount(keys // num_videos) if len(keys) else np.zeros(1, np.int64)
    return keys, int(counts.max())
