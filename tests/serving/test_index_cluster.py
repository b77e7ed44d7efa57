"""Shards in a Ray cluster of separate processes, one of them killed under requests."""

import os
import pathlib
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import httpx
import numpy as np
import pyarrow as pa
import pytest

from serving import errors
from serving.index import cluster, sharded_building
from serving.index.index import Index
from serving.release import manifest as release
from tests.serving.servers import ROOT, free_port

SHARDS = 3
PORTS = (
    "port",
    "dashboard-agent-grpc-port",
    "dashboard-agent-listen-port",
    "metrics-export-port",
    "runtime-env-agent-port",
    "ray-client-server-port",
)


def wait_until(condition):
    while not condition():
        time.sleep(0.05)


def descendants(pid):
    """Process ids below a process, by what the kernel says."""
    try:
        children = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except FileNotFoundError:
        return []
    return [int(child) for child in children] + [
        one for child in children for one in descendants(child)
    ]


class RayCluster:
    """A cluster of this machine alone."""

    def __init__(self):
        # Sockets in there: their paths must be short.
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="ray-"))
        ports = {name: free_port() for name in PORTS}
        self.address = f"127.0.0.1:{ports['port']}"
        flags = [f"--{name}={port}" for name, port in ports.items()]
        flags += ["--node-ip-address=127.0.0.1", "--num-cpus=2", f"--temp-dir={self.directory}"]
        flags += ["--include-dashboard=false", "--disable-usage-stats"]
        flags += ["--object-store-memory=80000000"]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", *flags],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )

    def is_up(self):
        """Whether it has come up; what is left of it is gone where it has not."""
        while not any(self.directory.rglob("metrics_agent_port*")):
            if self.process.poll() is not None:
                self.stop()
                return False
            time.sleep(0.2)
        return True

    def shard_pids(self):
        """The processes that hold shards."""
        pids = []
        for pid in descendants(self.process.pid):
            try:
                line = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
            except FileNotFoundError:
                continue
            if line.startswith(b"ray::ShardActor"):
                pids.append(pid)
        return pids

    def stop(self):
        below = descendants(self.process.pid)
        self.process.terminate()
        self.process.wait(120)
        for pid in below:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        shutil.rmtree(self.directory, ignore_errors=True)


@pytest.fixture(scope="module")
def ray_cluster(needs_module):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
        ray = needs_module("ray")
        # Ray gives itself up where one of its processes takes more than 20 s to start.
        started = next(one for one in (RayCluster() for _ in range(5)) if one.is_up())
        yield started
        ray.shutdown()
        started.stop()


@pytest.fixture(scope="module")
def sharded_root(tiny_publish, tmp_path_factory):
    root = tmp_path_factory.mktemp("published-in-shards") / "serving_root"
    tiny_publish(root, shards=SHARDS)
    return root


def page_from(server):
    body = {"user_id": "u", "k": 5, "context": {"region": "de"}}
    return httpx.post(f"{server.url}/v1/recommendations", json=body, timeout=120).json()


def answering(server):
    lines = httpx.get(f"{server.url}/metrics", timeout=120).text.splitlines()
    (value,) = [line.split()[1] for line in lines if line.startswith("watchnext_index_answering")]
    return float(value)


def test_a_shard_that_is_killed_costs_a_part_of_the_corpus_and_comes_back(
    ray_cluster, sharded_root, tmp_path, serve, crowd_at
):
    server = serve(
        f"--serving_root={shutil.copytree(sharded_root, tmp_path / 'root')}",
        f"--logs={tmp_path / 'logs'}",
        f"--index_cluster={ray_cluster.address}",
        "--index_cluster_wait_s=400",
        "--sources_deadline_s=20",
        *[f"--{stage}_deadline_s=120" for stage in ("history", "query_tower", "ranker")],
    )
    assert server.watch("w1").status_code == 200
    before = page_from(server)
    assert (before["rung"], answering(server)) == ("full", 1.0)
    assert any("retrieval" in item["sources"] for item in before["items"])
    pids = ray_cluster.shard_pids()
    assert len(pids) == SHARDS
    assert server.process.pid not in pids
    with crowd_at(server.url, user=lambda _: "u", pause_s=0.05, debug=True) as crowd:
        crowd.until(lambda page: page["rung"] == "full")
        os.kill(pids[1], signal.SIGKILL)
        crowd.until(lambda page: page["rung"] == "part_of_index")
        wait_until(lambda: answering(server) == pytest.approx(2 / SHARDS))
        # It comes back by itself.
        crowd.until(lambda page: page["rung"] == "full")
    crowd.require_all_answered()
    parts = [page for _, page in crowd.answers if page["rung"] == "part_of_index"]
    assert {page["rung"] for _, page in crowd.answers} == {"full", "part_of_index"}
    reasons = {page["debug"]["reasons"][0] for page in parts}
    assert all("2 of 3 shards, 66.7% of the videos" in reason for reason in reasons)
    assert answering(server) == 1.0
    assert len(set(ray_cluster.shard_pids()) - set(pids)) == 1
    assert server.stop() == 0
    assert len(ray_cluster.shard_pids()) == SHARDS  # For whoever asks next.


def test_shards_of_a_cluster_are_the_index_and_one_that_hangs_is_left_out(
    ray_cluster, sharded_root
):
    directory = release.load(sharded_root).index
    whole = Index.load(directory)
    opener = cluster.Cluster(ray_cluster.address, deadline_s=5.0, wait_s=400)
    loaded = Index.load(directory, open_shards=opener.open)
    assert loaded.answering == 1.0
    queries = np.random.default_rng(0).integers(-3, 4, (6, whole.dimension)).astype(np.float32)
    for some, k in ((queries, 7), (queries[:1], 100)):
        for one, other in zip(loaded.search(some, k), whole.search(some, k), strict=True):
            np.testing.assert_array_equal(one, other)
    hung = ray_cluster.shard_pids()[0]
    os.kill(hung, signal.SIGSTOP)
    try:
        start = time.monotonic()
        with pytest.raises(errors.IndexPartialError, match="2 of 3 shards"):
            loaded.search(queries, 7)
        waited = time.monotonic()
        with pytest.raises(errors.IndexPartialError, match="GetTimeoutError"):
            loaded.search(queries, 7)
        assert time.monotonic() - waited < waited - start  # It is not waited for again.
    finally:
        os.kill(hung, signal.SIGCONT)
    wait_until(lambda: loaded.answering == 1.0)
    np.testing.assert_array_equal(loaded.search(queries, 7)[0], whole.search(queries, 7)[0])


def test_shards_that_nobody_asks_for_any_more_end(ray_cluster, tmp_path):
    vectors = np.random.default_rng(3).integers(-3, 4, (40, 5)).astype(np.float32)
    sharded_building.build(
        tmp_path,
        pa.array([f"v{n}" for n in range(40)]),
        (vectors[shard::2] for shard in range(2)),
        shards=2,
        tuning_queries=vectors,
        recall_target=0.95,
        exact_below=1000,
    )
    others = set(ray_cluster.shard_pids())
    opener = cluster.Cluster(ray_cluster.address, deadline_s=5.0, wait_s=400, lease_s=3.0)
    loaded = Index.load(tmp_path, open_shards=opener.open)
    mine = set(ray_cluster.shard_pids()) - others
    assert len(mine) == 2
    time.sleep(4)  # Looking at them keeps them.
    assert mine < set(ray_cluster.shard_pids())
    del loaded
    wait_until(lambda: not mine & set(ray_cluster.shard_pids()))
