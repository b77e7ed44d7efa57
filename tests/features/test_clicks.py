"""When clicks happened, by hand and against a loop over the rule."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features import clicks, earlier_events

T0 = 1_700_000_000
WINDOW = clicks.CLICK_WINDOW_S
ID = st.sampled_from("uv")
TIME = st.sampled_from([0, 1, 5, WINDOW - 1, WINDOW, WINDOW + 1, 2 * WINDOW])


def table(names, rows):
    types = {"user_id": pa.string(), "video_id": pa.string(), "clicked": pa.bool_()}
    columns = list(zip(*rows, strict=True)) or [[]] * len(names)
    return pa.table(
        {
            name: pa.array(list(values), types.get(name, pa.int64()))
            for name, values in zip(names, columns, strict=True)
        }
    )


def impressions(*rows):
    """Rows of (user, video, time, clicked, click_time)."""
    return table(["user_id", "video_id", "time", "clicked", "click_time"], rows)


def watches(*rows):
    return table(["user_id", "video_id", "time"], rows)


def moments(shown, watched):
    return clicks.with_moments(shown, watched)[clicks.CLICKED_AT].to_pylist()


def test_the_row_knows_best():
    shown = impressions(("u", "a", T0, True, T0 + 7))
    assert moments(shown, watches(("u", "a", T0 + 3))) == [T0 + 7]


def test_the_first_watch_of_the_same_user_and_video_tells():
    shown = impressions(("u", "a", T0, True, None), ("u", "b", T0, False, None))
    watched = watches(
        *(("u", "a", T0 + 90), ("u", "a", T0 + 40), ("u", "a", T0 - 1)),
        *(("u", "b", T0 + 1), ("v", "a", T0 + 1)),
    )
    assert moments(shown, watched) == [T0 + 40, None]


@pytest.mark.parametrize(("after", "moment"), [(0, 0), (WINDOW, WINDOW), (WINDOW + 1, WINDOW)])
def test_a_watch_tells_from_the_impression_to_the_end_of_the_window(after, moment):
    shown = impressions(("u", "a", T0, True, None))
    assert moments(shown, watches(("u", "a", T0 + after))) == [T0 + moment]


def test_where_nothing_tells_it_was_known_when_the_window_was_over():
    shown = impressions(("u", "a", T0, True, None))
    assert moments(shown, None) == moments(shown, watches()) == [T0 + WINDOW]
    assert moments(shown.drop_columns(["click_time"]), None) == [T0 + WINDOW]


def test_what_is_told_to_be_before_or_after_is_not_believed():
    shown = impressions(("u", "a", T0, True, T0 - 5), ("u", "a", T0, True, T0 + WINDOW + 1))
    assert moments(shown, None) == [T0, None]


def test_moments_that_are_there_stay():
    shown = impressions(("u", "a", T0, True, None))
    once = clicks.with_moments(shown, None)
    assert clicks.with_moments(once, watches(("u", "a", T0))) is once


ROWS = st.lists(st.tuples(ID, ID, TIME, st.booleans(), st.one_of(st.none(), TIME)), max_size=12)


@settings(max_examples=100, deadline=None)
@given(shown=ROWS, watched=st.lists(st.tuples(ID, ID, TIME), max_size=12))
def test_moments_equal_those_of_a_loop_and_those_of_the_audit(shown, watched):
    expected = []
    for user, video, time, clicked, told in shown:
        after = [t for u, v, t in watched if (u, v) == (user, video) and 0 <= t - time <= WINDOW]
        moment = min(after, default=time + WINDOW)
        if told is not None:
            moment = max(told, time) if told <= time + WINDOW else None
        expected.append(moment if clicked else None)
    events = impressions(*shown), watches(*watched)
    assert moments(*events) == expected
    known = [(row[0], m) for row, m in zip(shown, expected, strict=True) if m is not None]
    audited = earlier_events.clicks_of(*events)
    pairs = zip(audited["user_id"].to_pylist(), audited["time"].to_pylist(), strict=True)
    assert sorted(pairs) == sorted(known)


@settings(max_examples=100, deadline=None)
@given(shown=ROWS, watched=st.lists(st.tuples(ID, ID, TIME), max_size=12), now=TIME)
def test_what_is_known_at_a_time_does_not_depend_on_what_comes_later(shown, watched, now):
    """So a log that ends there, and a day of a cache, give the clicks that a longer log gives."""

    def known(events):
        return [moment if moment is not None and moment < now else None for moment in events]

    so_far = [watch for watch in watched if watch[2] < now]
    everything = moments(impressions(*shown), watches(*watched))
    assert known(moments(impressions(*shown), watches(*so_far))) == known(everything)
    assert np.all([m is None or m >= row[2] for row, m in zip(shown, everything, strict=True)])
