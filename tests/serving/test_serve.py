"""The binary, as an operator runs it."""

import contextlib
import re
import signal
import socket
import threading
import time

import httpx
import pytest

from features.tables import logs


@pytest.fixture
def refused(start_binary):
    def refused(*flags):
        return _refused(start_binary(*flags))

    return refused


def _refused(process):
    out, err = process.communicate(timeout=300)
    assert process.returncode == 2, err
    assert "Traceback" not in err
    assert out == ""
    return err


def test_no_release_is_one_clear_message(tmp_path, refused):
    message = refused(f"--serving_root={tmp_path}", "--port=0")
    assert "has no release" in message
    assert "python -m serving.build_release" in message


def test_port_in_use_is_one_clear_message(serving_root, refused):
    with contextlib.closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        message = refused(f"--serving_root={serving_root}", f"--port={port}")
    assert f"cannot listen on 127.0.0.1:{port}" in message


@pytest.mark.parametrize("flag", ["--port=70000", "--prot=80", "--now=yesterday"])
def test_bad_flag_is_one_clear_message(tmp_path, flag, refused):
    assert flag.strip("-").partition("=")[0] in refused(f"--serving_root={tmp_path}", flag)


def ask_until(server, stop, codes):
    while not stop.is_set():
        try:
            codes.append(server.page().status_code)
        except (httpx.ConnectError, httpx.ReadError, httpx.RemoteProtocolError) as error:
            codes.append(type(error).__name__)
            return


def test_connections_and_hosts_are_limited_as_told(serving_root, tmp_path, serve):
    server = serve(
        f"--serving_root={serving_root}",
        f"--logs={tmp_path / 'logs'}",
        "--max_connections=20",
        "--allowed_hosts=videos.example,other.example",
    )
    port = int(server.url.rpartition(":")[2])
    with contextlib.ExitStack() as stack:
        for _ in range(60):
            waiting = stack.enter_context(socket.create_connection(("127.0.0.1", port), 60))
            waiting.sendall(b"GET / HTTP/1.1\r\n")
        assert server.page().status_code == 200
        for host, expected in (("videos.example", 200), ("other.example:80", 200), ("evil", 421)):
            answer = httpx.get(f"{server.url}/v1/users", headers={"host": host}, timeout=60)
            assert answer.status_code == expected
    assert server.stop() == 0


def test_a_life_of_a_server(serving_root, tmp_path, serve):
    """Serve, learn, be killed, come back with everything, stop at a signal while busy."""
    flags = (f"--serving_root={serving_root}", f"--logs={tmp_path / 'logs'}")
    server = serve(*flags)
    assert httpx.get(f"{server.url}/readyz", timeout=20).json() == {"status": "ok"}
    assert server.page().json()["rung"] == "full"
    for number in range(20):
        assert server.watch(f"e{number}", f"v{number}").json()["accepted"] == 1
    server.stop(signal.SIGKILL)

    again = serve(*flags)
    assert again.watch("e7", "v7").json() == {"accepted": 0, "duplicates": 1}
    shown = {item["video_id"] for item in again.page().json()["items"]}
    assert not shown & {f"v{number}" for number in range(20)}
    watched = logs.read_table(tmp_path / "logs", "watches")["video_id"].to_pylist()
    assert sorted(watched) == sorted(f"v{number}" for number in range(20))

    codes, stop = [], threading.Event()
    threads = [threading.Thread(target=ask_until, args=(again, stop, codes)) for _ in range(4)]
    for thread in threads:
        thread.start()
    while codes.count(200) < 20:
        time.sleep(0.01)
    assert again.stop(signal.SIGTERM) == 0
    stop.set()
    for thread in threads:
        thread.join()
    # Refused at the door once it drains; never an error in the middle of an answer.
    assert set(codes) <= {200, "ConnectError", "ReadError", "RemoteProtocolError"}
    assert "Got SIGTERM: draining." in again.log
    assert "Stopped." in again.log
    assert all(re.match(r"\d\d:\d\d:\d\d \S", line) for line in again.log.splitlines()), again.log
