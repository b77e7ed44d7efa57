"""The order of watches: what the query tower's attention learns, and what an average cannot."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from features import command, spec
from models import config, losses
from models.candidate import attention
from models.candidate import model as candidate_model
from models.candidate.model import CandidateModel
from models.training import saved, warm_start

ATTENTION = {"query_encoder": config.ATTENTION, "attention_heads": 2}
BAG, PLACES = "watched_video_ids", 6
WATCHED = 8  # Videos of the progressions: few, so that a short training sees each pair often.


def make(world, **settings):
    settings = {"embedding_dim": 8, "depth": 1, **settings}
    return CandidateModel(world.spec(), world.vocabulary_sizes, config.CandidateConfig(**settings))


def awake(model, *, seed=0):
    """Returns the model with an encoder that says something: it starts silent."""
    kernel = model.sequence_encoder.output_layer.kernel
    kernel.assign(np.random.default_rng(seed).normal(size=kernel.shape))
    return model


def with_bags(queries, bags):
    """Returns the queries with other watches, newest first, padded with 0."""
    padded = np.zeros((len(bags), PLACES), np.int64)
    for row, bag in enumerate(bags):
        padded[row, : len(bag)] = bag
    return {name: values[: len(bags)] for name, values in queries.items()} | {BAG: padded}


@pytest.fixture
def queries(world):
    return world.candidate_rows(5, seed=1)


# What it learns


def progressions(world, size, *, seed):
    """Queries whose next video goes on from the last by the step between the last two."""
    random = np.random.default_rng(seed)
    queries = world.candidate_rows(size, seed=seed)
    before = random.integers(0, WATCHED, size)
    last = (before + random.integers(1, WATCHED, size)) % WATCHED
    # An older watch that says nothing, so that the place counts and not only which two there are.
    older = random.integers(0, WATCHED, size)
    bags = np.stack([last, before, older], axis=1) + 1
    return with_bags(queries, bags), (2 * last - before) % WATCHED


def accuracy_after_training(world, **settings):
    model = make(world, embedding_dim=32, video_content=False, popularity_bias=False, **settings)
    adam = tf_keras.optimizers.Adam(0.005)

    @tf.function
    def step(batch, labels):
        with tf.GradientTape() as tape:
            logits = model.logits_of_all(model.query_embeddings(batch, training=True))
            loss = losses.mean(losses.full_softmax_loss(logits, labels))
        variables = model.trainable_variables
        gradients = tape.gradient(loss, variables)
        pairs = zip(gradients, variables, strict=True)
        adam.apply_gradients((g, v) for g, v in pairs if g is not None)

    for number in range(300):
        batch, labels = progressions(world, 256, seed=number + 1)
        step({name: tf.constant(batch[name]) for name in model.query_columns}, labels)
    batch, labels = progressions(world, 1000, seed=0)
    found = model.logits_of_all(model.query_embeddings(batch)).numpy().argmax(axis=1)
    return (found == labels).mean()


def test_what_only_the_order_tells_is_learnt_by_attention_and_not_by_an_average(world):
    """The next video is 2 last - before: the other way round it is another one."""
    assert accuracy_after_training(world, **ATTENTION) > 0.9
    # Two watches in any order leave two answers, and there is an older one besides.
    assert accuracy_after_training(world) < 0.5
    # Watches that are added up, each with a weight of its place, tell some of it and not all.
    assert accuracy_after_training(world, item_to_item=True) < 0.75


# What it reads


def test_it_starts_as_the_model_without_it(world, queries):
    plain, with_attention = (
        make(world, item_to_item=True),
        make(world, item_to_item=True, **ATTENTION),
    )
    np.testing.assert_allclose(
        with_attention.query_embeddings(queries), plain.query_embeddings(queries), atol=1e-6
    )


@pytest.mark.parametrize("blocks", [1, 2])
def test_the_order_of_watches_counts_and_what_is_missing_does_not(world, queries, blocks):
    model = awake(make(world, **ATTENTION, attention_blocks=blocks))

    def embedded(*bags):
        return model.query_embeddings(with_bags(queries, bags)).numpy()

    same_user = {name: np.repeat(values[:1], 3, axis=0) for name, values in queries.items()}
    there, back, cut = model.query_embeddings(
        with_bags(same_user, [[3, 5, 7], [7, 5, 3], [3, 5]])
    ).numpy()
    assert np.abs(there - back).max() > 0.01
    assert np.abs(there - cut).max() > 0.01
    # Nobody stands in the way: an id out of vocabulary moves the others a place, and no more.
    alone = embedded([3], [0, 0, 0])
    assert np.isfinite(alone).all()
    places = model.sequence_encoder.place_rows
    places.assign(tf.zeros_like(places))
    np.testing.assert_allclose(embedded([3, 0, 5]), embedded([3, 5]), atol=1e-5)


def test_one_question_reads_as_many_do(world):
    """The cheap way of the top block is the same attention, its products in another order."""
    random = np.random.default_rng(3)
    block = attention._Block(8, 2, seed=1, name="block")
    asked = tf.constant(random.normal(size=[4, 1, 8]), tf.float32)
    read = tf.constant(random.normal(size=[4, 6, 8]), tf.float32)
    known = tf.constant(random.random([4, 6]) < 0.7)
    many = block(tf.repeat(asked, 3, axis=1), read, known)
    np.testing.assert_allclose(block(asked, read, known)[:, 0], many[:, 2], rtol=1e-4, atol=1e-5)


def test_how_long_ago_a_watch_was_counts_where_it_is_declared(world, queries):
    """The age of a watch stands at its place: the same ages the other way round say another."""
    ages = spec.Feature(
        name="watch_ages",
        kind="multivalent",
        side="query",
        models=("candidate",),
        source="history.watched_ages",
        space="watch_age",
        max_length=PLACES,
    )
    resolved = dataclasses.replace(world.spec(), features=(*world.spec().features, ages))
    sizes = world.vocabulary_sizes | {"watch_age": 9}
    settings = config.CandidateConfig(embedding_dim=8, depth=0, **ATTENTION)
    model = awake(CandidateModel(resolved, sizes, settings))
    bags = with_bags(queries, [[3, 5]] * 3)
    bags["watch_ages"] = np.zeros((3, PLACES), np.int64)
    bags["watch_ages"][:2, :2] = [[1, 9], [9, 1]]
    there, back, unknown = model.query_embeddings(bags).numpy()
    # The bag of both is the same, so what differs is what attention read.
    assert np.abs(there - back).max() > 0.01
    assert np.abs(there - unknown).max() > 0.01
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(model.query_embeddings(bags))
    gradient = tf.convert_to_tensor(tape.gradient(loss, model.tables["watch_age"].rows))
    assert np.abs(gradient[1]).max() > 0
    np.testing.assert_array_equal(gradient[0], 0)  # Missing is zero, and stays it.


def test_without_watches_there_is_no_encoder(world, queries):
    model = make(world, **ATTENTION, exclude=(BAG,))
    assert not model.has_attention
    assert np.isfinite(model.query_embeddings(queries)).all()


# What becomes of it


def test_a_saved_model_embeds_as_before(world, queries, tmp_path):
    model = awake(make(world, **ATTENTION, attention_blocks=2))
    contents = saved.Contents(
        configs={"model": model.config}, vocabularies=world.vocabularies, metrics={}, lineage={}
    )
    candidate_model.save(model, tmp_path / "model", contents=contents)
    found = candidate_model.load(tmp_path / "model")
    np.testing.assert_allclose(
        found.query_embeddings(queries), model.query_embeddings(queries), rtol=1e-6
    )


def test_every_weight_is_taken_by_a_warm_start_and_another_encoder_is_refused_by_name(world):
    words = world.vocabularies
    old, new = (awake(make(world, **ATTENTION, attention_blocks=2), seed=s) for s in (1, 2))
    for variable in old.trainable_variables:
        variable.assign_add(tf.fill(variable.shape, 0.25))
    warm_start.apply(new, words, old_model=old, old_vocabularies=words)
    for variable, before in zip(
        new.sequence_encoder.trainable_weights, old.sequence_encoder.trainable_weights, strict=True
    ):
        np.testing.assert_array_equal(variable, before)
    with pytest.raises(command.InputError, match="query_encoder is 'average' and was 'attention'"):
        warm_start.apply(make(world), words, old_model=old, old_vocabularies=words)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"query_encoder": "lstm"}, "query_encoder"),
        ({**ATTENTION, "attention_blocks": 0}, "attention_blocks"),
        ({**ATTENTION, "attention_heads": 3}, "attention_heads"),
    ],
)
def test_settings_that_cannot_be_are_refused_by_name(wrong, named):
    with pytest.raises(ValueError, match=f"^{named} must"):
        config.CandidateConfig(embedding_dim=8, **wrong)
