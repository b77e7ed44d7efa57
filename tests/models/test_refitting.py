import numpy as np
import pytest

from features import command
from models import candidate_model, candidate_training, refitting, saved
from models.config import CandidateConfig, TrainingConfig

SMALL = {"embedding_dim": 8, "depth": 1, "negatives": 16}
QUICK = TrainingConfig(epochs=2, batch_size=100, learning_rate=0.02, patience=2)
LONG_ENOUGH = refitting.RefitConfig(epochs=20, learning_rate=0.02, batch_size=50)
NEW = 17  # The video that everybody watches on the days of the holdout, and hardly anybody before.


@pytest.fixture
def examples(make_examples, world):
    newest = world.candidate_rows(200, seed=5)
    newest["video_id"] = np.full_like(newest["video_id"], NEW)
    newest["label_video_id"] = np.full(200, b"v16", object)
    return make_examples(candidate={"train": world.candidate_rows(600, seed=1), "holdout": newest})


def probability_of_the_new_video(model, world):
    queries = world.candidate_rows(50, seed=9)
    scores = model.query_embeddings(queries).numpy() @ (
        model.video_embeddings(world.catalogue_rows()).numpy().T
    )
    shares = np.exp(scores - scores.max(axis=1, keepdims=True))
    rows = world.catalogue_rows()["video_id"] == NEW
    return float((shares[:, rows].sum(axis=1) / shares.sum(axis=1)).mean())


def test_what_serves_knows_the_newest_days(examples, world, tmp_path):
    measured, final = tmp_path / "measured", tmp_path / "final"
    candidate_training.train(examples, measured, CandidateConfig(**SMALL), QUICK)
    assert refitting.refit(examples, measured, final, LONG_ENOUGH) == 200
    before = probability_of_the_new_video(candidate_model.load(measured, examples), world)
    after = probability_of_the_new_video(candidate_model.load(final, examples), world)
    assert before < 0.1
    assert after > 0.3


def test_figures_stay_those_of_the_measured_model(examples, tmp_path):
    measured, final = tmp_path / "measured", tmp_path / "final"
    candidate_training.train(examples, measured, CandidateConfig(**SMALL), QUICK)
    refitting.refit(examples, measured, final, LONG_ENOUGH)
    before, after = (saved.open_directory(d, kind="candidate") for d in (measured, final))
    assert after.info["metrics"] == before.info["metrics"]
    assert after.info["lineage"]["transform"] == before.info["lineage"]["transform"]
    assert after.info["lineage"]["refit"]["examples"] == 200
    assert "refit" not in before.info["lineage"]
    assert not (tmp_path / "final.training" / "checkpoints").exists()


def test_without_a_holdout_the_model_stays_as_it_is(make_examples, world, tmp_path):
    examples = make_examples(candidate={"train": world.candidate_rows(300, seed=1)})
    measured, final = tmp_path / "measured", tmp_path / "final"
    candidate_training.train(examples, measured, CandidateConfig(**SMALL), QUICK)
    assert refitting.refit(examples, measured, final, LONG_ENOUGH) == 0
    rows = [candidate_model.load(d, examples).softmax_rows.rows for d in (measured, final)]
    np.testing.assert_array_equal(rows[0], rows[1])


def test_a_model_that_cannot_be_served_is_refused(examples, tmp_path):
    directory = tmp_path / "tree"
    config = CandidateConfig(**SMALL, loss="hierarchical")
    candidate_training.train(examples, directory, config, QUICK)
    with pytest.raises(command.InputError, match="hierarchical"):
        refitting.refit(examples, directory, tmp_path / "final", LONG_ENOUGH)


@pytest.mark.parametrize("bad", [{"epochs": 0}, {"learning_rate": 0.0}, {"replay": -1.0}])
def test_settings_are_checked(bad):
    with pytest.raises(ValueError, match="must be"):
        refitting.RefitConfig(**bad)
