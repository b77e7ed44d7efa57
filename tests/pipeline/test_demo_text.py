import pytest

from pipeline import demo_text

NOW = 1_700_000_000


def figure(value):
    return {"value": value, "low": value, "high": value, "n": 10}


def test_a_page_shows_title_channel_sources_age_and_expected_watch_time():
    items = [
        {
            "video_id": "v1",
            "title": "A walk",
            "channel_id": "c7",
            "sources": ["index", "fresh"],
            "upload_time": NOW - 3 * 3600,
            "expected_watch_time_s": 185.2,
        },
        {"video_id": "v2", "title": None, "sources": [], "expected_watch_time_s": None},
    ]
    header, _, first, second = demo_text.page(items, now_s=NOW).splitlines()
    assert header.split() == ["title", "channel", "sources", "age", "expected", "watch"]
    assert first.split() == [
        "1",
        "A",
        "walk",
        "c7",
        "index,",
        "fresh",
        "3",
        "h",
        "3",
        "min",
        "05",
        "s",
    ]
    assert second.split() == ["2", "v2", "-", "-", "-"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-5, "0 min"), (119, "1 min"), (3600, "1 h"), (172_799, "47 h"), (172_800, "2 days")],
)
def test_an_age_is_told_in_the_unit_that_fits(seconds, text):
    assert demo_text.age(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (605, "10 min 05 s")]
)
def test_a_watch_time_is_rounded_to_seconds(seconds, text):
    assert demo_text.duration(seconds) == text


def test_metrics_stand_beside_the_best_popularity_baseline():
    document = {
        "figures": {
            "candidate.model.all.recall_at_100": figure(0.5),
            "candidate.popularity_all.all.recall_at_100": figure(0.2),
            "candidate.popularity_last_day.all.recall_at_100": figure(0.3),
            "candidate.model_minus_popularity_all.all.recall_at_100": figure(0.9),
            "candidate.popularity_all.new_users.recall_at_100": figure(0.8),
            "ranker.model.all.weighted_per_user_loss": figure(0.35),
            "ranker.video_mean_watch_time.all.weighted_per_user_loss": figure(0.41),
            "ranker.chance.all.weighted_per_user_loss": figure(0.1),
        }
    }
    text = demo_text.metrics(document)
    (recall,) = [line for line in text.splitlines() if line.startswith("recall@100")]
    assert recall.split()[-5:] == ["0.500", "0.300", "popularity", "last", "day"]
    (loss,) = [line for line in text.splitlines() if "per-user loss" in line]
    assert loss.split()[-6:] == ["0.350", "0.410", "video", "mean", "watch", "time"]
    assert "recall@10 " not in text  # Not measured here.


def test_without_any_figure_the_reader_is_told():
    assert "too few" in demo_text.metrics({"figures": {}})


def test_a_day_of_visits_says_whose_pages_were_seen():
    record = {"answers": {"0 popular": 30, "7 full": 1200}, "passed": {"events": 4321}}
    assert demo_text.visits(record) == "1,230 pages of release 0 and 7; 4,321 events"
