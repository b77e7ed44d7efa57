"""Directories that are whole or not there, in stores where nothing can be renamed."""

import json
import os
import signal
import subprocess
import sys

import pytest

from features import command, files
from features.stores import cache, directories, leases, locations, objects


def make(path, contents, *, info=None):
    path.mkdir()
    for name, content in contents.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(content)
    if info is not None:
        files.mark_complete(path, info)
    return path


def contents(path):
    return {name: file.read_text() for name, file in directories.files_of(path).items()}


def forget():
    """Makes this machine one that has no copies."""
    for blob in (cache.root() / "blobs").glob("*"):
        blob.unlink()


def keys(place):
    return {meta.key.removeprefix(f"{place.key}/") for meta in objects.at(place).list(place.key)}


@pytest.fixture
def place(store, request):
    return locations.parse(store.url(request.node.name.replace("[", "-").rstrip("]")))


def test_a_directory_comes_back_as_it_went(place, tmp_path):
    source = make(tmp_path / "examples", {"a.txt": "1", "deep/b.txt": ""}, info={"rows": 3})
    (source / ".hidden").write_text("a lock")
    directories.publish(source, place)
    found = directories.fetch(place)
    assert found.name == place.name
    assert contents(found) == contents(source)
    assert files.read_complete(found) == {"rows": 3}
    for name, path in directories.files_of(source).items():
        assert (found / name).stat().st_mtime_ns == path.stat().st_mtime_ns
    assert keys(place) == {"a.txt", "deep/b.txt", "COMPLETE", directories.CHECKSUMS}


def test_the_marker_is_the_last_object_and_the_first_to_go(place, tmp_path, proxy):
    directories.publish(make(tmp_path / "a", {"x": "1", "y": "1"}, info={}), place)
    directories.publish(make(tmp_path / "b", {"x": "2", "z": "2"}, info={"new": 1}), place)
    said = [(method, path.partition("?")[0].rpartition("/")[2]) for method, path in proxy.requests]
    # A POST to the bucket itself removes objects.
    others = {directories.WRITING, place.bucket}
    writes = [n for method, n in said if method in {"PUT", "POST"} and n not in others]
    assert writes[-1] == "COMPLETE"
    assert contents(directories.fetch(place)).keys() == {"x", "z", "COMPLETE"}


def test_what_is_there_already_is_not_sent_again(place, tmp_path, proxy):
    source = make(tmp_path / "a", {"same": "1", "other": "1"}, info={})
    directories.publish(source, place)
    (source / "other").write_text("2")
    before = len(proxy.requests)
    directories.publish(source, place)
    after = [path for method, path in proxy.requests[before:] if method in {"PUT", "POST"}]
    assert not [path for path in after if path.partition("?")[0].endswith("same")]
    assert contents(directories.fetch(place))["other"] == "2"


def test_a_directory_without_its_marker_is_not_taken(place, tmp_path):
    directories.publish(make(tmp_path / "a", {"x": "1"}, info={}), place)
    objects.at(place).delete([(place / "COMPLETE").key])
    with pytest.raises(command.InputError, match="is not complete"):
        directories.fetch(place)


def test_what_is_not_there_is_named(place):
    with pytest.raises(command.InputError, match="does not exist"):
        directories.fetch(place)


def test_a_file_that_was_altered_is_refused(place, tmp_path):
    directories.publish(make(tmp_path / "a", {"x": "1234"}, info={}), place)
    objects.at(place).write((place / "x").key, b"4321")
    forget()
    with pytest.raises(command.InputError, match="does not hold what"):
        directories.fetch(place)


def test_a_reader_in_the_middle_of_a_replacement_gets_one_state(place, tmp_path, monkeypatch):
    first = make(tmp_path / "a", {"x": "old", "y": "old"}, info={"state": "old"})
    second = make(tmp_path / "b", {"x": "new", "y": "new"}, info={"state": "new"})
    directories.publish(first, place)
    download, calls = objects.Bucket.download, []

    def replaced_meanwhile(self, meta, path):
        calls.append(meta.key)
        if len(calls) == 2:
            directories.publish(second, place)
        download(self, meta, path)

    monkeypatch.setattr(objects.Bucket, "download", replaced_meanwhile)
    monkeypatch.setattr(cache, "keep", lambda *_: None)
    forget()
    got = contents(directories.fetch(place))
    assert {got["x"], got["y"], json.loads(got["COMPLETE"])["state"]} == {"new"}


def test_logs_that_others_add_to_are_what_a_listing_finds(place, tmp_path):
    directories.publish(make(tmp_path / "logs", {"watches/p0": "1"}), place)
    objects.at(place).write((place / "watches/p1").key, b"2")
    objects.at(place).write((place / "watches/.part.tmp").key, b"half")
    assert contents(directories.fetch(place)) == {"watches/p0": "1", "watches/p1": "2"}


def test_a_listing_that_is_late_hides_nothing_of_a_whole_directory(place, tmp_path, proxy):
    source = make(tmp_path / "a", {"x": "1"}, info={})
    directories.publish(source, place)
    proxy.fault = lambda method, path: "late" if "prefix=" in path else ""
    (source / "y").write_text("2")
    directories.publish(source, place)
    assert contents(directories.fetch(place)) == contents(source)


def test_a_failed_publication_is_not_seen_and_the_next_one_cleans_up(
    place, tmp_path, proxy, monkeypatch
):
    monkeypatch.setenv(objects.PATIENCE, "1")
    old = make(tmp_path / "old", {"x": "1", "gone": "1"})
    directories.publish(old, place)
    new = make(tmp_path / "new", {"x": "2", "y": "2", "z": "2"})
    writes = {"PUT", "POST"}
    proxy.fault = lambda method, path: "cut" if method in writes and "y" in path[-12:] else ""
    with pytest.raises(command.InputError, match="does not answer"):
        directories.publish(new, place)
    proxy.fault = lambda method, path: ""
    with pytest.raises(command.InputError, match="is not complete: what wrote it was killed"):
        directories.fetch(place)
    directories.publish(new, place)
    assert contents(directories.fetch(place)) == contents(new)
    assert keys(place) == {"x", "y", "z"}


_PUBLISH = """
import pathlib, sys
from features.stores import directories, locations, objects
write = objects.Bucket.write
def slow(self, key, content, **mode):
    print(key, flush=True)
    sys.stdin.readline()
    return write(self, key, content, **mode)
objects.Bucket.write = slow
directories.publish(pathlib.Path(sys.argv[1]), locations.parse(sys.argv[2]))
"""


@pytest.mark.parametrize(
    ("store", "writes"), [("s3", 1), ("s3", 3), ("s3", 5), ("gs", 3)], indirect=["store"]
)
def test_a_publication_that_is_killed_is_not_seen_and_may_be_done_again(place, tmp_path, writes):
    directories.publish(make(tmp_path / "old", {"x": "1"}, info={"state": "old"}), place)
    new = make(tmp_path / "new", {"x": "2", "y": "2"}, info={"state": "new"})
    child = subprocess.Popen(
        [sys.executable, "-c", _PUBLISH, str(new), str(place)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ},
    )
    # .writing, x and y, .checksums.json, COMPLETE: it is killed before one of them.
    for number in range(writes):
        assert child.stdout.readline()
        if number < writes - 1:
            child.stdin.write(b"\n")
            child.stdin.flush()
    child.send_signal(signal.SIGKILL)
    child.communicate()
    if writes == 1:
        assert files.read_complete(directories.fetch(place)) == {"state": "old"}
    else:
        with pytest.raises(command.InputError, match="is not complete"):
            directories.fetch(place)
    directories.publish(new, place)
    assert files.read_complete(directories.fetch(place)) == {"state": "new"}


def test_two_do_not_publish_to_one_place(place, tmp_path):
    source = make(tmp_path / "a", {"x": "1"}, info={})
    with (
        leases.hold(place / directories.WRITING, what="it"),
        pytest.raises(command.InputError, match="is in use by process"),
    ):
        directories.publish(source, place)


def test_a_file_goes_and_comes_by_itself(place, tmp_path):
    (tmp_path / "report.json").write_text("{}")
    directories.publish(tmp_path / "report.json", place)
    found = directories.fetch(place)
    assert found.is_file()
    assert found.read_text() == "{}"
