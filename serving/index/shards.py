"""An index in shards: every shard is an index of its own, and the best of all of them is the whole.

Shard ``s`` of ``S`` holds the rows s, s + S, s + 2 S and so on, so each is an even sample of the
catalogue, and one that is lost takes no kind of video with it. Row ``i`` of a shard is row
``i * S + s`` of the whole: no table is needed. Scores are inner products, which do not depend on
what else is searched, so merging by score is exact: where each shard returns its best k, the best k
of those are the best k of all, equal scores in the order of their rows.

Vectors of single videos are read from the shards' own files, mapped where they lie: whoever asks
for some needs those files on a disk, local or shared, and no memory for them.
"""

import abc
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from serving import errors
from serving.index.exact_search import Floats, Rows

# What a shard retrieved, in its own rows; or why it did not.
ShardAnswer = tuple[Rows, Floats] | str
# Opens the shards in these directories, which hold so many videos.
Opener = Callable[[Sequence[pathlib.Path], Sequence[int]], "Sharded"]


class Sharded(abc.ABC):
    """The search of all shards as one; safe for threads.

    Attributes:
        up: Whether each shard answers, as far as is known.
    """

    def __init__(self, sizes: Sequence[int], *, up: bool = True) -> None:
        """Takes the number of videos of each shard, and whether they answer already."""
        self._sizes = sizes
        self.up = [up] * len(sizes)

    @abc.abstractmethod
    def ask(self, queries: Floats, k: int) -> Sequence[ShardAnswer]:
        """Asks every shard for its best k; returns an answer for each, in their order."""

    @property
    def answering(self) -> float:
        """Share of the videos whose shards answer, in [0, 1]."""
        return self._share(self.up)

    def __call__(self, queries: Floats, k: int) -> tuple[Rows, Floats]:
        """Returns what :meth:`serving.index.index.Index.search` does.

        Raises:
            IndexPartialError: Some shards did not answer.
        """
        answers = self.ask(queries, k)
        rows, scores = merged(answers, queries, k)
        lost = [f"shard {n}: {a}" for n, a in enumerate(answers) if isinstance(a, str)]
        if not lost:
            return rows, scores
        share = self._share([not isinstance(answer, str) for answer in answers])
        raise errors.IndexPartialError(
            f"{len(answers) - len(lost)} of {len(answers)} shards, {share:.1%} of the videos, "
            f"answered; {lost[0]}",
            rows=rows,
            scores=scores,
            answered=share,
        )

    def _share(self, answered: Sequence[bool]) -> float:
        mine = sum(size for size, is_mine in zip(self._sizes, answered, strict=True) if is_mine)
        return mine / max(1, sum(self._sizes))


def merged(answers: Sequence[ShardAnswer], queries: Floats, k: int) -> tuple[Rows, Floats]:
    """Returns the best k of what shards retrieved, in rows of the whole, best first.

    Args:
        answers: Answers of the S shards, in their order; those that are none are left out.
        queries: float32 [Q, D + 1].
        k: Number of results per query; what there is where that is less.
    """
    rows = [np.zeros((len(queries), 0), np.int32)]
    scores = [np.zeros((len(queries), 0), np.float32)]
    for shard, answer in enumerate(answers):
        if not isinstance(answer, str):
            rows.append(answer[0] * np.int32(len(answers)) + np.int32(shard))
            scores.append(answer[1])
    all_rows, all_scores = np.concatenate(rows, axis=1), np.concatenate(scores, axis=1)
    best = np.lexsort((all_rows, -all_scores), axis=1)[:, :k]
    return np.take_along_axis(all_rows, best, axis=1), np.take_along_axis(all_scores, best, axis=1)


def sizes_of(count: int, shards: int) -> list[int]:
    """Returns how many of ``count`` videos each shard holds."""
    return [len(range(shard, count, shards)) for shard in range(shards)]


def interleaved_ids(parts: Sequence[pa.Array]) -> pa.Array:
    """Returns the ids of the whole in its order, given those of each shard."""
    rows = np.arange(sum(len(part) for part in parts))
    starts = np.cumsum([0, *(len(part) for part in parts[:-1])])
    return pa.concat_arrays(parts).take(pa.array(starts[rows % len(parts)] + rows // len(parts)))


class InterleavedRows:
    """The rows of the whole by number, each read from its shard."""

    def __init__(self, parts: Sequence[np.ndarray]) -> None:
        self._parts = parts
        self.dtype = parts[0].dtype
        self.shape = (sum(len(part) for part in parts), *parts[0].shape[1:])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: npt.NDArray[np.integer[Any]], /) -> np.ndarray:
        """Returns the rows at ``rows``, int of any shape."""
        chosen = np.empty((*rows.shape, *self.shape[1:]), self.dtype)
        place, shard = np.divmod(rows, len(self._parts))
        for number, part in enumerate(self._parts):
            mine = shard == number
            chosen[mine] = part[place[mine]]
        return chosen
