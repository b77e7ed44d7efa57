"""The skew proof: what serving makes of raw examples is what training read.

Raw examples go through the exported transform, and every id must be equal, every float to 1e-6.
"""

import dataclasses
import functools
import os
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import tensorflow as tf

from features import dataset, spec, tensors
from features.catalogue import combined
from features.spec import ResolvedSpec, Side
from serving.servables import signatures, warmup

TOLERANCE = 1e-6
MAX_ROWS = 1000
_KEYS = {
    spec.CANDIDATE: ("user_id", "time", "label_video_id"),
    spec.RANKER: ("user_id", "time", "label_video_id", "page_id", "position"),
}
_SIDES = (
    (Side.QUERY, signatures.TRANSFORM_QUERY),
    (Side.CANDIDATE, signatures.TRANSFORM_VIDEOS),
)
_SEPARATOR = "\x1f"

Path = str | os.PathLike[str]
Arrays = dict[str, np.ndarray]
# Raw arrays by name to what the model reads, by side.
Transforms = Mapping[Side, Callable[[Arrays], Arrays]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Skew:
    """How far two ways of making a model's inputs are apart.

    Attributes:
        rows: Number of examples compared.
        missing: Number of examples of the TFRecords that the raw examples do not have.
        different_ids: Number of examples with an id that differs.
        largest_difference: Largest absolute difference of any float.
        feature: Name of the feature that differs most; "" where none does.
    """

    rows: int
    missing: int
    different_ids: int
    largest_difference: float
    feature: str

    @property
    def equal(self) -> bool:
        """Whether ids agree exactly and floats to :data:`TOLERANCE`."""
        return (
            not self.missing and not self.different_ids and (self.largest_difference <= TOLERANCE)
        )

    def __add__(self, other: "Skew") -> "Skew":
        worse = max(self, other, key=lambda s: (s.different_ids, s.largest_difference))
        return Skew(
            rows=self.rows + other.rows,
            missing=self.missing + other.missing,
            different_ids=self.different_ids + other.different_ids,
            largest_difference=max(self.largest_difference, other.largest_difference),
            feature=worse.feature,
        )


NONE = Skew(rows=0, missing=0, different_ids=0, largest_difference=0.0, feature="")


def of_saved_model(saved_model: Path) -> Transforms:
    """Returns the transform in a SavedModel of :mod:`serving.servables.export`."""
    loaded = tf.saved_model.load(str(saved_model))

    def run(signature: str, raw: Arrays) -> Arrays:
        outputs = loaded.signatures[signature](**{n: tf.constant(v) for n, v in raw.items()})
        return {name: values.numpy() for name, values in outputs.items()}

    return {side: functools.partial(run, signature) for side, signature in _SIDES}


def measure(
    transforms: Transforms, examples_dir: Path, model: str, *, max_rows: int = MAX_ROWS
) -> Skew:
    """Compares transforms with TFRecords, training and holdout.

    Args:
        transforms: Transforms of the sides to compare.
        examples_dir: The examples that the model was trained on.
        model: ``candidate`` or ``ranker``.
        max_rows: Number of examples to compare of each split.
    """
    total = NONE
    for split in ("train", "holdout"):
        transformed = _first_transformed(examples_dir, model, split, max_rows)
        if len(transformed["time"]):
            total += _compare(transforms, examples_dir, model, split, transformed=transformed)
    return total


def _first_transformed(
    examples_dir: Path, model: str, split: str, max_rows: int
) -> dict[str, np.ndarray]:
    batches = dataset.batches(examples_dir, model, split, batch_size=max_rows)
    return next(iter(batches.take(1).as_numpy_iterator()), {"time": np.zeros(0, np.int64)})


def _compare(
    transforms: Transforms, examples_dir: Path, model: str, split: str, *, transformed: Arrays
) -> Skew:
    resolved = ResolvedSpec.load(examples_dir)
    keys = _keys(_labels(transformed, model), model)
    # Examples that share a key cannot be told apart, so they are left out.
    wanted = keys.filter(_unique(keys))
    position = np.asarray(pc.index_in(wanted, value_set=keys))
    is_matched = np.zeros(len(wanted), bool)
    total = NONE
    for table in _matching_rows(examples_dir, model, split, wanted):
        rows = np.asarray(pc.index_in(_keys(table, model), value_set=wanted))
        is_matched[rows] = True
        for side, transform in transforms.items():
            served = transform(tensors.to_arrays(table, resolved, model, side))
            trained = {name: transformed[name][position[rows]] for name in served}
            total += _difference(served, trained)
        if is_matched.all():
            break
    return dataclasses.replace(total, rows=int(is_matched.sum()), missing=int((~is_matched).sum()))


def _unique(keys: pa.Array) -> pa.Array:
    counts = pc.value_counts(keys)
    once = counts.field("values").filter(pc.equal(counts.field("counts"), 1))
    return pc.is_in(keys, value_set=once)


def _labels(transformed: dict[str, np.ndarray], model: str) -> pa.Table:
    columns = {name: transformed[name] for name in _KEYS[model]}
    return pa.table(
        {
            name: pa.array([v.decode() for v in values])
            if values.dtype == object
            else pa.array(values)
            for name, values in columns.items()
        }
    )


def _keys(table: pa.Table, model: str) -> pa.Array:
    columns = [combined(table[name]).cast(pa.string()) for name in _KEYS[model]]
    return pc.binary_join_element_wise(*columns, _SEPARATOR)


def _matching_rows(
    examples_dir: Path, model: str, split: str, wanted: pa.Array
) -> Iterator[pa.Table]:
    """Yields raw examples with the keys, reading whole only the row groups that have some."""
    for path in warmup.raw_files(examples_dir, model, split):
        file = pq.ParquetFile(path)
        for group in range(file.num_row_groups):
            keys = _keys(file.read_row_group(group, columns=list(_KEYS[model])), model)
            mask = pc.is_in(keys, value_set=wanted)
            mask = pc.and_(mask, _unique(keys))
            if pc.any(mask).as_py():
                yield file.read_row_group(group).filter(mask).combine_chunks()


def _difference(served: dict[str, np.ndarray], trained: dict[str, np.ndarray]) -> Skew:
    total = NONE
    for name, values in served.items():
        if values.dtype.kind == "f":
            gap = np.abs(values.astype(np.float64) - trained[name]).max(initial=0.0)
            # NaN on either side is a difference as well; the transform leaves none.
            largest = float(gap) if np.isfinite(gap) else float("inf")
            skew = dataclasses.replace(NONE, largest_difference=largest, feature=name)
        else:
            unequal = (values != trained[name]).reshape(len(values), -1)
            different = int(unequal.any(axis=1).sum())
            skew = dataclasses.replace(NONE, different_ids=different, feature=name)
        if skew.different_ids or skew.largest_difference:
            total += skew
    return total
