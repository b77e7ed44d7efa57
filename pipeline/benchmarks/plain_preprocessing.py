"""The obvious preprocessing chain, as a yardstick of time for the benchmark.

What one writes first: a dictionary for each row, loops over a user's past, and in tf.Transform an
analyzer of its own for each feature. Same features as the real job, of the ranking examples only.
"""

import pathlib
from collections.abc import Callable, Mapping

import apache_beam as beam
import tensorflow as tf
import tensorflow_transform as tft
import tensorflow_transform.beam as tft_beam
from tensorflow_transform.tf_metadata import dataset_metadata, schema_utils

from features import preprocessing, spec
from features.spec import Feature, Kind, ResolvedSpec
from features.tables import logs
from pipeline.benchmarks.plain_replay import PlainReplay

_CATEGORICAL = {Kind.UNIVALENT, Kind.MULTIVALENT}


def run(logs_dir: pathlib.Path, resolved: ResolvedSpec, output: pathlib.Path) -> int:
    """Turns the impressions of a log into transformed ranking examples.

    Args:
        logs_dir: Raw logs without bad rows.
        resolved: Features of the logs.
        output: Directory to write.

    Returns:
        Number of examples written.
    """
    tables = {name: logs.read_table(logs_dir, name) for name in sorted(logs.tables_in(logs_dir))}
    # All examples train: the yardstick has no holdout.
    replay = PlainReplay(tables, resolved, train_until_s=2**40)
    features = resolved.of(spec.RANKER)
    wanted = {*(f.name for f in features), "clicked", "watch_time_s"}
    rows = [{k: v for k, v in row.items() if k in wanted} for row in replay.ranking_examples()]
    metadata = dataset_metadata.DatasetMetadata(
        schema_utils.schema_from_feature_spec(_raw_spec(features))
    )
    with (
        beam.Pipeline(runner="FnApiRunner") as pipeline,
        tft_beam.Context(temp_dir=str(output / "temporary")),
    ):
        data = (pipeline | beam.Create(rows), metadata)
        (transformed, transformed_metadata), _ = data | tft_beam.AnalyzeAndTransformDataset(
            _preprocessing_fn(features)
        )
        coder = tft.coders.ExampleProtoCoder(transformed_metadata.schema)
        (
            transformed
            | beam.Map(coder.encode)
            | beam.io.WriteToTFRecord(str(output / "examples"), file_name_suffix=".tfrecord")
        )
    return len(rows)


def _raw_spec(features: tuple[Feature, ...]) -> dict[str, tf.io.FixedLenFeature]:
    labels = {
        "clicked": tf.io.FixedLenFeature([], tf.float32),
        "watch_time_s": tf.io.FixedLenFeature([], tf.float32),
    }
    kinds = {
        Kind.UNIVALENT: tf.io.FixedLenFeature([], tf.string),
        Kind.MULTIVALENT: tf.io.VarLenFeature(tf.string),
    }
    number = tf.io.FixedLenFeature([], tf.float32)
    return {**labels, **{f.name: kinds.get(f.kind, number) for f in features}}


def _preprocessing_fn(
    features: tuple[Feature, ...],
) -> Callable[[Mapping[str, tf.Tensor]], dict[str, tf.Tensor]]:
    def preprocessing_fn(raw: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        outputs = {"clicked": raw["clicked"], "watch_time_s": raw["watch_time_s"]}
        for feature in features:
            column = raw[feature.name]
            if feature.kind in _CATEGORICAL:
                outputs[feature.name] = tft.compute_and_apply_vocabulary(
                    column, vocab_filename=f"vocabulary_{feature.name}"
                )
                continue
            filled = tf.where(tf.math.is_nan(column), feature.missing, column)
            buckets = preprocessing.NUM_QUANTILES + 1
            boundaries = tft.quantiles(filled, num_buckets=buckets, epsilon=0.001)
            outputs[feature.name] = tft.apply_buckets_with_interpolation(filled, boundaries)
        return outputs

    return preprocessing_fn
