"""What being new adds to a video: by hand, in the model as in a server, and as far as it is so."""

import dataclasses

import numpy as np
import pytest

from features import spec
from features.durations import DAY_S
from features.spec import Feature, Kind, Side
from models import config
from models.candidate import recent_biases, youth
from models.candidate.model import CandidateModel

UNTIL_S = 1_700_000_000
# Uploaded after the end of training, at it, two days and two weeks before.
UPLOADED = UNTIL_S - np.array([-500, 0, 2 * DAY_S, 14 * DAY_S])
DECAYED = [1.0, 1.0, 0.5, 2.0**-7]
VECTOR = Feature(
    name="content",
    kind=Kind.VECTOR,
    width=3,
    side=Side.CANDIDATE,
    models=(spec.CANDIDATE,),
    source="videos.content",
)


def make(world, *, has_vectors):
    features = (*world.spec().features, VECTOR) if has_vectors else world.spec().features
    resolved = dataclasses.replace(world.spec(), features=features)
    settings = config.CandidateConfig(embedding_dim=8, depth=1, id_dropout=0.1)
    return CandidateModel(resolved, world.vocabulary_sizes, settings)


def rows(world, *, has_vectors):
    found = {name: values[:4] for name, values in world.catalogue_rows().items()}
    if has_vectors:
        found["candidate_vector"] = np.ones((4, 3), np.float32)
    return found


def test_age_halves_in_two_days_and_what_comes_later_is_new():
    np.testing.assert_allclose(youth.decayed(UPLOADED, UNTIL_S), DECAYED)


def test_model_and_server_add_the_same_bias(world):
    model = make(world, has_vectors=True)
    videos = rows(world, has_vectors=True)
    plain = model.video_embeddings(videos).numpy()
    # Nothing is fitted yet, so nothing is added.
    np.testing.assert_array_equal(
        model.video_embeddings({**videos, "upload_time": UPLOADED}), plain
    )
    model.youth.assign([1.5, UNTIL_S])
    found = model.video_embeddings({**videos, "upload_time": UPLOADED}).numpy()
    np.testing.assert_array_equal(found[:, :-1], plain[:, :-1])
    # The end of training is kept in 32 bits, which is to about two minutes.
    np.testing.assert_allclose(found[:, -1] - plain[:, -1], 1.5 * np.array(DECAYED), atol=2e-3)
    answer = {"embedding": plain, youth.OUTPUT: np.tile(model.youth.numpy(), (4, 1))}
    np.testing.assert_allclose(youth.with_bias(answer, UPLOADED), found, atol=1e-5)
    np.testing.assert_array_equal(youth.with_bias({"embedding": plain}, UPLOADED), plain)


def test_a_model_without_vectors_looks_at_no_age_and_drops_as_few_ids_as_before(world):
    model = make(world, has_vectors=False)
    model.youth.assign([1.5, UNTIL_S])
    videos = rows(world, has_vectors=False)
    np.testing.assert_array_equal(
        model.video_embeddings({**videos, "upload_time": UPLOADED}), model.video_embeddings(videos)
    )
    assert model.id_dropout == 0.1
    assert make(world, has_vectors=True).id_dropout == config.CandidateConfig().vector_id_dropout


@pytest.mark.parametrize("weight", [0.0, 1.5])
def test_the_weight_of_being_new_is_found_where_others_are_held_to_what_is_usual(weight):
    """Watches drawn from exp(z + w young), of a site that forgets nothing."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 1, (3_000, 200)).astype(np.float32)
    young = np.exp2(-rng.uniform(0, 60, 200) / 2)
    shared = np.concatenate([np.zeros((len(recent_biases.NAMES) - 1, 200)), young[np.newaxis]])
    scores = logits + weight * young
    target = (scores + rng.gumbel(size=scores.shape)).argmax(axis=1)
    problem = recent_biases._Problem(logits, logits > np.inf, shared, np.zeros(200), target)
    found = problem.weights(recent_biases.usual(None))
    assert found[-1] == pytest.approx(weight, abs=0.3)
    assert found[0] == pytest.approx(1.0, abs=0.1)
