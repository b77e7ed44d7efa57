"""Three replicas behind a real proxy, restarted and killed one by one: all pages are answered."""

import contextlib
import os
import pathlib
import shutil
import signal
import subprocess
import time

import httpx
import pytest

from tests.serving.servers import free_port

CONFIG = pathlib.Path("serving/deployment/haproxy.cfg")
STAGES = ("history", "query_tower", "sources", "ranker")


@pytest.fixture
def proxy(needs_program, tmp_path):
    """Starts HAProxy with the example, of which only the ports are others; returns its URL."""
    program = needs_program("haproxy")
    with contextlib.ExitStack() as stack:

        def start(ports):
            text = CONFIG.read_text()
            front = free_port()
            text = text.replace("bind :8080", f"bind 127.0.0.1:{front}")
            for number, port in enumerate(ports, start=1):
                text = text.replace(f"127.0.0.1:808{number}", f"127.0.0.1:{port}")
            config = tmp_path / "haproxy.cfg"
            config.write_text(text)
            checked = subprocess.run(
                [program, "-c", "-f", config], capture_output=True, text=True, check=False
            )
            assert checked.returncode == 0, checked.stderr
            process = subprocess.Popen(
                [program, "-db", "-f", config], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
            )
            stack.callback(process.wait)
            stack.callback(process.kill)
            url = f"http://127.0.0.1:{front}"
            while True:
                with contextlib.suppress(httpx.HTTPError):
                    if httpx.get(f"{url}/readyz", timeout=60).status_code == 200:
                        return url
                time.sleep(0.05)

        yield start


def test_pages_go_on_while_replicas_are_restarted_and_killed(
    published_root, tmp_path, serve, proxy, redis_server, crowd_at
):
    redis_server.empty()
    root = shutil.copytree(published_root, tmp_path / "serving_root")
    patient = [f"--{stage}_deadline_s=120" for stage in STAGES]

    def start(number, port):
        # Each with logs of its own, as on hosts of their own.
        logs = f"--logs={tmp_path / f'logs{number}'}"
        flags = (f"--serving_root={root}", logs, f"--history={redis_server.url}", *patient)
        return serve(*flags, f"--port={port}")

    ports = [free_port() for _ in range(3)]
    replicas = [start(number, port) for number, port in enumerate(ports)]
    url = proxy(ports)
    acknowledged = []

    def watch(name):
        event = {"event_id": name, "type": "watch", "user_id": "w", "video_id": "v1"}
        body = {"events": [event | {"watch_time_s": 9}]}
        answer = httpx.post(f"{url}/v1/events", json=body, timeout=120)
        assert answer.status_code == 200, answer.text
        acknowledged.append(name)

    with crowd_at(url, threads=3, pause_s=0.02) as crowd:
        for number, port in enumerate(ports):
            crowd.until(lambda page: True)
            watch(f"before-{number}")
            assert replicas[number].stop() == 0
            watch(f"without-{number}")
            replicas[number] = start(number, port)
        os.kill(replicas[0].serving_pids()[0], signal.SIGKILL)
        replicas[0].process.wait(60)
        for turn in range(5):
            crowd.until(lambda page: True)
            watch(f"after-{turn}")
    crowd.require_all_answered()
    told = httpx.get(f"{url}/v1/users/w/history?limit=50", timeout=120).json()
    assert len(told["watches"]) == len(acknowledged)
