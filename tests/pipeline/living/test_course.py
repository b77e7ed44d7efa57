"""Time at a server: as fast as it is told to, and people who are asked for side by side."""

import dataclasses
import http.server
import json
import threading
import time
import zlib

import numpy as np
import pytest

from features.durations import HOUR_S
from pipeline.living import course
from pipeline.living.client import Client
from pipeline.living.config import LiveConfig
from pipeline.site import config as site_config
from pipeline.site import simulator
from serving.process.clock import SharedClock

SITE = dataclasses.replace(
    site_config.PRESETS["tiny"], users=60, videos=120, topics=4, channels=12, days=2
)


class Handler(http.server.BaseHTTPRequestHandler):
    """Pages that follow from the user and the clock, whoever is asked for first."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_GET(self):
        self._answer({"videos": 10_000, "items": []})

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if "events" in asked:
            self._answer({})
            return
        server = self.server
        with server.lock:
            server.under_way += 1
            server.most = max(server.most, server.under_way)
        time.sleep(0.005)
        with server.lock:
            server.under_way -= 1
        first = zlib.crc32(f"{asked['user_id']} {server.clock()}".encode()) % 40
        items = [{"video_id": f"v{first + n:06d}"} for n in range(asked["k"])]
        self._answer({"items": items, "page_id": "p", "release_id": "7", "rung": "full"})

    def _answer(self, value):
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def server(tmp_path):
    made = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.daemon_threads = True
    made.lock, made.under_way, made.most = threading.Lock(), 0, 0
    made.clock = SharedClock.create(tmp_path / "clock", SITE.start_s)
    thread = threading.Thread(target=made.serve_forever, daemon=True)
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


def passed(server, logs_dir, *, hours, **settings):
    """Lets hours pass at the server; returns what passed, what happened and the most at a time."""
    server.most = 0
    config = LiveConfig(visits_per_day=20.0, tick_s=600, **settings)
    client = Client(f"http://127.0.0.1:{server.server_port}", workers=config.workers)
    one = course.Course(
        simulator.build(SITE), logs_dir, client=client, clock=server.clock, config=config
    )
    end = SITE.start_s + hours * HOUR_S
    told = one.run(SITE.start_s, end)
    client.close()
    assert server.clock() == end
    return told, one.visitors.drain(), server.most


def test_time_runs_as_fast_as_it_is_told_to(server, tmp_path):
    told, _, _ = passed(server, tmp_path / "logs", hours=1, speedup=4 * HOUR_S)
    assert told.seconds >= 0.25
    assert 0 < told.speedup <= 4 * HOUR_S


def test_several_workers_ask_side_by_side_and_people_do_the_same(server, tmp_path):
    _, alone, most_alone = passed(server, tmp_path / "one", hours=8)
    _, together, most = passed(server, tmp_path / "four", hours=8, workers=4)
    assert most_alone == 1 < most <= 4
    assert len(alone["impressions"]["user"]) > 500
    assert alone.keys() == together.keys()
    for table, columns in alone.items():
        for name, values in columns.items():
            np.testing.assert_array_equal(values, together[table][name])
