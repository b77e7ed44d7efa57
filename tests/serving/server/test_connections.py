"""Connections that keep the server waiting, over real sockets."""

import contextlib
import json
import pathlib
import resource
import socket
import subprocess
import sys
import threading

import httpx
import pytest

from features import command
from serving.server import connections
from serving.server.connections import Limits

ASKED = b"POST /v1/recommendations HTTP/1.1\r\nHost: localhost\r\n"
IMPATIENT = Limits(patience_s=0.4, keep_alive_s=60)
# Of sockets of the tests: far longer than any limit, far shorter than for ever.
LONG_S = 60


def connect(site):
    return socket.create_connection(("127.0.0.1", site.port), LONG_S)


def heard(connection):
    """Returns all that the server says until it ends the connection."""
    parts = []
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(65536):
            parts.append(part)
    return b"".join(parts)


def problem(answer):
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"content-type: application/problem+json" in head
    assert b"connection: close" in head
    found = json.loads(body)
    assert head.split()[1] == str(found["status"]).encode()
    return found


# ---- those who keep the server waiting -----------------------------------------------------------


@pytest.mark.parametrize(
    "sent",
    [
        ASKED,
        b"G",
        ASKED + b"Content-Type: application/json\r\nContent-Length: 100\r\n\r\n",
        ASKED + b'Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{"user_id"',
        ASKED + b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{",
        # As if between two requests, where nothing but idleness was limited.
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n" + ASKED,
    ],
)
def test_request_that_is_never_whole_is_told_so_and_its_connection_closed(running, sent):
    site = running(limits=IMPATIENT)
    with connect(site) as connection:
        connection.sendall(sent)
        answer = heard(connection)
    found = problem(b"HTTP/1.1 408" + answer.partition(b"HTTP/1.1 408")[2])
    assert found["title"] == "Request Timeout"
    assert "0.4 s" in found["detail"]


@pytest.mark.parametrize("begun", [b"X-Slow: ", b"Content-Length: 100000\r\n\r\n"])
def test_a_byte_now_and_then_is_no_progress(running, begun):
    site = running(limits=IMPATIENT)
    with connect(site) as connection, pytest.raises((ConnectionResetError, BrokenPipeError)):
        connection.sendall(ASKED + begun)
        for _ in range(400):  # For fifty times the patience; the end comes in between.
            connection.sendall(b"x")
            threading.Event().wait(0.05)


def test_connection_cannot_be_upgraded_to_one_without_limits(site):
    upgrade = (
        "GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    with connect(site) as connection:
        connection.sendall(upgrade.encode())
        assert connection.recv(65536).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("sent", [b"", b"\r\n"])
def test_connection_that_asks_nothing_is_closed_without_a_word(running, sent):
    site = running(limits=IMPATIENT)
    with connect(site) as connection:
        connection.sendall(sent)
        assert heard(connection) == b""


def test_one_that_goes_on_asking_keeps_its_connection(running):
    site = running(limits=Limits(patience_s=1.6, keep_alive_s=60))
    ask = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with connect(site) as connection:
        for _ in range(10):  # For longer than the patience.
            threading.Event().wait(0.2)
            connection.sendall(ask)
            assert connection.recv(65536).startswith(b"HTTP/1.1 200")


def test_request_that_is_worked_on_for_long_is_answered(running):
    class Slow:
        def recommend(self, request):
            threading.Event().wait(3 * IMPATIENT.patience_s)
            raise AssertionError("slow")

    site = running(limits=IMPATIENT, funnel=Slow())
    answer = site.client.post("/v1/recommendations", json={"user_id": "u"})
    assert answer.status_code == 500  # An answer, and not an end.


def test_one_that_does_not_read_its_answers_is_dropped(running):
    site = running(limits=IMPATIENT)
    ask = b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with connect(site) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        # Sending ends where the server has stopped to read and, later, is gone: a connection whose
        # other side neither reads nor is dropped would block for ever, which the time-out tells.
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            while True:
                connection.sendall(ask)
    assert site.client.get("/healthz").status_code == 200


def test_headers_and_pipelines_without_an_end_are_refused(site):
    with connect(site) as connection, contextlib.suppress(ConnectionError):
        connection.sendall(ASKED)
        for _ in range(100):
            connection.sendall(b"X-More: " + b"x" * 4000 + b"\r\n")
    with connect(site) as connection:
        connection.sendall(ASKED + b"X-More: " + b"x" * connections.MAX_FRAMING_BYTES)
        assert problem(heard(connection))["status"] == 431
    with connect(site) as connection:
        ask = b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n"
        connection.sendall(ask * (connections.MAX_PIPELINED + 10))
        answer = heard(connection)
    assert answer.count(b"HTTP/1.1 200") < connections.MAX_PIPELINED
    assert site.client.get("/healthz").status_code == 200


def test_no_http_is_refused_as_a_problem(site):
    with connect(site) as connection:
        connection.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n")
        assert problem(heard(connection))["status"] == 400


# ---- how many ------------------------------------------------------------------------------------


def test_whoever_waits_longest_makes_room_for_one_more(running):
    site = running(limits=Limits(connections=20))
    with contextlib.ExitStack() as stack:
        idle = [stack.enter_context(connect(site)) for _ in range(60)]
        for connection in idle:
            connection.sendall(ASKED)  # Half a header each.
        # A server that kept them all would have no place for this one.
        for _ in range(5):
            assert httpx.get(f"{site.url}/healthz", timeout=LONG_S).status_code == 200
        assert site.open_connections() <= 20
        assert heard(idle[0]) == b""  # Dropped long before its time, which is 20 s.


def test_where_all_are_being_answered_one_more_is_refused(running):
    let_go = threading.Event()
    entered = threading.Semaphore(0)

    class Held:
        def recommend(self, request):
            entered.release()
            let_go.wait(LONG_S)
            raise AssertionError("held")

    site = running(limits=Limits(connections=2), funnel=Held(), threads=2)
    body = b'{"user_id": "u"}'
    head = ASKED + b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
    with connect(site) as first, connect(site) as second:
        for connection in (first, second):
            connection.sendall(head + body)
            assert entered.acquire(timeout=LONG_S)
        with connect(site) as third:
            assert problem(heard(third))["status"] == 503
        let_go.set()
        for connection in (first, second):
            assert connection.recv(65536).startswith(b"HTTP/1.1 500")


RAISED = """
import resource
from serving.server import connections
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (300, {hard}))
found = connections.within_descriptors(connections.Limits())
print(resource.getrlimit(resource.RLIMIT_NOFILE)[0], found.connections)
"""


@pytest.mark.parametrize(("hard", "expected"), [(4096, "4096 1000"), (700, "700 444")])
def test_process_opens_as_many_files_as_it_may_and_keeps_some_for_itself(hard, expected):
    if resource.getrlimit(resource.RLIMIT_NOFILE)[1] < hard:
        pytest.skip("missing part descriptors: raise ulimit -Hn to 4096")
    done = subprocess.run(
        [sys.executable, "-c", RAISED.format(hard=hard)],
        cwd=pathlib.Path(__file__).resolve().parents[3],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == expected


def test_no_room_for_connections_is_one_clear_message(monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda which: (200, 256))
    monkeypatch.setattr(resource, "setrlimit", lambda which, limits: None)
    with pytest.raises(command.InputError, match=r"Raise the limit \(ulimit -n"):
        connections.within_descriptors(Limits())
