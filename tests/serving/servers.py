"""Real servers for tests: Redis, the funnel in this process or as a binary, and those who ask."""

import contextlib
import dataclasses
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time

import httpx
import pytest
import redis
import uvicorn

from serving.events.log import EventLog
from serving.funnel.funnel import Funnel
from serving.funnel.recorder import Recorder
from serving.funnel.rungs import RUNGS
from serving.history.sqlite_store import SqliteHistoryStore
from serving.process import listening
from serving.server import app as http_server
from serving.server import connections
from serving.server import run as server
from serving.server.app import Service
from serving.server.config import HttpConfig
from tests.serving.tiny_release import patient

ROOT = pathlib.Path(__file__).resolve().parents[2]


def free_port():
    """A port that nobody listens on just now."""
    with contextlib.closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


class RedisServer:
    """A real redis-server of the test session's own, which can go and come back."""

    KEEPING = ("--appendonly", "yes", "--appendfsync", "always")

    def __init__(self, program, directory, *settings):
        self._program = program
        self._directory = directory
        self._settings = settings or self.KEEPING
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.process = None
        self.start()

    def start(self):
        settings = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", *self._settings]
        self.process = subprocess.Popen(
            [self._program, *settings, "--dir", str(self._directory)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        with self.client() as client:
            while True:
                assert self.process.poll() is None, "redis-server did not start"
                try:
                    client.ping()
                    return
                except redis.AuthenticationError:
                    return  # It is there, and wants a password.
                except redis.ConnectionError:
                    time.sleep(0.02)
                time.sleep(0.02)

    def stop(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    def client(self):
        return redis.Redis(port=self.port)

    def empty(self):
        if self.process.poll() is not None:
            self.start()
        with self.client() as client:
            client.flushall()


@pytest.fixture(scope="session")
def redis_server(needs_program, tmp_path_factory):
    """A running Redis; whoever stops it starts it again."""
    program = needs_program("redis-server")
    server = RedisServer(program, tmp_path_factory.mktemp("redis"))
    yield server
    server.stop()


@pytest.fixture
def redis_with(needs_program, tmp_path):
    """Starts a Redis of the test's own with the settings that it is given."""
    with contextlib.ExitStack() as stack:

        def start(*settings):
            server = RedisServer(needs_program("redis-server"), tmp_path, *settings)
            stack.callback(server.stop)
            return server

        yield start


# ---- a server ------------------------------------------------------------------------------------


class LiveNotes:
    """A live state that only notes whom it met and what it was told."""

    def __init__(self):
        self.met, self.events = [], []

    def meet(self, user_id, region):
        self.met.append(user_id)

    def apply(self, events):
        self.events.extend(events)


class Running:
    """A service behind a real port, in a thread of this process."""

    def __init__(
        self,
        tiny,
        directory,
        *,
        history=None,
        funnel_options=None,
        limits=None,
        **more,
    ):
        self.releases = tiny.releases(tiny.release())
        self.history = history or SqliteHistoryStore(directory / "history.sqlite")
        self.log = EventLog(directory / "logs")
        self.live = LiveNotes()
        self.recorder = Recorder(self.history, self.log, self.live)
        self.ahead_s = 0
        self.clock = lambda: tiny.now + self.ahead_s
        more.setdefault(
            "funnel",
            Funnel(
                releases=self.releases,
                history=self.history,
                recorder=self.recorder,
                clock=self.clock,
                **{"settings": patient(), **(funnel_options or {})},
            ),
        )
        self.funnel = more["funnel"]
        fields = {field.name for field in dataclasses.fields(HttpConfig)}
        http = {name: more.pop(name) for name in fields & more.keys()}
        self.service = Service(
            http=HttpConfig(**http),
            history=self.history,
            recorder=self.recorder,
            releases=self.releases,
            models="fakes",
            clock=self.clock,
            **more,
        )
        self._socket = listening.listen("127.0.0.1", 0)
        self.port = self._socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        app = http_server.create_app(self.service)
        self._uvicorn = uvicorn.Server(server.configured(app, limits or connections.Limits()))
        arguments = {"sockets": [self._socket]}
        self._thread = threading.Thread(target=self._uvicorn.run, kwargs=arguments)
        self._thread.start()
        self.client = self.new_client()
        while not self._uvicorn.started:
            time.sleep(0.005)

    def new_client(self):
        return httpx.Client(base_url=self.url, timeout=120)

    def open_connections(self):
        return len(self._uvicorn.server_state.connections)

    def stop(self):
        self._uvicorn.should_exit = True
        self._thread.join()
        self.client.close()
        self._socket.close()
        self.log.close()
        self.history.close()


@pytest.fixture
def running(tiny, tmp_path):
    started = []

    def start(**more):
        started.append(Running(tiny, tmp_path, **more))
        return started[-1]

    yield start
    for one in started:
        one.stop()


@pytest.fixture
def site(running):
    return running()


def _start(*flags):
    return subprocess.Popen(
        [sys.executable, "-m", "serving.serve", *map(str, flags)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # It is to be quiet by itself.
        env={k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"},
    )


class Server:
    """A running binary."""

    def __init__(self, *flags):
        self.process = _start("--port=0", *flags)
        line = self.process.stdout.readline()
        if not line.startswith("Serving at http://"):
            self.process.kill()
            pytest.fail(f"The server did not start: {self.process.communicate()[1]}")
        self.url = line.split()[2]
        # Else a full pipe would stop the server.
        self._drain = threading.Thread(target=self._read)
        self.log = ""
        self._drain.start()

    def _read(self):
        for line in self.process.stderr:
            self.log += line

    def watch(self, event_id, video="v1"):
        event = {
            "event_id": event_id,
            "type": "watch",
            "user_id": "u",
            "video_id": video,
            "watch_time_s": 50,
        }
        return httpx.post(f"{self.url}/v1/events", json={"events": [event]}, timeout=120)

    def page(self, user="u"):
        body = {"user_id": user, "k": 5, "context": {"region": "de"}}
        return httpx.post(f"{self.url}/v1/recommendations", json=body, timeout=120)

    def serving_pids(self):
        """Its children, oldest first: the one that serves, and a successor that loads."""
        pid = self.process.pid
        children = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text()
        return [int(child) for child in children.split()]

    def stop(self, number=signal.SIGTERM):
        if self.process.stdout.closed:  # Stopped before.
            return self.process.returncode
        self.process.send_signal(number)
        code = self.process.wait(300)
        self._drain.join()
        self.process.stdout.close()
        self.process.stderr.close()
        return code


@pytest.fixture
def start_binary():
    """Starts serving.serve with flags; whoever does waits for its end."""
    return _start


@pytest.fixture
def serve():
    """Starts servers, each a process of its own; what is left of them is killed in the end."""
    started = []

    def start(*flags):
        started.append(Server(*flags))
        return started[-1]

    yield start
    for one in started:
        one.stop(signal.SIGKILL)


# ---- those who ask -------------------------------------------------------------------------------


class Crowd:
    """Asks for pages all the time, and keeps every answer."""

    def __init__(
        self, url, *, threads=2, user=lambda number: f"u{number % 5}", pause_s=0.0, debug=False
    ):
        self.answers = []
        self._debug = debug
        self._pause_s = pause_s
        self._url = url
        self._user = user
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(n,)) for n in range(threads)]

    def _ask(self, number):
        with httpx.Client(base_url=self._url, timeout=300) as client:
            while not self._stop.is_set():
                number += 1
                body = {"user_id": self._user(number), "k": 5, "context": {"region": "de"}}
                body["debug"] = self._debug
                answer = client.post("/v1/recommendations", json=body)
                self.answers.append((answer.status_code, answer.json()))
                time.sleep(self._pause_s)

    def until(self, condition):
        """Waits for an answer from now on that fulfils a condition on its page."""
        seen = len(self.answers)
        while not any(condition(page) for _, page in self.answers[seen:]):
            assert all(thread.is_alive() for thread in self._threads)
            time.sleep(0.02)

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error):
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def require_all_answered(self):
        assert {code for code, _ in self.answers} == {200}
        for _, page in self.answers:
            assert len(page["items"]) == 5
            assert page["rung"] in RUNGS


@pytest.fixture
def crowd_at():
    """See :class:`Crowd`."""
    return Crowd
