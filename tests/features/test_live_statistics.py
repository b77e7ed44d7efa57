import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings

from features import live_statistics, spec
from features.catalogue import Catalogue
from features.live_statistics import LiveStatistics

NOW = 1_700_000_060  # 20 seconds into a minute
CATALOGUE = Catalogue(pa.table({"video_id": ["a", "b", "c"]}))


def events(*pairs):
    return pa.table(
        {
            "video_id": pa.array([video for video, _ in pairs], pa.string()),
            "time": pa.array([NOW - ago for _, ago in pairs], pa.int64()),
        }
    )


def ask(live, *rows, now=NOW):
    return live.columns(np.array(rows), np.full(len(rows), now))


def test_counts_by_hand():
    watches = events(("a", 100), ("a", 1000), ("a", 5000), ("b", 100), ("a", 20_000))
    impressions = events(("a", 90), ("a", 100), ("a", 7000), ("c", 80_000), ("elsewhere", 100))
    live = LiveStatistics.of(live_statistics.minute_counts(CATALOGUE, watches, impressions))
    found = ask(live, 0, 1, 2, -1)
    # 10 minutes, 1 hour, 6 hours, 1 day before NOW.
    assert found["video_live_watches_10m"].tolist() == [1, 1, 0, 0]
    assert found["video_live_watches_1h"].tolist() == [2, 1, 0, 0]
    assert found["video_live_watches_6h"].tolist() == [4, 1, 0, 0]
    assert found["video_live_impressions_1h"].tolist() == [2, 0, 0, 0]
    assert found["video_live_impressions_1d"].tolist() == [3, 0, 1, 0]
    assert found["video_live_share_of_watches_1h"].tolist() == pytest.approx([2 / 3, 1 / 3, 0, 0])
    ratios = found["video_live_watches_per_impression_6h"].tolist()
    assert ratios[0] == pytest.approx(4 / 3)
    assert np.isnan(ratios[1:]).all()  # never shown


def test_the_minute_of_the_question_is_not_seen():
    watches = events(("a", 0), ("a", 20), ("a", 21), ("a", -5))
    live = LiveStatistics.of(live_statistics.minute_counts(CATALOGUE, watches, None))
    # The minute began 20 seconds ago: only the watch of 21 seconds ago lies before it.
    assert ask(live, 0)["video_live_watches_10m"].tolist() == [1]
    assert ask(live, 0, now=NOW + 40)["video_live_watches_10m"].tolist() == [4]


def test_an_index_is_as_large_as_its_events_are_many_however_far_apart():
    watches = events(("a", 100), ("b", NOW - 1), ("a", 86400 * 400))
    (part,) = LiveStatistics.of(live_statistics.minute_counts(CATALOGUE, watches, None)).parts
    assert [len(array) for array in (part.keys, part.minutes)] == [3, 3]
    found = ask(LiveStatistics((part,)), 0, 1)
    assert found["video_live_watches_1h"].tolist() == [1, 0]
    assert found["video_live_share_of_watches_1d"].tolist() == [1, 0]
    # An hour after 1970 began, the watch of its first second was the only one.
    assert ask(LiveStatistics((part,)), 1, now=3600)["video_live_share_of_watches_1d"] == [1]


def test_without_events_counts_are_zero_and_ratios_missing():
    found = ask(LiveStatistics.of(live_statistics.minute_counts(CATALOGUE, None, None)), 0, -1)
    assert set(found) == set(spec.live_names())
    for name, values in found.items():
        if "share" in name or "per_impression" in name:
            assert np.isnan(values).all()
        else:
            assert values.tolist() == [0, 0]


happened = st.lists(st.tuples(st.sampled_from("abc"), st.integers(-300, 100_000)), max_size=40)


@settings(max_examples=60, deadline=None)
@given(happened, happened, st.integers(0, 40), st.integers(0, 90_000))
def test_parts_add_up_and_equal_a_plain_count(watches, impressions, cut, later):
    counted = live_statistics.minute_counts
    whole = LiveStatistics.of(counted(CATALOGUE, events(*watches), events(*impressions)))
    parts = LiveStatistics.of(counted(CATALOGUE, events(*watches[:cut]), None)).plus(
        counted(CATALOGUE, events(*watches[cut:]), events(*impressions))
    )
    now = NOW + later
    found, split = ask(whole, 0, 1, 2, now=now), ask(parts, 0, 1, 2, now=now)
    for name in found:
        np.testing.assert_array_equal(found[name], split[name], err_msg=name)
    minute = now // 60
    for window, seconds in spec.LIVE_WINDOWS_S.items():
        inside = [v for v, ago in watches if minute - seconds // 60 <= (NOW - ago) // 60 < minute]
        expected = [inside.count(v) for v in "abc"]
        assert found[f"video_live_watches_{window}"].tolist() == expected


def test_old_minutes_can_be_forgotten_and_rows_renumbered():
    counts = live_statistics.minute_counts(
        CATALOGUE, events(("a", 100), ("b", 100), ("b", 7000)), None
    )
    kept = live_statistics.since(counts, NOW - 3600)
    assert kept["watches"].to_pylist() == [1, 1]
    renumbered = live_statistics.with_rows(kept, np.array([-1, 0, -1]))
    assert live_statistics.rows_of(np.asarray(renumbered["key"])).tolist() == [0]
    assert ask(LiveStatistics.of(renumbered), 0)["video_live_watches_1h"].tolist() == [1]
