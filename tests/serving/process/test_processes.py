"""Several processes serve side by side on one port: stubs for the order of things, real ones."""

import contextlib
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import httpx
import pytest
from prometheus_client import multiprocess, parser

from serving.release import publication

ROOT = pathlib.Path(__file__).resolve().parents[3]

# A server without models: it tells its seat by a file, and does what files tell it.
STUB = """
import os, pathlib, socket, sys, time
from serving.process import handover, listening, supervisor

here = pathlib.Path(__file__).parent
given = [a.partition("=")[2] for a in sys.argv if a.startswith("--worker=")]
if not given:
    with listening.bind("127.0.0.1", 0) as bound:
        told = supervisor.Supervisor(
            bound, announce=lambda url: print(url, flush=True), processes=3
        )
        sys.exit(told.run())
place = handover.Place.from_text(given[0])
control = handover.Control(place.control)
name = f"{place.seat}-{os.getpid()}"
loading = here / f"loading-{name}"
loading.touch()
others = sum(1 for one in here.glob("loading-*"))
(here / f"loaded-with-{others}").touch()
time.sleep(0.1)
loading.unlink()
if (here / f"broken-{place.seat}").exists():
    sys.exit(2)
listening.start(socket.socket(fileno=place.listening))
control.ready("http://here")
(here / f"serving-{name}").touch()
while not control.leaving.is_set():
    time.sleep(0.01)
    if (here / f"wanted-{os.getpid()}").exists():
        control.ask_for_successor("7")
(here / f"serving-{name}").unlink()
"""


def wait_until(condition, *, within_s=300):
    end = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.02)


class Stubs:
    """A supervisor of three stubs, in a directory by which they are told what to do."""

    def __init__(self, directory):
        self.directory = directory
        (directory / "stub.py").write_text(STUB)
        self.process = subprocess.Popen(
            [sys.executable, directory / "stub.py"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )

    def serving(self):
        """Process ids by seat, of those that are alive."""
        pairs = [path.name.split("-")[1:] for path in self.directory.glob("serving-*")]
        return {int(seat): int(pid) for seat, pid in pairs if pathlib.Path(f"/proc/{pid}").exists()}

    def kill(self, seat):
        pid = self.serving()[seat]
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not pathlib.Path(f"/proc/{pid}").exists())
        (self.directory / f"serving-{seat}-{pid}").unlink()


@pytest.fixture
def stubs(tmp_path):
    one = Stubs(tmp_path)
    assert one.process.stdout.readline() == b"http://here\n"
    wait_until(lambda: len(one.serving()) == 3)
    yield one
    one.process.kill()
    one.process.wait()
    one.process.stdout.close()


def test_all_serve_and_one_loads_at_a_time_and_all_end(stubs):
    assert set(stubs.serving()) == {0, 1, 2}
    assert not (stubs.directory / "loaded-with-2").exists()
    before = stubs.serving()
    stubs.process.terminate()
    assert stubs.process.wait(60) == 0
    assert not any(pathlib.Path(f"/proc/{pid}").exists() for pid in before.values())


def test_one_that_is_killed_is_started_anew_and_the_others_serve_on(stubs):
    before = stubs.serving()
    for _ in range(2):  # The second time it died soon after its start, and is waited for.
        stubs.kill(1)
        wait_until(lambda: 1 in stubs.serving())
    after = stubs.serving()
    assert after.pop(1) != before.pop(1)
    assert after == before


def test_one_that_cannot_start_is_tried_again_and_again(stubs):
    broken = stubs.directory / "broken-2"
    broken.touch()
    stubs.kill(2)
    time.sleep(2)
    assert set(stubs.serving()) == {0, 1}
    broken.unlink()
    wait_until(lambda: set(stubs.serving()) == {0, 1, 2})


def test_the_end_of_the_last_one_is_the_end(stubs):
    pids = [pid for pid in stubs.serving().values()]
    for pid in pids:  # All at once: none is there to serve while another is started.
        os.kill(pid, signal.SIGKILL)
    code = stubs.process.wait(60)
    assert code == 128 + signal.SIGKILL


def test_each_has_a_successor_of_its_own_one_after_the_other(stubs):
    before = stubs.serving()
    for pid in before.values():
        (stubs.directory / f"wanted-{pid}").touch()
    wait_until(lambda: set(stubs.serving().values()).isdisjoint(before.values()))
    assert set(stubs.serving()) == {0, 1, 2}
    assert not (stubs.directory / "loaded-with-2").exists()


# ---- real servers --------------------------------------------------------------------------------


def counted(server, name):
    """Returns the sum of a counter over its labels, as any of the processes tells it."""
    text = httpx.get(f"{server.url}/metrics", timeout=120).text
    return sum(
        sample.value
        for family in parser.text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name
    )


def counted_by(pid):
    """Returns the number of pages that one process made."""
    environment = pathlib.Path(f"/proc/{pid}/environ").read_text().split("\0")
    variables = dict(one.partition("=")[::2] for one in environment)
    shared = pathlib.Path(variables["PROMETHEUS_MULTIPROC_DIR"])
    files = [str(path) for path in shared.glob(f"counter_{pid}.db")]
    families = multiprocess.MultiProcessCollector.merge(files)
    return sum(
        sample.value
        for family in families
        for sample in family.samples
        if sample.name == "watchnext_pages_total"
    )


def asked(url):
    """Asks for one page over a connection of its own; None where that broke off."""
    body = {"user_id": "u1", "k": 5, "context": {"region": "de"}}
    with contextlib.suppress(httpx.RemoteProtocolError, httpx.ReadError):
        return httpx.post(f"{url}/v1/recommendations", json=body, timeout=120)
    return None


def watched(server, user="u"):
    told = httpx.get(f"{server.url}/v1/users/{user}/history", timeout=120).json()
    return [one["video_id"] for one in told["watches"]]


@pytest.fixture
def two(published_root, tmp_path, serve, crowd_at):
    """A serving root, and a server of two processes, both of which have answered."""
    root = shutil.copytree(published_root, tmp_path / "serving_root")
    stages = ("history", "query_tower", "sources", "ranker")
    patient = [f"--{stage}_deadline_s=120" for stage in stages]
    logs = f"--logs={tmp_path / 'logs'}"
    server = serve(f"--serving_root={root}", logs, *patient, "--processes=2")
    wait_until(lambda: len(server.serving_pids()) == 2)
    while not all(counted_by(pid) for pid in server.serving_pids()):
        with crowd_at(server.url, threads=6) as crowd:
            crowd.until(lambda page: True)
        crowd.require_all_answered()
    return root, server


def test_two_count_together_and_know_the_same(two, crowd_at):
    _, server = two
    pids = server.serving_pids()
    before = counted(server, "watchnext_pages_total")
    assert before == sum(map(counted_by, pids))
    for _ in range(10):
        assert asked(server.url).status_code == 200
    assert counted(server, "watchnext_pages_total") == before + 10
    assert server.watch("one", "v1").json() == {"accepted": 1, "duplicates": 0}
    with crowd_at(server.url, threads=6, pause_s=0.01) as crowd:  # Keeps either busy at times.
        for _ in range(10):
            assert watched(server) == ["v1"]
            assert server.watch("one", "v1").json() == {"accepted": 0, "duplicates": 1}
    crowd.require_all_answered()

    def guarded():
        told = httpx.get(f"{server.url}/v1/admin/guard", timeout=120).json()
        (tally,) = told["releases"].values()
        return tally["whole"] + tally["degraded"] + tally["empty"]

    wait_until(lambda: guarded() == counted(server, "watchnext_pages_total"))


def test_kill_9_of_one_is_survived_and_nothing_acknowledged_is_lost(two):
    _, server = two
    first, second = server.serving_pids()
    videos = [f"v{number}" for number in range(3)]
    for video in videos:
        assert server.watch(f"of-{video}", video).json()["accepted"] == 1
    before = counted(server, "watchnext_pages_total")
    os.kill(second, signal.SIGKILL)
    answers = [asked(server.url) for _ in range(30)]
    whole = [answer for answer in answers if answer is not None]
    assert len(whole) >= 29  # One connection may have been taken by the one that died.
    assert {answer.status_code for answer in whole} == {200}
    wait_until(lambda: len(server.serving_pids()) == 2)
    assert first in server.serving_pids()
    assert second not in server.serving_pids()
    assert sorted(watched(server)) == videos
    assert counted(server, "watchnext_pages_total") >= before + len(whole)
    assert server.stop() == 0


def test_each_swaps_in_a_new_release(two, tiny_publish):
    root, server = two
    old = asked(server.url).json()["release_id"]
    new = tiny_publish(root)

    def serving():
        return {asked(server.url).json()["release_id"] for _ in range(12)}

    wait_until(lambda: serving() == {new})
    publication.rollback(root, old)
    wait_until(lambda: serving() == {old})
