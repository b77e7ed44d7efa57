import math

import numpy as np
import pytest
import tensorflow as tf

from features import command
from models import config
from models.candidate import model as candidate_model
from models.candidate import training as candidate_training
from models.config import CandidateConfig, TrainingConfig
from models.training import collapse, saved

SMALL = {"embedding_dim": 8, "depth": 1, "negatives": 16}
QUICK = TrainingConfig(epochs=4, batch_size=100, learning_rate=0.02, patience=4)


@pytest.fixture(scope="module")
def trained(small_examples, tmp_path_factory):
    directory = tmp_path_factory.mktemp("candidate") / "model"
    result = candidate_training.train(small_examples, directory, CandidateConfig(**SMALL), QUICK)
    return directory, result


def test_model_learns_that_users_stay_in_their_group(trained):
    # The label is in the user's group of 6 videos nine times in ten, and popular ones first:
    # the best order has MAP near .58; popularity alone, 4 groups interleaved, near .22.
    _, result = trained
    assert result.metrics["map_at_100"] > 0.5
    assert result.metrics["recall_at_100"] == 1


def test_directory_is_complete_with_metrics_and_lineage(trained, small_examples):
    directory, result = trained
    opened = saved.open_directory(directory, kind="candidate", examples_dir=small_examples)
    assert opened.info["metrics"] == result.metrics
    assert opened.info["lineage"]["examples"] == str(small_examples)
    assert opened.info["lineage"]["train_until_s"] == 1000
    assert opened.configs["training"]["batch_size"] == 100


def test_loaded_model_has_the_metrics_of_the_training(trained, small_examples, world):
    directory, result = trained
    model = candidate_model.load(directory, small_examples)
    queries = world.candidate_rows(300, seed=2)
    names = (*model.query_columns, "label_video_id")
    videos = {**world.catalogue_rows()}
    videos["label_video_id"] = np.array([v.decode() for v in videos["label_video_id"]], object)
    held = candidate_training.Holdout({n: queries[n] for n in names}, videos, limit=0, seed=1)
    assert held.evaluate(model) == pytest.approx(result.metrics, rel=1e-5)


def test_only_summaries_are_left_beside_the_model(trained):
    directory, _ = trained
    beside = directory.with_name("model.training")
    assert [path.name for path in beside.iterdir()] == ["tensorboard"]


def test_losses_agree_on_the_probabilities_of_a_world_without_features(make_examples, world):
    # Every query is the same, so the best model is the label frequency, for every loss.
    rows = world.candidate_rows(1500, seed=1)
    for name in ("watched_video_ids", "region", "query_binary", "query_continuous"):
        rows[name] = np.zeros_like(rows[name])
    examples = make_examples(candidate={"train": rows})
    truth = np.bincount(rows["video_id"], minlength=25)[1:] / 1500
    for loss in ("in_batch", "full"):
        settings = {**SMALL, "popularity_bias": False, "id_dropout": 0.0, "loss": loss}
        directory = examples.parent / loss
        candidate_training.train(
            examples,
            directory,
            CandidateConfig(**settings),
            TrainingConfig(epochs=8, batch_size=150, learning_rate=0.03),
        )
        model = candidate_model.load(directory)
        query = {name: array[:1] for name, array in rows.items()}
        scores = (
            model.query_embeddings(query)
            @ model.video_embeddings(
                {name: array[:24] for name, array in world.catalogue_rows().items()}
            )
            .numpy()
            .T
        )
        found = np.exp(scores[0] - np.logaddexp.reduce(scores[0]))
        assert 0.5 * np.abs(found - truth).sum() < 0.1, loss


def test_empty_holdout_trains_a_fixed_number_of_epochs(make_examples, world, tmp_path, caplog):
    examples = make_examples(candidate={"train": world.candidate_rows(200, seed=1)})
    settings = TrainingConfig(epochs=2, batch_size=100)
    result = candidate_training.train(examples, tmp_path / "m", CandidateConfig(**SMALL), settings)
    assert (result.epochs, result.metrics) == (2, {})
    assert "holdout is empty" in caplog.text


def test_empty_training_split_is_an_input_error(make_examples, tmp_path):
    with pytest.raises(command.InputError, match="no training example for the candidate model"):
        candidate_training.train(make_examples(), tmp_path / "m", CandidateConfig(), QUICK)


def test_labels_outside_the_vocabulary_are_skipped_and_all_of_them_refused(
    make_examples, world, tmp_path
):
    rows = world.candidate_rows(200, seed=1)
    rows["video_id"] = np.zeros(200, int)
    examples = make_examples(candidate={"train": rows})
    with pytest.raises(command.InputError, match="No label in the training examples"):
        candidate_training.train(examples, tmp_path / "m", CandidateConfig(), QUICK)


@pytest.mark.parametrize(
    ("loss", "memory_gb"), [("sampled", 0.0), ("in_batch", 1.0)], ids=["streamed", "in memory"]
)
def test_some_labels_outside_the_vocabulary_do_no_harm(
    make_examples, world, tmp_path, loss, memory_gb
):
    rows = world.candidate_rows(300, seed=1)
    rows["video_id"] = np.where(np.arange(300) % 3 == 0, 0, rows["video_id"])
    examples = make_examples(candidate={"train": rows})
    settings = TrainingConfig(epochs=1, batch_size=50, memory_gb=memory_gb)
    result = candidate_training.train(
        examples, tmp_path / "m", CandidateConfig(**SMALL, loss=loss), settings
    )
    assert math.isfinite(result.train_loss)


def test_unknown_stop_metric_is_an_input_error(small_examples, tmp_path):
    with pytest.raises(command.InputError, match="stop_metric must be one of"):
        candidate_training.train(
            small_examples, tmp_path / "m", CandidateConfig(), TrainingConfig(stop_metric="auc")
        )


def test_videos_without_an_embedding_are_no_competitors(world):
    model = candidate_model.CandidateModel(
        world.spec(),
        world.vocabulary_sizes,
        CandidateConfig(**SMALL, video_content=False, popularity_bias=False),
    )
    # All known videos score -5, the unknown one would score 0.
    model.softmax_rows.rows.assign(np.zeros((25, 8)))
    model.softmax_biases.rows.assign(-5 * np.ones((25, 1)) - np.arange(25)[:, None])
    videos = world.catalogue_rows()
    videos["label_video_id"] = np.array([v.decode() for v in videos["label_video_id"]], object)
    queries = world.candidate_rows(2, seed=1)
    queries["label_video_id"] = np.array([b"v1", b"new"], object)
    names = (*model.query_columns, "label_video_id")
    held = candidate_training.Holdout({n: queries[n] for n in names}, videos, limit=0, seed=1)
    # v1 is first of 24; "new" is a miss, rank 25, within the first 100.
    assert held.evaluate(model)["map_at_100"] == pytest.approx((1 + 1 / 25) / 2)


def test_config_default_loss_is_sampled():
    assert CandidateConfig().loss == config.SAMPLED


def test_summaries_hold_quality_coverage_and_norms(trained):
    directory, _ = trained
    tags = set()
    for path in (directory.with_name("model.training") / "tensorboard").iterdir():
        for record in tf.data.TFRecordDataset(str(path)):
            event = tf.compat.v1.Event.FromString(record.numpy())
            tags |= {value.tag for value in event.summary.value}
    assert tags >= {
        "loss/train",
        "holdout/map_at_100",
        "holdout/recall_at_100",
        "holdout/coverage_at_100",
        "holdout/list_overlap_at_100",
        "holdout/query_norm",
        "embedding_norm/video",
        "embedding_norm/softmax_rows",
    }


def test_planted_collapse_is_seen_by_the_holdout(world):
    model = candidate_model.CandidateModel(
        world.spec(), world.vocabulary_sizes, CandidateConfig(**SMALL)
    )
    videos = world.catalogue_rows()
    videos["label_video_id"] = np.array([v.decode() for v in videos["label_video_id"]], object)
    queries = world.candidate_rows(100, seed=1)
    names = (*model.query_columns, "label_video_id")
    held = candidate_training.Holdout({n: queries[n] for n in names}, videos, limit=0, seed=1)
    model.output_layer.kernel.assign(np.zeros(model.output_layer.kernel.shape))
    model.output_layer.bias.assign(np.ones(8))
    assert any("same list" in sign for sign in collapse.signs(held.evaluate(model)))


def test_full_softmax_over_ids_alone_has_the_logits_of_the_towers(world):
    model = candidate_model.CandidateModel(
        world.spec(), world.vocabulary_sizes, CandidateConfig(**SMALL, video_content=False)
    )
    model.set_popularity_bias(np.arange(24))
    queries = model.query_embeddings(world.candidate_rows(5, seed=1))
    everything = model.video_embeddings({"video_id": np.arange(1, 25)})
    expected = queries.numpy() @ everything.numpy().T
    np.testing.assert_allclose(model.logits_of_all(queries), expected, rtol=1e-5)
