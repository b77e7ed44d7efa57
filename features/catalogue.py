"""The video catalogue as columns: ids, channels, topics, upload times; row numbers for the rest.

Everything inside the pipeline and the funnel names a video by its row here (int32, -1 for a
video that the catalogue does not have); strings appear only at the edges.
"""

import dataclasses
import functools

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

UPLOAD_TIME = "upload_time"  # Column: Unix seconds.


@dataclasses.dataclass(frozen=True)
class Catalogue:
    """Videos, one row each.

    Attributes:
        table: The videos table with all its raw columns; ``video_id`` is unique.
    """

    table: pa.Table

    def __len__(self) -> int:
        return self.table.num_rows

    @functools.cached_property
    def video_ids(self) -> pa.Array:
        """string [N]."""
        return combined(self.table["video_id"])

    @functools.cached_property
    def row_of(self) -> dict[str, int]:
        """Video id to row."""
        return {video_id: row for row, video_id in enumerate(self.video_ids.to_pylist())}

    def extended(self, videos: pa.Table) -> "Catalogue":
        """Returns a catalogue with further videos after these, whose rows stay the same.

        Args:
            videos: Table of further videos with the same columns; none of them is in the catalogue
                yet.
        """
        longer = Catalogue(pa.concat_tables([self.table, videos]).combine_chunks())
        names = combined(videos["video_id"]).to_pylist()
        # Known ids are copied: to build them anew takes seconds for a million videos.
        row_of = self.row_of | {name: row for row, name in enumerate(names, start=len(self))}
        object.__setattr__(longer, "row_of", row_of)
        return longer

    def rows(self, video_ids: pa.Array | pa.ChunkedArray) -> np.ndarray:
        """Returns the row of each id: int32 [n], -1 where the catalogue does not have it."""
        get = self.row_of.get
        ids = video_ids.to_pylist()
        return np.fromiter((get(i, -1) for i in ids), np.int32, count=len(ids))

    @functools.cached_property
    def channels(self) -> tuple[np.ndarray, pa.Array]:
        """Channel code of each video, int32 [N] (-1 for none), and the channel id of each code."""
        if "channel_id" not in self.table.column_names:
            return np.full(len(self), -1, np.int32), pa.array([], pa.string())
        encoded = combined(self.table["channel_id"]).cast(pa.string()).dictionary_encode()
        return np.asarray(encoded.indices.fill_null(-1), np.int32), encoded.dictionary

    @functools.cached_property
    def topics(self) -> tuple[np.ndarray, np.ndarray, pa.Array]:
        """Topics of each video: offsets int64 [N + 1], codes int32 [sum], the topic of each code.

        A topic that a video names twice counts once.
        """
        if "topics" not in self.table.column_names:
            return (
                np.zeros(len(self) + 1, np.int64),
                np.zeros(0, np.int32),
                pa.array([], pa.string()),
            )
        lists = combined(self.table["topics"])
        lengths = np.asarray(pc.fill_null(pc.list_value_length(lists), 0), np.int64)
        encoded = lists.flatten().cast(pa.string()).dictionary_encode()
        codes = np.asarray(encoded.indices.fill_null(-1), np.int32)
        owner = np.repeat(np.arange(len(self), dtype=np.int64), lengths)
        size = len(encoded.dictionary) + 1
        _, first = np.unique(owner * size + codes + 1, return_index=True)
        first = np.sort(first[codes[first] >= 0])
        counts = np.bincount(owner[first], minlength=len(self))
        return np.concatenate([[0], np.cumsum(counts)]), codes[first], encoded.dictionary

    @functools.cached_property
    def upload_times(self) -> np.ndarray:
        """int64 [N], Unix seconds."""
        return np.asarray(combined(self.table["upload_time"]), np.int64)


def combined(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Returns a chunked column as one array; without a copy where it has one chunk."""
    if not isinstance(column, pa.ChunkedArray):
        return column
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def filled(column: pa.Array, dtype: pa.DataType, missing: object) -> pa.Array:
    """Returns a column as ``dtype`` with ``missing`` for nulls.

    One that is so already is returned as it is: each pass over it would cost a request of the
    funnel tens of microseconds, and there are dozens.
    """
    if column.type != dtype:
        column = column.cast(dtype, safe=False)
    return column.fill_null(missing) if column.null_count else column


def ragged_rows(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Returns the concatenation of ``arange(start, start + length)``: int64 [sum of lengths]."""
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    return np.arange(total, dtype=np.int64) + np.repeat(starts - (ends - lengths), lengths)
