import dataclasses
import json
import logging
import shutil
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features import command
from serving import errors
from serving.funnel import loaded_release, release_watcher
from serving.funnel.funnel import Funnel
from serving.funnel.page import PageRequest
from serving.funnel.release_watcher import ReleaseWatcher
from serving.funnel.sources import Question
from serving.history.sqlite_store import SqliteHistoryStore
from serving.history.user_history import unknown_user
from serving.release import checksums
from serving.release import manifest as release
from serving.servables.embedded import EmbeddedBackend


def load(root, version=None, **more):
    version = version or release.current(root)
    return loaded_release.load(root, version, backend=EmbeddedBackend(), **more)


def test_what_was_said_is_counted_where_features_read_it_and_hides_in_any_case(tiny):
    columns = {"user_id": "u", "video_id": "v1", "time": tiny.now - 60, "kind": "hide"}
    said = pa.Table.from_pylist([columns | {"channel_id": None, "value": None}])
    history = dataclasses.replace(unknown_user("u"), feedback=said)
    for kinds in ((), ("hide",)):
        viewer = tiny.release(said=kinds).viewer(history, now=tiny.now, context={})
        assert len(viewer.history.feedback) == len(kinds)
        assert viewer.hidden.videos == ("v1",)


def test_published_release_is_loaded_and_answers_like_its_models(published_root, tiny, tmp_path):
    loaded = load(published_root)
    assert (len(loaded.catalogue), len(loaded.index)) == (48, 48)
    viewer = loaded.viewer(unknown_user("old"), now=tiny.now, context={})
    assert viewer.profile == {"region": "fr", "age": 30.0, "signed_in": True}
    np.testing.assert_array_equal(loaded.embed(viewer), [0, 0, 0, 0, 1])
    history = SqliteHistoryStore(tmp_path / "h.sqlite")
    funnel = Funnel(
        releases=tiny.releases(loaded), history=history, recorder=None, clock=lambda: tiny.now
    )
    page = funnel.recommend(PageRequest(user_id="old", k=5))
    assert page.rung == "full"
    # Nothing was watched: the ranker's order is that of the numbers; 3 of a channel do not occur.
    assert [item.video_id for item in page.items] == ["v47", "v46", "v45", "v44", "v43"]
    assert page.items[0].expected_watch_time_s == pytest.approx(20 + 47 / 48)
    history.close()


def test_release_without_a_ranker_is_loaded(tmp_path, tiny):
    tiny.publish(tmp_path, has_ranker=False)
    loaded = load(tmp_path)
    assert loaded.ranker is None
    with pytest.raises(errors.ModelError, match="has no ranker"):
        loaded.expected_watch_times(
            loaded.viewer(unknown_user("u"), now=tiny.now, context={}), candidates=None
        )


def test_release_whose_filters_cannot_run_is_refused_and_not_served(tmp_path, tiny_publish):
    tiny_publish(tmp_path, regions=["us"] * 48)
    with pytest.raises(release.ReleaseRefusedError, match=r"no page could be.*column 'regions'"):
        load(tmp_path)


def test_altered_release_is_refused(serving_root):
    version = release.current(serving_root)
    path = serving_root / "videos" / version / "videos.parquet"
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(
        release.ReleaseRefusedError, match=r"its videos .* is not what was published"
    ):
        load(serving_root)


def test_index_and_videos_that_do_not_belong_together_are_refused(serving_root):
    version = release.current(serving_root)
    path = serving_root / "videos" / version / "videos.parquet"
    table = pq.read_table(path)
    pq.write_table(table.take(pa.array([1, 0, *range(2, 48)])), path)
    manifest = release.load_manifest(serving_root)
    # As if somebody had signed the mix.
    components = {**manifest.components, "videos": checksums.of_tree(path.parent)}
    signed = dataclasses.replace(manifest, components=components)
    release.manifest_path(serving_root, version).write_text(signed.to_json())
    with pytest.raises(release.ReleaseRefusedError, match="are not, row by row"):
        load(serving_root)


def test_popularity_of_a_region_goes_before_that_of_all(published_root, tiny):
    regional = pa.table({"region": ["de"] * 2, "video_id": ["v40", "v3"], "watches": [60, 30]})
    loaded = load(published_root, regional_watches=lambda: regional)
    viewer = loaded.viewer(unknown_user("u"), now=tiny.now, context={"region": "de"})
    question = Question(
        viewer=viewer,
        excluded=np.zeros(0, np.int32),
        upload_times=loaded.catalogue.upload_times,
    )
    assert loaded.popular.nominate(question, 5).rows.tolist() == [40, 3]


# ---- following what is published -----------------------------------------------------------------


def wait_until(condition):
    for _ in range(500):
        if condition():
            return
        time.sleep(0.02)
    pytest.fail("it did not happen within 10 s")


@pytest.fixture
def watcher_of():
    watchers = []

    def make(published, load, **more):
        watchers.append(ReleaseWatcher(published=published, load=load, period_s=0.02, **more))
        return watchers[-1]

    yield make
    for watcher in watchers:
        watcher.close()


def test_new_release_takes_over_while_a_pinned_one_stays(serving_root, tiny, watcher_of):
    watcher = watcher_of(lambda: release.current(serving_root), lambda v: load(serving_root, v))
    watcher.refresh()
    watcher.start()
    with watcher.pin() as before:
        new = tiny.publish(serving_root)
        wait_until(lambda: watcher.current.version == new)
        assert before.version != new
        before.probe()  # Still whole.
    assert watcher.failures == 0


def test_release_that_cannot_be_loaded_leaves_the_old_one_serving(tiny, watcher_of):
    versions = ["1"]
    loads = []

    def load(version):
        loads.append(version)
        if version == "2":
            raise command.InputError("release 2 is refused")
        return tiny.release(version)

    renewed = []
    watcher = watcher_of(lambda: versions[-1], load, renew=lambda one: renewed.append(one.version))
    watcher.refresh()
    watcher.start()
    versions.append("2")
    wait_until(lambda: watcher.failures >= 2)
    assert watcher.current.version == "1"
    # What is new for the old one reaches it all the same, at each look.
    before = len(renewed)
    wait_until(lambda: len(renewed) >= before + 5)
    assert loads.count("2") <= 10
    versions.append("3")
    wait_until(lambda: watcher.current.version == "3")
    # Ever less often: not at each of the many looks in between.
    assert loads.count("2") <= 10


@pytest.mark.parametrize("error", [OSError(24, "Too many open files"), KeyError("a bug")])
def test_a_renewal_that_fails_holds_up_no_release_and_is_tried_at_each_look(
    tiny, watcher_of, error
):
    versions, renewals = ["1"], []
    renewed = tiny.release("2")

    def renew(current):
        renewals.append(current.version)
        if len(renewals) < 50:
            raise error
        return None if current is renewed else renewed

    watcher = watcher_of(lambda: versions[-1], tiny.release, renew=renew)
    watcher.refresh()
    for _ in range(40):
        watcher._try_refresh()
    assert len(renewals) == watcher.renewal_failures == 40
    versions.append("2")
    watcher._try_refresh()  # The very next look.
    assert watcher.current.version == "2"
    for _ in range(20):
        watcher._try_refresh()
    assert (watcher.renewal_failures, watcher.failures) == (49, 0)
    assert watcher.current is renewed


def test_a_release_does_not_wait_for_another_that_cannot_be_loaded(tiny, watcher_of):
    versions = ["1"]

    def load(version):
        if version == "2":
            raise command.InputError("release 2 is refused")
        return tiny.release(version)

    watcher = watcher_of(lambda: versions[-1], load)
    watcher.refresh()
    versions.append("2")
    for _ in range(12):
        watcher._retry_at = 0.0  # As if the time had passed.
        watcher._try_refresh()
    assert watcher._retry_at > time.monotonic() + 30  # 12 doublings of 20 ms.
    versions.append("3")
    watcher._try_refresh()
    assert watcher.current.version == "3"
    # The first failure of a version is followed by the shortest pause again.
    versions.append("2")
    watcher._try_refresh()
    assert watcher._backoff_s == 2 * 0.02


def test_what_is_published_is_looked_for_steadily_while_it_cannot_be_read(tiny, watcher_of):
    """The server has too many files open for a moment, for example."""
    state = {"version": "1"}

    def published():
        if "error" in state:
            raise state["error"]
        return state["version"]

    watcher = watcher_of(published, tiny.release)
    watcher.refresh()
    state["error"] = OSError(24, "Too many open files")
    for _ in range(20):
        watcher._try_refresh()
    assert watcher.failures == 20
    del state["error"]
    state["version"] = "2"
    watcher._try_refresh()
    assert watcher.current.version == "2"


def test_waiting_for_the_model_server_is_no_failure_and_the_swap_comes_at_the_next_look(
    tiny, watcher_of, caplog
):
    versions, missing, looks, handed = ["1"], ["NOT_FOUND"], [], []

    def awaited(version):
        looks.append(version)
        return "".join(missing)

    def hand_over(version):
        assert not missing  # Nobody loads what is not there yet.
        handed.append(version)
        return False

    renewed = []
    watcher = watcher_of(
        lambda: versions[-1],
        tiny.release,
        renew=lambda one: renewed.append(one.version),
        hand_over=hand_over,
        awaited=awaited,
    )
    watcher.refresh()
    assert (watcher.waiting_s, looks) == (0.0, [])
    caplog.set_level(logging.INFO, logger="absl")
    watcher.start()
    versions.append("2")
    wait_until(lambda: len(looks) >= 30)
    assert watcher.current.version == "1"
    assert len(renewed) >= 29  # What is new reaches the old one meanwhile.
    assert watcher.waiting_s > 0
    assert watcher.failures == 0
    assert watcher._retry_at == 0.0
    assert [r.levelname for r in caplog.records if "waiting for: NOT_FOUND" in r.message] == [
        "INFO"
    ]
    assert not [r for r in caplog.records if r.levelno > logging.INFO]
    missing.clear()
    wait_until(lambda: watcher.current.version == "2")
    assert handed[0] == "2"
    assert watcher.waiting_s == 0.0


def test_what_is_waited_for_too_long_is_said_as_a_warning(tiny, watcher_of, caplog, monkeypatch):
    monkeypatch.setattr(release_watcher, "_PATIENCE_S", 0.1)
    versions = ["1"]
    watcher = watcher_of(lambda: versions[-1], tiny.release, awaited=lambda _: "NOT_FOUND")
    watcher.refresh()
    watcher.start()
    versions.append("2")
    wait_until(lambda: "has been waited for during" in caplog.text)
    assert {r.levelname for r in caplog.records} == {"WARNING"}
    assert watcher.failures == 0
    versions.append("1")  # Taken back.
    wait_until(lambda: watcher.waiting_s == 0.0)


def test_a_release_for_another_process_is_not_loaded_here(tiny, watcher_of):
    versions, asked, loads = ["1"], [], []

    def load(version):
        loads.append(version)
        return tiny.release(version)

    def hand_over(version):
        asked.append(version)
        if len(asked) % 10 == 0:
            raise errors.HandoverError("the other process ended")
        return True

    watcher = watcher_of(lambda: versions[-1], load, hand_over=hand_over)
    watcher.refresh()
    assert (loads, asked) == (["1"], [])  # The first one is nobody else's.
    watcher.start()
    versions.append("2")
    wait_until(lambda: watcher.failures >= 2)
    assert set(asked) == {"2"}
    assert loads == ["1"]
    assert watcher.current.version == "1"
    # To be asked without an answer yet is no success: the pauses grow from failure to failure.
    assert watcher._backoff_s >= 4 * 0.02


def test_nothing_loaded_is_not_ready(watcher_of):
    watcher = watcher_of(lambda: "1", lambda version: None)
    with pytest.raises(errors.NotReadyError), watcher.pin():
        pass


def test_model_that_cannot_answer_is_not_served(serving_root, tiny):
    version = release.current(serving_root)
    shutil.copytree(
        serving_root / "ranker" / version,
        serving_root / "query_tower" / version,
        dirs_exist_ok=True,
    )
    manifest = release.load_manifest(serving_root)
    tower = checksums.of_tree(serving_root / "query_tower" / version)
    signed = dataclasses.replace(manifest, components={**manifest.components, "query_tower": tower})
    release.manifest_path(serving_root, version).write_text(signed.to_json())
    with pytest.raises(errors.ModelError):
        load(serving_root)
    assert json.loads(release.manifest_path(serving_root, version).read_text())
