"""What a log tells of its site."""

import numpy as np
import pyarrow as pa
import pytest

from features.durations import DAY_S
from features.tables import logs, site_facts
from features.tables.site_facts import SiteFacts

T0 = 1_700_000_000


def test_the_share_of_repeats_counts_each_watch_once():
    users = np.repeat(np.arange(100), 4)
    videos = np.tile([1, 2, 1, 1], 100)  # Two of four were watched before.
    times = np.tile([0, 10, 20, 20], 100) + T0  # The last row is a copy of the one before.
    found = site_facts.of_watches(users, videos, times)
    assert found.watches == 300
    assert found.repeat_share == pytest.approx(1 / 3)
    assert found.repeats


def test_facts_are_those_of_the_window_and_of_whole_users(tmp_path, monkeypatch):
    count = 3_000
    rng = np.random.default_rng(0)
    table = pa.table(
        {
            "user_id": [f"u{n}" for n in rng.integers(0, 300, count)],
            "video_id": [f"v{n}" for n in rng.integers(0, 4000, count)],
            "time": T0 + np.sort(rng.integers(0, 6 * DAY_S, count)),
            "watch_time_s": np.ones(count),
        }
    )
    logs.append(tmp_path, "watches", table)
    whole = site_facts.of_logs(tmp_path)
    assert whole.watches == count
    assert not whole.repeats
    first = site_facts.of_logs(tmp_path, until_s=T0 + 2 * DAY_S)
    assert 0 < first.watches < count / 2
    monkeypatch.setattr(site_facts, "MOST_WATCHES", 1_000)
    some = site_facts.of_logs(tmp_path)
    assert 600 < some.watches < 1_500


def test_examples_of_before_say_nothing():
    assert SiteFacts.of_info({}) == SiteFacts()
    assert not SiteFacts().repeats
    known = SiteFacts(half_life_s=3600.0, repeat_share=0.5, watches=9)
    assert (
        SiteFacts.of_info({"site": {"half_life_s": 3600.0, "repeat_share": 0.5, "watches": 9}})
        == known
    )
