"""What is wrong with a body is found at a bounded price, away from the event loop."""

import json
import threading

import fastapi.exceptions
import pytest

from serving.server import request_bodies, request_limits
from serving.server import schema as http_schema
from serving.server.request_limits import MAX_BODY_BYTES

JSON = {"content-type": "application/json"}
WATCH = {"event_id": "e", "type": "watch", "user_id": "u", "video_id": "v", "watch_time_s": 1}


def of_a_megabyte(begin, repeated, end, separator=","):
    room = MAX_BODY_BYTES - len(begin) - len(end)
    count = room // (len(repeated.replace("#", "123456")) + len(separator))
    parts = [repeated.replace("#", str(n)) for n in range(count)]
    return (begin + separator.join(parts) + end).encode()


UNKNOWN_KEYS = of_a_megabyte('{"user_id":"u",', '"key#":0', "}")
EVENT_OF_UNKNOWN_KEYS = of_a_megabyte('{"events":[{"event_id":"e",', '"key#":0', "}]}")
WRONG_EVENT = json.dumps({name: [] for name in http_schema.EventIn.model_fields})
MODELS = {
    "events": http_schema.EventsRequest,
    "recommendations": http_schema.RecommendationsRequest,
}
IDS = '{"user_id":"u","blocked":{"videos":['
BAD = {
    "unknown keys": ("recommendations", UNKNOWN_KEYS),
    "unknown keys of a part": (
        "recommendations",
        of_a_megabyte('{"user_id":"u","context":{', '"key#":0', "}}"),
    ),
    "unknown keys of an event": ("events", EVENT_OF_UNKNOWN_KEYS),
    "empty events": ("events", of_a_megabyte('{"events":[', "{}", "]}")),
    "events that are wrong in all": ("events", of_a_megabyte('{"events":[', WRONG_EVENT, "]}")),
    "no ids": ("recommendations", of_a_megabyte(IDS, "[]", "]}}")),
    "empty ids": ("recommendations", of_a_megabyte(IDS, '""', "]}}")),
    "lists in lists": ("recommendations", b"[" * MAX_BODY_BYTES),
    "a deep value": ("recommendations", b'{"user_id":' + b"[" * 500_000 + b"]" * 500_000 + b"}"),
    "a long number": ("recommendations", b'{"user_id":"u","k":' + b"9" * 1_000_000 + b"}"),
    "a long key": ("recommendations", b'{"user_id":"u","' + b"k" * 1_000_000 + b'":1}'),
    "a long id": ("recommendations", b'{"user_id":"' + b"u" * 1_000_000 + b'"}'),
    "a list": ("events", of_a_megabyte("[", "0", "]")),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_megabyte_has_a_few_faults_and_a_short_answer(site, name):
    path, body = BAD[name]
    assert len(body) > 0.5 * MAX_BODY_BYTES
    with pytest.raises(fastapi.exceptions.RequestValidationError) as refused:
        request_bodies.parsed(body, MODELS[path])
    # Its own fields, and so many unknown keys as are named: never what the body has in all.
    most = len(http_schema.EventIn.model_fields) + http_schema.MAX_NAMED
    assert len(refused.value.errors()) <= most
    answer = site.client.post(f"/v1/{path}", content=body, headers=JSON)
    assert answer.status_code == 422
    assert len(answer.content) < 20_000
    assert answer.json()["detail"]


def test_a_few_unknown_keys_are_all_named_and_of_many_the_first(site):
    few = {f"key{n}": 0 for n in range(3)}
    answer = site.client.post("/v1/recommendations", json={"user_id": "u", **few})
    assert {fault["where"] for fault in answer.json()["errors"]} == {f"body.{name}" for name in few}
    answer = site.client.post("/v1/recommendations", content=UNKNOWN_KEYS, headers=JSON)
    (fault,) = answer.json()["errors"]
    assert fault["where"] == "body"
    assert "keys, of which" in fault["rule"]
    assert "'key0', 'key1'" in fault["rule"]
    answer = site.client.post("/v1/events", content=EVENT_OF_UNKNOWN_KEYS, headers=JSON)
    assert answer.json()["errors"][0]["where"] == "body.events.0"


def test_the_loop_answers_while_large_bodies_are_checked(running, monkeypatch):
    """The check of a large body is held up for as long as the test likes."""
    let_go, entered = threading.Event(), threading.Event()
    parsed = request_bodies.parsed

    def held(content, model):
        entered.set()
        let_go.wait(60)
        return parsed(content, model)

    monkeypatch.setattr(request_bodies, "parsed", held)
    site = running()
    answers = []

    def ask():
        with site.new_client() as client:
            answers.append(client.post("/v1/events", content=EVENT_OF_UNKNOWN_KEYS, headers=JSON))

    asking = [threading.Thread(target=ask) for _ in range(3)]
    for thread in asking:
        thread.start()
    assert entered.wait(60)
    try:
        assert site.client.get("/healthz").status_code == 200
    finally:
        let_go.set()
        for thread in asking:
            thread.join()
    assert [answer.status_code for answer in answers] == [422] * 3


def test_a_small_body_is_checked_where_it_is(site, monkeypatch):
    threads = []
    parsed = request_bodies.parsed

    def noted(content, model):
        threads.append(threading.current_thread().name)
        return parsed(content, model)

    monkeypatch.setattr(request_bodies, "parsed", noted)
    small = {"events": [{**WATCH, "event_id": str(n)} for n in range(2)]}
    large = {"events": [{**WATCH, "event_id": str(n)} for n in range(500)]}
    assert len(json.dumps(small)) < request_bodies.LARGE_BYTES < len(json.dumps(large))
    for body in (small, large):
        assert site.client.post("/v1/events", json=body).status_code == 200
    assert "request" not in threads[0]
    assert threads[1].startswith("request")


def test_a_largest_body_that_is_right_is_taken(site):
    ids = [f"video-{n:04d}-" + "x" * 240 for n in range(1000)]
    body = {"user_id": "u", "blocked": {"videos": ids, "channels": ids}}
    assert 0.4 * MAX_BODY_BYTES < len(json.dumps(body)) < request_limits.MAX_BODY_BYTES
    assert site.client.post("/v1/recommendations", json=body).status_code == 200


# ---- what a body is said to be -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        (None, "which is missing"),
        ("", "which is missing"),
        ("text/plain", "got 'text/plain'"),
        ("application/x-www-form-urlencoded", "got 'application/x-www-form-urlencoded'"),
        ("application/jsonp", "got 'application/jsonp'"),
    ],
)
@pytest.mark.parametrize("path", ["/v1/recommendations", "/v1/events", "/v1/users/u/blocked"])
def test_body_that_does_not_say_that_it_is_json_is_told_what_to_send(site, path, kind, told):
    ask = site.client.put if path.endswith("blocked") else site.client.post
    headers = {} if kind is None else {"content-type": kind}
    answer = ask(path, content=b'{"user_id": "u"}', headers=headers)
    assert answer.status_code == 415
    assert answer.headers["content-type"] == "application/problem+json"
    assert "`Content-Type: application/json`" in answer.json()["detail"]
    assert told in answer.json()["detail"]


@pytest.mark.parametrize(
    "kind", ["application/json", "application/json; charset=utf-8", "Application/JSON",
             "application/vnd.api+json"]
)  # fmt: skip
def test_body_that_says_so_in_another_way_is_taken(site, kind):
    answer = site.client.post(
        "/v1/recommendations", content=b'{"user_id": "u"}', headers={"content-type": kind}
    )
    assert answer.status_code == 200


# ---- ids -----------------------------------------------------------------------------------------


def test_whole_numbers_are_ids_as_in_the_logs(site):
    watch = {**WATCH, "event_id": 7, "user_id": 123, "video_id": 456, "page_id": 9}
    watch["time"] = site.clock() - 1
    assert site.client.post("/v1/events", json={"events": [watch]}).json()["accepted"] == 1
    again = {**watch, "event_id": "7", "user_id": "123"}
    assert site.client.post("/v1/events", json={"events": [again]}).json()["duplicates"] == 1
    history = site.client.get("/v1/users/123/history").json()
    assert [row["video_id"] for row in history["watches"]] == ["456"]
    blocked = site.client.put("/v1/users/123/blocked", json={"videos": [1, "1"], "channels": [-5]})
    assert blocked.json() == {"videos": ["1"], "channels": ["-5"]}
    page = site.client.post("/v1/recommendations", json={"user_id": 2**70})
    assert page.status_code == 200
    assert site.history.read(str(2**70)).is_known


@pytest.mark.parametrize("given", [True, False, 1.0, 1.5, None, [1], {"id": 1}, 10**256])
def test_what_is_neither_text_nor_a_whole_number_is_no_id(site, given):
    # A page without a user id is nobody's.
    of_nobody = {"user_id": given, **({"session": [given]} if given is None else {})}
    for path, body in (
        ("recommendations", of_nobody),
        ("recommendations", {"user_id": "u", "blocked": {"videos": [given]}}),
        ("events", {"events": [{**WATCH, "user_id": given}]}),
        ("events", {"events": [{**WATCH, "event_id": given}]}),
    ):
        answer = site.client.post(f"/v1/{path}", json=body)
        assert answer.status_code == 422
        assert "string" in answer.json()["detail"].lower()


def test_page_of_the_api_says_that_ids_may_be_numbers(site):
    schemas = site.client.get("/openapi.json").json()["components"]["schemas"]
    types = [one["type"] for one in schemas["EventIn"]["properties"]["user_id"]["anyOf"]]
    assert types == ["string", "integer"]
    told = "<td><code>user_id</code> *</td><td>string or integer</td><td>(length ≥ 1, length ≤ 256)"
    assert told in site.client.get("/docs").text
