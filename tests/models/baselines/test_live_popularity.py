"""What is watched right now."""

import numpy as np

from features.durations import HOUR_S
from models.baselines import live_popularity
from models.baselines import retrieval as baselines
from models.baselines.live_popularity import Live


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


def test_live_popularity_of_a_query_follows_the_watches_before_it():
    train, holdout = queries((0, 0)), queries((1800, 1), (1900, 1), (HOUR_S + 10, 0))
    (hour, *_) = live_popularity.fit_all(train, holdout, np.array([0.1, 0.2, 0.3]))
    best = hour.score(holdout).argmax(axis=1)
    assert hour.name == "live_popularity_1h"
    # Then row 0 was watched once, row 1 once, row 1 twice; ties by the order given.
    assert best.tolist() == [0, 1, 1]
