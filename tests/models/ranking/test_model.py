import math

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from features import command, spec
from features.spec import Kind, Side
from models import config
from models.embeddings import SideInputs
from models.ranking import model as ranker
from models.ranking.calibration import Curve
from models.ranking.layers import SplitDense, Widths
from models.ranking.model import Ranker
from models.training import saved


def make(world, **settings):
    settings = {"hidden": (8, 4), **settings}
    return Ranker(world.spec(), world.vocabulary_sizes, config.RankerConfig(**settings))


@pytest.fixture
def rows(world):
    return world.ranker_rows(7, seed=1)


def test_split_layer_gives_what_the_concatenated_layer_gives():
    rng = np.random.default_rng(1)
    query, video, moment = (rng.normal(size=(5, n)).astype("f") for n in (3, 2, 6))
    split = SplitDense(Widths(query=3, video=2, moment=6), 4, seed=1, name="first")
    split.bias.assign([1.0, 2.0, 3.0, 4.0])
    whole = tf_keras.layers.Dense(4)
    whole.build([None, 11])
    whole.set_weights([whole_kernel(split), split.bias.numpy()])
    np.testing.assert_allclose(
        split(query, split.video_part(video), moment),
        whole(np.concatenate([query, video, moment], axis=1)),
        atol=1e-6,
    )


def whole_kernel(first_layer):
    parts = (first_layer.query_kernel, first_layer.video_kernel, first_layer.moment_kernel)
    return np.concatenate([part.numpy() for part in parts])


@pytest.mark.parametrize("hidden", [(), (8,), (8, 4, 2)])
def test_logits_are_those_of_the_concatenated_network(world, rows, hidden):
    model = make(world, hidden=hidden)
    inputs = [
        SideInputs(world.spec(), spec.RANKER, Side.QUERY),
        SideInputs(world.spec(), spec.RANKER, Side.CANDIDATE, static=True),
        SideInputs(world.spec(), spec.RANKER, Side.CANDIDATE, static=False),
    ]
    dense = [one.dense(rows, model.tables).numpy() for one in inputs]
    tower = model.tower
    first = tower.first_layer
    expected = np.concatenate(dense, axis=1) @ whole_kernel(first) + first.bias.numpy()
    for layer in tower.upper_layers:
        expected = np.maximum(expected, 0) @ layer.kernel.numpy() + layer.bias.numpy()
    np.testing.assert_allclose(model.logits(rows, rows), expected[:, 0], atol=1e-5)


def test_one_query_scores_many_candidates_as_pairs_would(world, rows):
    model = make(world)
    one = {name: rows[name][:1] for name in model.query_columns}
    repeated = {name: np.repeat(array, 7, axis=0) for name, array in one.items()}
    candidates = {name: rows[name] for name in model.candidate_columns}
    np.testing.assert_allclose(
        model.logits(one, candidates), model.logits(repeated, candidates), atol=1e-6
    )


SETTINGS = [
    {},
    {"pairwise": 0.0},
    {"hidden": ()},
    {"exclude": ("video_age_s",)},
]


def apart(world, rows, model):
    """The parts of the videos, and the features that are left of the candidates."""
    resolved = world.spec()
    parts = model.video_parts({name: rows[name] for name in model.candidate_columns})
    left = {}
    for kind in (Kind.CONTINUOUS, Kind.BINARY):
        features = resolved.of(spec.RANKER, Side.CANDIDATE, kind)
        moment = [i for i, feature in enumerate(features) if not feature.static]
        if moment:
            name = spec.vector_column(Side.CANDIDATE, kind)
            left[name] = rows[name][:, moment]
    for feature in resolved.of(spec.RANKER, Side.CANDIDATE):
        if feature.categorical and not feature.static:
            left[feature.name] = rows[feature.name]
    return parts, left


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_candidates_whose_videos_were_prepared_get_the_same_logits(world, rows, settings):
    model = make(world, **settings)
    parts, left = apart(world, rows, model)
    assert parts.shape == (7, model.video_parts_width)
    query = {name: rows[name] for name in model.query_columns}
    logits = model.logits(query, left, video_parts=parts)
    np.testing.assert_allclose(logits, model.logits(query, rows), atol=1e-6)
    # Half precision, as a release keeps them.
    rounded = tf.cast(tf.cast(parts, tf.float16), tf.float32)
    rough = model.logits(query, left, video_parts=rounded)
    np.testing.assert_allclose(rough, logits, atol=5e-3)


@pytest.mark.parametrize("static", [True, False])
def test_a_ranker_may_read_static_features_alone_or_none(world, rows, static):
    features = world.spec().of(spec.RANKER, Side.CANDIDATE)
    model = make(world, exclude=[f.name for f in features if f.static is not static])
    assert np.isfinite(model(rows)).all()
    assert len(set(model(rows).numpy())) > 1
    parts, left = apart(world, rows, model)
    np.testing.assert_allclose(model.logits(rows, left, video_parts=parts), model(rows), atol=1e-6)


def test_each_part_of_the_first_layer_is_multiplied_as_rarely_as_it_changes(world):
    model = make(world)
    rows = world.ranker_rows(1, seed=1)

    def shapes(arrays, count):
        return {
            name: tf.TensorSpec([count, *array.shape[1:]], tf.as_dtype(array.dtype))
            for name, array in arrays.items()
        }

    def products(function, *arguments):
        graph = tf.function(function).get_concrete_function(*arguments).graph
        return {
            (op.inputs[0].shape[0], op.inputs[0].shape[1])
            for op in graph.get_operations()
            if op.type == "MatMul"
        }

    query = shapes({name: rows[name] for name in model.query_columns}, 1)
    candidates = shapes({name: rows[name] for name in model.candidate_columns}, 500)
    first = model.tower.first_layer
    of_query = (1, first.query_kernel.shape[0])
    of_video, of_moment = (
        (500, kernel.shape[0]) for kernel in (first.video_kernel, first.moment_kernel)
    )
    assert products(model.logits, query, candidates) >= {of_query, of_video, of_moment}
    _, left = apart(world, rows, model)
    parts = tf.TensorSpec([500, model.video_parts_width])

    def prepared(query, left, parts):
        return model.logits(query, left, video_parts=parts)

    found = products(prepared, query, shapes(left, 500), parts)
    assert found >= {of_query, of_moment}
    assert of_video not in found


def test_features_of_a_space_share_a_table_but_are_fed_separately(world, rows):
    model = make(world)
    swapped = {**rows, "video_id": np.full(7, 3), "watched_video_ids": np.full((7, 6), 5)}
    other = {**rows, "video_id": np.full(7, 5), "watched_video_ids": np.full((7, 6), 3)}
    assert np.abs(model(swapped) - model(other)).max() > 0
    assert sum(table.name == "video" for table in model.tables.values()) == 1


def test_level_moves_all_candidates_of_a_query_alike(world, rows):
    model = make(world, pairwise=0.3)
    query = {name: values[:1] for name, values in rows.items()}
    order, level, _ = model.outputs_of(query, rows)
    # It starts at nothing, so that a first step is that of the tower.
    np.testing.assert_array_equal(level, [0.0])
    np.testing.assert_allclose(model.logits(query, rows), order)
    model.level.output_layer.bias.assign([2.0])
    np.testing.assert_allclose(model.logits(query, rows), order + 2.0, rtol=1e-6)


def test_without_pairs_there_is_no_level(world, rows):
    model = make(world, pairwise=0.0)
    assert model.level is None
    order, level, _ = model.outputs_of(rows, rows)
    np.testing.assert_array_equal(model(rows), order + level)


def test_expected_watch_time_is_exp_of_the_logit(world, rows):
    model = make(world)
    np.testing.assert_allclose(
        model.expected_watch_time_s(rows, rows), np.exp(model.logits(rows, rows)), rtol=1e-5
    )


@pytest.mark.parametrize("hidden", [(), (4,)])
def test_starting_bias_is_the_mean_of_the_output(world, rows, hidden):
    model = make(world, hidden=hidden)
    before = model(rows).numpy()
    model.set_bias(math.log(30))
    np.testing.assert_allclose(model(rows) - before, [math.log(30)] * 7, rtol=1e-5)


def test_unknown_ids_everywhere_are_scored(world, rows):
    unknown = {n: np.zeros_like(v) if v.dtype.kind in "if" else v for n, v in rows.items()}
    assert np.isfinite(make(world)(unknown)).all()


def test_embedding_gradients_are_sparse(world, rows):
    model = make(world)
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(model(rows))
    tables = [table.rows for table in model.tables.values()]
    assert {type(g) for g in tape.gradient(total, tables)} == {tf.IndexedSlices}


def test_ranker_without_a_side_is_refused(world):
    names = ("video_id", "channel_id", "duration_s", "user_video_impressions_1h")
    with pytest.raises(command.InputError, match="no candidate feature left"):
        make(world, exclude=names)


@pytest.mark.parametrize("settings", [{}, {"hidden": ()}, {"exclude": ("age",), "powers": False}])
def test_saved_ranker_gives_the_same_logits(tmp_path, world, rows, settings):
    model = make(world, **settings)
    before = model(rows).numpy()
    model.calibration.set(Curve(knots=(-0.1, 0.1), slopes=(0.5, 2.0, 1.0), height=3.0))
    contents = saved.Contents(configs={"model": model.config}, vocabularies=world.vocabularies)
    ranker.save(model, tmp_path / "m", contents=contents)
    again = ranker.load(tmp_path / "m")
    assert again.config == model.config
    np.testing.assert_array_equal(again(rows), model(rows))
    # The curve moves logits, and none past another.
    np.testing.assert_array_equal(np.argsort(again(rows)), np.argsort(before))
    assert again(rows).numpy().mean() > before.mean() + 1
