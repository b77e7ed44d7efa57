"""The guard: what it watches, when it goes back, and when it never does."""

import functools
import http.server
import json
import os
import threading
import time
import types

import numpy as np
import pytest

from features import command
from serving.guard import carrying_out
from serving.guard.config import GuardConfig
from serving.guard.polling import Servers
from serving.guard.tallies import CLICKED, DEGRADED, FAILED, GROUPS, KINDS, PAGES, WHOLE, Tally
from serving.guard.watching import Guard
from serving.release import manifest as release
from serving.release import publication, rollbacks
from tests.serving.release.releases import publish

CONFIG = GuardConfig(probation_s=600.0)


class Site:
    """A serving root, what its servers have counted, and a guard."""

    def __init__(self, root, *, roll_back=None):
        self.root = root
        self.counted = {}
        self.now = time.time()
        self.guard = Guard(
            root,
            CONFIG,
            totals=lambda: dict(self.counted),
            roll_back=roll_back
            or functools.partial(carrying_out.roll_back, serving_root=str(root)),
            clock=lambda: self.now,
        )

    def serve(self, version, **kinds):
        more = Tally(np.array([float(kinds.get(kind, 0)) for kind in KINDS]))
        self.counted[version] = self.counted.get(version, Tally()) + more

    def know(self, version, clicked_share):
        outcomes = np.zeros((5, GROUPS))
        outcomes[PAGES], outcomes[CLICKED] = 1.0, clicked_share
        self.counted[version] += Tally(outcomes=outcomes)

    def look(self, after_s=2.0):
        self.now += after_s
        return self.guard.look()


@pytest.fixture
def site(tmp_path):
    site = Site(tmp_path / "root")
    site.first = publish(site.root)
    site.serve(site.first, **{WHOLE: 1000})
    site.look()
    return site


def test_a_release_that_fails_is_left_for_the_one_before_and_that_is_written_down(site):
    bad = publish(site.root)
    assert site.look() is None  # Nothing is known of it yet.
    assert site.guard.on_probation == bad
    site.serve(bad, **{FAILED: 30})
    decision = site.look()
    assert (decision.old, decision.new) == (bad, site.first)
    assert release.current(site.root) == site.first
    (record,) = rollbacks.read(site.root)
    assert (record.old, record.new, record.by) == (bad, site.first, rollbacks.GUARD)
    assert "requests that failed: 1 on 30 pages, before 0, limit" in record.reason
    assert record.evidence["pages"] == 30
    assert record.evidence["seconds_since_publication"] < 10
    json.dumps(record.evidence, allow_nan=False)


def test_it_never_flaps(site):
    bad = publish(site.root)
    site.look()
    site.serve(bad, **{FAILED: 30})
    assert site.look() is not None
    # What was gone back to fails as well, as the history store is gone.
    site.serve(site.first, **{FAILED: 5000})
    assert [site.look() for _ in range(5)] == [None] * 5
    # Somebody wants the other one all the same.
    publication.rollback(site.root, bad)
    site.serve(bad, **{FAILED: 5000})
    assert [site.look() for _ in range(5)] == [None] * 5
    assert release.current(site.root) == bad
    # The next one is watched again, and goes back to what served before it.
    worse = publish(site.root)
    site.look()
    site.serve(worse, **{FAILED: 30})
    assert site.look() is None  # As bad as before is not worse.
    assert site.guard.on_probation == worse


def test_without_a_release_before_nothing_is_done(tmp_path):
    alone = Site(tmp_path / "root")
    first = publish(alone.root)
    alone.serve(first, **{FAILED: 5000})
    assert alone.look() is None
    assert release.current(alone.root) == first


def test_after_its_probation_a_release_is_left_alone(site):
    good = publish(site.root)
    site.serve(good, **{WHOLE: 100})
    site.look()
    site.look(after_s=CONFIG.probation_s + 1)
    assert site.guard.on_probation == ""
    site.serve(good, **{FAILED: 5000})
    assert site.look() is None
    assert release.current(site.root) == good


def test_a_guard_that_starts_later_knows_how_long_a_release_has_served(site):
    late = publish(site.root)
    old = site.now - CONFIG.probation_s - 60
    os.utime(site.root / release.CURRENT, (old, old))
    another = Site(site.root)
    another.serve(late, **{FAILED: 5000})
    assert another.look() is None
    os.utime(site.root / release.CURRENT, (another.now, another.now))
    again = Site(site.root)
    again.counted = another.counted
    assert again.look().old == late


def test_only_what_happened_lately_stands_for_the_time_before(site):
    site.serve(site.first, **{FAILED: 500})  # A bad hour, long ago.
    site.look()
    site.look(after_s=CONFIG.before_s)
    site.serve(site.first, **{WHOLE: 1000})
    site.look()
    bad = publish(site.root)
    os.utime(site.root / release.CURRENT, (site.now, site.now))
    site.look()
    site.serve(bad, **{WHOLE: 60, FAILED: 30})
    assert site.look().old == bad


def test_what_comes_of_the_last_pages_before_a_swap_counts_for_them(site):
    bad = publish(site.root)
    site.serve(bad, **{WHOLE: 3000})
    site.look()  # By now the outcome of no page is known, neither of the old nor of the new ones.
    site.know(site.first, 1.0)
    site.know(bad, 0.0)
    decision = site.look()
    assert decision.old == bad
    assert decision.reason == (
        f"clicked pages per page: 0 on {GROUPS} pages, before 1, limit {1 - CONFIG.max_fall:g}"
    )


def test_what_comes_of_the_last_pages_before_a_swap_is_no_traffic_beside_the_new_one(site):
    site.serve(site.first, **{DEGRADED: 1000})
    site.look()
    as_ill = publish(site.root)
    site.look()
    site.know(site.first, 1.0)
    site.serve(as_ill, **{WHOLE: 200, DEGRADED: 200})
    assert site.look() is None


def test_a_release_is_compared_with_one_that_serves_on_beside_it(site):
    site.serve(site.first, **{DEGRADED: 1000})
    site.look()
    ill = publish(site.root)
    site.look()
    site.know(site.first, 1.0)
    site.serve(site.first, **{WHOLE: 400})  # What was ill before has been well since.
    site.serve(ill, **{WHOLE: 200, DEGRADED: 200})
    assert "pages on a lower rung: 0.5 on 400 pages, before 0," in site.look().reason


def test_what_cannot_be_carried_out_is_tried_again_later(tmp_path):
    calls = []

    def refuse(decision):
        calls.append(decision)
        raise command.InputError("the store is away")

    site = Site(tmp_path / "root", roll_back=refuse)
    site.serve(publish(site.root), **{WHOLE: 1000})
    site.look()
    bad = publish(site.root)
    site.look()
    site.serve(bad, **{FAILED: 30})
    assert site.look() is None
    assert site.look() is None
    assert len(calls) == 1
    site.look(after_s=31)
    assert len(calls) == 2


def test_another_release_that_was_published_meanwhile_is_not_taken_back(site):
    old = publish(site.root)
    publish(site.root)
    with pytest.raises(command.InputError, match="serves by now"):
        publication.rollback(site.root, site.first, seen=old, by=rollbacks.GUARD)


# ---- servers -------------------------------------------------------------------------------------


@pytest.fixture
def server():
    """A server that says what it is told to say."""
    said = types.SimpleNamespace(process="a", releases={}, code=200, asked=[])

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            said.asked.append((self.path, self.headers["Host"], self.headers["Authorization"]))
            self.send_response(said.code)
            self.end_headers()
            body = {"process": said.process, "releases": said.releases}
            self.wfile.write(json.dumps(body).encode() if said.code == 200 else b"{}")

        def log_message(self, *arguments):
            pass

    listening = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=listening.serve_forever)
    thread.start()
    said.port = listening.server_address[1]
    yield said
    listening.shutdown()
    thread.join()
    listening.server_close()


def tally(count):
    return Tally(np.array([count, 0.0, 0.0, 0.0])).to_json()


def test_counts_of_a_server_that_was_restarted_add_up(server):
    servers = Servers([f"http://127.0.0.1:{server.port}"], token="t" * 16)
    server.releases = {"7": tally(10)}
    assert servers.totals()["7"].requests == 10
    server.releases = {"7": tally(15)}
    assert servers.totals()["7"].requests == 15
    server.process, server.releases = "b", {"7": tally(3), "8": tally(1)}
    assert servers.totals()["7"].requests == 18
    assert servers.totals()["8"].requests == 1
    host = f"127.0.0.1:{server.port}"
    assert server.asked[0] == ("/v1/admin/guard", host, f"Bearer {'t' * 16}")


@pytest.mark.parametrize("code", [401, 500])
def test_a_server_that_tells_nothing_takes_nothing_away(server, code):
    servers = Servers([f"http://localhost:{server.port}", "http://127.0.0.1:9"])
    server.releases = {"7": tally(10)}
    assert servers.totals()["7"].requests == 10
    assert (servers.reached, servers.missed) == (1, 1)
    server.code = code
    assert servers.totals()["7"].requests == 10
    assert servers.reached == 0


@pytest.mark.parametrize("url", ["localhost:8080", "http://", "ftp://a", "http://a/b"])
def test_what_is_no_server_is_refused(url):
    with pytest.raises(command.InputError, match="--servers must be http://HOST:PORT"):
        Servers([url])
