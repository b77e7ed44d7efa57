import shutil

import numpy as np
import pytest
import tensorflow as tf

from features import dataset, spec
from features.spec import ResolvedSpec
from models import config
from models.candidate import model as candidate_model
from serving.building import skew
from serving.release import manifest as release
from serving.servables import export, signatures, warmup


@pytest.fixture(scope="module")
def query_tower(small_release):
    return tf.saved_model.load(str(release.load(small_release).query_tower))


@pytest.fixture(scope="module")
def served_ranker(small_release):
    return tf.saved_model.load(str(release.load(small_release).ranker))


def inputs_of(signature):
    return {
        name: (tensor.dtype.name, tensor.shape.as_list())
        for name, tensor in signature.structured_input_signature[1].items()
    }


def outputs_of(signature):
    return {
        name: (tensor.dtype.name, tensor.shape.as_list())
        for name, tensor in signature.structured_outputs.items()
    }


def test_the_query_tower_takes_raw_query_features_by_name(query_tower):
    # D is 8, so an embedding has 9 columns.
    signature = query_tower.signatures[signatures.DEFAULT]
    assert inputs_of(signature) == {
        "watched_video_ids": ("string", [None, 50]),
        "recent_video_ids": ("string", [None, 5]),
        "region": ("string", [None]),
        "hour": ("string", [None]),
        "weekday": ("string", [None]),
        "query_continuous": ("float32", [None, 2]),  # age, example_age_s
        "query_vector": ("float32", [None, 6]),  # watched_content, last_content
    }
    assert outputs_of(signature) == {"embedding": ("float32", [None, 9])}


def test_videos_are_embedded_from_their_raw_columns(query_tower):
    signature = query_tower.signatures[signatures.EMBED_VIDEOS]
    assert inputs_of(signature) == {
        "video_id": ("string", [None]),
        "video_language": ("string", [None]),
        "candidate_continuous": ("float32", [None, 1]),  # duration_s
        "candidate_vector": ("float32", [None, 3]),  # content
    }
    # Where videos have a vector, what being new adds is told beside.
    assert outputs_of(signature) == {
        "embedding": ("float32", [None, 9]),
        "youth": ("float32", [None, 2]),
    }


def test_the_ranker_scores_many_videos_of_one_query(served_ranker):
    signature = served_ranker.signatures[signatures.DEFAULT]
    inputs = inputs_of(signature)
    assert inputs["last_video_id"] == ("string", [1])
    assert inputs["watched_video_ids"] == ("string", [1, 50])
    assert inputs["video_id"] == ("string", [None])
    assert set(outputs_of(signature)) == {"logit", "expected_watch_time_s"}


def test_one_query_for_all_videos_equals_a_query_for_each(small_release, served_ranker):
    requests = list(warmup.read(release.load(small_release).ranker))
    _, inputs = requests[1]
    query_names = inputs_of(served_ranker.signatures[signatures.TRANSFORM_QUERY])
    count = len(inputs["video_id"])
    repeated = {
        name: np.repeat(values, count, axis=0) if name in query_names else values
        for name, values in inputs.items()
    }
    one, each = (
        served_ranker.signatures[name](**{n: tf.constant(v) for n, v in given.items()})["logit"]
        for name, given in (("serving_default", inputs), ("score_pairs", repeated))
    )
    assert count == 100
    np.testing.assert_allclose(one, each, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("model", spec.MODELS)
def test_raw_examples_become_what_training_read(small_site, small_release, model):
    found = release.load(small_release)
    saved_model = found.query_tower if model == spec.CANDIDATE else found.ranker
    proof = skew.measure(skew.of_saved_model(saved_model), small_site.examples, model)
    expected = sum(
        len(dataset.load(small_site.examples, model, split, ["time"])["time"])
        for split in ("train", "holdout")
    )
    assert proof.equal
    assert (proof.rows, proof.missing, proof.different_ids) == (expected, 0, 0)


def test_a_transform_with_another_vocabulary_is_caught(small_site, small_release, tmp_path):
    changed = tmp_path / "query_tower"
    shutil.copytree(release.load(small_release).query_tower, changed)
    (vocabulary,) = (changed / "assets").glob("vocabulary_video*")
    tokens = vocabulary.read_text().splitlines()
    vocabulary.write_text("\n".join([tokens[1], tokens[0], *tokens[2:]]) + "\n")
    transforms = skew.of_saved_model(changed)
    proof = skew.measure(transforms, small_site.examples, spec.CANDIDATE)
    assert not proof.equal
    assert proof.different_ids > 0


def test_warm_up_requests_are_real_and_answerable(small_release, query_tower):
    requests = list(warmup.read(release.load(small_release).query_tower))
    assert [name for name, _ in requests] == ["serving_default"] * 3 + ["embed_videos"] * 2
    bags = requests[2][1]["watched_video_ids"]
    assert bags.shape == (8, 50)
    assert (bags != b"").any()
    for name, inputs in requests:
        answer = query_tower.signatures[name](**{n: tf.constant(v) for n, v in inputs.items()})
        assert np.isfinite(answer["embedding"]).all()


def test_a_predict_request_names_servable_signature_and_version():
    request = warmup.predict_request(
        "ranker",
        "serving_default",
        {"a": np.array(["x", "ü"], dtype=object), "b": np.array([[1.5]], np.float32)},
        version=7,
    )
    assert request.model_spec.name == "ranker"
    assert request.model_spec.version.value == 7
    assert tf.make_ndarray(request.inputs["a"]).tolist() == [b"x", "ü".encode()]
    assert tf.make_ndarray(request.inputs["b"]).tolist() == [[1.5]]


def test_padding_is_undone_and_a_gap_within_a_list_keeps_its_place(query_tower):
    # "" at the end is padding; "" in the middle is a missing value that keeps its place.
    bag = np.full((2, 50), "", object)
    bag[0, :3] = ["v1", "", "v2"]
    transform = query_tower.signatures[signatures.TRANSFORM_QUERY]
    inputs = {
        name: tf.constant(np.full([2, *shape[1:]], "" if dtype == "string" else np.nan, object))
        if dtype == "string"
        else tf.fill([2, *shape[1:]], np.nan)
        for name, (dtype, shape) in inputs_of(transform).items()
    }
    ids = transform(**{**inputs, "watched_video_ids": tf.constant(bag)})["watched_video_ids"]
    assert ids.shape == (2, 50)
    assert ids[0, 0] > 0
    assert ids[0, 1] == 0
    assert ids[0, 2] > 0
    assert not ids[0, 3:].numpy().any()
    assert not ids[1].numpy().any()


def test_a_video_that_a_model_without_content_does_not_know_is_out_of_reach(small_site):
    model = candidate_model.CandidateModel(
        ResolvedSpec.load(small_site.examples),
        dataset.vocabulary_sizes(small_site.examples, spec.CANDIDATE),
        config.CandidateConfig(embedding_dim=8, depth=1, video_content=False),
    )
    embeddings = export.video_embeddings(model, {"video_id": tf.constant([1, 0], tf.int64)})
    np.testing.assert_allclose(embeddings[0], model.video_embeddings({"video_id": [1]})[0])
    assert embeddings[1].numpy().tolist() == [0.0] * 8 + [signatures.UNREACHABLE_BIAS]


def test_an_attention_tower_takes_and_gives_what_an_average_does(small_site, query_tower, tmp_path):
    model = candidate_model.CandidateModel(
        ResolvedSpec.load(small_site.examples),
        dataset.vocabulary_sizes(small_site.examples, spec.CANDIDATE),
        config.CandidateConfig(
            embedding_dim=8,
            depth=1,
            query_encoder=config.ATTENTION,
            attention_blocks=2,
            attention_heads=2,
        ),
    )
    kernel = model.sequence_encoder.output_layer.kernel
    kernel.assign(np.random.default_rng(1).normal(size=kernel.shape))
    export.export_query_tower(model, small_site.examples, tmp_path / "query_tower")
    served = tf.saved_model.load(str(tmp_path / "query_tower")).signatures
    for name in (signatures.DEFAULT, signatures.EMBED_VIDEOS):
        assert inputs_of(served[name]) == inputs_of(query_tower.signatures[name])
        assert outputs_of(served[name]) == outputs_of(query_tower.signatures[name])
    name, raw = warmup.query_tower_requests(small_site.examples)[2]
    inputs = {key: tf.constant(values) for key, values in raw.items()}
    features = served[signatures.TRANSFORM_QUERY](**inputs)
    # Its order counts, also behind the signature.
    turned = {**inputs, "watched_video_ids": inputs["watched_video_ids"][:, ::-1]}
    found, other = (served[name](**given)["embedding"] for given in (inputs, turned))
    np.testing.assert_allclose(found, model.query_embeddings(features), rtol=1e-4, atol=1e-5)
    assert np.abs(found - other).max() > 1e-3
