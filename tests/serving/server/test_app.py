import concurrent.futures
import contextlib
import http.client
import json
import socket
import threading
import time
import types

import httpx
import pytest

from features import command
from features.tables import logs
from serving import errors
from serving.funnel.funnel import Funnel
from serving.process import listening
from serving.server import request_limits, service


def watch(event_id, video, user="u", **more):
    return {
        "event_id": event_id,
        "type": "watch",
        "user_id": user,
        "video_id": video,
        "watch_time_s": 60,
        **more,
    }


def recommend(site, user="u", **more):
    answer = site.client.post("/v1/recommendations", json={"user_id": user, **more})
    assert answer.status_code == 200, answer.text
    return answer.json()


def report(site, *events):
    return site.client.post("/v1/events", json={"events": list(events)})


# ---- pages and events ----------------------------------------------------------------------------


def test_page_has_all_that_a_screen_needs(site, tiny):
    page = recommend(site, k=3, context={"region": "de"})
    assert page["rung"] == "full"
    assert page["release_id"] == "20231114000000"
    assert page["now"] == tiny.now
    first = page["items"][0]
    number = int(first["video_id"][1:])
    assert first["title"] == f"Video {number}"
    assert first["channel_id"] == f"c{number % 8}"
    assert first["topics"] == [f"t{number % 4}"]
    assert first["upload_time"] == tiny.now - 1 - 3600 * number
    assert first["duration_s"] == 100 + number
    assert first["expected_watch_time_s"] > 0
    assert [item["position"] for item in page["items"]] == [0, 1, 2]
    assert "debug" not in page or page["debug"] is None


def test_three_watches_of_a_topic_give_more_of_it(site):
    report(site, watch("0", "v0"))
    before = recommend(site, k=12)
    assert report(site, *(watch(f"w{n}", f"v{n}") for n in (2, 6, 10))).json() == {
        "accepted": 3,
        "duplicates": 0,
    }
    after = recommend(site, k=12)
    share = [sum(i["topics"] == ["t2"] for i in page["items"]) for page in (before, after)]
    assert share[1] > share[0]


def test_events_are_counted_once(site):
    assert report(site, watch("a", "v1"), watch("a", "v1")).json()["accepted"] == 1
    assert report(site, watch("a", "v1")).json() == {"accepted": 0, "duplicates": 1}


def test_profile_of_a_new_user_is_kept(site):
    event = watch("a", "v1", user="new")
    event["user"] = {"region": "it", "age": 30}
    assert report(site, event).status_code == 200
    history = site.client.get("/v1/users/new/history").json()
    assert history["profile"] == {"region": "it", "age": 30}


def test_click_on_a_page_reaches_the_logs(site):
    page = recommend(site, k=2, context={"region": "de"})
    video = page["items"][1]["video_id"]
    common = {"user_id": "u", "video_id": video, "page_id": page["page_id"]}
    report(
        site,
        {"event_id": "c", "type": "click", **common},
        {"event_id": "w", "type": "watch", "watch_time_s": 33, **common},
    )
    site.log.compact(flush=True)
    rows = logs.read_table(site.log.logs_dir, "impressions").to_pylist()
    assert [(r["clicked"], r["watch_time_s"]) for r in rows] == [(False, 0.0), (True, 33.0)]


def test_debug_explains(site):
    page = recommend(site, debug=True, record=True, context={"region": "de"})
    debug = page["debug"]
    assert {"history", "query_tower", "retrieval", "ranking", "page", "record"} <= set(
        debug["stages_ms"]
    )
    assert debug["nominated"]["retrieval"] == 48
    assert debug["recorded"] is True
    assert page["items"][0]["source_scores"]["retrieval"] is not None


def test_history_is_newest_first_with_titles(site, tiny):
    report(site, watch("a", "v1", time=tiny.now - 50), watch("b", "not in the catalogue"))
    report(site, {"event_id": "s", "type": "search", "user_id": "u", "query": "cats"})
    history = site.client.get("/v1/users/u/history?limit=5").json()
    assert [w["title"] for w in history["watches"]] == [None, "Video 1"]
    assert [s["query"] for s in history["searches"]] == ["cats"]
    assert site.client.get("/v1/users?limit=5").json() == {"users": ["u"]}


def test_ids_with_slashes_and_spaces_work(site):
    user = "a/b c?ü"
    report(site, watch("a", "v1", user=user))
    history = site.client.get("/v1/users/a%2Fb%20c%3F%C3%BC/history").json()
    assert history["user_id"] == user
    assert history["is_known"]


def test_release_is_described(site):
    release = site.client.get("/v1/release").json()
    assert release["release_id"] == "20231114000000"
    assert (release["videos"], release["has_ranker"], release["models"]) == (
        48,
        True,
        "fakes",
    )


# ---- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "body", "where"),
    [
        ("recommendations", {"user_id": ""}, "user_id"),
        ("recommendations", {"user_id": "x" * 257}, "user_id"),
        ("recommendations", {"user_id": "a\x00b"}, "user_id"),
        ("recommendations", {"user_id": "u", "k": 0}, "k"),
        ("recommendations", {"user_id": "u", "k": 101}, "k"),
        ("recommendations", {"user_id": "u", "kk": 5}, "kk"),
        ("recommendations", {"user_id": "u", "context": {"age": -1}}, "context.age"),
        ("recommendations", [], "body"),
        ("events", {"events": []}, "events"),
        ("events", {"events": [watch("a", "v", watch_time_s=-1)]}, "watch_time_s"),
        ("events", {"events": [watch("a", "v", watch_time_s=86401)]}, "watch_time_s"),
        ("events", {"events": [watch("a", "v", watch_time_s="long")]}, "watch_time_s"),
        ("events", {"events": [watch("a", "v", time=0)]}, "time"),
        ("events", {"events": [watch("a", "v", type="dance")]}, "type"),
        ("events", {"events": [{"event_id": "a", "type": "search", "user_id": "u"}]}, "query"),
        ("events", {"events": [{"event_id": "a", "type": "click", "user_id": "u"}]}, "video_id"),
        ("events", {"events": [watch(str(i), "v") for i in range(501)]}, "events"),
    ],
)
def test_request_that_breaks_a_rule_is_refused_by_name(site, path, body, where):
    answer = site.client.post(f"/v1/{path}", json=body)
    problem = answer.json()
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert where in problem["detail"]
    assert problem["request_id"] == answer.headers["x-request-id"]


@pytest.mark.parametrize(
    "text",
    [
        b'{"events": [{"event_id": "a", "type": "watch", "user_id": "u", "video_id": "v", '
        b'"watch_time_s": NaN}]}',
        b'{"events": [{"event_id": "a", "type": "watch", "user_id": "\\ud800", "video_id": "v", '
        b'"watch_time_s": 1}]}',
        b"{not json",
        b"\xff\xfe",
        b"",
    ],
)
def test_text_that_is_no_plain_json_is_refused(site, text):
    headers = {"content-type": "application/json"}
    answer = site.client.post("/v1/events", content=text, headers=headers)
    assert answer.status_code in {400, 422}
    assert answer.headers["content-type"] == "application/problem+json"


def test_event_of_the_future_is_refused_and_a_fast_clock_is_forgiven(site, tiny):
    milliseconds = report(site, watch("a", "v1", time=tiny.now + 301))
    assert milliseconds.status_code == 422
    assert "time of event 'a'" in milliseconds.json()["detail"]
    assert report(site, watch("a", "v1", time=tiny.now + 299)).status_code == 200
    assert site.history.read("u").newest_s == tiny.now


def test_event_of_long_ago_is_refused_and_a_late_report_is_not(site, tiny):
    """Each day that events are of costs compaction a partition, so there is an end to them."""
    month = 30 * 86400
    for moment in (1, 86400, tiny.now - month - 1):
        answer = report(site, watch("a", "v1"), watch("b", "v1", time=moment))
        assert answer.status_code == 422
        assert "time of event 'b' must not be before the server's clock" in answer.json()["detail"]
        assert str(moment) in answer.json()["detail"]
    assert not site.history.read("u").is_known  # None of a request of which one is wrong.
    assert report(site, watch("a", "v1", time=tiny.now - month)).json()["accepted"] == 1
    assert site.history.read("u").newest_s == tiny.now - month


@pytest.mark.parametrize("chunked", [False, True])
def test_body_that_is_too_large_is_refused(site, chunked):
    body = b'{"user_id": "' + b"x" * request_limits.MAX_BODY_BYTES + b'"}'
    content = iter([body[:500_000], body[500_000:]]) if chunked else body
    headers = {"content-type": "application/json"}
    answer = site.client.post("/v1/recommendations", content=content, headers=headers)
    assert answer.status_code == 413
    assert answer.headers["content-type"] == "application/problem+json"
    assert recommend(site)["items"]


def test_unknown_path_and_method_are_problems_too(site):
    for answer, status in ((site.client.get("/v2"), 404), (site.client.put("/v1/events"), 405)):
        assert answer.status_code == status
        assert answer.json()["status"] == status
        assert answer.headers["content-type"] == "application/problem+json"


def test_request_id_is_kept_or_made(site):
    kept = site.client.get("/healthz", headers={"x-request-id": "abc-1"})
    assert kept.headers["x-request-id"] == "abc-1"
    made = site.client.get("/healthz", headers={"x-request-id": "no good\tid" + "x" * 80})
    assert len(made.headers["x-request-id"]) == 32


def test_bug_is_a_500_that_tells_no_secrets(running):
    def recommend(request):
        raise RuntimeError("secret")

    site = running(funnel=types.SimpleNamespace(recommend=recommend))
    answer = site.client.post("/v1/recommendations", json={"user_id": "u"})
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["request_id"] == answer.headers["x-request-id"]


def test_events_are_not_acknowledged_when_they_cannot_be_kept(site):
    def full(records):
        raise errors.EventLogError("disk full")

    site.log.append = full
    answer = report(site, watch("a", "v1"))
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"
    del site.log.append
    assert report(site, watch("a", "v1")).json()["accepted"] == 1


# ---- operations ----------------------------------------------------------------------------------


def test_ready_means_that_the_models_answer(running, tiny):
    site = running(readiness_holds_s=0.0)
    assert site.client.get("/healthz").json() == {"status": "ok"}
    assert site.client.get("/readyz").json() == {"status": "ok"}
    for release in (
        tiny.release(query_tower=tiny.broken()),
        tiny.release(ranker=tiny.broken()),
        None,
    ):
        site.releases.current = release
        answer = site.client.get("/readyz")
        assert answer.status_code == 503
        assert answer.headers["content-type"] == "application/problem+json"
    assert site.client.get("/healthz").status_code == 200


def test_metrics_name_rungs_sources_stages_and_routes(site):
    recommend(site, context={"region": "de"})
    report(site, watch("a", "v1"), watch("a", "v1"))
    site.client.get("/nowhere/1")
    text = site.client.get("/metrics").text
    assert 'watchnext_pages_total{rung="full"} 1.0' in text
    assert 'watchnext_candidates_total{source="retrieval"} 48.0' in text
    assert 'watchnext_stage_seconds_count{stage="ranking"} 1.0' in text
    assert 'watchnext_events_total{result="duplicate"} 1.0' in text
    assert 'route="/v1/recommendations",status="200"' in text
    assert 'route="unmatched",status="404"' in text
    assert "watchnext_release_age_seconds" in text


def test_openapi_describes_every_route(site):
    paths = site.client.get("/openapi.json").json()["paths"]
    assert {
        "/v1/recommendations",
        "/v1/related",
        "/v1/events",
        "/v1/release",
        "/v1/users",
        "/healthz",
        "/readyz",
        "/metrics",
    } <= set(paths)
    assert site.client.get("/docs").status_code == 200


class Held:
    """A funnel whose answers wait until they are let go."""

    def __init__(self, tiny_funnel):
        self.funnel = tiny_funnel
        self.let_go = threading.Event()
        self.entered = threading.Semaphore(0)

    def recommend(self, request):
        self.entered.release()
        self.let_go.wait(300)
        return self.funnel.recommend(request)


def test_overload_is_turned_away_at_once_and_the_rest_is_answered(running):
    held = Held(None)
    site = running(funnel=held, threads=2, max_waiting=1)
    held.funnel = Funnel(
        releases=site.releases, history=site.history, recorder=None, clock=site.clock
    )
    body = {"user_id": "u"}
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        waiting = [
            pool.submit(httpx.post, f"{site.url}/v1/recommendations", json=body, timeout=300)
            for _ in range(3)
        ]
        while "watchnext_in_flight 3.0" not in site.client.get("/metrics").text:
            time.sleep(0.01)
        refused = site.client.post("/v1/recommendations", json=body)
        assert "watchnext_in_flight 3.0" in site.client.get("/metrics").text  # It did not wait.
        assert refused.status_code == 503
        assert refused.headers["retry-after"] == "1"
        assert site.client.get("/readyz").status_code == 200
        held.let_go.set()
        assert [future.result().status_code for future in waiting] == [200, 200, 200]
    assert site.client.post("/v1/recommendations", json=body).status_code == 200
    assert "watchnext_overloads_total 1.0" in site.client.get("/metrics").text


def test_caller_who_goes_away_keeps_no_place(running):
    held = Held(None)
    site = running(funnel=held, threads=1, max_waiting=0)
    held.funnel = Funnel(
        releases=site.releases, history=site.history, recorder=None, clock=site.clock
    )
    connection = http.client.HTTPConnection("127.0.0.1", site.port)
    body = json.dumps({"user_id": "u"})
    headers = {"content-type": "application/json"}
    connection.request("POST", "/v1/recommendations", body, headers)
    held.entered.acquire()
    connection.close()
    held.let_go.set()
    for _ in range(200):
        answer = site.client.post("/v1/recommendations", json={"user_id": "u"})
        if answer.status_code == 200:
            break
        time.sleep(0.02)
    assert answer.status_code == 200


def test_history_that_is_no_database_is_one_clear_message(serving_root, tmp_path):
    (tmp_path / "h").write_text("no database" * 100)
    config = service.ServiceConfig(
        serving_root=serving_root, logs=tmp_path / "logs", history=str(tmp_path / "h")
    )
    with pytest.raises(command.InputError, match="the history store .* cannot be opened"):
        service.build(config)


def test_port_in_use_is_one_clear_message():
    with contextlib.closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(command.InputError, match=f"cannot listen on 127.0.0.1:{port}"):
            listening.require_free_port("127.0.0.1", port)
