"""Transformed examples as NumPy arrays or tf.data, and what their transform was fitted to."""

import functools
import os
import pathlib
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import tensorflow as tf

from features import command, files, preprocessing, spec
from features.catalogue import UPLOAD_TIME
from features.spec import Kind, ResolvedSpec, Side

SPLITS = ("train", "holdout", "videos")
_MADE_BY = "python -m pipeline.preprocess --logs=LOGS --examples=EXAMPLES"
Path = str | os.PathLike[str]


def info(examples_dir: Path) -> dict[str, object]:
    """Returns what ``pipeline/preprocessing/job.py`` recorded about the examples."""
    return files.require_complete(examples_dir, what="examples", made_by=_MADE_BY)


def tfrecord_files(examples_dir: Path, model: str, split: str | Sequence[str]) -> list[str]:
    """Returns the TFRecord files of a split, sorted; those of several splits, one after the other.

    Empty where there are no examples.
    """
    info(examples_dir)
    root = pathlib.Path(examples_dir) / "transformed" / model
    splits = [split] if isinstance(split, str) else split
    return [str(path) for name in splits for path in sorted((root / name).glob("*.tfrecord*"))]


def batches(
    examples_dir: Path,
    model: str,
    split: str | Sequence[str],
    *,
    batch_size: int,
    shuffle_seed: int | None = None,
    columns: Iterable[str] | None = None,
    chosen: npt.NDArray[np.bool_] | None = None,
) -> tf.data.Dataset:
    """Reads one pass over a split.

    Args:
        examples_dir: Directory that pipeline.preprocess wrote.
        model: Name of the model, ``candidate`` or ``ranker``.
        split: ``train``, ``holdout`` or, for the candidate model, ``videos``; or several, of which
            one that is named twice is read twice.
        batch_size: B; the last batch may be smaller.
        shuffle_seed: Seed that shuffles files and, in a buffer of 100,000, examples; None keeps the
            order.
        columns: Names of the columns to read; by default all, labels included.
        chosen: Which examples are read, bool [n] in the order of the files, without a
            ``shuffle_seed``; the others are not parsed. None: all.

    Returns:
        Dictionaries of the tensors that :mod:`features.preprocessing` describes.
    """
    feature_spec = _feature_spec(examples_dir, model, columns)
    names = tfrecord_files(examples_dir, model, split)
    if not names:
        return tf.data.Dataset.from_tensor_slices(
            {n: tf.zeros([0, *f.shape], f.dtype) for n, f in feature_spec.items()}
        ).batch(batch_size)
    data = tf.data.Dataset.from_tensor_slices(names)
    if shuffle_seed is not None:
        data = data.shuffle(len(names), seed=shuffle_seed)
    data = data.interleave(
        tf.data.TFRecordDataset, cycle_length=4, num_parallel_calls=tf.data.AUTOTUNE
    )
    if shuffle_seed is not None:
        data = data.shuffle(100_000, seed=shuffle_seed)
    parse = functools.partial(tf.io.parse_example, features=feature_spec)
    data = data.batch(batch_size)
    if chosen is not None:
        marks = tf.data.Dataset.from_tensor_slices(chosen).batch(batch_size)
        data = tf.data.Dataset.zip((data, marks)).map(tf.boolean_mask)
    return data.map(parse, num_parallel_calls=2).prefetch(2)


def load(
    examples_dir: Path, model: str, split: str | Sequence[str], columns: Iterable[str] | None = None
) -> dict[str, np.ndarray]:
    """Reads a whole split into memory; arguments as in :func:`batches`.

    Returns:
        Name to array with leading dimension n; strings are object arrays of bytes.
    """
    parts: dict[str, list[np.ndarray]] = {}
    data = batches(examples_dir, model, split, batch_size=4096, columns=columns)
    for batch in data.as_numpy_iterator():
        for name, value in batch.items():
            parts.setdefault(name, []).append(value)
    if parts:
        return {name: np.concatenate(values) for name, values in parts.items()}
    feature_spec = _feature_spec(examples_dir, model, columns)
    return {n: np.zeros([0, *f.shape], f.dtype.as_numpy_dtype) for n, f in feature_spec.items()}


def videos(examples_dir: Path) -> dict[str, np.ndarray]:
    """Reads the catalogue through the candidate model's transform.

    Returns:
        The candidate-side features, ``label_video_id`` (object, str) and, where that directory is
        there, ``upload_time`` (int64, Unix seconds): row i is that of ``examples/videos``.
    """
    resolved = ResolvedSpec.load(examples_dir)
    names = [f.name for f in resolved.of(spec.CANDIDATE, spec.Side.CANDIDATE) if f.categorical]
    names += [
        spec.vector_column(side, kind)
        for side, kind, _ in preprocessing.vectors(resolved, spec.CANDIDATE)
        if side is spec.Side.CANDIDATE
    ]
    # ``time`` holds the row of examples/videos: TFRecord files keep no order of their own.
    arrays = load(examples_dir, spec.CANDIDATE, "videos", [*names, "label_video_id", "time"])
    order = np.argsort(arrays.pop("time"))
    arrays = {name: values[order] for name, values in arrays.items()}
    ids = [video_id.decode() for video_id in arrays["label_video_id"]]
    arrays["label_video_id"] = np.array(ids, dtype=object)
    listed = pathlib.Path(examples_dir) / "videos"
    if listed.is_dir():
        times = pq.read_table(listed, columns=[UPLOAD_TIME])[UPLOAD_TIME]
        arrays[UPLOAD_TIME] = np.asarray(times, np.int64)
    return arrays


def vocabulary(examples_dir: Path, model: str, space: str) -> list[str]:
    """Returns the tokens of an ID space; the token of id i is element i - 1."""
    assets = pathlib.Path(examples_dir) / "transform_fn" / model / "transform_fn" / "assets"
    path = assets / preprocessing.vocabulary_name(space)
    if not path.is_file():
        raise command.InputError(
            f"{path} does not exist: {examples_dir} has no vocabulary of {space!r} for the "
            f"{model} model. Make it with: {_MADE_BY}"
        )
    return path.read_text().split("\n")[:-1]


def vocabulary_sizes(examples_dir: Path, model: str) -> dict[str, int]:
    """Returns V of each ID space of a model: its ids are 1..V."""
    spaces = ResolvedSpec.load(examples_dir).spaces_of(model)
    return {space.name: len(vocabulary(examples_dir, model, space.name)) for space in spaces}


def _feature_spec(
    examples_dir: Path, model: str, columns: Iterable[str] | None
) -> dict[str, tf.io.FixedLenFeature]:
    resolved = ResolvedSpec.load(examples_dir)
    feature_spec = preprocessing.transformed_feature_spec(resolved, model)
    if columns is None:
        return feature_spec
    return {name: feature_spec[name] for name in columns}


def boundaries(examples_dir: Path, model: str, side: Side) -> np.ndarray:
    """Returns the quantile boundaries of a side's continuous vector, float32 [F, Q].

    Args:
        examples_dir: What pipeline.preprocess wrote.
        model: ``candidate`` or ``ranker``.
        side: Side that has continuous features.

    Raises:
        command.InputError: The transform graph was made before its boundaries had a name.
    """
    name = preprocessing.boundaries_of(spec.vector_column(side, Kind.CONTINUOUS))
    return _fitted_values(examples_dir, model, [name])[0]


def moments(examples_dir: Path, model: str, side: Side) -> np.ndarray:
    """Returns number, sum and sum of squares of the entries of a side's vectors, float32 [3, W].

    Arguments and errors are those of :func:`boundaries`.
    """
    names = preprocessing.moments_of(spec.vector_column(side, Kind.VECTOR))
    return np.stack(_fitted_values(examples_dir, model, names))


def _fitted_values(examples_dir: Path, model: str, names: Sequence[str]) -> list[np.ndarray]:
    """Returns what analyzers found, by names of the transform graph."""
    directory = pathlib.Path(examples_dir) / "transform_fn" / model / "transform_fn"
    graph = tf.saved_model.load(str(directory)).transform_fn.graph
    # tf.Transform puts what analyzers found beside the function, not into it.
    captured = {inner.name: outer for outer, inner in graph.captures}
    values = []
    for name in names:
        try:
            (given,) = graph.get_operation_by_name(name).inputs
        except KeyError:
            raise command.InputError(
                f"{directory} names no {name}: an earlier version made it. Run pipeline.preprocess "
                "again, and train on what it writes."
            ) from None
        values.append(captured[given.name].numpy())
    return values
