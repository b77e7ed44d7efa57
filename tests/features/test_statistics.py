import numpy as np
import pyarrow as pa
import pytest

from features import statistics
from features.catalogue import Catalogue

DAY = 86400
CATALOGUE = Catalogue(pa.table({"video_id": ["a", "b"], "upload_time": [0, 0]}))
IMPRESSIONS = pa.table(
    {
        "video_id": ["a", "a", "a", "b"],
        "time": [10 * DAY, 10 * DAY + 5, 11 * DAY, 3 * DAY],
        "clicked": [True, False, True, False],
        "watch_time_s": [30.0, 2.0, 100.0, 1.0],
    }
)
WATCHES = pa.table({"video_id": ["a"], "time": [10 * DAY], "watch_time_s": [30.0]})


@pytest.fixture
def shown():
    return statistics.VideoStatistics.of(statistics.daily_counts(WATCHES, IMPRESSIONS), CATALOGUE)


def ask(shown, row, time):
    columns = shown.columns(np.array([row]), np.array([time]))
    return {name: values[0] for name, values in columns.items()}


def test_today_is_not_seen_and_yesterday_is(shown):
    first_second_of_day_11 = ask(shown, 0, 11 * DAY)
    assert first_second_of_day_11["video_impressions_1d"] == 2
    assert first_second_of_day_11["video_clicks_all"] == 1
    assert first_second_of_day_11["video_watches_7d"] == 1
    assert first_second_of_day_11["video_watch_time_s_all"] == 32
    assert first_second_of_day_11["video_click_rate_1d"] == 0.5
    assert first_second_of_day_11["video_watch_time_per_impression_s_1d"] == 16
    assert ask(shown, 0, 11 * DAY - 1)["video_impressions_all"] == 0


def test_a_click_is_of_the_day_on_which_it_happened_as_is_what_was_watched_of_it():
    shown = pa.table(
        {
            "user_id": ["u", "u", "v"],
            "video_id": ["a", "a", "a"],
            "time": [11 * DAY - 60, 10 * DAY, 11 * DAY - 1800],
            "clicked": [True, False, True],
            "watch_time_s": [30.0, 2.0, 7.0],
        }
    )
    watched = shown.slice(0, 1).set_column(2, "time", [[11 * DAY + 5]])
    counted = statistics.VideoStatistics.of(statistics.daily_counts(watched, shown), CATALOGUE)
    after_day_10, after_day_11 = (ask(counted, 0, day * DAY) for day in (11, 12))
    assert after_day_10["video_impressions_1d"] == 3
    assert after_day_10["video_clicks_1d"] == 0
    assert after_day_10["video_watch_time_s_1d"] == 2
    # That of v, too, of which nobody knows more than that its window ended with the day.
    assert after_day_11["video_clicks_1d"] == 2
    assert after_day_11["video_watch_time_s_1d"] == 37


def test_windows_end_the_day_before(shown):
    assert ask(shown, 1, 10 * DAY)["video_impressions_7d"] == 1  # days 3 to 9
    assert ask(shown, 1, 11 * DAY)["video_impressions_7d"] == 0  # days 4 to 10


def test_rates_without_impressions_are_missing(shown):
    assert np.isnan(ask(shown, 1, 3 * DAY)["video_click_rate_7d"])
    assert ask(shown, -1, 11 * DAY)["video_impressions_all"] == 0


def test_merging_partial_counts_equals_counting_at_once():
    parts = [statistics.daily_counts(None, IMPRESSIONS.slice(i, 1)) for i in range(4)]
    together = statistics.daily_counts(None, IMPRESSIONS)
    assert statistics.merge(parts).equals(together)
    assert statistics.merge([]).num_rows == 0
