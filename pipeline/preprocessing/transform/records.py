"""Transformed examples as TFRecord files, by native code: encoding, framing and checksums."""

import contextlib
import os
import pathlib
import uuid
from collections.abc import Iterator, Mapping

import numpy as np
import pyarrow as pa
import tensorflow as tf
from tensorflow_transform.tf_metadata import schema_utils
from tfx_bsl.coders import example_coder

from features.as_of.ragged import list_array

# ``written_files.settle`` removes what a killed worker left.
_UNFINISHED = ".part-"


class Encoder:
    """Columns of transformed examples -> serialised tf.train.Examples."""

    def __init__(self, feature_spec: Mapping[str, tf.io.FixedLenFeature]) -> None:
        schema = schema_utils.schema_from_feature_spec(feature_spec)
        self._encoder = example_coder.RecordBatchToExamplesEncoder(schema)

    def __call__(self, columns: Mapping[str, pa.Array | np.ndarray]) -> list[bytes]:
        """Encodes examples."""
        lists = {name: _as_lists(values) for name, values in columns.items()}
        return self._encoder.encode(pa.RecordBatch.from_pydict(lists))


def _as_lists(values: pa.Array | np.ndarray) -> pa.ListArray:
    if isinstance(values, np.ndarray):
        width = 1 if values.ndim == 1 else values.shape[1]
        return list_array(np.full(len(values), width), pa.array(values.reshape(-1)))
    if pa.types.is_string(values.type):
        values = values.cast(pa.binary())
    return list_array(np.ones(len(values), np.int64), values)


@contextlib.contextmanager
def whole_file(path: pathlib.Path) -> Iterator[tf.io.TFRecordWriter]:
    """Yields a writer of a file that appears when all is in it; a second attempt replaces it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{_UNFINISHED}{uuid.uuid4().hex}")
    try:
        with tf.io.TFRecordWriter(str(temporary)) as writer:
            yield writer
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
