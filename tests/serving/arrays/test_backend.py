import dataclasses
import shutil

import numpy as np
import pytest

from features import command, spec
from features.spec import Kind, Side
from models.candidate import youth
from serving import errors
from serving.arrays import constants
from serving.arrays.backend import ArrayModel, ArraysBackend, is_by_tensorflow
from serving.building import array_trials
from serving.funnel import loaded_release
from serving.funnel.candidates import Candidates
from serving.history.user_history import unknown_user
from serving.ordering import page_value
from serving.release import manifest as release
from serving.servables import signatures
from serving.servables.embedded import EmbeddedBackend


@pytest.fixture(scope="module")
def on_disk(small_release):
    return release.load(small_release)


@pytest.fixture(scope="module")
def both(small_release):
    version = release.current(small_release)
    return [
        loaded_release.load(small_release, version, backend=backend)
        for backend in (EmbeddedBackend(), ArraysBackend())
    ]


def some_candidates():
    rows = np.arange(40, dtype=np.int32)[::-1].copy()
    return Candidates(
        rows=rows,
        source_names=("retrieval", "popular"),
        source_bits=rows.astype(np.int64) % 3 + 1,
        source_scores=np.zeros((2, 40), np.float32),
        retrieval_scores=np.linspace(-1, 1, 40, dtype=np.float32),
    )


@pytest.mark.parametrize("context", [{}, {"region": "DE", "age": 30.0}, {"region": "nowhere"}])
def test_a_release_of_arrays_answers_as_tensorflow_does(both, context):
    answers = []
    for loaded in both:
        viewer = loaded.viewer(unknown_user("u1"), now=1_700_300_000, context=context)
        answers.append((loaded.embed(viewer), loaded.predictions(viewer, some_candidates())))
    (embedding, said), (found_embedding, found_said) = answers
    np.testing.assert_allclose(found_embedding, embedding, rtol=1e-5, atol=1e-5)
    assert found_said.keys() == said.keys()
    for name, values in said.items():
        np.testing.assert_allclose(found_said[name], values, rtol=1e-4)
    order, found_order = (np.argsort(-each[page_value.WATCH_TIME]) for each in (said, found_said))
    np.testing.assert_array_equal(found_order, order)


def test_pages_need_no_tensorflow_where_models_are_arrays(both):
    by_tensorflow, by_arrays = both
    assert is_by_tensorflow(by_tensorflow.query_tower)
    assert is_by_tensorflow(by_tensorflow.ranker)
    vectors = by_arrays.resolved.of(spec.CANDIDATE, Side.QUERY, Kind.VECTOR)
    assert [f.name for f in vectors] == ["watched_content", "last_content"]
    assert isinstance(by_arrays.query_tower, ArrayModel)
    assert not is_by_tensorflow(by_arrays.ranker)


def test_a_release_from_before_is_run_by_tensorflow_loudly(on_disk, tmp_path, caplog):
    older = tmp_path / "query_tower" / on_disk.version
    shutil.copytree(on_disk.query_tower, older)
    shutil.rmtree(older / constants.DIRECTORY)
    backend = ArraysBackend()
    model = backend.open(signatures.QUERY_TOWER, dataclasses.replace(on_disk, query_tower=older))
    assert is_by_tensorflow(model)
    assert "before models were arrays" in backend.fallbacks["query_tower"]
    assert "is run by TensorFlow" in caplog.text


def test_what_pages_do_not_ask_for_is_left_to_tensorflow_without_a_word(on_disk, caplog):
    backend = ArraysBackend()
    assert is_by_tensorflow(backend.open(signatures.RANKER, on_disk))
    assert not backend.fallbacks
    assert "TensorFlow" not in caplog.text


def test_new_videos_are_embedded_and_prepared_as_by_tensorflow(on_disk):
    for component, signature, outputs in (
        (signatures.QUERY_TOWER, signatures.EMBED_VIDEOS, {"embedding", youth.OUTPUT}),
        (signatures.RANKER, signatures.PREPARE_VIDEOS, {"video_parts"}),
    ):
        models = [
            b.open(component, on_disk, signature=signature)
            for b in (EmbeddedBackend(), ArraysBackend())
        ]
        assert isinstance(models[1], ArrayModel)
        inputs = {"video_id": np.array(["v1", "new"], object)}
        inputs["video_language"] = np.array(["de", ""], object)
        width = models[1].shapes["candidate_continuous"][1][1]
        inputs["candidate_continuous"] = np.full((2, width), np.nan, np.float32)
        inputs["candidate_vector"] = np.array([[np.nan] * 3, [0.5, -1.0, 2.0]], np.float32)
        wanted, answer = (model.predict(inputs) for model in models)
        assert answer.keys() == wanted.keys() == outputs
        for name, values in wanted.items():
            np.testing.assert_allclose(answer[name], values, rtol=2e-3, atol=1e-4)


def test_inputs_that_do_not_fit_are_one_error(on_disk):
    model = ArraysBackend().open(signatures.QUERY_TOWER, on_disk)
    with pytest.raises(errors.ModelError, match="missing"):
        model.predict({})
    shapes = {name: shape for name, (_, shape) in model.shapes.items()}
    wrong = {name: np.zeros([2] * (len(shape) + 1)) for name, shape in shapes.items()}
    with pytest.raises(errors.ModelError, match="shape"):
        model.predict(wrong)


def test_a_broken_directory_is_refused(on_disk, tmp_path):
    changed = tmp_path / "query_tower" / on_disk.version
    shutil.copytree(on_disk.query_tower, changed)
    (changed / constants.DIRECTORY / "hidden.0.kernel.npy").unlink()
    with pytest.raises(command.InputError, match="cannot be read"):
        ArraysBackend().open(
            signatures.QUERY_TOWER, dataclasses.replace(on_disk, query_tower=changed)
        )


# ---- the gates -----------------------------------------------------------------------------------


def altered(directory, name, change):
    path = directory / constants.DIRECTORY / f"{name}.npy"
    np.save(path, change(np.load(path)))


@pytest.mark.parametrize(
    ("name", "change", "rule"),
    [
        ("hidden.0.kernel", lambda kernel: kernel * 1.01, "loads and answers"),
        ("ids.video", lambda ids: ids[::-1], "equals the training examples"),
        ("boundaries.query", lambda b: b + 1, "equals the training examples"),
        ("moments.query", lambda sums: sums[[0, 2, 1]], "equals the training examples"),
    ],
)
def test_arrays_that_differ_do_not_pass(name, change, rule, on_disk, small_site, both, tmp_path):
    changed = tmp_path / "query_tower" / on_disk.version
    shutil.copytree(on_disk.query_tower, changed)
    examples, resolved = small_site.examples, both[0].resolved
    assert [g.verdict for g in array_trials.query_tower(changed, examples, resolved)] == [
        "pass"
    ] * 2
    altered(changed, name, change)
    judged = array_trials.query_tower(changed, examples, resolved)
    assert next(g.rule for g in judged if g.verdict == "FAIL").endswith(rule)
