"""Biases are moved by what was watched of late, as far as watches that were kept aside say so."""

import numpy as np
import pytest

from features import dataset
from models.candidate import model as candidate_model
from models.candidate import recent_biases
from models.candidate import training as candidate_training
from models.config import CandidateConfig, TrainingConfig

SIZE, NEWEST, HOT = 1_500, 150, 9
QUICK = TrainingConfig(epochs=2, batch_size=100, learning_rate=0.02)
CONFIG = {"embedding_dim": 8, "depth": 1, "negatives": 16}


def rows_of(world, size, *, hot_from, seed):
    """From ``hot_from`` on, half of the users watch v9, whatever they watched before."""
    rows = world.candidate_rows(size, seed=seed)
    hot = (np.arange(size) >= hot_from) & (np.random.default_rng(seed).random(size) < 0.5)
    rows["video_id"] = np.where(hot, HOT, rows["video_id"])
    labels = [
        f"v{HOT}".encode() if is_hot else label
        for is_hot, label in zip(hot, rows["label_video_id"], strict=True)
    ]
    rows["label_video_id"] = np.array(labels, object)
    rows["query_continuous"][:, 1] = (size - np.arange(size)) / (size + 1)
    return rows


def site(world, root, *, goes_on):
    """Examples of 1,500 s, in whose last 150 s v9 is hot; after them it stays hot, or does not."""
    train = rows_of(world, SIZE, hot_from=SIZE - NEWEST, seed=3)
    holdout = rows_of(world, 400, hot_from=0 if goes_on else 400, seed=4)
    holdout["query_continuous"][:, 1] = 0.0
    root.mkdir()
    return world.write_examples(
        root,
        candidate={"train": train, "holdout": holdout},
        info={"site": {"half_life_s": 2 * NEWEST, "repeat_share": 0.0, "watches": SIZE}},
    )


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("recent")


@pytest.fixture(scope="module")
def hot(world, root):
    examples = site(world, root / "hot", goes_on=True)
    model = CandidateConfig(**CONFIG)
    candidate_training.train(examples, root / "of_hot", model, QUICK)
    return examples, root / "of_hot"


def test_counts_decay_with_the_half_life_of_the_site(hot, monkeypatch):
    monkeypatch.setattr(recent_biases, "_SHORTEST_S", 1.0)
    examples, directory = hot
    model = candidate_model.load(directory, examples)
    quarter, half_life, _, endless = np.exp(recent_biases.counts(model, examples)) - 0.3
    share = [counts[HOT - 1] / counts.sum() for counts in (quarter, half_life, endless)]
    assert share[0] > share[1] + 0.05
    assert share[1] > share[2] + 0.05
    assert endless.sum() == pytest.approx(SIZE)


def test_what_goes_on_being_watched_is_moved_up_and_tastes_stay(hot, monkeypatch):
    monkeypatch.setattr(recent_biases, "_SHORTEST_S", 1.0)
    examples, directory = hot
    model = candidate_model.load(directory, examples)
    rows = model.softmax_rows.rows.numpy().copy()
    before = model.softmax_biases.rows.numpy()[:, 0].copy()
    weights = recent_biases.set_biases(model, examples)
    change = (model.softmax_biases.rows.numpy()[:, 0] - before)[1:]
    assert set(weights) == set(recent_biases.NAMES)
    assert change[HOT - 1] == change.max()
    assert change[HOT - 1] > np.median(change) + 0.3
    np.testing.assert_array_equal(model.softmax_rows.rows.numpy(), rows)


def test_what_was_watched_before_stays_as_unlikely_however_little_the_model_counts(hot):
    """What is added to a logit is divided by the logit's weight, and so is what repeats lose."""
    examples, directory = hot
    model = candidate_model.load(directory, examples)
    weights = dict.fromkeys(recent_biases.NAMES, 0.0)
    weights |= {recent_biases.SCORE: 0.25, recent_biases.REPEAT: -5.0}
    watches = np.zeros((len(recent_biases.PARTS), model.num_videos))
    recent_biases.apply(model, watches, weights, until_s=0.0)
    assert model.repeat_bias.numpy() == pytest.approx(-20.0)


def test_a_later_move_replaces_an_earlier_one_and_one_that_is_taken_back_leaves_nothing(hot, root):
    examples, directory = hot
    model = candidate_model.load(directory, examples)
    learnt = model.softmax_biases.rows.numpy().copy()
    watches = recent_biases.counts(model, examples)
    weights = {**dict.fromkeys(recent_biases.NAMES, 0.5), recent_biases.SCORE: 0.25}
    for scale in (3.0, 1.0):
        recent_biases.apply(model, scale * watches, weights, until_s=0.0)
    moved = (model.softmax_biases.rows.numpy() - learnt)[1:, 0]
    np.testing.assert_allclose(moved, 2 * (watches.sum(axis=0) - 1), atol=1e-4)
    recent_biases.unmoved(model)
    np.testing.assert_allclose(model.softmax_biases.rows.numpy(), learnt, atol=1e-5)
    assert not model.moved_biases.numpy().any()


def test_what_was_over_at_the_end_is_not(world, root, monkeypatch):
    monkeypatch.setattr(recent_biases, "_SHORTEST_S", 1.0)
    # As a holdout of many more watches would, these few outweigh what is usual.
    monkeypatch.setattr(recent_biases, "_RIDGE", 1.0)
    examples = site(world, root / "over", goes_on=False)
    candidate_training.train(examples, root / "of_over", CandidateConfig(**CONFIG), QUICK)
    model = candidate_model.load(root / "of_over", examples)
    before = model.softmax_biases.rows.numpy()[:, 0].copy()
    recent_biases.set_biases(model, examples)
    change = (model.softmax_biases.rows.numpy()[:, 0] - before)[1:]
    assert change[HOT - 1] < np.median(change)


def test_how_likely_repeats_are_is_told_by_the_holdout(world, root):
    """Half of the watches of the holdout are repeats, whatever the training holds."""
    examples = site(world, root / "again", goes_on=True)
    holdout = rows_of(world, 400, hot_from=400, seed=4)
    again = np.arange(400) % 2 == 0
    first = np.where(again & (holdout["watched_video_ids"][:, 0] > 0))[0]
    holdout["video_id"][first] = holdout["watched_video_ids"][first, 0]
    names = np.array([b"", *(token.encode() for token in world.vocabularies["video"])], object)
    holdout["label_video_id"] = names[holdout["video_id"]]
    queries = {name: values.copy() for name, values in holdout.items()}
    candidate_training.train(examples, root / "of_again", CandidateConfig(**CONFIG), QUICK)
    model = candidate_model.load(root / "of_again", examples)
    before = float(model.repeat_bias.numpy())
    problem = recent_biases._problem(
        model,
        {**queries, "time": np.zeros(400)},
        dataset.videos(examples),
        recent_biases.counts(model, examples),
        until_s=0.0,
        seed=0,
    )
    usual = recent_biases.usual(None)
    usual[1] = before
    assert problem.weights(usual)[1] > before + 0.5


def test_a_training_moves_them_where_that_is_asked(hot, root):
    examples, plain = hot
    config = CandidateConfig(**CONFIG, recent_biases=True)
    candidate_training.train(examples, root / "moved", config, QUICK)
    biases = [
        candidate_model.load(d, examples).softmax_biases.rows.numpy()[1:, 0]
        for d in (plain, root / "moved")
    ]
    assert np.abs(biases[1] - biases[0]).max() > 0.1


def test_what_is_usual_depends_on_how_fast_a_site_forgets():
    for hours, score in ((1, 0.25), (6, 0.25), (18, 0.625), (700, 1.0)):
        found = recent_biases.usual(hours * 3600.0)
        assert found[0] == pytest.approx(score, abs=1e-6)
        assert found[2] == pytest.approx(1 - score, abs=1e-6)
    assert recent_biases.usual(None).tolist() == [1, 0, 0, 0, 0, 0, 0]


def test_watches_of_one_video_are_one_observation():
    """However many watch the one video of the day, it says little of all others."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 1, (600, 40)).astype(np.float32)
    shared = np.stack([np.eye(40)[3], np.zeros(40)])
    usual = np.array([1.0, 0.0, 0.0, 0.0])
    moved = []
    for target in (np.full(600, 3), np.arange(600) % 40):
        problem = recent_biases._Problem(logits, logits > np.inf, shared, np.zeros(40), target)
        moved.append((problem.design_effect, np.abs(problem.weights(usual) - usual).max()))
    assert [effect for effect, _ in moved] == [600, 15]
    assert moved[0][1] < 0.05


def test_a_handful_of_watches_changes_nothing(hot):
    examples, directory = hot
    model = candidate_model.load(directory, examples)
    before = model.softmax_biases.rows.numpy().copy()
    assert recent_biases.set_biases(model, examples, limit=50) == {}
    np.testing.assert_array_equal(model.softmax_biases.rows.numpy(), before)


def test_weights_of_known_truth_are_found(monkeypatch):
    """Watches drawn from exp(.5 z + 1.2 x + 2 [again]); of many videos most are only sampled."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (2_000, 300)).astype(np.float32)
    watched = rng.random(logits.shape) < 0.05
    shared = np.stack([rng.normal(0, 1, 300), np.zeros(300)])
    scores = 0.5 * logits + 1.2 * shared[0] + 2.0 * watched
    target = (scores + rng.gumbel(size=scores.shape)).argmax(axis=1)
    whole = recent_biases._Problem(logits, watched, shared, np.zeros(300), target)
    monkeypatch.setattr(recent_biases, "_RIDGE", 1.0)
    found = whole.weights(np.array([1.0, 0.0, 0.0, 0.0]))
    np.testing.assert_allclose(found, [0.5, 2.0, 1.2, 0.0], atol=0.1)
    monkeypatch.setattr(recent_biases, "_MOST_VIDEOS", 120)
    chosen, offset = recent_biases._chosen(shared[0], np.arange(300), target[:40], seed=1)
    assert len(np.unique(chosen)) == len(chosen) < 200
    assert np.isclose(np.exp(offset).sum(), 300)
