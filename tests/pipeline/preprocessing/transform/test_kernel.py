"""The kernel does what the saved graph does, and a difference is told."""

import dataclasses

import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf

from features import preprocessing
from pipeline.preprocessing.transform import analysis, graphs, kernel, records
from tests.pipeline.preprocessing.transform.small_examples import BOTH, RESOLVED, raw


@pytest.fixture(scope="module", params=BOTH)
def made(request, tmp_path_factory):
    """A kernel, its graph, and examples that neither was fitted to."""
    model, directory = request.param, tmp_path_factory.mktemp("graph")
    partial = analysis.Partial(RESOLVED, model)
    partial.add(raw(model, 2_000), RESOLVED, model)
    fitted = partial.fitted(RESOLVED.spaces_of(model), directory / "vocabularies")
    graphs.write(directory / "graph", RESOLVED, model, fitted)
    proof = kernel.Proof(directory / "graph", RESOLVED, model)
    return model, kernel.Kernel(RESOLVED, model, fitted), proof, fitted


def test_every_kind_of_column_is_transformed_as_by_the_graph(made):
    model, transform, proof, _ = made
    rows = raw(model, 500, seed=1)
    transformed = transform(rows)
    assert set(transformed) == set(preprocessing.transformed_feature_spec(RESOLVED, model))
    assert (transformed["watched"] > 0).any()
    assert (transformed["watched"] == 0).any()
    proof.check(rows, transformed)


@pytest.mark.parametrize(
    ("name", "change"),
    [("watched", 1), ("region", 1), ("query_continuous", 1e-4), ("candidate_vector", 1e-4)],
)
def test_a_difference_names_the_column_and_the_example(made, name, change):
    model, transform, proof, _ = made
    rows = raw(model, 50, seed=2)
    transformed = transform(rows)
    changed = transformed[name].copy()
    changed[7:8] += change
    user = rows["user_id"][7].as_py()
    with pytest.raises(RuntimeError, match=f"makes of {name} of the {model} model.*{user!r}"):
        proof.check(rows, {**transformed, name: changed})


def test_no_rows_are_no_examples(made):
    model, transform, _, _ = made
    transformed = transform(raw(model, 3).slice(0, 0))
    assert transformed["watched"].shape == (0, 6)
    assert transformed["query_continuous"].shape == (0, 5)


def test_slices_and_chunks_are_transformed_like_the_rows_in_them(made):
    model, transform, _, _ = made
    rows = raw(model, 60, seed=3)
    pieces = pa.concat_tables([rows.slice(5, 20), rows.slice(40, 7)])
    whole, some = transform(rows), transform(pieces)
    chosen = [*range(5, 25), *range(40, 47)]
    np.testing.assert_array_equal(some["watched"], whole["watched"][chosen])
    np.testing.assert_array_equal(some["query_continuous"], whole["query_continuous"][chosen])


def test_records_are_read_back_as_they_were(made, tmp_path):
    model, transform, _, _ = made
    rows = raw(model, 40, seed=4)
    transformed = transform(rows)
    feature_spec = preprocessing.transformed_feature_spec(RESOLVED, model)
    with records.whole_file(tmp_path / "made" / "part") as writer:
        for example in records.Encoder(feature_spec)(transformed):
            writer.write(example)
    data = tf.data.TFRecordDataset(str(tmp_path / "made" / "part")).batch(100)
    (read,) = [tf.io.parse_example(batch, feature_spec) for batch in data]
    assert read["user_id"].numpy().tolist() == [u.encode() for u in rows["user_id"].to_pylist()]
    for name in ("watched", "region", "query_continuous", "candidate_vector"):
        np.testing.assert_array_equal(read[name].numpy(), transformed[name])


def test_a_file_that_is_not_finished_is_not_there(tmp_path):
    with pytest.raises(ZeroDivisionError), records.whole_file(tmp_path / "part") as writer:
        writer.write(b"some")
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())


def test_an_old_graph_does_not_pass_for_this_kernel(made):
    model, _, proof, fitted = made
    halved = {name: values / 2 for name, values in fitted.boundaries.items()}
    other = kernel.Kernel(RESOLVED, model, dataclasses.replace(fitted, boundaries=halved))
    rows = raw(model, 50, seed=5)
    with pytest.raises(RuntimeError, match="_continuous"):
        proof.check(rows, other(rows))
