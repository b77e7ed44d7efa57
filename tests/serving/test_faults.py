"""Parts that fail while requests come in, each over real connections.

Every page must be answered, on a rung that its answer names, and every refusal must be clean: a
problem with a ``Retry-After``, nothing acknowledged that is not kept.
"""

import contextlib
import os
import pathlib
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

import httpx
import pytest

from features.tables import logs
from serving.funnel import loaded_release
from serving.funnel.release_watcher import ReleaseWatcher
from serving.history.redis_store import RedisHistoryStore
from serving.release import manifest as release
from serving.release import publication
from serving.servables.embedded import EmbeddedBackend

ROOT = pathlib.Path(__file__).resolve().parents[2]
NO_MODELS = {"last_embedding", "no_retrieval", "popular"}
# Where nothing is slow on purpose, a busy machine must not look like a fault.
PATIENT = tuple(
    f"--{stage}_deadline_s=120" for stage in ("history", "query_tower", "sources", "ranker")
)


def rung_is(*rungs):
    return lambda page: page.get("rung") in rungs


def watch(event_id, video="v1", user="u"):
    return {
        "event_id": event_id, "type": "watch", "user_id": user, "video_id": video,
        "watch_time_s": 50,
    }  # fmt: skip


def report(url, *events):
    return httpx.post(f"{url}/v1/events", json={"events": list(events)}, timeout=300)


def require_clean_refusal(answer):
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"
    assert answer.headers["content-type"] == "application/problem+json"


# ---- the model server ----------------------------------------------------------------------------


@pytest.fixture
def model_server(serving_root):
    """Starts the model server; a second start takes the same port."""
    with contextlib.closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    script = pathlib.Path(__file__).with_name("model_server.py")
    arguments = [str(port), str(serving_root), release.current(serving_root)]
    started = []

    def start():
        process = subprocess.Popen(
            [sys.executable, script, *arguments],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdout.readline() == "ready\n"
        process.address = f"127.0.0.1:{port}"
        return process

    start.address = f"127.0.0.1:{port}"
    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def test_a_server_that_is_started_before_its_model_server_waits_for_it(
    serving_root, start_binary, model_server
):
    server = start_binary(
        f"--serving_root={serving_root}", f"--model_server={model_server.address}", "--port=0"
    )
    while "Waiting for the model server" not in (line := server.stderr.readline()):
        assert line, "it ended"
    model_server()
    assert server.stdout.readline().startswith("Serving at http://127.0.0.1:")
    server.terminate()
    server.communicate()
    assert server.returncode == 0


def test_model_server_that_fails_hangs_is_killed_and_comes_back(
    serving_root, serve, model_server, crowd_at
):
    models = model_server()
    server = serve(
        f"--serving_root={serving_root}",
        f"--model_server={models.address}",
        "--query_tower_deadline_s=0.5",
        "--ranker_deadline_s=0.5",
    )
    with crowd_at(server.url) as crowd:
        crowd.until(rung_is("full"))
        models.send_signal(signal.SIGUSR1)
        crowd.until(rung_is(*NO_MODELS))
        models.send_signal(signal.SIGUSR2)
        crowd.until(rung_is("full"))
        models.send_signal(signal.SIGSTOP)
        crowd.until(rung_is(*NO_MODELS))
        # After a few deadlines nobody waits for it any more.
        crowd.until(rung_is(*NO_MODELS))
        models.send_signal(signal.SIGCONT)
        crowd.until(rung_is("full"))
        models.kill()
        models.wait()
        crowd.until(rung_is(*NO_MODELS))
        assert httpx.get(f"{server.url}/readyz", timeout=300).status_code == 503
        model_server()
        crowd.until(rung_is("full"))
    crowd.require_all_answered()
    assert {page["rung"] for _, page in crowd.answers} >= {"full", "last_embedding"}


# ---- the history store ---------------------------------------------------------------------------


def test_redis_that_goes_and_comes_back(running, redis_server, crowd_at):
    redis_server.empty()
    site = running(history=RedisHistoryStore(redis_server.url))
    assert report(site.url, watch("a", "v1", user="u1")).json()["accepted"] == 1
    with crowd_at(site.url) as crowd:
        crowd.until(rung_is("full"))
        redis_server.stop()
        crowd.until(rung_is("no_history"))
        require_clean_refusal(report(site.url, watch("b", "v2", user="u1")))
        assert httpx.get(f"{site.url}/readyz", timeout=300).status_code == 503
        redis_server.start()
        crowd.until(rung_is("full"))
    crowd.require_all_answered()
    # What was refused was not kept, and may be sent again.
    answer = report(site.url, watch("a", "v1", user="u1"), watch("b", "v2", user="u1"))
    assert answer.json() == {"accepted": 1, "duplicates": 1}
    assert site.history.read("u1").watches["video_id"].to_pylist() == ["v1", "v2"]


def test_redis_that_hangs_holds_nobody_up_for_long(running, redis_server, tiny, crowd_at):
    redis_server.empty()
    settings = tiny.patient(history_deadline_s=0.2, record_deadline_s=0.2)
    site = running(
        history=RedisHistoryStore(redis_server.url), funnel_options={"settings": settings}
    )
    with crowd_at(site.url, threads=4) as crowd:
        crowd.until(rung_is("full"))
        redis_server.process.send_signal(signal.SIGSTOP)
        crowd.until(rung_is("no_history"))
        # The breaker is closed again and again, so what follows includes requests that try.
        crowd.until(lambda page: page["rung"] == "no_history" and len(crowd.answers) > 30)
        redis_server.process.send_signal(signal.SIGCONT)
        crowd.until(rung_is("full"))
    crowd.require_all_answered()


def trending_at(server):
    """Returns the videos on a page that trend, so that the page of a stranger shows them."""
    body = {"user_id": "stranger", "k": 20, "context": {"region": "de"}}
    page = httpx.post(f"{server.url}/v1/recommendations", json=body, timeout=300).json()
    return {item["video_id"] for item in page["items"] if "trending" in item["sources"]}


def test_two_funnels_share_one_sqlite_store_and_one_log(serving_root, serve, tmp_path, crowd_at):
    flags = (
        f"--serving_root={serving_root}",
        f"--logs={tmp_path / 'logs'}",
        f"--history={tmp_path / 'history.sqlite'}",
        *PATIENT,
    )
    servers = [serve(*flags), serve(*flags)]

    def watches_of(number):
        for step in range(20):
            # Every event goes to both; one of the two is the first.
            event = watch(f"{number}-{step}", f"v{step}", user=f"u{number}")
            for server in servers if number % 2 else servers[::-1]:
                accepted.append(report(server.url, event).json()["accepted"])

    accepted = []
    with crowd_at(servers[0].url) as first, crowd_at(servers[1].url) as second:
        threads = [threading.Thread(target=watches_of, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for crowd in (first, second):
        crowd.require_all_answered()
        assert all(page["rung"] == "full" for _, page in crowd.answers)
    assert (len(accepted), sum(accepted)) == (160, 80)
    for number in range(4):
        for server in servers:
            shown = {item["video_id"] for item in server.page(f"u{number}").json()["items"]}
            assert not shown & {f"v{step}" for step in range(20)}
    # What one records trends on the other, which hears of it through the log.
    assert "v40" not in trending_at(servers[1])
    assert report(servers[0].url, watch("live", "v40", user="w")).json()["accepted"] == 1
    while "v40" not in trending_at(servers[1]):
        time.sleep(0.1)
    assert "v40" in trending_at(servers[0])
    assert [server.stop() for server in servers] == [0, 0]
    watched = logs.read_table(tmp_path / "logs", "watches")
    pairs = list(zip(watched["user_id"].to_pylist(), watched["video_id"].to_pylist(), strict=True))
    by_all = [(f"u{n}", f"v{step}") for n in range(4) for step in range(20)]
    assert sorted(pairs) == sorted([*by_all, ("w", "v40")])


# ---- the index of a new release ------------------------------------------------------------------


def flip_a_byte(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut_short(path):
    path.write_bytes(path.read_bytes()[:-10])


def remove(path):
    path.unlink()


@pytest.fixture(scope="module")
def two_releases(published_root, tiny_publish, tmp_path_factory):
    """A serving root that holds an older release, and a newer one that serves."""
    root = tmp_path_factory.mktemp("two") / "serving_root"
    shutil.copytree(published_root, root)
    return root, release.current(root), tiny_publish(root)


@pytest.mark.parametrize("damage", [flip_a_byte, cut_short, remove])
def test_release_with_a_damaged_index_is_refused_and_the_old_one_serves_on(
    running, two_releases, tmp_path, damage, crowd_at
):
    published, old, new = two_releases
    root = shutil.copytree(published, tmp_path / "serving_root")
    publication.rollback(root)
    watcher = ReleaseWatcher(
        published=lambda: release.current(root),
        load=lambda version: loaded_release.load(root, version, backend=EmbeddedBackend()),
        period_s=0.05,
    )
    watcher.refresh()
    site = running()
    site.funnel.releases = watcher
    with crowd_at(site.url) as crowd:
        crowd.until(rung_is("full"))
        publication.rollback(root, new)
        path = root / "index" / new / "embeddings.npy"
        damage(path)
        watcher.start()
        while not watcher.failures:
            time.sleep(0.02)
        crowd.until(rung_is("full"))
    watcher.close()
    crowd.require_all_answered()
    assert {page["release_id"] for _, page in crowd.answers} == {old}


# ---- the disk ------------------------------------------------------------------------------------


def test_full_disk_refuses_events_and_serves_pages(serving_root, serve, tmp_path, crowd_at):
    """The system refuses every file that grows: the event log, and the history store too."""
    server = serve(f"--serving_root={serving_root}", f"--logs={tmp_path / 'logs'}", *PATIENT)
    acknowledged = []

    def send(number):
        events = [watch(f"{number}-{i}", f"v{i % 48}", user=f"w{number}") for i in range(200)]
        answer = report(server.url, *events)
        if answer.status_code == 200:
            acknowledged.extend((e["user_id"], e["event_id"]) for e in events)
        return answer

    assert send(0).status_code == 200
    _, hard = resource.prlimit(server.serving_pids()[0], resource.RLIMIT_FSIZE)
    with crowd_at(server.url, user=lambda number: "reader") as crowd:
        crowd.until(rung_is("full"))
        resource.prlimit(server.serving_pids()[0], resource.RLIMIT_FSIZE, (200_000, hard))
        number = 0
        while (answer := send(number := number + 1)).status_code == 200:
            assert number < 100, "the disk never filled"
        require_clean_refusal(answer)
        crowd.until(rung_is("full"))
        resource.prlimit(server.serving_pids()[0], resource.RLIMIT_FSIZE, (hard, hard))
        assert send(number).status_code == 200
        crowd.until(rung_is("full"))
    crowd.require_all_answered()
    server.stop(signal.SIGKILL)
    again = serve(f"--serving_root={serving_root}", f"--logs={tmp_path / 'logs'}", *PATIENT)
    again.stop()
    watched = logs.read_table(tmp_path / "logs", "watches", columns=["user_id"])
    users = watched["user_id"].to_pylist()
    for user in {user for user, _ in acknowledged}:
        assert users.count(user) == 200


# ---- a stop under load ---------------------------------------------------------------------------


def test_stop_under_load_answers_what_it_took_and_loses_no_event(serving_root, serve, tmp_path):
    server = serve(f"--serving_root={serving_root}", f"--logs={tmp_path / 'logs'}", *PATIENT)
    acknowledged, lock = [], threading.Lock()

    def send(sender):
        for number in range(10_000):
            event = watch(f"{sender}-{number}", "v1", user=f"s{sender}")
            try:
                answer = report(server.url, event)
            except (httpx.ConnectError, httpx.ReadError, httpx.RemoteProtocolError):
                return
            assert answer.status_code == 200, answer.text
            with lock:
                acknowledged.append(f"s{sender}")

    threads = [threading.Thread(target=send, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    while len(acknowledged) < 40:
        time.sleep(0.01)
    assert server.stop(signal.SIGTERM) == 0
    for thread in threads:
        thread.join()
    watched = logs.read_table(tmp_path / "logs", "watches")["user_id"].to_pylist()
    for number in range(4):
        lost = acknowledged.count(f"s{number}") - watched.count(f"s{number}")
        assert lost <= 0
