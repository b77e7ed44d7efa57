"""Pages beside a video at the moments of a log: which watch follows which, and what is judged."""

import numpy as np
import pyarrow.compute as pc
import pytest

from features.tables import logs
from serving.batch import past_funnel, past_related
from serving.batch.config import BacktestConfig
from serving.batch.past_related import CO_WATCH, PAGE, RANKINGS, SIMILAR, RelatedFunnel
from serving.release import manifest as release

SAMPLE = 40


@pytest.fixture(scope="module")
def funnel(world):
    newest = logs.read_table(world.logs, "impressions", columns=["time"])["time"]
    noon = pc.max(newest).as_py() // 86400 * 86400 + 43200
    settings = BacktestConfig(from_s=noon, k=20, sample=SAMPLE)
    loaded = past_funnel.loaded(
        release.load(world.serving_root), world.serving_root, world.logs, settings
    )
    return RelatedFunnel(*loaded, settings)


def test_each_watch_follows_the_one_before_of_its_user_within_an_hour(funnel):
    assert 10 < len(funnel.labels) <= SAMPLE
    users = np.array(funnel._watches["user_id"].to_pylist())
    for number in funnel.labels:
        before = funnel._before[number]
        assert users[before] == users[number]
        assert 0 < funnel._times[number] - funnel._times[before] <= past_related.WITHIN_S
        between = (users == users[number]) & (funnel._times > funnel._times[before])
        assert not (between & (funnel._times < funnel._times[number])).any()


def test_pages_leave_out_the_video_beside_and_rankings_are_of_the_same_candidates(funnel):
    watches = list(funnel.next_watches())
    assert len(watches) == len(funnel.labels)
    for watch in watches:
        assert set(watch.places) == set(RANKINGS)
        if np.isfinite(watch.places[PAGE]):
            # What is on the page was nominated by one of the two.
            assert min(watch.places[CO_WATCH], watch.places[SIMILAR]) < np.inf
    hits = {name: np.mean([w.places[name] < 20 for w in watches]) for name in RANKINGS}
    assert hits[PAGE] > 0.1
    assert funnel._request("u", int(funnel.labels[0]), {}).related_to
