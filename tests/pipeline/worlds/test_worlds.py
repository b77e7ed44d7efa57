"""The worlds of watches alone: what they are like is known, and so is the best answer."""

import dataclasses

import numpy as np
import pyarrow.parquet as pq
import pytest

from features.tables import logs, site_facts
from pipeline.worlds import happenings
from pipeline.worlds.presets import WORLDS

SMALL = {
    "headlines": {"users": 900, "days": 6},
    "music": {"users": 120, "days": 20, "tracks": 600, "artists": 60},
    "course": {"users": 150, "days": 40},
}
START = 1_651_363_200


@pytest.fixture(scope="module", params=list(SMALL))
def happened(request):
    world = dataclasses.replace(WORLDS[request.param], **SMALL[request.param])
    return request.param, world, world.happen(START).in_order()


def test_the_same_seed_is_the_same_world(happened):
    _, world, first = happened
    again = dataclasses.replace(world).happen(START).in_order()
    other = dataclasses.replace(world, seed=2).happen(START).in_order()
    for name in ("users", "videos", "times", "places"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
    assert not np.array_equal(first.times, other.times)
    assert first.times.min() >= START
    assert first.times.max() < START + world.days * 86_400


def test_each_world_is_as_hard_as_it_says(happened):
    name, _, found = happened
    facts = site_facts.of_watches(found.users, found.videos, found.times)
    at_10 = (found.places < 10).mean()
    if name == "headlines":
        assert facts.half_life_s < 8 * 3600
        assert not facts.repeats
        assert 0.5 < at_10 < 0.9
    elif name == "music":
        assert facts.repeats
        assert facts.half_life_s > 5 * 86_400
        assert 0.3 < at_10 < 0.8
    else:
        assert facts.repeat_share < site_facts.REPEATS_FROM
        assert at_10 > 0.85


def test_the_oracle_is_right_about_what_is_drawn():
    rng = np.random.default_rng(0)
    chances = np.tile([0.1, 0.6, 0.3, 0.0], (20_000, 1))
    columns, places = happenings.drawn(rng, chances)
    np.testing.assert_allclose(np.bincount(columns, minlength=4) / 20_000, chances[0], atol=0.02)
    np.testing.assert_array_equal(places, np.array([2, 0, 1, 3])[columns])


def test_logs_hold_watches_alone_and_the_truth_beside_them(tmp_path):
    world = dataclasses.replace(WORLDS["course"], **SMALL["course"])
    rows = happenings.write_logs(world, START, tmp_path / "logs")
    assert set(rows) == {"watches"}
    assert logs.tables_in(tmp_path / "logs") == {"watches"}
    truth = pq.read_table(tmp_path / "logs" / "truth" / "places.parquet")
    assert truth.num_rows == rows["watches"]
    assert truth.column_names == ["user_id", "video_id", "time", "place"]


def test_visits_come_as_often_as_is_asked():
    rng = np.random.default_rng(0)
    hours = np.zeros(24)
    hours[[7, 8]] = 1.0
    users, times = happenings.visits(
        rng,
        users=500,
        days=10,
        watches_per_user=20.0,
        per_visit=4.0,
        pause_s=60.0,
        by_hour=hours,
    )
    assert len(users) == pytest.approx(10_000, rel=0.1)
    assert ((times % 86_400 >= 7 * 3600) & (times % 86_400 < 10 * 3600)).mean() > 0.98
    assert (np.diff(times) >= 0).all()
    parts = happenings.turns(users[:200])
    assert sorted(np.concatenate(parts).tolist()) == list(range(200))
    assert all(len(np.unique(users[part])) == len(part) for part in parts)
