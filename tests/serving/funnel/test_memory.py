"""What a server holds does not grow with what it has served, swapped or renewed."""

import collections
import gc
import itertools

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from absl import logging

from features.as_of.history import History
from features.catalogue import Catalogue
from serving import errors
from serving.funnel import loaded_release
from serving.funnel.filters import VideoRules
from serving.funnel.funnel import Funnel
from serving.funnel.loaded_release import LoadedRelease
from serving.funnel.page import PageRequest
from serving.funnel.release_watcher import ReleaseWatcher
from serving.history.sqlite_store import SqliteHistoryStore
from serving.live.state import LiveState
from serving.live.view import LiveView
from serving.release import manifest as release
from serving.servables.embedded import EmbeddedBackend, OpenedModel
from serving.server.live_service import LiveParts


@pytest.fixture
def no_collector():
    """Without it, whatever is part of a reference cycle stays: so a leak shows at once."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.FATAL)  # Pytest keeps log records, and with them errors.
    gc.collect()
    gc.disable()
    yield
    gc.enable()
    logging.set_verbosity(verbosity)


def alive(*kinds):
    """Returns how many objects of each kind there are."""
    # No variable may hold the list: it has the frame's own cells in it, which would be a cycle.
    counts = collections.Counter(map(type, gc.get_objects()))
    return {kind.__name__: counts[kind] for kind in kinds}


@pytest.fixture
def funnel_of(tmp_path, tiny):
    history = SqliteHistoryStore(tmp_path / "history.sqlite")
    funnels = []

    def make(releases, **more):
        funnels.append(
            Funnel(
                releases=releases,
                history=history,
                recorder=None,
                settings=tiny.patient(),
                clock=lambda: tiny.now,
                **more,
            )
        )
        return funnels[-1]

    yield make
    for funnel in funnels:
        funnel.close()
    history.close()


def rungs(funnel):
    """Asks from three regions; returns the rungs of the pages."""
    found = set()
    for region in ("de", "fr", "in"):
        try:
            page = funnel.recommend(PageRequest(user_id="u", k=5, context={"region": region}))
            found.add(page.rung)
        except errors.FilterError:
            found.add("none")
    return found


def fails(viewer, catalogue, rows):
    return 1 / 0


@pytest.mark.parametrize(
    ("broken", "predicate", "rung"),
    [
        (None, None, "full"),
        ("query_tower", None, "popular"),
        ("ranker", None, "no_ranker"),
        (None, fails, "none"),
    ],
)
def test_fifty_swaps_leave_one_release_in_memory(
    tiny, funnel_of, no_collector, broken, predicate, rung
):
    state = LiveState()
    versions = itertools.count(1)
    models = {broken: tiny.broken()} if broken else {}
    watcher = ReleaseWatcher(
        published=lambda: str(next(versions)),
        load=lambda version: tiny.release(version, **models).with_live(state),
    )
    funnel = funnel_of(watcher, predicate=predicate)
    kinds = (Catalogue, LoadedRelease, LiveView, VideoRules)
    before = alive(*kinds, History)
    for number in range(50):
        assert watcher.refresh()
        assert rungs(funnel) == {rung}
        if number == 0:
            first = alive(*kinds)
    assert alive(*kinds) == first
    assert first["LoadedRelease"] == before["LoadedRelease"] + 1
    # Of 150 pages; threads let go of the last ones in their own time.
    assert alive(History)["History"] - before["History"] < 10


def test_two_hundred_renewals_leave_one_shelf_in_memory(
    published_root, funnel_of, tiny, tmp_path, no_collector
):
    """A real release; each new video makes its catalogue anew."""
    backend = EmbeddedBackend()
    moment = 0.0
    parts = LiveParts(
        published_root,
        tmp_path,
        backend,
        clock=lambda: float(tiny.now),
        monotonic=lambda: moment,
    )
    version = release.current(published_root)
    watcher = ReleaseWatcher(
        published=lambda: version,
        load=lambda v: parts.attach(loaded_release.load(published_root, v, backend=backend)),
        renew=parts.renewed,
    )
    kinds = (Catalogue, LoadedRelease, LiveView, VideoRules, OpenedModel)
    before = alive(*kinds)
    watcher.refresh()
    funnel = funnel_of(watcher)
    table = watcher.current.catalogue.table
    place = table.column_names.index("video_id")
    (tmp_path / "videos").mkdir()
    for number in range(200):
        new = pa.array([f"v{1000 + n}" for n in range(number + 1)])
        videos = table.take(pa.array([0] * len(new))).set_column(place, "video_id", new)
        pq.write_table(videos, tmp_path / "videos" / "part-0.parquet")
        moment += 60
        watcher.refresh()
        assert len(watcher.current.catalogue) == len(table) + 1 + number
        assert rungs(funnel) == {"full"}
        if number == 0:
            first = alive(*kinds)
    assert watcher.renewal_failures == 0
    assert alive(*kinds) == first
    # As it was built, and with its shelf.
    assert first["LoadedRelease"] == before["LoadedRelease"] + 2
    assert first["OpenedModel"] == before["OpenedModel"] + 2


@pytest.mark.parametrize("is_broken", [False, True])
def test_requests_over_http_hold_no_release_that_is_gone(running, tiny, no_collector, is_broken):
    """Also where each of them is answered by an error."""
    site = running(funnel_options={"predicate": fails} if is_broken else {})
    counts = []
    for _ in range(10):
        site.releases.current = tiny.release()
        for _ in range(3):
            answer = site.client.post("/v1/recommendations", json={"user_id": "u", "k": 5})
            assert answer.status_code == (503 if is_broken else 200)
        counts.append(alive(LoadedRelease))
    assert counts[-1] == counts[2]


def test_swaps_of_real_releases_leave_the_models_of_one(serving_root, tiny, no_collector):
    backend = EmbeddedBackend()
    versions = [release.current(serving_root), tiny.publish(serving_root)]
    turns = itertools.cycle(versions)
    parts = LiveParts(serving_root, serving_root, backend, clock=lambda: float(tiny.now))
    watcher = ReleaseWatcher(
        published=lambda: next(turns),
        load=lambda v: parts.attach(loaded_release.load(serving_root, v, backend=backend)),
    )
    kinds = (Catalogue, LoadedRelease, LiveView, VideoRules, OpenedModel)
    gc.collect()  # What publishing left.
    before = alive(*kinds)
    for number in range(6):
        assert watcher.refresh()
        watcher.current.probe()
        if number == 0:
            first = alive(*kinds)
    assert alive(*kinds) == first
    assert first["OpenedModel"] == before["OpenedModel"] + 2
