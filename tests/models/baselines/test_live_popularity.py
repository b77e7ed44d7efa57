"""What is watched right now, alone and blended with a model."""

import numpy as np
import pyarrow as pa
import pytest

from features.catalogue import Catalogue
from features.durations import HOUR_S
from models.baselines import live_popularity
from models.baselines import retrieval as baselines
from models.baselines.live_popularity import Live
from models.evaluation.retrieval import Embeddings, RetrievalConfig
from models.paper import live_blend
from models.paper.live_blend import Inputs


def queries(*watches, histories=None):
    """Each watch is (time, row of the video)."""
    histories = histories or [[] for _ in watches]
    return baselines.Queries(
        user_ids=np.array([f"u{i}" for i in range(len(watches))], object),
        times=np.array([time for time, _ in watches], np.int64),
        label_ids=np.array([f"v{row}" for _, row in watches], object),
        label_rows=np.array([row for _, row in watches], np.int64),
        regions=np.full(len(watches), "", object),
        history_offsets=np.concatenate([[0], np.cumsum([len(h) for h in histories])]),
        history_rows=np.array([row for h in histories for row in h], np.int64),
    )


def test_live_counts_see_the_window_before_the_moment_and_nothing_of_it():
    live = Live.of(queries((10, 0), (50, 1)), queries((30, 0), (40, -1)), num_videos=3)
    counts = live.counts(np.array([50, 51, 10]), 40)
    # 50: watches at 10 and 30 (10 = 50 - 40 is inside). 51: 30 and 50. 10: none before it.
    assert counts.tolist() == [[2, 0, 0], [1, 1, 0], [0, 0, 0]]


def test_a_rate_counts_half_after_each_half_life_and_forgets_after_six():
    live = Live.of(queries((0, 0), (100, 0), (200, 1)), num_videos=2)
    rates = live.rates(np.array([200, 900]), 100.0)
    np.testing.assert_allclose(rates, [[0.25 + 0.5, 0.0], [0.0, 0.0]], atol=0.02)
    np.testing.assert_allclose(rates[0], [0.75, 0.0])


def test_live_popularity_of_a_query_follows_the_watches_before_it():
    train, holdout = queries((0, 0)), queries((1800, 1), (1900, 1), (HOUR_S + 10, 0))
    (hour, *_) = live_popularity.fit_all(train, holdout, np.array([0.1, 0.2, 0.3]))
    best = hour.score(holdout).argmax(axis=1)
    assert hour.name == "live_popularity_1h"
    # Then row 0 was watched once, row 1 once, row 1 twice; ties by the order given.
    assert best.tolist() == [0, 1, 1]


@pytest.fixture(scope="module")
def site():
    """Labels drawn from a known blend of a model's logit and age, over videos that are there."""
    rng = np.random.default_rng(3)
    num_videos, num_queries = 40, 4000
    uploads = rng.integers(0, 20 * HOUR_S, num_videos)
    uploads[:5] = 0
    catalogue = Catalogue(
        pa.table({"video_id": [f"v{i}" for i in range(num_videos)], "upload_time": uploads})
    )
    embeddings = Embeddings(
        queries=rng.normal(size=(num_queries, 4)).astype(np.float32),
        videos=rng.normal(size=(num_videos, 4)).astype(np.float32),
        embeddable=np.ones(num_videos, bool),
    )
    times = np.sort(rng.integers(10 * HOUR_S, 24 * HOUR_S, num_queries))
    age_s = times[:, None] - uploads[None]
    scores = 0.5 * embeddings.queries @ embeddings.videos.T
    scores -= 1.5 * np.log1p(np.maximum(age_s, 0) / HOUR_S)
    scores = np.where(age_s >= 0, scores + rng.gumbel(size=scores.shape), -np.inf)
    asked = queries(*zip(times.tolist(), scores.argmax(axis=1).tolist(), strict=True))
    # No live watches: their rates are the same for all videos and get no weight.
    live = Live.of(asked.take([]), num_videos=num_videos)
    return Inputs(embeddings=embeddings, queries=asked, live=live, catalogue=catalogue)


def test_a_blend_recovers_the_weights_that_labels_were_drawn_with(site):
    weights = dict(zip(live_blend.NAMES, live_blend.fit(site).weights, strict=True))
    assert weights["model"] == pytest.approx(0.5, abs=0.05)
    assert weights["log_age_h"] == pytest.approx(-1.5, abs=0.25)
    assert weights["log_rate_180min"] == pytest.approx(0.0, abs=1e-6)


def test_a_blend_never_ranks_a_video_before_its_upload(site):
    blend = live_blend.LiveBlend(weights=np.zeros(len(live_blend.NAMES)))
    some = site.take(slice(0, 50))
    ranked = blend.rank(some, RetrievalConfig())
    there = (some.catalogue.upload_times[None] <= some.queries.times[:, None]).sum(axis=1)
    # All scores are equal, and a label stands after its equals but before what is not there.
    np.testing.assert_array_equal(ranked.ranks, there)


def test_a_blend_without_a_model_gives_it_no_weight(site):
    alone = Inputs(**{**vars(site), "embeddings": None})
    weights = dict(zip(live_blend.NAMES, live_blend.fit(alone).weights, strict=True))
    assert weights["model"] == 0.0
    assert weights["log_age_h"] < -1.0


def test_labels_of_unknown_or_later_videos_cannot_be_fitted_to(site):
    nothing = site.take(slice(0, 2))
    nothing.queries.label_rows[:] = -1
    with pytest.raises(ValueError, match="uploaded before it"):
        live_blend.fit(nothing)
