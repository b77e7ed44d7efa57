"""Serving roots in object stores: published whole however a process ends, copied, followed."""

import os
import random
import subprocess
import sys
import time

import pytest

from features import command
from features.stores import locations, objects
from serving.release import manifest as release
from serving.release import publication, stored_root


def build(url, content="1", *, keep=3):
    with stored_root.changed(url) as root, publication.building(root) as making:
        for name in ("query_tower", "ranker", "index", "videos"):
            (making.directory(name) / "deep").mkdir()
            (making.directory(name) / "deep" / "file").write_text(f"{name} {content}")
            (making.directory(name) / "other").write_text(content)
        return making.publish(metrics={}, gates=[], lineage={}, keep=keep).version


def test_the_learned_order_of_a_release_goes_and_comes_with_it(url):
    with stored_root.changed(url) as root, publication.building(root) as making:
        for name in ("query_tower", "index", "videos"):
            (making.directory(name) / "file").write_text(name)
        order = root / release.PAGE_ORDER / f"{making.version}.json"
        order.parent.mkdir()
        order.write_text("{}")
        version = making.publish(metrics={}, gates=[], lineage={}).version
    root = stored_root.read(url)
    assert (root / release.PAGE_ORDER / f"{version}.json").read_text() == "{}"


def served(url):
    """Returns the version that a reader gets, after it was proved whole, and its content."""
    loaded = release.load(stored_root.read(url))
    return loaded.version, (loaded.videos / "other").read_text()


def keys(url):
    place = locations.parse(url)
    found = objects.at(place).list(f"{place.key}/")
    return {meta.key.removeprefix(f"{place.key}/") for meta in found}


@pytest.fixture
def url(store, request):
    return store.url(f"roots/{request.node.name.replace('[', '-').rstrip(']')}")


def test_a_release_is_served_as_it_was_published(url):
    version = build(url, "first")
    assert served(url) == (version, "first")
    assert not [key for key in keys(url) if "building" in key or key.startswith(".")]


def test_the_model_servers_list_names_the_store_there_and_the_copy_here(url):
    build(url)
    place = locations.parse(url)
    said = objects.at(place).read(f"{place.key}/tf_serving/models.config")[0].decode()
    assert f'base_path: "{url}/query_tower"' in said
    root = stored_root.read(url)
    here = (root / "tf_serving" / "models.config").read_text()
    assert f'base_path: "{root.resolve()}/query_tower"' in here


def test_old_releases_go_and_one_can_be_gone_back_to(url):
    versions = [build(url, str(number), keep=2) for number in range(4)]
    assert release.versions(stored_root.read(url)) == versions[-2:]
    assert not [key for key in keys(url) if versions[0] in key]
    with stored_root.changed(url) as root:
        publication.rollback(root)
    assert served(url) == (versions[2], "2")


def test_a_pinned_release_stays_and_is_copied(url):
    first = build(url, "pinned", keep=2)
    with stored_root.changed(url) as root:
        publication.pin(root, "trial", [first])
    for number in range(3):
        build(url, str(number), keep=2)
    assert (release.load(stored_root.read(url), first).videos / "other").read_text() == "pinned"


def test_current_is_not_replaced_behind_the_back_of_another(url):
    build(url, "first")
    place = locations.parse(url) / release.CURRENT
    with (
        pytest.raises(command.InputError, match="was changed by another process meanwhile"),
        stored_root.changed(url) as root,
        publication.building(root) as making,
    ):
        for name in ("query_tower", "index", "videos"):
            (making.directory(name) / "file").write_text("second")
        making.publish(metrics={}, gates=[], lineage={})
        objects.at(place).write(place.key, b"20200101000000\n")


def test_two_builds_do_not_run_at_once(url, monkeypatch):
    monkeypatch.setattr(stored_root, "_WAIT_S", 0.0)
    with (
        stored_root.changed(url, what="the root"),
        pytest.raises(command.InputError, match="the root is in use by process"),
        stored_root.changed(url, what="the root"),
    ):
        pass


def test_a_damaged_release_is_refused_and_what_serves_goes_on_serving(url):
    first = build(url, "first")
    assert served(url) == (first, "first")
    second = build(url, "second")
    place = locations.parse(url)
    objects.at(place).write(f"{place.key}/videos/{second}/other", b"SECOND")
    with pytest.raises(release.ReleaseRefusedError, match="other content"):
        stored_root.read(url)
    assert release.load(stored_root.mirror(url)).version == first


def test_nothing_published_is_said(url):
    with pytest.raises(command.InputError, match="has no release"):
        release.current(stored_root.read(url))


def test_who_follows_gets_the_next_release_though_the_store_was_away(
    store, proxy, monkeypatch, request
):
    monkeypatch.setenv(objects.PATIENCE, "0.1")
    url = store.url(f"roots/{request.node.name.replace('[', '-').rstrip(']')}")
    build(url, "first")
    with stored_root.followed(url, period_s=0.05) as root:
        assert (release.load(root).videos / "other").read_text() == "first"
        proxy.fault = lambda method, path: "503"
        time.sleep(0.3)
        assert (release.load(root).videos / "other").read_text() == "first"
        proxy.fault = lambda method, path: ""
        monkeypatch.setenv(objects.PATIENCE, "60")
        second = build(url, "second")
        until = time.monotonic() + 300
        while release.current(root) != second:
            assert time.monotonic() < until
            time.sleep(0.05)
        assert (release.load(root).videos / "other").read_text() == "second"


_BUILD = """
import sys
from tests.serving.release import test_stored_root
print("started", flush=True)
test_stored_root.build(sys.argv[1], sys.argv[2])
"""
# WATCHNEXT_KILLS=20 python -m pytest ... is the long form of this test.
_KILLS = int(os.environ.get("WATCHNEXT_KILLS", "3"))


def build_and_kill(url, store, proxy, *, at_write):
    """Builds in a process that is killed at one of its writes; reads all the while."""
    before = served(url)[0]
    written = []
    paths = os.pathsep.join([os.getcwd(), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, **store.environment(proxy.port), "PYTHONPATH": paths}
    with subprocess.Popen(
        [sys.executable, "-c", _BUILD, url, "killed"], stdout=subprocess.PIPE, env=environment
    ) as child:
        assert child.stdout.readline() == b"started\n"

        def kill(method, path):
            written.extend([path] if method != "GET" else [])
            if method != "GET" and len(written) == at_write:
                child.kill()
            return ""

        proxy.fault = kill
        while child.poll() is None:
            version, content = served(url)  # Proved whole, at any moment.
            assert version == before or content == "killed"
    proxy.fault = lambda method, path: ""
    assert child.returncode < 0, "it ended before it was killed"
    version, content = served(url)
    assert version == before or content == "killed"


@pytest.mark.parametrize(
    ("store", "seed"), [*(("s3", seed) for seed in range(_KILLS)), ("gs", 0)], indirect=["store"]
)
def test_a_publication_that_is_killed_anywhere_is_whole_or_not_there(url, store, proxy, seed):
    build(url, "first")
    begun = len(proxy.requests)
    build(url, "second")
    writes = sum(1 for method, _ in proxy.requests[begun:] if method != "GET")
    build_and_kill(url, store, proxy, at_write=random.Random(seed).randrange(1, writes))
    last = build(url, "last")
    assert served(url) == (last, "last")
    known = set(release.versions(stored_root.read(url)))
    for key in keys(url):
        component, _, rest = key.partition("/")
        assert "building" not in key
        if component in release.COMPONENTS:
            assert rest.partition("/")[0] in known, f"{key} is a leftover"
