"""Training examples in an order that a seed and an epoch number decide.

Small splits are read once and cut into batches by index; large ones are streamed from their
TFRecords. Either way an epoch can be entered in its middle, so that a training that was killed
goes on with the very batch it would have seen next.
"""

import collections
import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import tensorflow as tf
from absl import logging

from features import dataset
from models.config import TrainingConfig

Array = npt.NDArray[np.generic]
_TRAIN = ("train",)
_TIME = "time"
# Steps and factors of SplitMix64 (Steele, Lea & Flood, OOPSLA 2014), which makes numbers of a
# counter look drawn.
_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_MIX = ((30, np.uint64(0xBF58476D1CE4E5B9)), (27, np.uint64(0x94D049BB133111EB)))


class Examples(Protocol):
    """A training split.

    Attributes:
        count: Number of examples.
    """

    count: int

    def epoch(self, number: int, *, skip: int) -> Iterable[dict[str, tf.Tensor]]:
        """Yields the batches of epoch ``number`` (from 0), without the first ``skip``."""

    def steps_per_epoch(self) -> int:
        """Returns the number of batches of an epoch."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Newer:
    """The examples that a model learns which has learnt the others: newer ones, and a few others.

    The others are gone over again so that what they taught is not forgotten.

    Attributes:
        since_s: Time from which on examples are newer, Unix seconds.
        older: Share of the older ones that are gone over again, in [0, 1].
        counts: Numbers of newer and of older examples.
        chosen: Which examples are chosen, bool [n] in the order of the files, where that is known.
    """

    since_s: int
    older: float
    counts: tuple[int, int]
    chosen: npt.NDArray[np.bool_] | None = dataclasses.field(default=None, compare=False)

    @classmethod
    def of(cls, times: npt.NDArray[np.int64], *, since_s: int, older_each: float) -> "Newer | None":
        """Looks at the times of the training examples; None where all are newer, or none.

        Args:
            times: Times of the examples, int64 [n], Unix seconds.
            since_s: Time from which on examples are newer, Unix seconds.
            older_each: Older examples for each newer one, 0 or more.
        """
        newer = int((times >= since_s).sum())
        if not 0 < newer < len(times):
            return None
        share = min(1.0, older_each * newer / (len(times) - newer))
        chosen = cls(since_s=since_s, older=share, counts=(newer, 0)).of_times(times)
        counts = (newer, int(chosen.sum()) - newer)
        return cls(since_s=since_s, older=share, counts=counts, chosen=chosen)

    def of_times(self, times: Array) -> npt.NDArray[np.bool_]:
        """Returns which examples are chosen, bool [n], by their times, [n].

        Those of one moment all are or none is, so pages stay whole; each day chooses others.
        """
        seconds = times.astype(np.int64)
        drawn = seconds.astype(np.uint64) * _GAMMA ^ np.array([self.since_s], np.uint64)
        for shift, factor in _MIX:
            drawn = (drawn ^ drawn >> np.uint64(shift)) * factor
        return (seconds >= self.since_s) | (drawn < self.older * 2.0**64)


class InMemory:
    """A split held as arrays.

    Args:
        arrays: Name to array, or to tensor (which is not copied), with leading dimension n, 1 or
            more.
        batch_size: B; the last batch of an epoch is left out where it is not full, since its
            examples come up in the next epoch.
        seed: Seed of the order.
        together: Names of columns, such as the user and then the page: examples that are alike in
            the first stand in one batch, or in neighbouring ones where a batch cannot hold them,
            and those of them that are alike in the next one follow each other. Values become int32
            codes.
    """

    def __init__(
        self,
        arrays: Mapping[str, Array | tf.Tensor],
        *,
        batch_size: int,
        seed: int,
        together: Sequence[str] = (),
    ) -> None:
        self.count = len(next(iter(arrays.values())))
        codes = {name: codes_of(np.asarray(arrays[name])) for name in together}
        arrays = {**arrays, **codes}
        self._groups = list(codes.values())
        self._tensors = {name: tf.constant(array) for name, array in arrays.items()}
        self._batch_size = min(batch_size, self.count)
        self._seed = seed

    def steps_per_epoch(self) -> int:
        """Returns the number of batches of an epoch."""
        return self.count // self._batch_size

    def epoch(self, number: int, *, skip: int) -> Iterable[dict[str, tf.Tensor]]:
        """Yields the batches of epoch ``number``, without the first ``skip``."""
        rng = np.random.default_rng([self._seed, number])
        order = rng.permutation(self.count)
        for groups in reversed(self._groups):
            places = rng.permutation(int(groups.max()) + 1)[groups]
            order = order[np.argsort(places[order], kind="stable")]
        size = self._batch_size
        rows = order[skip * size : self.steps_per_epoch() * size]

        def gather(indices: tf.Tensor) -> dict[str, tf.Tensor]:
            return {name: tf.gather(tensor, indices) for name, tensor in self._tensors.items()}

        # Whole batches of row numbers: putting them together one by one costs more than a tower.
        data = tf.data.Dataset.from_tensor_slices(rows.astype(np.int64).reshape(-1, size))
        return data.map(gather).prefetch(2)


class Streamed:
    """A split read from its files in every epoch.

    Args:
        examples_dir: Directory that pipeline.preprocess wrote.
        model: Name of the model, ``candidate`` or ``ranker``.
        columns: Names of the columns to read.
        count: Number of examples, 1 or more.
        batch_size: B, examples of a batch.
        seed: Seed of the order.
        splits: Names of the splits that are read.
        newer: Choice of the examples, of which there are ``count``; None: all of them.
    """

    def __init__(
        self,
        examples_dir: dataset.Path,
        model: str,
        *,
        columns: Sequence[str],
        count: int,
        batch_size: int,
        seed: int,
        splits: Sequence[str] = _TRAIN,
        newer: Newer | None = None,
    ) -> None:
        self.count = count
        self._batch_size = min(batch_size, count)

        def open_epoch(epoch: int) -> tf.data.Dataset:
            data = dataset.batches(
                examples_dir,
                model,
                splits,
                batch_size=self._batch_size,
                shuffle_seed=seed + epoch,
                columns=columns if newer is None else {*columns, _TIME},
            )
            return data if newer is None else self._chosen(data, newer, columns)

        self._open = open_epoch

    def _chosen(
        self, data: tf.data.Dataset, newer: Newer, columns: Sequence[str]
    ) -> tf.data.Dataset:
        def choose(part: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            mask = tf.numpy_function(newer.of_times, [part[_TIME]], tf.bool, stateful=False)
            mask.set_shape([None])
            return {name: tf.boolean_mask(part[name], mask) for name in columns}

        return data.map(choose).rebatch(self._batch_size, drop_remainder=True)

    def steps_per_epoch(self) -> int:
        """Returns the number of batches of an epoch."""
        return self.count // self._batch_size

    def epoch(self, number: int, *, skip: int) -> Iterable[dict[str, tf.Tensor]]:
        """Yields the batches of epoch ``number``, without the first ``skip``."""
        return self._open(number).take(self.steps_per_epoch()).skip(skip)


def open_training(
    examples_dir: dataset.Path,
    model: str,
    *,
    columns: Sequence[str],
    settings: TrainingConfig,
    keep: Callable[[Mapping[str, Array]], npt.NDArray[np.bool_]] | None = None,
    together: Sequence[str] = (),
    splits: Sequence[str] = _TRAIN,
    newer: Newer | None = None,
) -> InMemory | Streamed:
    """Opens the training split, in memory where it is small enough.

    Args:
        examples_dir: Directory that pipeline.preprocess wrote.
        model: Name of the model, ``candidate`` or ``ranker``.
        columns: Names of the columns to read.
        settings: Batch size, seed, memory.
        keep: bool [n] of a part's arrays: the examples that are trained on. Rows are left out in
            memory only; a streamed split gives them all.
        together: Columns whose equals stand together, see :class:`InMemory`; in memory only.
        splits: Splits that are trained on; examples of a split that is named twice count twice.
        newer: Choice of the examples; None: all of them.
    """
    if newer is None:
        total = sum(count(examples_dir, model, split) for split in splits)
    else:
        total = sum(newer.counts)
    first = next(iter(in_parts(examples_dir, model, columns, batch_size=1)))
    row_bytes = sum(_compact(array).nbytes for array in first.values())
    size = {"batch_size": settings.batch_size, "seed": settings.seed}
    if total * row_bytes > settings.memory_gb * 1e9:
        logging.info("Streaming %s training examples (%d bytes each).", f"{total:,}", row_bytes)
        return Streamed(
            examples_dir, model, columns=columns, count=total, splits=splits, newer=newer, **size
        )
    parts: list[dict[str, Array]] = []
    chosen = None if newer is None else newer.chosen
    by_time = newer is not None and chosen is None
    read = tuple({*columns, _TIME}) if by_time else columns
    for part in in_parts(examples_dir, model, read, splits=splits, chosen=chosen):
        mask = np.ones(len(part[columns[0]]), np.bool_) if keep is None else keep(part)
        if newer is not None and by_time:
            mask = mask & newer.of_times(part[_TIME])
        rows = slice(None) if mask.all() else np.flatnonzero(mask)
        parts.append({name: _compact(part[name][rows]) for name in columns})
    arrays = {name: np.concatenate([part.pop(name) for part in parts]) for name in columns}
    return InMemory(arrays, **size, together=together)


def codes_of(values: Array) -> npt.NDArray[np.int32]:
    """Returns a number for each value, int32 [n], from 0 in the order in which they first come.

    Names such as those of pages are drawn anew in every run: nothing may depend on their order.

    Example:
        >>> codes_of(np.array(["q", "b", "q", "a"])).tolist()
        [0, 1, 0, 2]
    """
    return pa.array(values).dictionary_encode().indices.to_numpy().astype(np.int32)


def _compact(array: Array) -> Array:
    """Ids fit in 32 bits, in half the memory."""
    return array.astype(np.int32) if array.dtype == np.int64 else array


def count(examples_dir: dataset.Path, model: str, split: str) -> int:
    """Returns the number of examples of a split, as preprocess counted them or by counting."""
    counts = dataset.info(examples_dir).get("counts")
    if isinstance(counts, Mapping) and f"{model}_{split}" in counts:
        return int(counts[f"{model}_{split}"])
    files = dataset.tfrecord_files(examples_dir, model, split)
    records = tf.data.TFRecordDataset(files).batch(10_000)
    return sum(int(batch.shape[0]) for batch in records)


def times(examples_dir: dataset.Path, model: str) -> npt.NDArray[np.int64]:
    """Returns the times of the training examples, int64 [n], Unix seconds, in the files' order."""
    parts = [part[_TIME] for part in in_parts(examples_dir, model, [_TIME])]
    return np.concatenate(parts or [np.zeros(0)]).astype(np.int64)


def in_parts(
    examples_dir: dataset.Path,
    model: str,
    columns: Sequence[str],
    *,
    batch_size: int = 32_768,
    splits: Sequence[str] = _TRAIN,
    chosen: npt.NDArray[np.bool_] | None = None,
) -> Iterable[dict[str, Array]]:
    """Yields the training split, or what is chosen, in parts of arrays, in the files' order."""
    data = dataset.batches(
        examples_dir, model, splits, batch_size=batch_size, columns=columns, chosen=chosen
    )
    return data.as_numpy_iterator()


def load_rows(
    examples_dir: dataset.Path,
    model: str,
    split: str,
    rows: npt.NDArray[np.int64],
    *,
    columns: Sequence[str],
) -> dict[str, Array]:
    """Reads some examples of a split, never all of it at once; ids become int32.

    Args:
        examples_dir: Directory that pipeline.preprocess wrote.
        model: Name of the model, ``candidate`` or ``ranker``.
        split: Name of the split, ``train`` or ``holdout``.
        rows: Distinct, [n]: places among what :func:`features.dataset.load` gives.
        columns: Names of the columns to read.

    Returns:
        Name to array with leading dimension n, in the order of ``rows``.
    """
    order = np.argsort(rows)
    ascending = rows[order]
    arrays: dict[str, Array] = {}
    start = 0
    data = dataset.batches(examples_dir, model, split, batch_size=8192, columns=columns)
    for part in data.as_numpy_iterator():
        end = start + len(part[columns[0]])
        first, last = np.searchsorted(ascending, [start, end])
        for name, values in part.items():
            chosen = _compact(values[ascending[first:last] - start])
            if name not in arrays:
                arrays[name] = np.empty([len(rows), *chosen.shape[1:]], chosen.dtype)
            arrays[name][order[first:last]] = chosen
        start = end
    return arrays


def sample(arrays: Mapping[str, Array], limit: int, *, seed: int) -> dict[str, Array]:
    """Returns ``limit`` random rows in their order; all of them where limit is 0 or larger."""
    rows = len(next(iter(arrays.values())))
    if not limit or rows <= limit:
        return dict(arrays)
    chosen = np.sort(np.random.default_rng(seed).choice(rows, limit, replace=False))
    return {name: array[chosen] for name, array in arrays.items()}


def sample_users(
    arrays: Mapping[str, Array], limit: int, *, seed: int, user_column: str = "user_id"
) -> dict[str, Array]:
    """As :func:`sample`, but whole users until ``limit`` rows are reached: pages stay whole."""
    users = arrays[user_column]
    if not limit or len(users) <= limit:
        return dict(arrays)
    counts = collections.Counter(users.tolist())
    names = sorted(counts)
    order = np.random.default_rng(seed).permutation(len(names))
    sizes = np.cumsum([counts[names[i]] for i in order])
    kept = {names[i] for i in order[: int(np.searchsorted(sizes, limit)) + 1]}
    mask = np.fromiter((user in kept for user in users.tolist()), np.bool_, len(users))
    return {name: array[mask] for name, array in arrays.items()}
