"""The binary beside a real server: a release that is bad on purpose is left under live traffic."""

import json
import subprocess
import sys
import threading
import time

import httpx
import pytest

from serving.release import manifest as release
from serving.release import rollbacks
from tests.serving.servers import ROOT

TOPICS, USERS = 4, 480


class Viewers:
    """Users with a taste for one topic, who click on what stands first where it is of that topic.

    Each page is another user's, in turn, so that none is shown anything too often.
    """

    def __init__(self, url):
        self.client = httpx.Client(base_url=url, timeout=120)
        self.pages = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._browse)
        watches = [
            {"event_id": f"w{n}", "type": "watch", "user_id": f"user-{n}", "watch_time_s": 60,
             "video_id": f"v{n % TOPICS}"}
            for n in range(USERS)
        ]  # fmt: skip
        for start in range(0, USERS, 100):
            events = {"events": watches[start : start + 100]}
            assert self.client.post("/v1/events", json=events).status_code == 200

    def _browse(self):
        number = 0
        while not self._stop.is_set():
            number += 1
            user = number % USERS
            body = {"user_id": f"user-{user}", "k": 5}
            page = self.client.post("/v1/recommendations", json=body)
            assert page.status_code == 200, page.text
            page = page.json()
            self.pages.append(page["release_id"])
            first = page["items"][0]["video_id"]
            if int(first[1:]) % TOPICS == user % TOPICS:
                click = {"event_id": f"c{number}", "type": "click", "user_id": f"user-{user}",
                         "video_id": first, "page_id": page["page_id"]}  # fmt: skip
                self.client.post("/v1/events", json={"events": [click]})

    def until(self, condition, *, within_s=300):
        end = time.monotonic() + within_s
        while not condition():
            assert self._thread.is_alive()
            assert time.monotonic() < end
            time.sleep(0.05)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *error):
        self._stop.set()
        self._thread.join()
        self.client.close()


@pytest.fixture
def guard(serving_root, tmp_path):
    """Starts the binary; it is stopped in the end, and must then end well."""
    started = []

    def start(*flags):
        line = [sys.executable, "-m", "serving.guard_release", f"--serving_root={serving_root}"]
        started.append(
            subprocess.Popen(
                [*line, *map(str, flags)],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def test_a_release_with_negated_scores_is_left_under_live_traffic_and_a_good_one_is_not(
    serve, serving_root, tiny_publish, guard, tmp_path, record_property
):
    good = release.current(serving_root)
    flags = [f"--{stage}_deadline_s=60" for stage in ("query_tower", "sources", "ranker")]
    server = serve(f"--serving_root={serving_root}", "--outcome_s=2", *flags)
    told = tmp_path / "told.json"
    process = guard(f"--servers={server.url}", "--period_s=0.2", f"--hook=cp /dev/stdin {told}")
    with Viewers(server.url) as viewers:
        viewers.until(lambda: len(viewers.pages) > 300)
        bad = tiny_publish(serving_root, sign=-1.0)
        viewers.until(lambda: viewers.pages[-1] == bad)
        viewers.until(lambda: release.current(serving_root) == good)
        viewers.until(lambda: viewers.pages[-1] == good)
        better = tiny_publish(serving_root)
        viewers.until(lambda: viewers.pages.count(better) > 600)
        assert release.current(serving_root) == better
    (record,) = rollbacks.read(serving_root)
    assert (record.old, record.new, record.by) == (bad, good, "guard")
    assert "clicked pages per page" in record.reason
    # The time that it took, which is the machine's as well, and the pages that it cost are told.
    assert record.evidence["seconds_since_publication"] > 0
    assert 100 < record.evidence["pages"] <= viewers.pages.count(bad)
    cost = record.evidence | {"pages that it cost": viewers.pages.count(bad)}
    record_property("cost", json.dumps(cost))
    assert json.loads(told.read_text())["event"] == "rolled_back"
    assert httpx.get(f"{server.url}/v1/admin/guard").json()["rollbacks"][0]["old"] == bad
    metrics = httpx.get(f"{server.url}/metrics").text
    assert "watchnext_rollbacks_by_guard 1.0" in metrics
    assert f'watchnext_release_pages_total{{outcome="whole",release_id="{bad}"}}' in metrics
    process.terminate()
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert out.startswith(f"Went back from release {bad} to {good}: clicked pages per page")


def test_what_cannot_be_guarded_is_one_clear_message(run_command, serving_root, tmp_path):
    for flags, message in (
        (["--serving_root=/nowhere", "--servers=http://a:1"], "has no release"),
        ([f"--serving_root={serving_root}", "--servers=a"], "--servers must be http://HOST:PORT"),
        ([f"--serving_root={serving_root}", "--servers=http://a:1", "--alpha=2"], "--alpha"),
        ([f"--serving_root={serving_root}", "--servers=http://a:1", "--hook=nothing"], "--hook"),
    ):
        done = run_command("serving.guard_release", *flags)
        assert done.returncode == 2, done.stderr
        assert message in done.stderr
        assert "Traceback" not in done.stderr
