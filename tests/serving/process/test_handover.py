"""A large release is loaded by a process of its own, which takes over: real ones, real kills."""

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

from features.tables import logs
from serving.release import manifest as release
from serving.release import publication

ROOT = pathlib.Path(__file__).resolve().parents[3]
PATIENT = tuple(
    f"--{stage}_deadline_s=120" for stage in ("history", "query_tower", "sources", "ranker")
)

# A server without models: it is done loading at once, and serves by being there.
STUB = """
import os, pathlib, socket, sys, time
from serving import errors
from serving.process import handover, listening, supervisor

here = pathlib.Path(__file__).parent
given = [a.partition("=")[2] for a in sys.argv if a.startswith("--worker=")]
if not given:
    with listening.bind("127.0.0.1", 0) as bound:
        told = supervisor.Supervisor(bound, announce=lambda url: print(url, flush=True))
        sys.exit(told.run())
place = handover.Place.from_text(given[0])
control = handover.Control(place.control)
(here / f"pid-{int(place.is_successor)}").write_text(str(os.getpid()))
while (here / "hold").exists() and place.is_successor:
    time.sleep(0.01)
if (here / "broken").exists() and place.is_successor or (here / "refused").exists():
    sys.exit(2)
listening.start(socket.socket(fileno=place.listening))
control.ready("http://here")
while not control.leaving.is_set():
    time.sleep(0.01)
    if (here / "wanted").exists() and not place.is_successor:
        try:
            control.ask_for_successor("7")
        except errors.HandoverError as error:
            (here / "wanted").unlink()
            (here / "failed").write_text(str(error))
"""


class Stub:
    """A supervisor with stubs as children, in a directory by which they are told what to do."""

    def __init__(self, directory):
        self.directory = directory
        program = directory / "stub.py"
        program.write_text(STUB)
        self.process = subprocess.Popen(
            [sys.executable, program],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )

    def touch(self, name):
        (self.directory / name).write_text("")

    def pid(self, *, of_successor=False):
        path = self.directory / f"pid-{int(of_successor)}"
        wait_until(lambda: path.exists() and path.read_text())
        return int(path.read_text())

    def announced(self):
        return self.process.stdout.readline()

    def ends_with(self):
        return self.process.wait(60)


@pytest.fixture
def stub(tmp_path):
    one = Stub(tmp_path)
    yield one
    one.process.kill()
    one.process.wait()
    one.process.stdout.close()


def wait_until(condition, *, within_s=300):
    end = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.01)


def is_alive(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_stop_is_passed_on_and_is_no_failure(stub):
    assert stub.announced() == b"http://here\n"
    stub.process.terminate()
    assert stub.ends_with() == 0
    assert not is_alive(stub.pid())


def test_a_server_that_is_killed_is_seen_as_killed(stub):
    stub.announced()
    os.kill(stub.pid(), signal.SIGKILL)
    assert stub.ends_with() == 128 + signal.SIGKILL


def test_a_process_that_serves_multiplies_in_one_thread(tmp_path, monkeypatch):
    names = ("OPENBLAS_NUM_THREADS", "TF_NUM_INTRAOP_THREADS")
    for name in names:
        monkeypatch.delenv(name, raising=False)
    one = Stub(tmp_path)
    with one.process.stdout:
        one.announced()
        environment = pathlib.Path(f"/proc/{one.pid()}/environ").read_text().split("\0")
        one.process.terminate()
        assert one.ends_with() == 0
    assert {f"{name}=1" for name in names} <= set(environment)


def test_what_refuses_to_start_gives_its_exit_code(tmp_path):
    (tmp_path / "refused").write_text("")
    one = Stub(tmp_path)
    with one.process.stdout:
        assert one.ends_with() == 2
        assert one.announced() == b""


def test_nobody_serves_on_when_the_owner_of_the_port_is_killed(stub):
    stub.announced()
    stub.process.kill()
    wait_until(lambda: not is_alive(stub.pid()))


def test_a_successor_takes_over_and_the_first_one_leaves(stub):
    stub.announced()
    stub.touch("wanted")
    successor = stub.pid(of_successor=True)
    wait_until(lambda: not is_alive(stub.pid()))
    assert is_alive(successor)
    assert stub.process.poll() is None
    stub.process.terminate()
    assert stub.ends_with() == 0
    assert not is_alive(successor)


@pytest.mark.parametrize("end", ["broken", "killed"])
def test_a_successor_that_fails_leaves_the_first_one_serving(stub, end):
    stub.announced()
    stub.touch("hold")
    stub.touch("wanted")
    successor = stub.pid(of_successor=True)
    if end == "broken":
        stub.touch("broken")
        (stub.directory / "hold").unlink()
        code = 2
    else:
        os.kill(successor, signal.SIGKILL)
        code = -9
    failed = stub.directory / "failed"
    wait_until(lambda: failed.exists() and failed.read_text())
    assert f"{successor} ended with {code}, " in failed.read_text()
    assert is_alive(stub.pid())
    assert stub.process.poll() is None


# ---- real servers --------------------------------------------------------------------------------


def failures(server):
    for line in httpx.get(f"{server.url}/metrics", timeout=120).text.splitlines():
        if line.startswith("watchnext_release_load_failures "):
            return float(line.split()[1])
    raise AssertionError("no such metric")


@contextlib.contextmanager
def flipped_byte(path):
    """Damages a file for a while."""
    content = path.read_bytes()
    path.write_bytes(bytes([content[0] ^ 255]) + content[1:])
    yield
    path.write_bytes(content)


@pytest.fixture
def older_and_newer(published_root, tiny_publish, tmp_path):
    """A serving root with two releases, the older of which serves."""
    root = shutil.copytree(published_root, tmp_path / "serving_root")
    old, new = release.current(root), tiny_publish(root)
    publication.rollback(root)
    return root, old, new


def test_a_new_process_takes_over_under_load_and_what_fails_before_disturbs_nobody(
    older_and_newer, tmp_path, serve, crowd_at
):
    root, old, new = older_and_newer
    flags = (f"--serving_root={root}", f"--logs={tmp_path / 'logs'}", *PATIENT)
    server = serve(*flags, "--hand_over_from_mb=0")
    (first,) = server.serving_pids()
    assert server.watch("before", "v1").json() == {"accepted": 1, "duplicates": 0}
    with crowd_at(server.url, pause_s=0.05) as crowd:
        publication.rollback(root, new)
        with flipped_byte(root / "index" / new / "embeddings.npy"):
            wait_until(lambda: failures(server) == 1)
        crowd.until(lambda page: page["release_id"] == old)

        wait_until(lambda: len(server.serving_pids()) == 2)
        os.kill(server.serving_pids()[1], signal.SIGKILL)
        wait_until(lambda: failures(server) == 2)
        crowd.until(lambda page: page["release_id"] == old)
        assert server.serving_pids() == [first]

        acknowledged = 0
        while not any(page["release_id"] == new for _, page in crowd.answers):
            answer = server.watch(f"during-{acknowledged}", "v2")
            assert answer.json() == {"accepted": 1, "duplicates": 0}
            acknowledged += 1
            time.sleep(0.2)
        wait_until(lambda: not is_alive(first))
        crowd.until(lambda page: page["release_id"] == new)
        assert server.watch("before", "v1").json() == {"accepted": 0, "duplicates": 1}
    crowd.require_all_answered()
    assert {page["release_id"] for _, page in crowd.answers} == {old, new}
    assert server.stop() == 0
    watched = logs.read_table(tmp_path / "logs", "watches")["video_id"].to_pylist()
    assert sorted(watched) == ["v1"] + ["v2"] * acknowledged
