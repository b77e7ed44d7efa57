"""What users say of videos, over HTTP: into the logs, the history, and out of the next page."""

import pytest

from features.tables import logs


def report(site, *events):
    numbered = [{"event_id": f"e{n}", "user_id": "u", **event} for n, event in enumerate(events)]
    return site.client.post("/v1/events", json={"events": numbered})


def shown(site, **more):
    body = {"user_id": "u", "k": 48, "exclude_watched": False, "record": False, **more}
    page = site.client.post("/v1/recommendations", json=body).json()
    return {item["video_id"] for item in page["items"]}


def test_feedback_reaches_the_logs_and_the_history(site, tiny):
    answer = report(
        site,
        {"type": "like", "video_id": "v1", "page_id": "p", "surface": "home"},
        {"type": "hide", "channel_id": "c3", "time": tiny.now - 5},
        {"type": "comment", "video_id": "v2", "value": 3},
    )
    assert answer.json() == {"accepted": 3, "duplicates": 0}
    found = site.client.get("/v1/users/u/history").json()["feedback"]
    assert [(f["type"], f["video_id"], f["channel_id"], f["value"]) for f in found] == [
        ("comment", "v2", None, 3.0),
        ("like", "v1", None, None),
        ("hide", None, "c3", None),
    ]
    site.log.compact(flush=True)
    rows = logs.read_table(site.log.logs_dir, "feedback").to_pylist()
    rows.sort(key=lambda row: row["kind"])
    assert [row["kind"] for row in rows] == ["comment", "hide", "like"]
    assert rows[1]["channel_id"] == "c3"
    assert rows[1]["video_id"] is None
    assert rows[1]["time"] == tiny.now - 5
    assert (rows[2]["page_id"], rows[2]["surface"]) == ("p", "home")
    assert rows[0]["value"] == 3.0


def test_kinds_may_share_an_event_id_and_one_sent_again_is_known(site):
    like = {"event_id": "same", "type": "like", "video_id": "v1"}
    share = like | {"type": "share"}
    assert report(site, like, share, like).json() == {"accepted": 2, "duplicates": 1}
    site.log.compact(flush=True)
    assert report(site, like).json() == {"accepted": 0, "duplicates": 1}
    site.log.compact(flush=True)
    assert logs.read_table(site.log.logs_dir, "feedback").num_rows == 2


def test_what_was_hidden_is_never_shown_again_until_it_is_taken_back(site, tiny):
    everything = {f"v{n}" for n in range(tiny.count)}
    channel = {f"v{n}" for n in range(3, tiny.count, 8)}
    assert shown(site) == everything
    report(site, {"type": "hide", "video_id": "v4"}, {"type": "hide", "channel_id": "c3"})
    assert shown(site) == everything - {"v4"} - channel
    for n in range(6):
        assert {"v4", *channel}.isdisjoint(shown(site, topics=[f"t{n % 4}"]))
    site.ahead_s = 5
    report(site, {"event_id": "back", "type": "hide", "channel_id": "c3", "value": 0})
    assert shown(site) == everything - {"v4"}


def test_page_says_what_was_hidden(site):
    report(site, {"type": "hide", "video_id": "v4"}, {"type": "hide", "channel_id": "c3"})
    body = {"user_id": "u", "k": 20, "debug": True}
    debug = site.client.post("/v1/recommendations", json=body).json()["debug"]
    assert debug["filtered"]["hidden_video"] == 1
    assert debug["held_back"]["hidden_channel"][0] == "v3"


def test_other_feedback_hides_nothing(site, tiny):
    kinds = ("like", "dislike", "share", "follow", "comment")
    report(site, *({"type": kind, "video_id": "v4"} for kind in kinds))
    assert len(shown(site)) == tiny.count


@pytest.mark.parametrize(
    ("event", "says"),
    [
        ({"type": "applaud", "video_id": "v1"}, "'like', 'dislike', 'share'"),
        ({"type": "like"}, "a like needs `video_id`"),
        ({"type": "like", "channel_id": "c1"}, "a like has no `channel_id`"),
        ({"type": "hide"}, "a hide needs `video_id` or `channel_id`, and not both"),
        ({"type": "hide", "video_id": "v1", "channel_id": "c1"}, "and not both"),
        ({"type": "watch", "video_id": "v1", "watch_time_s": 1, "value": 1}, "no `value`"),
    ],
)
def test_feedback_that_means_nothing_is_refused_in_one_sentence(site, event, says):
    answer = report(site, {"type": "like", "video_id": "v1"}, event)
    assert answer.status_code == 422
    assert says in answer.json()["errors"][0]["rule"]
    assert site.client.get("/v1/users/u/history").json()["is_known"] is False


def test_a_like_of_a_video_that_nobody_listed_yet_is_kept_and_pages_go_on(site):
    assert report(site, {"type": "like", "video_id": "of a minute ago"}).json()["accepted"] == 1
    assert "of a minute ago" not in shown(site)
    site.log.compact(flush=True)
    (row,) = logs.read_table(site.log.logs_dir, "feedback").to_pylist()
    assert row["video_id"] == "of a minute ago"
