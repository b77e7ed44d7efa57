"""A server on an empty system: it serves what is watched and new until a release is there."""

import shutil
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features import command
from features.tables import logs
from serving.events.event import Event, Kind
from serving.funnel import before_release
from serving.funnel.page import PageRequest
from serving.insight.title_search import TitleSearch
from serving.process.clock import Clock
from serving.release import manifest as release
from serving.server import service
from tests.serving.tiny_release import NOW

VIDEOS = pa.table(
    {
        "video_id": [f"n{i}" for i in range(5)],
        "upload_time": [NOW - 3600 * (i + 1) for i in range(5)],
        "channel_id": ["a", "b", "a", "b", "c"],
        "title": [f"New {i}" for i in range(5)],
    }
)


@pytest.fixture
def empty(tmp_path, tiny):
    """Builds a server whose root and logs are empty but for what a test puts there."""
    built = []

    def make(**changes):
        given = {"before_release": True, "settings": tiny.patient(), **changes}
        config = service.ServiceConfig(
            serving_root=tmp_path / "root",
            logs=tmp_path / "logs",
            history=str(tmp_path / "history.sqlite"),
            **given,
        )
        built.append(service.build(config, clock=Clock(now=lambda: float(NOW), look_s=0.0)))
        return built[-1]

    yield make
    for one in built:
        one.on_close()


def ids(page):
    return [item.video_id for item in page.items]


def looked(server, *, until):
    """The catalogue, once the server has seen so many videos."""
    deadline = time.monotonic() + 300
    while len(server.releases.current.catalogue) < until:
        assert time.monotonic() < deadline
        server.releases.refresh()
    return server.releases.current.catalogue


def watch(server, user, video, at=NOW - 60, profiles=()):
    event = Event(
        event_id=f"{user}{video}", kind=Kind.WATCH, user_id=user, time=at, video_id=video,
        watch_time_s=90.0, completed=True,
    )  # fmt: skip
    server.recorder.record([event], dict(profiles))


def test_without_being_told_a_server_needs_a_release(empty):
    with pytest.raises(command.InputError, match="has no release"):
        empty(before_release=False)


def test_the_newest_come_first_and_what_is_watched_goes_before_them(empty, tmp_path):
    logs.append(tmp_path / "logs", "videos", VIDEOS)
    server = empty()
    page = server.funnel.recommend(PageRequest(user_id="u", k=5))
    assert (page.release_id, page.rung, page.falls) == (before_release.VERSION, "popular", ())
    assert ids(page) == ["n0", "n1", "n2", "n3", "n4"]
    for user in "abc":
        watch(server, user, "n3")
    watch(server, "a", "n2")
    assert ids(server.funnel.recommend(PageRequest(user_id="u", k=3))) == ["n3", "n2", "n0"]
    # Also to one of whom something is known; what was watched is left out.
    assert ids(server.funnel.recommend(PageRequest(user_id="a", k=3))) == ["n0", "n1", "n4"]


def test_popular_is_what_is_watched_meanwhile_where_the_viewer_is(empty, tmp_path):
    logs.append(tmp_path / "logs", "videos", VIDEOS)
    server = empty()

    def popular(**asked):
        page = server.funnel.recommend(PageRequest(user_id="u", k=5, **asked))
        scored = {i.video_id: i.source_scores.get("popular", 0.0) for i in page.items}
        return sorted((v for v in scored if scored[v]), key=lambda v: -scored[v])

    assert popular() == []
    for user in "abc":
        watch(server, user, "n3")
    for user in "de":
        watch(server, user, "n4", profiles={user: {"region": "fr"}})
    assert popular() == ["n3", "n4"]
    assert popular(context={"region": "fr"}) == ["n4", "n3"]


def test_it_starts_with_nothing_at_all_and_learns_of_videos_as_they_come(empty, tmp_path):
    server = empty()
    assert server.funnel.recommend(PageRequest(user_id="u")).items == ()
    logs.append(tmp_path / "logs", "videos", VIDEOS)
    server.releases.refresh()
    page = server.funnel.recommend(PageRequest(user_id="u"))
    assert ids(page) == ["n0", "n1", "n2", "n3", "n4"]
    assert page.items[0].video["title"] == "New 0"
    beside = server.funnel.recommend(PageRequest(user_id="u", related_to="n1", k=3))
    assert ids(beside) == ["n0", "n2", "n3"]


def test_the_first_release_takes_its_place_and_stays(empty, tmp_path, published_root):
    logs.append(tmp_path / "logs", "videos", VIDEOS)
    server = empty()
    shutil.copytree(published_root, tmp_path / "root", dirs_exist_ok=True)
    assert server.releases.refresh()
    version = release.current(published_root)
    assert server.funnel.recommend(PageRequest(user_id="u")).release_id == version
    (tmp_path / "root" / release.CURRENT).unlink()
    with pytest.raises(command.InputError, match="has no release"):
        server.releases.refresh()  # Something was published once: nothing goes back to nothing.
    assert server.funnel.recommend(PageRequest(user_id="u")).release_id == version


def test_an_experiment_and_a_formula_wait_for_it(empty, tmp_path):
    logs.append(tmp_path / "logs", "videos", VIDEOS)
    experiment = tmp_path / "experiment.json"
    experiment.write_text(
        '{"name": "e", "arms": [{"name": "a", "share": 0.5}, '
        '{"name": "b", "share": 0.5, "settings": {"page_value": "watch_time_s + 30*like"}}]}'
    )
    server = empty(experiment=experiment)
    page = server.funnel.recommend(PageRequest(user_id="u"))
    assert page.exposures in {("e/a",), ("e/b",)}
    assert len(page.items) == 5


def test_a_video_keeps_its_row_whatever_the_files_of_the_table_are_called(empty, tmp_path):
    """Who looked at rows, as the search by words did, must not be given other videos by them."""
    directory = tmp_path / "logs" / "videos"
    directory.mkdir(parents=True)
    server = empty()
    search = TitleSearch()
    order = []
    parts = {"z": VIDEOS.slice(3), "m": VIDEOS.slice(1, 2), "a": VIDEOS.slice(0, 1)}
    for name, part in parts.items():
        pq.write_table(part, directory / f"{name}.parquet")
        catalogue = looked(server, until=len(order) + len(part))
        ids = catalogue.video_ids.to_pylist()
        assert ids[: len(order)] == order
        order = ids
        rows = search.find(catalogue, "new", limit=10)
        assert sorted(catalogue.video_ids.take(pa.array(rows)).to_pylist()) == sorted(ids)
    assert order == ["n4", "n3", "n2", "n1", "n0"]  # The oldest of those that came together first.
    (directory / "m.parquet").unlink()  # What was there once stays.
    pq.write_table(VIDEOS.slice(3), directory / "b.parquet")
    time.sleep(0.5)  # A look takes the twentieth part of the time.
    server.releases.refresh()
    assert server.releases.current.catalogue.video_ids.to_pylist() == order
    titles = server.releases.current.catalogue.table["title"].to_pylist()
    assert titles == ["New 4", "New 3", "New 2", "New 1", "New 0"]
