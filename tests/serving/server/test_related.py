"""What to watch next to a video, and the wishes that both kinds of pages take."""

import pytest

from features.tables import logs
from serving.live.state import LiveState


def related(site, video_id="v5", **more):
    answer = site.client.post("/v1/related", json={"video_id": video_id, "k": 10, **more})
    assert answer.status_code == 200, answer.text
    return answer.json()


def topics(page):
    return [item["topics"][0] for item in page["items"]]


def ids(page):
    return [item["video_id"] for item in page["items"]]


def test_video_next_to_another_is_like_it(site):
    page = related(site, k=6)
    assert topics(page) == ["t1"] * 6
    assert "v5" not in ids(page)
    assert set(page["items"][0]["sources"]) == {"similar"}
    # Eight channels, four topics: two channels have this topic, and a page has three of each.
    assert page["rung"] == "full"


def test_page_of_nobody_is_not_recorded_and_that_of_somebody_is(site):
    related(site)
    related(site, user_id="u", record=False)
    assert site.client.get("/v1/users/u/history").json()["is_known"] is False
    page = related(site, user_id="u")
    site.log.compact(flush=True)
    rows = logs.read_table(site.log.logs_dir, "impressions").to_pylist()
    assert {row["page_id"] for row in rows} == {page["request_id"]}
    assert {row["surface"] for row in rows} == {"related"}


def test_what_is_related_is_ranked_for_the_viewer(site):
    watch = {"event_id": "w", "type": "watch", "user_id": "u", "video_id": "v1", "watch_time_s": 50}
    assert related(site)["items"][0]["expected_watch_time_s"] is None
    site.client.post("/v1/events", json={"events": [watch]})
    first = related(site, user_id="u", k=3)["items"]
    assert all(item["expected_watch_time_s"] > 0 for item in first)
    # All are equally similar: the ranker, which likes high numbers, decides.
    assert [item["video_id"] for item in first] == ["v45", "v41", "v37"]


def test_what_is_watched_after_a_video_is_related_to_it(site):
    state = LiveState()
    site.releases.current = site.releases.current.with_live(state)
    site.recorder._live = state
    for user in range(3):
        for step, video in enumerate(("v5", "v8")):
            watch = {"type": "watch", "user_id": f"u{user}", "watch_time_s": 60}
            event = watch | {"event_id": f"{user}/{step}", "video_id": video}
            site.client.post("/v1/events", json={"events": [event]})
            site.ahead_s += 30
    page = related(site)
    first = page["items"][0]
    assert first["video_id"] == "v8"
    assert "co_watch" in first["sources"]


def test_related_to_an_unknown_video_is_a_404(site):
    answer = site.client.post("/v1/related", json={"video_id": "nothing"})
    assert answer.status_code == 404
    assert "'nothing' is not in release" in answer.json()["detail"]


@pytest.mark.parametrize("path", ["/v1/related", "/v1/recommendations"])
def test_wishes_of_a_request_are_kept(site, tiny, path):
    body = {"user_id": "u", "k": 48, "record": False}
    if path == "/v1/related":
        body["video_id"] = "v0"

    def ask(**more):
        return site.client.post(path, json=body | more).json()

    excluded = [f"v{n}" for n in range(10)]
    assert set(ids(ask(exclude=excluded))) == {f"v{n}" for n in range(10, tiny.count)}
    assert set(topics(ask(topics=["t1", "t3", "unheard of"]))) == {"t1", "t3"}
    assert len(ask(languages=["en"])["items"]) >= tiny.count - 1
    assert ask(languages=["xx"])["items"] == []
    debug = ask(exclude=["v11"], topics=["t1"], languages=["en"], debug=True)["debug"]
    assert debug["filtered"]["topic"] > 0
    assert debug["filtered"]["excluded"] >= 1


def test_session_counts_for_its_page_alone(site):
    body = {"user_id": "u", "k": 6, "record": False}

    def ask(**more):
        return site.client.post("/v1/recommendations", json=body | more).json()

    page = ask(session=["v2", "v6"], debug=True)
    assert page["debug"]["viewer_known_by"] == "history"
    assert page["debug"]["filtered"]["watched"] == 2
    assert topics(page).count("t2") >= 5
    assert ask(debug=True)["debug"]["viewer_known_by"] == "nothing"
    # The store knows one of them by now: it is not counted a second time.
    watch = {"event_id": "w", "type": "watch", "user_id": "u", "video_id": "v2", "watch_time_s": 50}
    site.client.post("/v1/events", json={"events": [watch]})
    asked = ask(session=["v2", "v6"], debug=True)
    assert asked["debug"]["filtered"]["watched"] == 2
    inputs = site.releases.current.query_tower.asked[-1]
    assert [v for v in inputs["watched_video_ids"][0] if v] == ["v6", "v2"]


@pytest.mark.parametrize(
    ("wish", "most"), [("exclude", 1000), ("session", 200), ("topics", 100), ("languages", 100)]
)
def test_wishes_without_measure_are_refused(site, wish, most):
    body = {"user_id": "u", wish: ["x"] * (most + 1)}
    answer = site.client.post("/v1/recommendations", json=body)
    assert answer.status_code == 422
    assert str(most) in answer.json()["detail"]


@pytest.mark.parametrize(
    ("vectors", "says"),
    [
        ({"interests": [1.0, "x"]}, "context.vectors.interests"),
        ({"interests": [1.0] * 4097}, "4096"),
        ({"interests": [1.0]}, "'interests', and the release reads no such vector of users"),
    ],
)
def test_a_vector_that_cannot_be_read_is_refused(site, vectors, says):
    body = {"user_id": "u", "context": {"vectors": vectors}}
    answer = site.client.post("/v1/recommendations", json=body)
    assert answer.status_code == 422
    assert says in answer.text
    assert site.client.get("/v1/users/u/history").json()["is_known"] is False
