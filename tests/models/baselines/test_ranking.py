import sys

import numpy as np
import pytest

from features.spec import Feature, Kind, ResolvedSpec, Side
from models.baselines import boosted_trees
from models.baselines import ranking as ranking_baselines
from models.evaluation import metrics

SPEC = ResolvedSpec(
    features=(
        Feature(name="device", kind=Kind.UNIVALENT, side=Side.QUERY, models=("ranker",),
                source="context.device"),
        Feature(name="watched", kind=Kind.MULTIVALENT, side=Side.QUERY, models=("ranker",),
                source="history.watched_video_ids", space="video", max_length=4),
        Feature(name="video_id", kind=Kind.UNIVALENT, side=Side.CANDIDATE, models=("ranker",),
                source="videos.video_id", space="video"),
        Feature(name="topics", kind=Kind.MULTIVALENT, side=Side.CANDIDATE, models=("ranker",),
                source="videos.topics", space="topic", max_length=2),
        Feature(name="x", kind=Kind.CONTINUOUS, side=Side.CANDIDATE, models=("ranker",),
                source="videos.x"),
        Feature(name="b", kind=Kind.BINARY, side=Side.QUERY, models=("ranker",),
                source="users.b"),
    )
)  # fmt: skip


def world(n, seed):
    """Impressions whose expected watch seconds are 40 x^2 + 20 [topic 1] + 5."""
    rng = np.random.default_rng(seed)
    x = rng.random((n, 1)).astype(np.float32)
    topics = rng.integers(0, 3, (n, 2))
    truth = 40 * x[:, 0] ** 2 + 20 * (topics == 1).any(axis=1) + 5
    clicked = rng.random(n) < 0.4
    return {
        "device": rng.integers(0, 3, n),
        "watched": rng.integers(0, 9, (n, 4)),
        "video_id": rng.integers(0, 30, n),
        "topics": topics,
        "candidate_continuous": x,
        "query_binary": rng.integers(0, 2, (n, 1)).astype(np.float32),
        "clicked": clicked.astype(np.float32),
        "watch_time_s": np.where(clicked, truth / 0.4, 0).astype(np.float32),
        "label_video_id": np.array([b"%d" % i for i in rng.integers(0, 30, n)], object),
        "time": np.arange(n),
        "truth": truth,
    }


def impressions(*rows):
    """Each row is (video, clicked, watch seconds)."""
    return {
        "label_video_id": np.array([row[0] for row in rows], object),
        "clicked": np.array([row[1] for row in rows], np.float32),
        "watch_time_s": np.array([row[2] for row in rows], np.float32),
    }


def test_video_averages_lean_on_the_average_of_all():
    # 30 impressions of "a": 10 clicks of 60 s; 10 impressions of "b": none. All: 600 / 40 = 15 s.
    rows = [(b"a", 1, 60)] * 10 + [(b"a", 0, 0)] * 20 + [(b"b", 0, 0)] * 10
    asked = impressions((b"a", 0, 0), (b"b", 0, 0), (b"new", 0, 0))
    watch, rate = ranking_baselines.video_averages(impressions(*rows), asked)
    # The prior is 20 impressions of the average: (600 + 20 * 15) / 50, 20 * 15 / 30, 15.
    np.testing.assert_allclose(watch.scores, [18, 10, 15])
    np.testing.assert_allclose(rate.scores, [(10 + 20 * 0.25) / 50, 20 * 0.25 / 30, 0.25])
    assert rate.expected_watch_time_s is None


def test_watch_time_without_a_click_does_not_count():
    watch, _ = ranking_baselines.video_averages(
        impressions((b"a", 0, 1000)), impressions((b"a", 0, 0))
    )
    assert watch.scores == [0]


def test_no_training_impressions_give_zero():
    watch, _ = ranking_baselines.video_averages(impressions(), impressions((b"a", 0, 0)))
    assert watch.scores == [0]


def test_chance_loses_half():
    holdout = impressions((b"a", 1, 10), (b"b", 0, 0))
    scores = ranking_baselines.chance(holdout).scores
    loss = metrics.weighted_per_user_loss(
        scores, holdout["clicked"], holdout["watch_time_s"], ["u", "u"], ["p", "p"]
    )
    assert loss == 0.5


def test_soft_target_has_the_expected_watch_time_as_odds():
    labels, weights = ranking_baselines.targets(impressions((b"a", 1, 9), (b"b", 0, 5)))
    # A click of 9 s: 9 positive and 1 negative unit of weight. No click: 1 negative unit.
    np.testing.assert_allclose(labels * weights, [9, 0])
    np.testing.assert_allclose((1 - labels) * weights, [1, 1])


def linear(train, holdout, **options):
    return ranking_baselines.linear(SPEC, train, holdout, **options)


def trees(train, holdout, **options):
    pytest.importorskip("lightgbm")
    return boosted_trees.fit(SPEC, train, holdout, **options)


@pytest.mark.parametrize("fit", [linear, trees])
def test_learned_baselines_find_the_expected_watch_time(fit):
    train, holdout = world(20_000, 1), world(2_000, 2)
    result = fit(train, holdout)
    error = result.expected_watch_time_s / holdout["truth"] - 1
    assert abs(np.mean(error)) < 0.1
    # Trees do not extrapolate, and the linear model multiplies where the world adds.
    assert np.mean(np.abs(error)) < 0.4
    assert metrics.xauc_by_user(result.scores, holdout["truth"]).value > 0.8


def test_ids_that_training_did_not_have_weigh_nothing():
    train, holdout = world(500, 1), world(10, 2)
    train["video_id"] %= 5
    known = linear(train, holdout | {"video_id": np.zeros(10, np.int64)})
    unknown = linear(train, holdout | {"video_id": np.full(10, 29)})
    np.testing.assert_array_equal(known.scores, unknown.scores)


def test_the_seed_decides_the_linear_model():
    train, holdout = world(3_000, 1), world(5, 2)
    np.testing.assert_array_equal(linear(train, holdout).scores, linear(train, holdout).scores)


def test_trees_see_every_input_once():
    matrix, names = boosted_trees.matrix(SPEC, world(3, 0))
    assert matrix.shape == (3, len(names))
    assert names == [
        "id:device", "id:watched", "size:watched", "id:video_id", "id:topics", "size:topics",
        "query_binary:0", "candidate_continuous:0",
    ]  # fmt: skip


def test_absent_lightgbm_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    with pytest.raises(ModuleNotFoundError, match="lightgbm"):
        boosted_trees.fit(SPEC, world(100, 0), world(10, 1))
