"""Raw examples -> tf.Transform -> TFRecords.

Arrow RecordBatches go in and come out: no dictionary per row anywhere. Each row group of the raw
Parquet files is one batch.
"""

import dataclasses
import pathlib
from collections.abc import Iterator, Mapping, Sequence

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow as tf
import tensorflow_transform.beam as tft_beam
from apache_beam.io.filebasedsink import FileBasedSink
from tensorflow_transform.tf_metadata import schema_utils
from tfx_bsl.coders import example_coder
from tfx_bsl.tfxio import tensor_adapter, tensor_representation_util

from features import preprocessing
from features.as_of import replay
from features.as_of.ragged import list_array
from features.screen import progress
from features.spec import ResolvedSpec
from pipeline.preprocessing import leakage_audit


@dataclasses.dataclass(frozen=True)
class RowGroup:
    """One batch of raw examples."""

    path: str
    number: int


def row_groups(directory: pathlib.Path) -> list[RowGroup]:
    """Lists the row groups of a Parquet directory, by file name."""
    return [
        RowGroup(str(path), number)
        for path in sorted(directory.glob("*.parquet"))
        for number in range(pq.ParquetFile(path).num_row_groups)
    ]


def read_batch(group: RowGroup, columns: Sequence[str]) -> pa.RecordBatch:
    """Reads a row group in the form that tf.Transform's adapter takes: every column a list."""
    table = pq.ParquetFile(group.path).read_row_group(
        group.number, columns=list(columns), use_threads=False
    )
    progress.add(table.num_rows)
    return as_lists(table.select(columns).combine_chunks().to_batches()[0])


def as_lists(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Wraps scalar columns as lists of one value; every list in Arrow's default form."""
    ones = np.ones(batch.num_rows, np.int64)
    columns = {}
    for name in sorted(batch.schema.names):
        column = batch.column(name)
        if pa.types.is_list(column.type):
            # Parquet calls the member of a list "element", Arrow "item"; the adapter compares.
            columns[name] = column.cast(pa.list_(column.type.value_type))
        else:
            columns[name] = list_array(ones, column)
    return pa.RecordBatch.from_pydict(columns)


def adapter_config(
    resolved: ResolvedSpec, model: str, raw_schema: pa.Schema
) -> tensor_adapter.TensorAdapterConfig:
    """Returns how raw columns become tensors."""
    metadata = schema_utils.schema_from_feature_spec(
        preprocessing.raw_feature_spec(resolved, model)
    )
    empty = as_lists(pa.RecordBatch.from_pylist([], schema=raw_schema))
    return tensor_adapter.TensorAdapterConfig(
        empty.schema, tensor_representation_util.InferTensorRepresentationsFromSchema(metadata)
    )


class EncodeExamples(beam.DoFn):
    """Transformed RecordBatch -> list of serialised tf.train.Examples."""

    def __init__(self, schema: object) -> None:
        self._schema = schema

    def setup(self) -> None:
        """Makes the native encoder, which cannot be pickled."""
        self._encoder = example_coder.RecordBatchToExamplesEncoder(self._schema)

    def process(self, batch: tuple[pa.RecordBatch, object]) -> Iterator[list[bytes]]:
        """Encodes one batch."""
        yield self._encoder.encode(batch[0])


class WriteExampleLists(beam.PTransform):
    """Writes lists of records as TFRecord files; Beam makes them visible when all are whole."""

    def __init__(self, prefix: str) -> None:
        super().__init__()
        self._prefix = prefix

    def expand(self, record_lists: beam.PCollection) -> beam.PCollection:
        """Writes one element, a list of records, at a time."""
        return record_lists | beam.io.iobase.Write(
            _TFRecordListSink(
                self._prefix,
                coder=beam.coders.FastPrimitivesCoder(),
                file_name_suffix=".tfrecord",
                mime_type="application/octet-stream",
            )
        )


class _TFRecordListSink(FileBasedSink):
    """TensorFlow's own writer: framing and checksums in native code."""

    def open(self, temp_path: str) -> tf.io.TFRecordWriter:
        return tf.io.TFRecordWriter(temp_path)

    def write_record(self, file_handle: tf.io.TFRecordWriter, value: list[bytes]) -> None:
        for record in value:
            file_handle.write(record)

    def close(self, file_handle: tf.io.TFRecordWriter) -> None:
        file_handle.close()


def add_analysis(
    pipeline: beam.Pipeline,
    *,
    model: str,
    resolved: ResolvedSpec,
    raw_schema: pa.Schema,
    train: pathlib.Path,
    output: pathlib.Path,
) -> None:
    """Fits a model's transform on its training examples.

    Args:
        pipeline: Pipeline to add to, inside a ``tft_beam.Context``.
        model: ``candidate`` or ``ranker``.
        resolved: The data set's features.
        raw_schema: Schema of the raw examples.
        train: Directory of the raw training examples.
        output: Examples directory; writes ``transform_fn/<model>``.
    """
    batches = _batches(pipeline, resolved, model, raw={replay.TRAIN: train})[replay.TRAIN]
    leakage_audit.add_analysed(batches, model=model, directory=output)
    transform_fn = (
        batches,
        adapter_config(resolved, model, raw_schema),
    ) | f"Analyze {model}" >> tft_beam.AnalyzeDataset(
        preprocessing.make_preprocessing_fn(resolved, model)
    )
    transform_fn | f"Write transform_fn {model}" >> tft_beam.WriteTransformFn(
        str(_transform_fn(output, model))
    )


def add_transform(
    pipeline: beam.Pipeline,
    *,
    model: str,
    resolved: ResolvedSpec,
    raw_schema: pa.Schema,
    raw: Mapping[str, pathlib.Path],
    output: pathlib.Path,
) -> None:
    """Applies a model's transform to every split.

    This is a pipeline of its own, after :func:`add_analysis`: in one pipeline, the batches would
    have two readers at different times, and the runner would hold all of them for the second.

    Args:
        pipeline: Pipeline to add to, inside a ``tft_beam.Context``.
        model: ``candidate`` or ``ranker``.
        resolved: The data set's features.
        raw_schema: Schema of the raw examples.
        raw: Split name to directory of raw examples.
        output: Examples directory with ``transform_fn/<model>``; writes ``transformed/<model>``.
    """
    config = adapter_config(resolved, model, raw_schema)
    transform_fn = pipeline | f"Read transform_fn {model}" >> tft_beam.ReadTransformFn(
        str(_transform_fn(output, model))
    )
    schema = schema_utils.schema_from_feature_spec(
        preprocessing.transformed_feature_spec(resolved, model)
    )
    for split, batches in _batches(pipeline, resolved, model, raw=raw).items():
        transformed, _ = (
            (batches, config),
            transform_fn,
        ) | f"Transform {model} {split}" >> tft_beam.TransformDataset(output_record_batches=True)
        (
            transformed
            | f"Encode {model} {split}" >> beam.ParDo(EncodeExamples(schema))
            | f"Write {model} {split}"
            >> WriteExampleLists(str(output / "transformed" / model / split / "part"))
        )


def _batches(
    pipeline: beam.Pipeline,
    resolved: ResolvedSpec,
    model: str,
    *,
    raw: Mapping[str, pathlib.Path],
) -> dict[str, beam.PCollection]:
    columns = list(preprocessing.raw_feature_spec(resolved, model))
    return {
        split: pipeline
        | f"List {model} {split}" >> beam.Create(row_groups(directory))
        | f"Spread {model} {split}" >> beam.Reshuffle()
        | f"Read {model} {split}" >> beam.Map(read_batch, columns=columns)
        for split, directory in raw.items()
    }


def _transform_fn(output: pathlib.Path, model: str) -> pathlib.Path:
    return output / "transform_fn" / model
