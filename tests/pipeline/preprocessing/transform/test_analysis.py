"""What is fitted is what tf.Transform's own analyzers find in the same examples."""

import itertools
import pickle

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pytest
import tensorflow_transform.beam as tft_beam
from tensorflow_transform.tf_metadata import schema_utils
from tfx_bsl.tfxio import tensor_adapter, tensor_representation_util

from features import dataset, preprocessing, spec
from features.as_of.ragged import list_array
from features.catalogue import combined
from features.spec import Side
from pipeline.preprocessing.transform import analysis, graphs
from tests.pipeline.preprocessing.transform.small_examples import BOTH, RESOLVED, raw

ROWS = 3_000


def as_tf_transform_takes_them(table):
    columns = {}
    for name in sorted(table.column_names):
        column = combined(table[name])
        is_list = pa.types.is_list(column.type)
        columns[name] = column if is_list else list_array(np.ones(len(column), np.int64), column)
    return pa.RecordBatch.from_pydict(columns)


def fitted_by_tf_transform(table, model, directory):
    """Runs AnalyzeDataset on the preprocessing_fn with its analyzers in it."""
    batch = as_tf_transform_takes_them(table)
    metadata = schema_utils.schema_from_feature_spec(
        preprocessing.raw_feature_spec(RESOLVED, model)
    )
    config = tensor_adapter.TensorAdapterConfig(
        batch.schema, tensor_representation_util.InferTensorRepresentationsFromSchema(metadata)
    )
    with (
        beam.Pipeline(runner="FnApiRunner") as pipeline,
        tft_beam.Context(temp_dir=str(directory / "tmp")),
    ):
        transform_fn = (
            pipeline | beam.Create([batch]),
            config,
        ) | tft_beam.AnalyzeDataset(preprocessing.make_preprocessing_fn(RESOLVED, model))
        transform_fn | tft_beam.WriteTransformFn(str(graphs.directory_of(directory, model)))


def fitted_here(table, model, directory, *, cuts=()):
    """Adds up the examples in as many parts as ``cuts`` make, each sent as between workers."""
    bounds = [0, *cuts, table.num_rows]
    add = analysis.AddExamples(RESOLVED.to_json())
    partials = []
    for start, end in itertools.pairwise(bounds):
        partial = analysis.Partial(RESOLVED, model)
        partial.add(table.slice(start, end - start), RESOLVED, model)
        partials.append(pickle.loads(pickle.dumps(add.compact({model: partial}))))
    total = add.merge_accumulators(partials)[model]
    fitted = total.fitted(RESOLVED.spaces_of(model), directory / "vocabularies")
    graphs.write(graphs.directory_of(directory, model), RESOLVED, model, fitted)
    return total, fitted


@pytest.mark.parametrize("model", BOTH)
def test_vocabularies_quantiles_and_moments_are_those_of_tf_transform(tmp_path, model):
    table = raw(model, ROWS)
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    fitted_by_tf_transform(table, model, theirs)
    total, fitted = fitted_here(table, model, ours)
    for space in RESOLVED.spaces_of(model):
        expected = dataset.vocabulary(theirs, model, space.name)
        assert len(expected) > 5
        assert dataset.vocabulary(ours, model, space.name) == expected
    for side in Side:
        expected = dataset.boundaries(theirs, model, side)
        np.testing.assert_array_equal(dataset.boundaries(ours, model, side), expected)
    known = np.isfinite(pictures := np.array(table["candidate_vector"].to_pylist()))
    np.testing.assert_allclose(fitted.moments["candidate_vector"][0], known.sum(axis=0))
    np.testing.assert_allclose(
        fitted.moments["candidate_vector"][1], np.nansum(pictures, axis=0), rtol=1e-6
    )
    # The graph gives them by name, whoever fitted it.
    of_graph = [dataset.moments(made, model, Side.CANDIDATE) for made in (theirs, ours)]
    np.testing.assert_array_equal(of_graph[1], fitted.moments["candidate_vector"])
    np.testing.assert_allclose(of_graph[0], of_graph[1], rtol=1e-5)
    assert total.newest_s == max(table["time"].to_pylist())


def test_it_does_not_matter_how_examples_are_cut(tmp_path):
    table = raw(spec.RANKER, ROWS)
    _, whole = fitted_here(table, spec.RANKER, tmp_path / "whole")
    _, cut = fitted_here(table, spec.RANKER, tmp_path / "cut", cuts=(1, 1, 700, 2_999))
    for space in RESOLVED.spaces_of(spec.RANKER):
        one, other = (
            dataset.vocabulary(tmp_path / d, spec.RANKER, space.name) for d in ("whole", "cut")
        )
        assert one == other
    for column, boundaries in whole.boundaries.items():
        # A rank may be wrong by so much of all values: here by at most three.
        ordered = np.sort(boundaries, axis=1)
        np.testing.assert_array_equal(ordered, boundaries)
        np.testing.assert_allclose(cut.boundaries[column], boundaries, rtol=0.1)


def test_what_waits_is_added_up_however_many_tables_come(monkeypatch):
    monkeypatch.setattr(analysis, "_WAITING", 3)
    counts = analysis.Counts()
    for number in range(20):
        counts.add(pa.table({"token": ["often", f"once {number}"], "count": [1, 1]}))
    counts.compact()
    assert counts.most_frequent(RESOLVED.space("topic"))[0] == "often"
    assert counts.most_frequent(RESOLVED.space("search_token")) == ["often"]
    assert len(counts.most_frequent(RESOLVED.space("video"))) == 21
