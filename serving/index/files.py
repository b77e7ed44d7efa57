"""The directory of an index: what is in it, and the proof that it is whole.

==========================  ======================================================================
``index.json``              how to search, how well, checksum of every file, checksum of itself
``video_ids.parquet``       our own ids, string, row i belongs to vector i
``embeddings.npy``          exact vectors, float32 [N, D + 1]; absent where ScaNN's copy is equal
``scann/``                  ScaNN's files, if it does the searching
``self_test_*.npy``         queries and the rows that exact search found for them
``shards/NUMBER/``          of an index in shards, instead of ids and vectors: such a directory each
==========================  ======================================================================

Nothing here is ever unpickled: ScaNN's own docids would be a pickle, so none are given to it, and
a directory with a file that was not recorded is refused before anything is opened.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from features import command, files
from serving.index import shards
from serving.index.exact_search import Floats, Rows, RowsByNumber
from serving.release import checksums, mapping

INDEX_JSON = "index.json"
SCANN = "scann"
SHARDED = "sharded"  # A kind of index.
_FORMAT = 1
_VIDEO_IDS = "video_ids.parquet"
_EMBEDDINGS = "embeddings.npy"
_SCANN_EMBEDDINGS = f"{SCANN}/dataset.npy"
_SELF_TEST_QUERIES = "self_test_queries.npy"
_SELF_TEST_ROWS = "self_test_rows.npy"
_FINITE_BLOCK_ROWS = 65_536


class IndexRefusedError(command.InputError):
    """An index directory is incomplete, altered, or does not answer as when it was built."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class IndexFiles:
    """The content of an index directory, ScaNN's own files aside.

    Attributes:
        video_ids: string [N], unique.
        embeddings: float32 [N, D + 1], finite; of an index in shards those of all by number.
        self_test_queries: float32 [S, D + 1], queries whose answers are known.
        self_test_rows: int32 [S, K], what exact search found.
        details: Way to search, and how well it does; plain values for JSON.
    """

    video_ids: pa.Array
    embeddings: RowsByNumber
    self_test_queries: Floats
    self_test_rows: Rows
    details: Mapping[str, Any]


def write(directory: pathlib.Path, content: IndexFiles) -> None:
    """Writes everything beside files of ScaNN or shards, there already; index.json last."""
    if isinstance(content.embeddings, np.ndarray):
        table = pa.table({"video_id": content.video_ids})
        pq.write_table(table, directory / _VIDEO_IDS, compression="zstd")
        if not _same_vectors(directory / _SCANN_EMBEDDINGS, content.embeddings):
            np.save(directory / _EMBEDDINGS, content.embeddings, allow_pickle=False)
    np.save(directory / _SELF_TEST_QUERIES, content.self_test_queries, allow_pickle=False)
    np.save(directory / _SELF_TEST_ROWS, content.self_test_rows, allow_pickle=False)
    body = {"format": _FORMAT, **content.details, "files": checksums.of_tree(directory)}
    signed = {"sha256": _sha256(body), "index": body}
    files.atomic_write(directory / INDEX_JSON, json.dumps(signed, indent=1, sort_keys=True) + "\n")


def read(directory: str | os.PathLike[str], *, hash_contents: bool = True) -> IndexFiles:
    """Reads and checks a directory that :func:`write` wrote; it may have been moved.

    Args:
        directory: Index directory.
        hash_contents: Whether contents are hashed; off only where the caller has just verified the
            files itself.

    Raises:
        IndexRefusedError: A file is missing, changed or added, or ids and vectors do not fit.
    """
    path = pathlib.Path(directory)
    details = _read_details(path)
    difference = checksums.difference(
        path, details["files"], leave_out={INDEX_JSON}, hash_contents=hash_contents
    )
    if difference:
        raise _refused(path, difference)
    video_ids, embeddings = _videos_of_shards(path, details) or _videos(path)
    content = IndexFiles(
        video_ids=video_ids,
        embeddings=embeddings,
        # allow_pickle=False refuses an array of objects, the one pickle a .npy can hold.
        self_test_queries=np.load(path / _SELF_TEST_QUERIES, allow_pickle=False),
        self_test_rows=np.load(path / _SELF_TEST_ROWS, allow_pickle=False),
        details=details,
    )
    problem = (
        inconsistency(video_ids, embeddings)
        if isinstance(embeddings, np.ndarray)
        else _problem_of_ids(video_ids)  # The rest was looked at shard by shard.
    )
    if problem:
        raise _refused(path, problem)
    return content


def shard_directories(path: pathlib.Path, count: int) -> list[pathlib.Path]:
    """Returns where each shard of an index is."""
    return [path / "shards" / f"{number:04d}" for number in range(count)]


def read_shards(directories: Sequence[pathlib.Path]) -> tuple[pa.Array, shards.InterleavedRows]:
    """Returns ids string [N] and vectors float32 [N, D + 1] of all shards, in the order of rows.

    Raises:
        IndexRefusedError: See :func:`read`; also where shards do not fit together.
    """
    contents = [read(directory, hash_contents=False) for directory in directories]
    sizes = [len(content.video_ids) for content in contents]
    widths = {content.embeddings.shape[1] for content in contents}
    if sizes != shards.sizes_of(sum(sizes), len(sizes)) or len(widths) > 1:
        reason = f"its shards of {sizes} videos, {sorted(widths)} wide, are not of one index"
        raise _refused(directories[0].parent, reason)
    vectors = [np.asarray(content.embeddings) for content in contents]
    ids = [content.video_ids for content in contents]
    return shards.interleaved_ids(ids), shards.InterleavedRows(vectors)


def _videos(path: pathlib.Path) -> tuple[pa.Array, Floats]:
    vectors = _EMBEDDINGS if (path / _EMBEDDINGS).is_file() else _SCANN_EMBEDDINGS
    ids = pq.read_table(path / _VIDEO_IDS)["video_id"].combine_chunks()
    return ids, mapping.opened(path / vectors)


def _videos_of_shards(
    path: pathlib.Path, details: Mapping[str, Any]
) -> tuple[pa.Array, shards.InterleavedRows] | None:
    if details["kind"] != SHARDED:
        return None
    return read_shards(shard_directories(path, details["shards"]))


def inconsistency(video_ids: pa.Array, embeddings: Floats) -> str:
    """Says what is wrong with ids and vectors; "" where nothing is."""
    if embeddings.ndim != 2 or embeddings.dtype != np.float32:
        return f"embeddings must be float32 [N, D + 1], got {embeddings.dtype} {embeddings.shape}"
    if len(video_ids) != len(embeddings):
        return f"there are {len(video_ids)} video ids for {len(embeddings)} embeddings"
    bad = num_not_finite(embeddings)
    return _problem_of_ids(video_ids) or (f"{bad} embeddings hold NaN or infinity" if bad else "")


def _problem_of_ids(video_ids: pa.Array) -> str:
    if not len(video_ids):
        return "there are no videos"
    if video_ids.null_count:
        return f"{video_ids.null_count} video ids are null"
    distinct = len(pc.unique(video_ids))
    if distinct != len(video_ids):
        return f"{len(video_ids) - distinct} video ids are repeated"
    return ""


def num_not_finite(embeddings: Floats) -> int:
    """Returns the number of rows with a value that is not finite; reads block by block."""
    blocks = range(0, len(embeddings), _FINITE_BLOCK_ROWS)
    finite = (np.isfinite(embeddings[at : at + _FINITE_BLOCK_ROWS]).all(axis=1) for at in blocks)
    return len(embeddings) - sum(int(block.sum()) for block in finite)


def _same_vectors(path: pathlib.Path, embeddings: Floats) -> bool:
    """Whether ScaNN wrote the very same vectors: then a second copy would waste a gigabyte."""
    if not path.is_file():
        return False
    return bool(np.array_equal(np.load(path, mmap_mode="r", allow_pickle=False), embeddings))


def _read_details(path: pathlib.Path) -> dict[str, Any]:
    try:
        signed = json.loads((path / INDEX_JSON).read_text())
        body = signed["index"]
        intact = signed["sha256"] == _sha256(body)
    except FileNotFoundError:
        raise _refused(path, f"{INDEX_JSON} is missing") from None
    except (ValueError, KeyError, TypeError) as error:
        raise _refused(path, f"{INDEX_JSON} cannot be read: {error!r}") from None
    if not intact:
        raise _refused(path, f"{INDEX_JSON} has other content (its SHA-256 differs)")
    if body["format"] != _FORMAT:
        raise _refused(path, f"its format is {body['format']}, this program reads {_FORMAT}")
    return dict(body)


def _sha256(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _refused(path: pathlib.Path, reason: str) -> IndexRefusedError:
    return IndexRefusedError(
        f"the index in {path} is refused: {reason}. Roll back (`python -m serving.rollback`) or "
        "build a new release (`python -m serving.build_release`)."
    )
