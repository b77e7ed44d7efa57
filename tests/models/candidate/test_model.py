import math

import numpy as np
import pytest
import tensorflow as tf

from features import command
from models import config
from models.candidate import layers
from models.candidate import model as candidate_model
from models.candidate.model import CandidateModel
from models.candidate.video_features import VideoFeatures
from models.training import saved

FEATURES = 5  # Rows of queries used here.


@pytest.fixture
def queries(world):
    return world.candidate_rows(FEATURES, seed=1)


def make(world, **settings):
    settings = {"embedding_dim": 8, "depth": 1, **settings}
    return CandidateModel(world.spec(), world.vocabulary_sizes, config.CandidateConfig(**settings))


def of_catalogue(model, videos):
    return VideoFeatures.of_catalogue(
        videos, columns=model.content_columns, num_videos=model.num_videos
    )


@pytest.mark.parametrize("depth", [0, 1, 4])
def test_embeddings_are_one_wider_than_d_and_queries_end_in_one(world, queries, depth):
    model = make(world, depth=depth)
    found = model.query_embeddings(queries)
    assert found.shape == (FEATURES, 9)
    np.testing.assert_array_equal(found[:, -1], np.ones(FEATURES))
    assert model.video_embeddings(world.catalogue_rows()).shape == (25, 9)
    assert len(model.hidden_layers) == depth


def test_inner_product_is_the_softmax_logit(world, queries):
    model = make(world, video_content=False)
    model.set_popularity_bias(np.arange(24))
    u = model.query_embeddings(queries).numpy()
    row = model.softmax_rows.rows.numpy()[queries["video_id"]]
    bias = np.log1p(queries["video_id"] - 1)
    expected = np.sum(u[:, :-1] * row, axis=1) + bias
    np.testing.assert_allclose(model(queries), expected, rtol=1e-5)


def test_paper_tower_ends_in_a_relu(world, queries):
    paper = make(world, linear_output=False).query_embeddings(queries).numpy()
    ours = make(world, linear_output=True).query_embeddings(queries).numpy()
    assert paper.min() >= 0
    assert ours.min() < 0


def test_watched_videos_stand_in_the_query_themselves(world, queries):
    """The second part of u: embeddings times 1 / sqrt(1 + place), newest first; 0 is nobody."""
    paper, ours = make(world), make(world, item_to_item=True)
    rows = ours.tables["video"].rows.numpy()
    expected = paper.query_embeddings(queries).numpy()[:, :-1]
    for query, bag in enumerate(queries["watched_video_ids"]):
        for place, video in enumerate(bag):
            expected[query] += (video > 0) * rows[video] / math.sqrt(1 + place)
    found = ours.query_embeddings(queries).numpy()
    np.testing.assert_allclose(found[:, :-1], expected, rtol=1e-4, atol=1e-6)


def test_thinned_bags_add_up_to_as_much_as_whole_ones(world, queries):
    tf.random.set_seed(1)
    model = make(world, item_to_item=True, bag_dropout=0.5, depth=0)
    for layer in [*model.hidden_layers, model.output_layer]:
        layer.kernel.assign(tf.zeros_like(layer.kernel))
    model.tables["video"].rows.assign(tf.ones_like(model.tables["video"].rows))
    repeats = 2000
    many = {name: np.repeat(column, repeats, axis=0) for name, column in queries.items()}
    thinned = model.query_embeddings(many, training=True).numpy()
    whole = model.query_embeddings(queries).numpy()
    assert whole[:, 0].max() > 1
    np.testing.assert_allclose(thinned.reshape(FEATURES, repeats, -1).mean(axis=1), whole, rtol=0.1)


def test_an_age_is_read_by_its_two_nearest_pieces():
    found = layers.age_pieces(tf.constant([0.0, 0.25, 0.4, 0.999999]), 4).numpy()
    expected = [[1, 0, 0, 0, 0], [0, 1, 0, 0, 0], [0, 0.4, 0.6, 0, 0], [0, 0, 0, 0, 1]]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_without_watches_or_example_age_their_parts_are_left_out(world, queries):
    settings = {"item_to_item": True, "age_pieces": 4}
    model = make(world, **settings, exclude=("watched_video_ids", "example_age_s"))
    assert not model.has_item_to_item
    assert not model.has_age_pieces
    assert np.isfinite(model.query_embeddings(queries)).all()


def test_embedding_of_an_id_model_is_its_row_and_a_new_video_has_none(world):
    model = make(world, video_content=False)
    videos = world.catalogue_rows()
    found = model.video_embeddings(videos).numpy()
    np.testing.assert_array_equal(found[:24, :8], model.softmax_rows.rows[1:])
    np.testing.assert_array_equal(found[24], np.zeros(9))
    assert not model.has_content
    np.testing.assert_array_equal(model.can_embed(videos), [True] * 24 + [False])


def test_new_video_is_embedded_by_its_content(world):
    model = make(world)
    videos = world.catalogue_rows()
    assert np.abs(model.video_embeddings(videos).numpy()[24]).max() > 0
    assert model.can_embed(videos).all()


def test_videos_outside_the_vocabulary_differ_by_content_alone(world):
    model = make(world)
    videos = {n: np.repeat(v[-1:], 3, axis=0) for n, v in world.catalogue_rows().items()}
    videos["channel_id"] = np.array([1, 2, 1])
    found = model.video_embeddings(videos).numpy()
    np.testing.assert_array_equal(found[0], found[2])
    assert np.abs(found[0] - found[1]).max() > 0


@pytest.mark.parametrize("rate", [0.5])
def test_id_dropout_shows_some_videos_by_content_alone(world, rate):
    model = make(world, id_dropout=rate)
    videos = {n: np.repeat(v[:1], 2000, axis=0) for n, v in world.catalogue_rows().items()}
    whole = model.video_embeddings({n: v[:1] for n, v in videos.items()})[0]
    content = whole[:8] - model.softmax_rows.rows[1]
    found = model.video_embeddings(videos, training=True).numpy()[:, :8]
    is_content = np.isclose(found, content, atol=1e-6).all(axis=1)
    is_whole = np.isclose(found, whole[:8], atol=1e-6).all(axis=1)
    assert np.all(is_content ^ is_whole)
    # 2,000 coin flips: standard deviation .011.
    assert abs(is_content.mean() - rate) < 0.06


def test_popularity_bias_of_a_video_never_watched_is_zero(world):
    model = make(world, video_content=False)
    counts = np.zeros(24, int)
    counts[4] = 6
    model.set_popularity_bias(counts)
    biases = model.video_embeddings(world.catalogue_rows())[:, -1].numpy()
    np.testing.assert_allclose(biases[4], math.log(7), rtol=1e-6)
    np.testing.assert_array_equal(np.delete(biases, 4), np.zeros(24))


def test_gradients_of_all_tables_are_sparse(world, queries):
    model = make(world)
    tables = [*model.tables.values(), model.softmax_rows, model.softmax_biases]
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(model(queries, training=True))
    gradients = tape.gradient(total, [table.rows for table in tables])
    assert {type(gradient) for gradient in gradients} == {tf.IndexedSlices}


def test_looked_up_content_gives_the_embedding_of_the_catalogue(world):
    model = make(world)
    videos = world.catalogue_rows()
    lookup = of_catalogue(model, videos)
    ids = tf.constant([3, 24, 1], tf.int64)
    expected = model.video_embeddings(videos).numpy()[[2, 23, 0]]
    np.testing.assert_allclose(model.video_embeddings(lookup.of(ids)), expected, rtol=1e-6)


def test_empty_video_vocabulary_is_refused(world):
    with pytest.raises(command.InputError, match="video vocabulary is empty"):
        CandidateModel(
            world.spec(), {**world.vocabulary_sizes, "video": 0}, config.CandidateConfig()
        )


def test_excluding_every_query_feature_is_refused(world):
    names = ("watched_video_ids", "region", "signed_in", "age", "example_age_s")
    with pytest.raises(command.InputError, match="leaves the query tower no feature"):
        make(world, exclude=names)


def contents(model, world, **lineage):
    return saved.Contents(
        configs={"model": model.config},
        vocabularies=world.vocabularies,
        metrics={"map_at_100": 0.5},
        lineage=lineage,
    )


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"video_content": False, "depth": 0},
        {"exclude": ("age", "duration_s"), "powers": False, "linear_output": False},
    ],
)
def test_saved_model_gives_the_same_embeddings(tmp_path, world, queries, settings):
    model = make(world, **settings)
    model.set_popularity_bias(np.arange(24))
    videos = world.catalogue_rows()
    candidate_model.save(model, tmp_path / "m", contents=contents(model, world))

    again = candidate_model.load(tmp_path / "m")
    assert again.config == model.config
    np.testing.assert_array_equal(again.query_embeddings(queries), model.query_embeddings(queries))
    np.testing.assert_array_equal(again.video_embeddings(videos), model.video_embeddings(videos))


def test_saved_model_holds_vocabularies_metrics_and_lineage(tmp_path, world):
    model = make(world)
    candidate_model.save(model, tmp_path / "m", contents=contents(model, world, seed=3))
    assert saved.vocabulary(tmp_path / "m", "video") == world.vocabularies["video"]
    opened = saved.open_directory(tmp_path / "m", kind="candidate")
    assert opened.info["metrics"] == {"map_at_100": 0.5}
    assert opened.info["lineage"] == {"seed": 3}
    assert opened.vocabulary_sizes == world.vocabulary_sizes
    with pytest.raises(command.InputError, match="no vocabulary of 'topic'"):
        saved.vocabulary(tmp_path / "m", "topic")


def test_bag_dropout_hides_values_of_bags_in_training_alone(world, queries):
    model = make(world, bag_dropout=0.999999)
    without = {**queries, "watched_video_ids": np.zeros_like(queries["watched_video_ids"])}
    bags = [f.name for f in world.spec().features if f.kind.value == "multivalent"]
    empty = {n: np.zeros_like(v) if n in bags else v for n, v in queries.items()}
    trained = model.query_embeddings(queries, training=True)
    np.testing.assert_allclose(trained, model.query_embeddings(empty), atol=1e-6)
    served, changed = model.query_embeddings(queries), model.query_embeddings(without)
    assert not np.allclose(served, changed)
