"""Videos uploaded since the index was built, put beside it until the next build takes them in.

The shelf is small, so it is searched exactly. Its videos get rows after those of the release:
whatever was row i stays row i, and everything that asks by row (features, filters, sources) sees
one catalogue. Their embeddings come from the release's own video tower, their columns for the
ranker from the ranker's own transform.
"""

import dataclasses
import functools
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from absl import logging

from features import command, spec, tensors, vectors
from features.as_of import examples
from features.catalogue import UPLOAD_TIME, Catalogue, combined
from features.spec import Side
from models.candidate import youth
from serving import errors
from serving.funnel import before_release, filters
from serving.funnel.loaded_release import LoadedRelease
from serving.index import exact_search
from serving.index.exact_search import Floats, Rows, RowsByNumber
from serving.index.index import VideoIndex
from serving.servables import prepared_videos, signatures
from serving.servables.signatures import Model
from serving.servables.tensorflow_serving import Backend


class StackedRows:
    """The rows of one array followed by those of another, without a copy of either."""

    def __init__(self, first: RowsByNumber, more: np.ndarray) -> None:
        self._first = first
        self._more = more
        self.dtype = first.dtype
        self.shape = (len(first) + len(more), *first.shape[1:])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: npt.NDArray[np.integer[Any]], /) -> np.ndarray:
        """Returns float32 [n, D + 1] for row numbers [n], some of them on the shelf."""
        on_shelf = np.flatnonzero(rows >= len(self._first))
        if not len(on_shelf):
            return self._first[rows]
        chosen = self._first[np.minimum(rows, len(self._first) - 1)]
        chosen[on_shelf] = self._more[rows[on_shelf] - len(self._first)]
        return chosen


class ShelvedIndex:
    """An index and a shelf, searched as one; safe for threads.

    Attributes:
        kind: Kind of the index beside the shelf.
        embeddings: float32 [N + M, D + 1], those of the index, then those of the shelf.
    """

    def __init__(self, index: VideoIndex, embeddings: Floats) -> None:
        self._index = index
        self._shelf = embeddings
        self.kind = index.kind
        self.dimension = index.dimension
        self.embeddings = StackedRows(index.embeddings, embeddings)

    @property
    def answering(self) -> float:
        """Share of the videos of the index that answer."""
        return self._index.answering

    def __len__(self) -> int:
        return len(self.embeddings)

    def search(self, queries: Floats, k: int) -> tuple[Rows, Floats]:
        """Returns the best of index and shelf, as :meth:`serving.index.index.Index.search` does."""
        try:
            rows, scores = self._index.search(queries, min(k, len(self._index)))
        except errors.IndexPartialError as partial:
            rows, scores = self._merged(queries, k, partial.rows, partial.scores)
            raise errors.IndexPartialError(
                str(partial), rows=rows, scores=scores, answered=partial.answered
            ) from None
        return self._merged(queries, k, rows, scores)

    def _merged(self, queries: Floats, k: int, rows: Rows, scores: Floats) -> tuple[Rows, Floats]:
        more, more_scores = exact_search.search(self._shelf, queries, k)
        all_rows = np.concatenate([rows, more + np.int32(len(self._index))], axis=1)
        all_scores = np.concatenate([scores, more_scores], axis=1)
        # The index marks what it did not find with rows below 0.
        columns, best = exact_search.top_k(
            np.where(all_rows < 0, -np.inf, all_scores).astype(np.float32),
            min(k, all_rows.shape[1]),
        )
        return np.take_along_axis(all_rows, columns, axis=1), best


@dataclasses.dataclass(frozen=True)
class Shelver:
    """Puts new videos beside a release.

    Attributes:
        release: Release as it was built.
        embed: Raw video side -> ``embedding``; None where nothing was learnt yet.
        prepare: Raw video side of the ranker -> ``video_parts``; None where none are prepared.
    """

    release: LoadedRelease
    embed: Model | None
    prepare: Model | None

    @classmethod
    def open(cls, release: LoadedRelease, backend: Backend) -> "Shelver":
        """Opens the signatures of the release that new videos go through."""
        if release.query_tower is None:
            return cls(release, None, None)
        on_disk = release.on_disk
        if on_disk is None:
            raise ValueError("only a release that lies on disk has models for new videos.")
        embed = backend.open(signatures.QUERY_TOWER, on_disk, signature=signatures.EMBED_VIDEOS)
        prepare = None
        if release.prepared is not None:
            prepare = backend.open(signatures.RANKER, on_disk, signature=signatures.PREPARE_VIDEOS)
        return cls(release, embed, prepare)

    def with_videos(self, videos: pa.Table, *, shelved: pa.Table | None = None) -> LoadedRelease:
        """Returns the release with videos that it does not have yet, and without withdrawn ones.

        Args:
            videos: Rows of the videos table; those that the release has stay as they were built,
                but for what filters look at.
            shelved: Rows that were on the shelf before, in their order: they keep their numbers,
                by which whoever looked at them knows them. None where nothing was.

        Raises:
            ModelError: A model failed.
        """
        before = self.release.catalogue
        is_known = pc.is_in(videos["video_id"], value_set=before.video_ids)
        new = _conformed(videos.filter(pc.invert(is_known)), before.table.schema)
        new = _in_order(new, shelved)
        if not new.num_rows:
            return _ruled(self.release, videos)
        read = self.release.resolved.features
        for fault in vectors.faults(new, read, name="videos", key="video_id"):
            logging.error("New videos are placed without these vectors: %s", fault)
        catalogue = before.extended(new)
        rows = np.arange(len(before), len(catalogue), dtype=np.int32)
        if self.embed is None:
            return _ruled(before_release.over(self.release, catalogue), videos)
        raw = examples.candidate_batch(
            self.release.resolved, spec.CANDIDATE, catalogue=catalogue, video_rows=rows
        )
        embeddings = tensors.in_batches(
            functools.partial(_embedded, self.embed),
            {
                **tensors.to_arrays(raw, self.release.resolved, spec.CANDIDATE, Side.CANDIDATE),
                UPLOAD_TIME: catalogue.upload_times[rows],
            },
        )
        index = ShelvedIndex(self.release.index, embeddings)
        logging.info("%d videos on the shelf beside %d in the index.", len(rows), len(before))
        longer = dataclasses.replace(
            self.release,
            catalogue=catalogue,
            index=index,
            prepared=self._prepared(catalogue, rows),
            # Popular videos stay those of the build.
            sources=tuple(s.over(catalogue, index, None) for s in self.release.sources),
        )
        return _ruled(longer, videos)

    def _prepared(
        self, catalogue: Catalogue, rows: np.ndarray
    ) -> prepared_videos.PreparedVideos | None:
        if self.release.prepared is None or self.prepare is None:
            return None
        prepared = self.release.prepared
        try:
            parts = prepared_videos.parts_of(
                self.release.resolved, catalogue, rows, self.prepare.predict
            )
        except command.InputError as error:
            raise errors.ModelError(str(error)) from error
        return dataclasses.replace(prepared, parts=StackedRows(prepared.parts, parts))


def _embedded(embed: Model, videos: dict[str, np.ndarray]) -> np.ndarray:
    """Returns the embeddings of raw videos, what being new adds included."""
    uploaded = videos.pop(UPLOAD_TIME)
    return youth.with_bias(dict(embed.predict(videos)), uploaded)


def _ruled(release: LoadedRelease, videos: pa.Table) -> LoadedRelease:
    """Returns the release with the rules of now, or as it is where they are those of its build."""
    rules = filters.current_rules(release.catalogue, videos)
    built = filters.rule_columns(release.catalogue.table).combine_chunks()
    if not rules.num_columns or rules.equals(built):
        return release
    withdrawn = release.withdrawn
    if "withdrawn" in rules.column_names:
        is_withdrawn = np.asarray(combined(rules["withdrawn"]).fill_null(False))
        withdrawn = np.flatnonzero(is_withdrawn).astype(np.int32)
    return dataclasses.replace(release, rules=rules, withdrawn=withdrawn)


def _in_order(new: pa.Table, shelved: pa.Table | None) -> pa.Table:
    """Returns new videos in the order in which they came: a table is read in that of its files.

    Those that were on the shelf stand where they stood, also where the table lost them; then come
    the others, the oldest first.
    """
    place = np.zeros(new.num_rows, np.int64)
    if shelved is not None and shelved.num_rows:
        is_lost = pc.invert(pc.is_in(shelved["video_id"], value_set=combined(new["video_id"])))
        new = pa.concat_tables([new, shelved.filter(is_lost)])
        known = pc.index_in(new["video_id"], value_set=combined(shelved["video_id"]))
        place = np.asarray(combined(known).fill_null(shelved.num_rows), np.int64)
    keys = {"place": place, "upload_time": new["upload_time"], "video_id": new["video_id"]}
    order = pc.sort_indices(pa.table(keys), sort_keys=[(name, "ascending") for name in keys])
    return new.take(order)


def _conformed(videos: pa.Table, schema: pa.Schema) -> pa.Table:
    """Returns the columns of ``schema``; what is missing, or of another type, is null."""
    columns = {}
    for field in schema:
        column: pa.Array = pa.nulls(videos.num_rows, field.type)
        if field.name in videos.column_names:
            try:
                column = combined(videos[field.name]).cast(field.type)
            except pa.ArrowException:
                logging.warning("New videos: column %s is not %s.", field.name, field.type)
        columns[field.name] = column
    return pa.table(columns, schema)
