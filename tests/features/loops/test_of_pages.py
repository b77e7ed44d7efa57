"""Compiled loops against the NumPy code that defines what they compute, to the bit."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features import numbers, spec
from features.as_of import live_statistics
from features.as_of.history import History
from features.as_of.live_statistics import LiveStatistics
from features.as_of.statistics import VideoStatistics, daily_counts
from features.catalogue import Catalogue
from features.event_columns import Queries
from features.loops import compiled
from features.spec import Feature, Kind, Side

NOW = 1_700_000_000
COUNT = 40
CATALOGUE = Catalogue(
    pa.table(
        {
            "video_id": [f"v{n}" for n in range(COUNT)],
            "upload_time": [0] * COUNT,
            "channel_id": [None if n % 7 == 0 else f"c{n % 5}" for n in range(COUNT)],
            "topics": [[f"t{m}" for m in range(n % 4)] for n in range(COUNT)],
        }
    )
)
EVENTS = st.lists(
    st.tuples(st.integers(0, COUNT + 1), st.integers(-100, 9 * 86400), st.floats(0, 1e4)),
    max_size=60,
)
ROWS = st.lists(st.integers(-1, COUNT - 1), min_size=2, max_size=50)


@pytest.fixture(autouse=True)
def numba(needs_module):
    return needs_module("numba")


def both(compute):
    """What ``compute()`` returns with compiled loops, and without them."""
    assert compiled.loops() is not None
    fast = compute()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiled, "loops", lambda: None)
        return fast, compute()


def assert_equal(fast, slow):
    assert list(fast) == list(slow)
    for name, values in fast.items():
        np.testing.assert_array_equal(values, slow[name], err_msg=name)
        assert values.dtype == slow[name].dtype == np.float32


def table(events, **more):
    columns = list(zip(*events, strict=True)) or [[]] * 3
    return pa.table(
        {
            "user_id": pa.array(["u"] * len(events), pa.string()),
            "video_id": pa.array([f"v{n}" for n in columns[0]], pa.string()),
            "time": pa.array([NOW - ago for ago in columns[1]], pa.int64()),
            "watch_time_s": pa.array(columns[2], pa.float64()),
            **more,
        }
    )


@given(watched=EVENTS, shown=EVENTS, rows=ROWS)
@settings(max_examples=60, deadline=None)
def test_the_grid_of_a_page(watched, shown, rows):
    clicked = pa.array([n % 3 == 0 for n in range(len(shown))], pa.bool_())
    said = {"kind": pa.array(["like"] * len(watched), pa.string())}
    history = History.of(
        CATALOGUE,
        None,
        watches=table(watched),
        impressions=table(shown, clicked=clicked),
        feedback=table(watched, **said).drop(["watch_time_s"]) if len(rows) % 2 else None,
    )
    rows = np.array(rows)
    queries = Queries(np.zeros(len(rows), np.int64), np.full(len(rows), NOW))
    assert_equal(*both(lambda: history.video_grid(queries, rows)))
    one = queries.take(np.zeros(1, np.int64))
    assert_equal(*both(lambda: history.user_grid(one)))


@given(events=EVENTS, rows=ROWS)
@settings(max_examples=60, deadline=None)
def test_counts_of_videos_by_day_and_by_minute(events, rows):
    shown = table(events, clicked=pa.array([True] * len(events), pa.bool_()))
    daily = VideoStatistics.of(daily_counts(table(events), shown), CATALOGUE)
    parts = [live_statistics.minute_counts(CATALOGUE, table(events[k::2]), shown) for k in (0, 1)]
    live = LiveStatistics.of(*parts)
    rows, times = np.array(rows), np.full(len(rows), NOW)
    assert_equal(*both(lambda: daily.columns(rows, times)))
    assert_equal(*both(lambda: live.columns(rows, times)))


def test_quantiles():
    rng = np.random.default_rng(1)
    names = ["user_video_seconds_since_watch", *(f"number_{n}" for n in range(4))]
    features = [
        Feature(
            name=name,
            kind=Kind.CONTINUOUS,
            side=Side.CANDIDATE,
            models=(spec.RANKER,),
            source=f"history.{name}",
        )
        for name in names
    ]
    boundaries = np.sort(rng.integers(0, 30, (5, 20)).astype(np.float32), axis=1)
    boundaries[4] = 7.0  # A constant column.
    quantiles = numbers.Quantiles(boundaries, features)
    values = rng.integers(-2, 33, (600, 5)).astype(np.float32) / rng.choice([1, 2, 3], (600, 5))
    values = values.astype(np.float32)
    values[rng.random(values.shape) < 0.2] = np.nan
    values[:4, 0] = [1e9, np.inf, -np.inf, 1e38]
    for given_values in (values, np.asfortranarray(values), values[:3], values[:, ::1][::2]):
        fast, slow = both(lambda given_values=given_values: quantiles(given_values))
        np.testing.assert_array_equal(fast, slow)
        assert fast.dtype == np.float32
