"""Tokens, blocking, explanations, the page of the API, metrics, traces, experiments over HTTP."""

import concurrent.futures
import http.server
import socket
import threading

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2

from features import command
from features.tables import logs
from serving import errors
from serving.funnel import sources
from serving.process import listening, tracing
from serving.server import access as http_access
from serving.server import config as server_config
from tests.serving.server.asking import ask

TOKEN = "0123456789abcdef-token"


@pytest.mark.parametrize(
    "header", [None, TOKEN, f"Basic {TOKEN}", f"Bearer {TOKEN}x", "Bearer", f"Bearer {TOKEN[:-1]}"]
)
def test_whoever_has_no_token_is_refused(running, header):
    site = running(token=TOKEN)
    headers = {"authorization": header} if header else None
    for answer in (ask(site, headers=headers), site.client.get("/metrics", headers=headers)):
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["request_id"] == answer.headers["x-request-id"]
    assert site.history.user_ids(1) == []


def test_whoever_has_the_token_is_let_in(running):
    site = running(token=TOKEN)
    for kind in ("Bearer", "bearer"):
        assert ask(site, headers={"authorization": f"{kind} {TOKEN}"}).status_code == 200


def test_health_and_the_pages_need_no_token(running):
    site = running(token=TOKEN)
    for path in ("/healthz", "/readyz", "/", "/docs", "/openapi.json"):
        assert site.client.get(path).status_code == 200
    document = site.client.get("/openapi.json").json()
    assert "401" in document["paths"]["/v1/events"]["post"]["responses"]


def test_token_is_read_from_a_file_or_the_environment(tmp_path, monkeypatch):
    monkeypatch.delenv(http_access.TOKEN_VARIABLE, raising=False)
    assert http_access.read_token(None) is None
    monkeypatch.setenv(http_access.TOKEN_VARIABLE, TOKEN)
    assert http_access.read_token(None) == TOKEN
    path = tmp_path / "token"
    path.write_text("another-token-of-a-file\n")
    assert http_access.read_token(str(path)) == "another-token-of-a-file"
    for text in ("short", "", "with a blank in the middle", "ünicode-ünicode-ünicode"):
        path.write_text(text)
        with pytest.raises(command.InputError, match="must be 16 or more printable ASCII"):
            http_access.read_token(str(path))
    with pytest.raises(command.InputError, match="cannot be read"):
        http_access.read_token(str(tmp_path / "nothing"))


def test_only_this_machine_reaches_loopback():
    told = {host: listening.is_loopback(host) for host in ("127.0.0.1", "::1", "localhost")}
    assert all(told.values())
    assert not any(map(listening.is_loopback, ("0.0.0.0", "::", "192.168.0.7", "example.org")))


# ---- by which name -------------------------------------------------------------------------------


@pytest.fixture
def on_loopback(running):
    return running(hosts=http_access.allowed_hosts("127.0.0.1", ["Videos.Example.org."]))


@pytest.mark.parametrize(
    "host",
    ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:8080", "", "127.0.0.2", "*",
     "127.0.0.1:80:80", "[::1", "localhost@evil.example"],
)  # fmt: skip
def test_loopback_does_not_answer_to_another_name(on_loopback, host):
    for path in ("/", "/healthz", "/readyz", "/v1/users", "/v1/release/"):
        answer = on_loopback.client.get(path, headers={"host": host})
        assert answer.status_code == 421
        assert answer.headers["content-type"] == "application/problem+json"
        assert "--allowed_hosts" in answer.json()["detail"]
        assert answer.json()["request_id"] == answer.headers["x-request-id"]
    body = {"user_id": "u"}
    answer = on_loopback.client.post("/v1/recommendations", json=body, headers={"host": host})
    assert answer.status_code == 421
    assert on_loopback.history.user_ids(1) == []


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "127.0.0.1:1", "localhost:8080", "LOCALHOST", "[::1]:8080", "localhost.",
     "videos.example.org", "videos.example.org.:443", "VIDEOS.example.org"],
)  # fmt: skip
def test_loopback_answers_to_its_names_and_those_it_was_given(on_loopback, host):
    answer = on_loopback.client.get("/v1/users", headers={"host": host})
    assert answer.status_code == 200


def test_one_wrong_name_of_two_is_refused_and_none_is_no_browser(on_loopback):
    def status(*headers):
        with socket.create_connection(("127.0.0.1", on_loopback.port), 60) as connection:
            lines = ["GET /healthz HTTP/1.0", *headers, "", ""]
            connection.sendall("\r\n".join(lines).encode())
            return int(connection.recv(65536).split()[1])

    assert status("Host: localhost", "Host: evil.example") == 421
    assert status("Host: localhost") == 200
    assert status() == 200


def test_other_addresses_answer_to_all_names_unless_some_are_given():
    assert http_access.allowed_hosts("0.0.0.0", []) == {server_config.ANY_HOST}
    assert http_access.allowed_hosts("0.0.0.0", ["a.org", "[::2]"]) == {"a.org", "::2"}
    assert server_config.ANY_HOST in http_access.allowed_hosts("127.0.0.1", ["*"])
    for name in ("a.org:80", "http://a.org", "a b", "", "*.a.org"):
        with pytest.raises(command.InputError, match="names or addresses without port"):
            http_access.allowed_hosts("127.0.0.1", [name])


def test_nothing_is_redirected_to_where_a_request_says(site):
    for path in ("/v1/release/", "/v1/users/", "/healthz/", "/docs/"):
        answer = site.client.get(path, headers={"host": "evil.example"})
        assert answer.status_code == 404
        assert "location" not in answer.headers


# ---- readiness -----------------------------------------------------------------------------------


class CountedTower:
    """Fails when told to, and counts its predictions."""

    def __init__(self, tower):
        self.tower, self.asked, self.fails = tower, 0, False

    def predict(self, inputs, *, deadline_s=None):
        self.asked += 1
        if self.fails:
            raise errors.ModelError("broken")
        return self.tower.predict(inputs, deadline_s=deadline_s)


@pytest.mark.parametrize("fails", [False, True])
def test_many_who_ask_whether_it_is_ready_cost_one_prediction(running, tiny, fails):
    tower = CountedTower(tiny.tower())
    site = running(readiness_holds_s=3600.0)
    site.releases.current = tiny.release(query_tower=tower)
    tower.fails = fails
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(httpx.get, f"{site.url}/readyz", timeout=60) for _ in range(40)]
    assert {answer.result().status_code for answer in answers} == {503 if fails else 200}
    assert tower.asked == 1


def test_readiness_is_found_out_again_after_a_while(running, tiny):
    tower = CountedTower(tiny.tower())
    site = running(readiness_holds_s=0.0)
    site.releases.current = tiny.release(query_tower=tower)
    told = []
    for tower.fails in (False, True, False):
        told.append(site.client.get("/readyz").status_code)
    assert told == [200, 503, 200]


# ---- looking -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "counts"),
    [
        ({}, True),
        ({"record": True}, True),
        ({"record": True, "debug": True}, True),
        ({"debug": True}, False),
        ({"record": False}, False),
        ({"record": False, "debug": True}, False),
        ({"record": None, "debug": True}, False),
    ],
)
def test_page_that_is_only_looked_at_leaves_no_trace(running, tiny, body, counts):
    site = running(funnel_options={"settings": tiny.patient(max_shown=3)})
    first = ask(site, k=5, context={"region": "de"}, **body).json()
    for site.ahead_s in range(1, 11):  # Twice more would be often enough for a video to rest.
        page = ask(site, k=5, context={"region": "de"}, **body).json()
    if body.get("debug"):
        assert page["debug"]["recorded"] is counts
    same = [i["video_id"] for i in page["items"]] == [i["video_id"] for i in first["items"]]
    assert same is not counts
    shown = site.history.read("u")
    assert shown.is_known is counts
    assert shown.impressions.num_rows == (55 if counts else 0)
    assert list(site.live.met) == (["u"] * 11 if counts else [])
    site.log.compact(flush=True)
    assert len(logged_impressions(site)) == (55 if counts else 0)
    text = site.client.get("/metrics").text
    assert ('watchnext_shown_total{source="retrieval"}' in text) is counts
    assert "watchnext_pages_not_recorded_total 0.0" in text
    assert 'watchnext_pages_total{rung="full"} 11.0' in text


def logged_impressions(site):
    if not (site.log.logs_dir / "impressions").exists():
        return []
    return logs.read_table(site.log.logs_dir, "impressions").to_pylist()


def test_what_is_looked_at_with_a_pretended_context_is_no_last_embedding(running, tiny):
    site = running()
    ask(site, record=False, context={"region": "de"})
    site.releases.current = tiny.release(query_tower=tiny.broken())
    assert ask(site, context={"region": "de"}).json()["rung"] == "popular"


def test_page_of_the_api_tells_of_looking(site):
    answer = site.client.get("/docs").text
    assert "<code>record</code>" in answer
    assert "is for looking at what somebody would see" in answer


# ---- blocking and explaining ---------------------------------------------------------------------


def test_what_a_user_blocks_is_kept_and_explained(site):
    blocked = {"videos": ["v1", "v1"], "channels": ["c2"]}
    answer = site.client.put("/v1/users/a%2Fb/blocked", json=blocked)
    assert answer.json() == {"videos": ["v1"], "channels": ["c2"]}
    assert site.client.get("/v1/users/a%2Fb/history").json()["blocked"] == answer.json()
    page = ask(site, "a/b", k=48, debug=True, context={"region": "de"}).json()
    shown = {int(item["video_id"][1:]) for item in page["items"]}
    assert shown == {n for n in range(48) if n != 1 and n % 8 != 2}
    debug = page["debug"]
    assert debug["filtered"] == {"blocked_video": 1, "blocked_channel": 6}
    assert debug["held_back"]["blocked_channel"] == ["v2", "v10", "v18", "v26", "v34"]
    assert debug["viewer_known_by"] == "context"
    assert set(debug["sources_ms"]) == set(sources.NAMES)
    cleared = site.client.put("/v1/users/a%2Fb/blocked", json={})
    assert cleared.json() == {"videos": [], "channels": []}
    assert len(ask(site, "a/b", k=48).json()["items"]) == 48


def test_request_may_block_for_itself(site):
    page = ask(site, k=48, blocked={"channels": [f"c{n}" for n in range(7)]}).json()
    assert {item["channel_id"] for item in page["items"]} == {"c7"}


@pytest.mark.parametrize(
    "body", [{"videos": [""]}, {"videos": ["v"] * 1001}, {"channels": "c"}, {"chanels": ["c"]}]
)
def test_bad_list_of_blocked_is_refused(site, body):
    assert site.client.put("/v1/users/u/blocked", json=body).status_code == 422
    assert ask(site, blocked=body).status_code == 422


def test_custom_filter_that_fails_is_a_clean_refusal(running):
    def broken(viewer, catalogue, rows):
        raise RuntimeError("no licence server")

    answer = ask(running(funnel_options={"predicate": broken}))
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"
    assert "custom filter" in answer.json()["detail"]


# ---- the page of the API -------------------------------------------------------------------------


def test_page_of_the_api_names_everything_and_loads_nothing(site):
    answer = site.client.get("/docs")
    document = site.client.get("/openapi.json").json()
    assert "<script" not in answer.text
    assert "http://" not in answer.text and "https://" not in answer.text
    assert "default-src 'none'; script-src 'self'" in answer.headers["content-security-policy"]
    for path in document["paths"]:
        assert path in answer.text
    for name in document["components"]["schemas"]:
        assert f"id='{name}'" in answer.text
    assert site.client.get("/redoc").status_code == 404


# ---- metrics -------------------------------------------------------------------------------------


@pytest.mark.parametrize("ranker", ["fake", None])
def test_only_what_failed_counts_as_a_fall_and_every_page_counts_by_rung(site, tiny, ranker):
    site.releases.current = tiny.release(ranker=ranker)
    rung = "full" if ranker else "no_ranker"
    for context in ({}, {"region": "de"}):  # Nothing is known of the first viewer.
        assert ask(site, "new" if not context else "u", context=context).status_code == 200
    text = site.client.get("/metrics").text
    assert "watchnext_degraded_total{" not in text
    pages = {"full": 2} if ranker else {"no_ranker": 1, "popular": 1}
    for name, count in pages.items():
        assert f'watchnext_pages_total{{rung="{name}"}} {count:.1f}' in text
    site.releases.current = tiny.release(ranker=tiny.broken())
    assert ask(site, context={"region": "de"}).json()["rung"] == "no_ranker"
    text = site.client.get("/metrics").text
    assert 'watchnext_degraded_total{part="ranker"} 1.0' in text
    assert text.count("watchnext_degraded_total{") == 1
    assert f'watchnext_pages_total{{rung="{rung}"}}' in text


def test_metrics_name_what_failed_what_was_filtered_and_how_late_events_are(site, tiny):
    site.releases.current = tiny.release(query_tower=tiny.broken())
    ask(site, blocked={"videos": ["v1"]}, context={"region": "de"})
    event = {"event_id": "a", "type": "watch", "user_id": "u", "video_id": "v1",
             "watch_time_s": 5, "time": tiny.now - 100}  # fmt: skip
    site.client.post("/v1/events", json={"events": [event]})
    text = site.client.get("/metrics").text
    assert 'watchnext_pages_total{rung="popular"} 1.0' in text
    assert 'watchnext_pages_total{rung="last_embedding"} 0.0' in text
    assert 'watchnext_degraded_total{part="query_tower"} 1.0' in text
    assert 'watchnext_filtered_total{reason="blocked_video"} 1.0' in text
    assert 'watchnext_viewers_total{known_by="context"} 1.0' in text
    assert 'watchnext_source_seconds_count{source="fresh"} 1.0' in text
    assert 'watchnext_event_lag_seconds_bucket{le="60.0"} 0.0' in text
    assert 'watchnext_event_lag_seconds_bucket{le="300.0"} 1.0' in text
    assert "watchnext_event_log_waiting_seconds" in text
    assert "watchnext_index_recall" in text


# ---- traces --------------------------------------------------------------------------------------


class Collector(http.server.BaseHTTPRequestHandler):
    """An OpenTelemetry collector that keeps what it is sent."""

    spans = []  # noqa: RUF012

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        sent = trace_service_pb2.ExportTraceServiceRequest.FromString(body)
        for resource in sent.resource_spans:
            for scope in resource.scope_spans:
                self.spans.extend(scope.spans)
        self.send_response(200)
        self.end_headers()

    def log_message(self, *arguments):
        pass


def test_stages_of_a_request_are_spans_within_the_trace_of_the_caller(running):
    collector = http.server.HTTPServer(("127.0.0.1", 0), Collector)
    thread = threading.Thread(target=collector.serve_forever)
    thread.start()
    Collector.spans.clear()
    traces = tracing.Traces(f"http://127.0.0.1:{collector.server_port}/v1/traces")
    site = running(funnel_options={"tracer": traces.tracer})
    trace_id = "0af7651916cd43dd8448eb211c80319c"
    parent = f"00-{trace_id}-b7ad6b7169203331-01"
    page = ask(site, headers={"traceparent": parent}, context={"region": "de"}).json()
    traces.close()  # Sends what is left.
    collector.shutdown()
    thread.join()
    collector.server_close()
    spans = {span.name: span for span in Collector.spans}
    assert {"recommend", "history", "query_tower", "retrieval", "ranking", "record"} <= set(spans)
    assert {span.trace_id.hex() for span in spans.values()} == {trace_id}
    root = spans.pop("recommend")
    assert root.parent_span_id.hex() == "b7ad6b7169203331"
    assert {span.parent_span_id for span in spans.values()} == {root.span_id}
    attributes = {a.key: a.value.string_value for a in root.attributes}
    assert attributes == {
        "release": page["release_id"], "rung": "full", "page": page["page_id"]
    }  # fmt: skip
