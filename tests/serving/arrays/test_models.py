"""What arrays make of features is what the models make of them, with every switch of both."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from features import dataset, spec
from features.spec import Kind, ResolvedSpec, Side
from models import config
from models.candidate.model import CandidateModel
from models.ranking import calibration
from models.ranking.model import Ranker
from serving.arrays import backend, constants, export
from serving.servables import export as saved_models
from serving.servables import signatures, warmup


@pytest.fixture(scope="module")
def resolved(small_site):
    return ResolvedSpec.load(small_site.examples)


@pytest.fixture(scope="module")
def raw(small_site):
    return {model: warmup.example_arrays(small_site.examples, model) for model in spec.MODELS}


def sizes(site, model):
    return dataset.vocabulary_sizes(site.examples, model)


def shaken(model):
    """Gives every weight its own value, biases and curves too, which start at 0."""
    rng = np.random.default_rng(0)
    for weight in model.variables:
        noise = rng.normal(0, 0.1, weight.shape).astype(np.float32)
        weight.assign(weight + np.abs(noise) if "slopes" in weight.name else weight + noise)
    return model


CANDIDATES = {
    "paper": {"depth": 1},
    "linear": {"depth": 0, "item_to_item": False, "video_content": False},
    "rectified": {"linear_output": False, "depth": 2},
    "pieces": {"age_pieces": 4, "powers": False},
}


@pytest.mark.parametrize("name", CANDIDATES)
def test_towers_are_those_of_the_model(name, small_site, resolved, raw, tmp_path):
    settings = config.CandidateConfig(embedding_dim=8, **CANDIDATES[name])
    model = shaken(CandidateModel(resolved, sizes(small_site, spec.CANDIDATE), settings))
    export.write_query_tower(model, small_site.examples, tmp_path)
    functions = backend.functions_of(spec.CANDIDATE, resolved, constants.load(tmp_path))
    query, videos = raw[spec.CANDIDATE]
    for signature, given, wanted in (
        (signatures.DEFAULT, query, model.query_embeddings),
        (signatures.EMBED_VIDEOS, videos, lambda f: saved_models.video_embeddings(model, f)),
    ):
        tower = functions[signature]
        expected = wanted(tower.transform(given)).numpy()
        assert len(np.unique(expected, axis=0)) > 3
        np.testing.assert_allclose(tower(given)["embedding"], expected, rtol=1e-4, atol=1e-5)


def test_a_video_outside_the_vocabulary_is_out_of_reach_without_content(
    small_site, resolved, raw, tmp_path
):
    settings = config.CandidateConfig(embedding_dim=8, depth=1, video_content=False)
    model = CandidateModel(resolved, sizes(small_site, spec.CANDIDATE), settings)
    export.write_query_tower(model, small_site.examples, tmp_path)
    functions = backend.functions_of(spec.CANDIDATE, resolved, constants.load(tmp_path))
    _, videos = raw[spec.CANDIDATE]
    strangers = {**videos, "video_id": np.full(len(videos["video_id"]), "nobody's", object)}
    embedding = functions[signatures.EMBED_VIDEOS](strangers)["embedding"]
    assert (embedding[:, -1] == signatures.UNREACHABLE_BIAS).all()
    assert not embedding[:, :-1].any()


RANKERS = {
    "paper": {},
    "linear": {"hidden": (), "pairwise": 0.0},
    "without powers": {"powers": False},
}


@pytest.mark.parametrize("name", RANKERS)
def test_ranker_is_that_of_the_model(name, small_site, resolved, raw, tmp_path):
    resolved = dataclasses.replace(resolved, feedback=("like", "hide"))
    settings = config.RankerConfig(**{"hidden": (16, 8), **RANKERS[name]})
    model = shaken(Ranker(resolved, sizes(small_site, spec.RANKER), settings))
    model.calibration.set(calibration.Curve(knots=(-0.2, 0.3), slopes=(0.5, 1.5, 0.8), height=0.1))
    export.write_ranker(model, small_site.examples, tmp_path)
    functions = backend.functions_of(spec.RANKER, resolved, constants.load(tmp_path))
    query, videos = raw[spec.RANKER]
    one = {name: values[:1] for name, values in query.items()}
    prepare, score = functions[signatures.PREPARE_VIDEOS], functions[signatures.SCORE_PREPARED]
    features = prepare.transform(videos)
    outputs = model.outputs_of(score.transform(one), features)
    logits = model.logits_from(outputs)
    parts = prepare(videos)["video_parts"]
    np.testing.assert_allclose(parts, model.video_parts(features).numpy(), rtol=2e-3, atol=1e-3)
    names = resolved.vector_names(spec.RANKER, Side.CANDIDATE, Kind.CONTINUOUS)
    moment = [
        names.index(f.name)
        for f in resolved.of(spec.RANKER, Side.CANDIDATE)
        if f.kind is Kind.CONTINUOUS and not f.static
    ]
    inputs = {**one, "video_parts": parts}
    inputs["candidate_continuous"] = videos["candidate_continuous"][:, moment]
    answer = score(inputs)
    # What prepared parts lose to half precision.
    np.testing.assert_allclose(answer["logit"], logits.numpy(), atol=5e-3)
    np.testing.assert_allclose(answer["expected_watch_time_s"], np.exp(logits.numpy()), rtol=1e-2)
    for kind, chance in model.feedback_from(outputs).items():
        np.testing.assert_allclose(answer[kind], chance.numpy(), atol=5e-3)
    assert answer.keys() == {"logit", "expected_watch_time_s", "like", "hide"}


def test_a_model_that_numpy_does_not_run_says_why(small_site, resolved, tmp_path):
    settings = config.CandidateConfig(embedding_dim=8, depth=1, query_encoder="attention")
    model = CandidateModel(resolved, sizes(small_site, spec.CANDIDATE), settings)
    export.write_query_tower(model, small_site.examples, tmp_path)
    assert "attention" in constants.load(tmp_path).unsupported


def test_a_model_that_another_version_wrote_says_why_numpy_does_not_run_it(tmp_path):
    constants.write(tmp_path, constants.Constants({"signatures": []}, {}))
    plan = tmp_path / constants.DIRECTORY / "plan.json"
    plan.write_text(plan.read_text().replace('"format": 2', '"format": 1'))
    assert "format 1" in constants.load(tmp_path).unsupported


def test_float32_holds_in_all_answers(small_site, resolved, raw, tmp_path):
    model = Ranker(resolved, sizes(small_site, spec.RANKER), config.RankerConfig(hidden=(16, 8)))
    export.write_ranker(model, small_site.examples, tmp_path)
    functions = backend.functions_of(spec.RANKER, resolved, constants.load(tmp_path))
    query, _ = raw[spec.RANKER]
    for values in functions[signatures.SCORE_PREPARED].transform(query).values():
        assert values.dtype in {np.dtype(np.int32), np.dtype(np.float32)}
    assert tf.float32.as_numpy_dtype == np.float32
