"""A release small enough to reason about: 48 videos, 4 topics, models of a few lines.

Video ``v<n>`` is on topic ``t<n % 4>``, of channel ``c<n % 8>``, was uploaded n hours before
``NOW`` and lasts 100 + n seconds. Its embedding is 1 at its topic; the query tower gives the
share of each topic among the last watches, so retrieval finds what was watched. The ranker
expects ten times the retrieval score plus the place of the video (higher number, longer).
"""

import contextlib
import dataclasses
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import types

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import redis
import uvicorn

from features import spec, tensors
from features.catalogue import Catalogue
from features.statistics import VideoStatistics
from serving import (
    connections,
    errors,
    http_server,
    index,
    listening,
    publication,
    server,
    sources,
)
from serving.event_log import EventLog
from serving.funnel import Funnel
from serving.history_store import SqliteHistoryStore
from serving.http_server import Service
from serving.loaded_release import LoadedRelease
from serving.page import RUNGS, FunnelSettings
from serving.profiles import Profiles
from serving.recorder import Recorder

ROOT = pathlib.Path(__file__).resolve().parents[2]
NOW = 1_700_000_000
TOPICS = 4
COUNT = 48


class FakeIndex:
    """Exact search."""

    kind = "exact"

    def __init__(self, embeddings):
        self.embeddings = embeddings
        self.dimension = embeddings.shape[1]

    def __len__(self):
        return len(self.embeddings)

    def search(self, queries, k):
        scores = queries @ self.embeddings.T
        rows = np.argsort(-scores, axis=1, kind="stable")[:, :k].astype(np.int32)
        return rows, np.take_along_axis(scores, rows, axis=1)


class TopicTower:
    """The share of each topic among ``watched_topics``, and the 1 of the bias."""

    def __init__(self):
        self.asked = []

    def predict(self, inputs, *, deadline_s=None):
        self.asked.append(inputs)
        topics = [topic for topic in inputs["watched_topics"][0] if topic]
        shares = [topics.count(f"t{i}") / max(len(topics), 1) for i in range(TOPICS)]
        return {"embedding": np.array([[*shares, 1.0]], np.float32)}


class PlaceRanker:
    """Ten times the retrieval score, plus the number of the video over the count."""

    def __init__(self, resolved):
        names = resolved.vector_names(spec.RANKER, spec.Side.CANDIDATE, spec.Kind.CONTINUOUS)
        self._score = names.index("retrieval_score")
        self.asked = []

    def predict(self, inputs, *, deadline_s=None):
        self.asked.append(inputs)
        number = np.array([int(v[1:]) for v in inputs["video_id"]])
        score = np.nan_to_num(inputs["candidate_continuous"][:, self._score])
        return {"expected_watch_time_s": (10 * score + number / COUNT).astype(np.float32)}


class BrokenModel:
    """Fails like a model server that is gone."""

    def predict(self, inputs, *, deadline_s=None):
        raise errors.ModelUnavailableError("model server: UNAVAILABLE")


def make_catalogue(count=COUNT):
    numbers = range(count)
    return Catalogue(
        pa.table(
            {
                "video_id": [f"v{n}" for n in numbers],
                "upload_time": pa.array([NOW - 3600 * n for n in numbers], pa.int64()),
                "channel_id": [f"c{n % 8}" for n in numbers],
                "topics": [[f"t{n % TOPICS}"] for n in numbers],
                "language": ["en"] * count,
                "duration_s": [100.0 + n for n in numbers],
                "title": [f"Video {n}" for n in numbers],
            }
        )
    )


def make_daily():
    """v0 is the most watched, then v1, and so on."""
    day = NOW // 86400
    return pa.table(
        {
            "video_id": [f"v{n}" for n in range(COUNT)],
            "day": pa.array([day - 1] * COUNT, pa.int64()),
            "impressions": pa.array([100] * COUNT, pa.int64()),
            "clicks": pa.array([10] * COUNT, pa.int64()),
            "watches": pa.array([COUNT - n for n in range(COUNT)], pa.int64()),
            "watch_time_s": [1000.0] * COUNT,
        }
    )


def make_release(version="20231114000000", *, query_tower=None, ranker="fake", **changes):
    catalogue = make_catalogue()
    daily = make_daily()
    resolved = spec.resolve(
        {
            "users": ["user_id", "region", "age", "signed_in"],
            "videos": catalogue.table.column_names,
            "watches": [],
            "searches": [],
            "impressions": ["candidate_sources", "retrieval_score", "release_id"],
            "context": ["device", "surface"],
        }
    )
    embeddings = np.zeros((COUNT, TOPICS + 1), np.float32)
    embeddings[np.arange(COUNT), np.arange(COUNT) % TOPICS] = 1
    exact = FakeIndex(embeddings)
    popular = sources.Popular(daily, catalogue)
    release = LoadedRelease(
        version=version,
        manifest=None,
        resolved=resolved,
        catalogue=catalogue,
        statistics=VideoStatistics.of(daily, catalogue),
        profiles=Profiles(
            pa.table({"user_id": ["old"], "region": ["fr"], "age": [30.0], "signed_in": [True]})
        ),
        index=exact,
        query_tower=query_tower or TopicTower(),
        ranker=PlaceRanker(resolved) if ranker == "fake" else ranker,
        sources=(
            sources.Retrieval(exact),
            popular,
            sources.Trending(daily, catalogue),
            sources.Fresh(catalogue),
            sources.Channels(catalogue),
        ),
        popular=popular,
    )
    return dataclasses.replace(release, **changes)


class OneRelease:
    """Always the same release; it can be exchanged."""

    def __init__(self, release):
        self.current = release
        self.loaded_at = 0.0
        self.failures = self.renewal_failures = 0
        self.waiting_s = 0.0

    @contextlib.contextmanager
    def pin(self):
        if self.current is None:
            raise errors.NotReadyError("no release is loaded yet.")
        yield self.current

    def close(self):
        pass


def patient(**changes):
    """Settings whose deadlines a busy machine does not miss."""
    stages = ("history", "query_tower", "sources", "ranker", "record")
    return FunnelSettings(**{f"{stage}_deadline_s": 120.0 for stage in stages} | changes)


@pytest.fixture
def tiny():
    """The pieces of the tiny world, by name."""
    return types.SimpleNamespace(
        now=NOW,
        count=COUNT,
        release=make_release,
        catalogue=make_catalogue,
        releases=OneRelease,
        tower=TopicTower,
        ranker=PlaceRanker,
        broken=BrokenModel,
        index=FakeIndex,
        publish=publish,
        patient=patient,
    )


# ---- the same release, published for real --------------------------------------------------------


def _tensor_specs(resolved, model, side, batch=None):
    import tensorflow as tf

    shapes = tensors.signature_shapes(resolved, model, side)
    return {
        name: tf.TensorSpec([batch, *shape[1:]], dtype, name=name)
        for name, (dtype, shape) in shapes.items()
    }


def _save_query_tower(resolved, directory):
    import tensorflow as tf

    module = tf.Module()
    module.topics = tf.constant([f"t{i}" for i in range(TOPICS)])

    @tf.function
    def embed(**raw):
        watched = raw["watched_topics"]
        hits = tf.cast(watched[:, :, None] == module.topics[None, None, :], tf.float32)
        total = tf.maximum(tf.reduce_sum(hits, [1, 2])[:, None], 1.0)
        shares = tf.reduce_sum(hits, 1) / total
        return {"embedding": tf.concat([shares, tf.ones_like(shares[:, :1])], 1)}

    @tf.function
    def embed_videos(**raw):
        hits = tf.cast(raw["topics"][:, :, None] == module.topics[None, None, :], tf.float32)
        place = tf.reduce_max(hits, 1)
        return {"embedding": tf.concat([place, tf.zeros_like(place[:, :1])], 1)}

    inputs = _tensor_specs(resolved, spec.CANDIDATE, spec.Side.QUERY)
    videos = _tensor_specs(resolved, spec.CANDIDATE, spec.Side.CANDIDATE)
    served = {
        "serving_default": embed.get_concrete_function(**inputs),
        "embed_videos": embed_videos.get_concrete_function(**videos),
    }
    tf.saved_model.save(module, str(directory), signatures=served)


def _save_ranker(resolved, directory):
    import tensorflow as tf

    names = resolved.vector_names(spec.RANKER, spec.Side.CANDIDATE, spec.Kind.CONTINUOUS)
    column = names.index("retrieval_score")
    module = tf.Module()

    @tf.function
    def score(**raw):
        scores = raw["candidate_continuous"][:, column]
        number = tf.strings.to_number(tf.strings.substr(raw["video_id"], 1, 9))
        finite = tf.where(tf.math.is_finite(scores), scores, 0.0)
        return {"expected_watch_time_s": 10 * finite + number / COUNT}

    inputs = _tensor_specs(resolved, spec.RANKER, spec.Side.QUERY, 1)
    inputs |= _tensor_specs(resolved, spec.RANKER, spec.Side.CANDIDATE)
    signature = score.get_concrete_function(**inputs)
    tf.saved_model.save(module, str(directory), signatures={"serving_default": signature})


def publish(serving_root, *, has_ranker=True, **columns):
    """Publishes the tiny release with real SavedModels and a real index; returns its version.

    ``columns`` join its videos table, whatever they are: nothing is tried here.
    """
    release = make_release()
    table = release.catalogue.table
    for name, values in columns.items():
        table = table.append_column(name, pa.array(values))
    with publication.building(serving_root) as build:
        videos = build.directory("videos")
        release.resolved.save(videos)
        pq.write_table(table, videos / "videos.parquet")
        pq.write_table(make_daily(), videos / "video_statistics.parquet")
        pq.write_table(release.profiles.table, videos / "users.parquet")
        queries = np.zeros((40, TOPICS + 1), np.float32)
        queries[np.arange(40), np.arange(40) % TOPICS] = 1
        queries[:, -1] = 1
        index.build(
            build.directory("index"),
            release.catalogue.video_ids,
            release.index.embeddings,
            tuning_queries=queries,
            recall_target=0.95,
            exact_below=20_000,
        )
        _save_query_tower(release.resolved, build.directory("query_tower"))
        if has_ranker:
            _save_ranker(release.resolved, build.directory("ranker"))
        return build.publish(metrics={}, gates=[], lineage={}).version


@pytest.fixture(scope="session")
def published_root(tmp_path_factory):
    """A serving root with one real release; do not change it, copy it."""
    root = tmp_path_factory.mktemp("published") / "serving_root"
    publish(root)
    return root


@pytest.fixture(scope="session")
def tiny_publish():
    """Publishes the tiny release once more, into any serving root."""
    return publish


@pytest.fixture
def serving_root(published_root, tmp_path):
    """A serving root of the test's own."""
    return shutil.copytree(published_root, tmp_path / "serving_root")


# ---- Redis ---------------------------------------------------------------------------------------


class RedisServer:
    """A real redis-server of the test session's own, which can go and come back."""

    KEEPING = ("--appendonly", "yes", "--appendfsync", "always")

    def __init__(self, program, directory, *settings):
        self._program = program
        self._directory = directory
        self._settings = settings or self.KEEPING
        with contextlib.closing(socket.socket()) as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
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
        self.clock = lambda: tiny.now
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
        self.service = Service(
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
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
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

    def __init__(self, url, *, threads=2, user=lambda number: f"u{number % 5}", pause_s=0.0):
        self.answers = []
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
