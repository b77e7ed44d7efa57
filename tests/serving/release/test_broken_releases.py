"""What is broken in a serving root is refused with its reason, never with a traceback."""

import hashlib
import json
import os

import pytest

from features import command
from serving.release import manifest as release
from serving.release import publication
from tests.serving.release.releases import publish


@pytest.mark.parametrize(
    "content",
    [
        b"",
        bytes(range(256)),
        b"../../etc",
        b"1" * 5000,
        "\u0661\u0662\u0663".encode(),
        "\u00b2".encode(),
        b"020260101000000",
        b"20260101000000\n20260101000000",
        b"\xef\xbb\xbf20260101000000",
    ],
    ids=lambda content: repr(content[:20]),
)
def test_broken_current_is_refused_and_mended_by_naming_a_version(tmp_path, content):
    version = publish(tmp_path)
    (tmp_path / "CURRENT").write_bytes(content)
    with pytest.raises(command.InputError, match="rollback"):
        release.load(tmp_path)
    with pytest.raises(command.InputError):
        publication.rollback(tmp_path)
    publication.rollback(tmp_path, version)
    assert release.load(tmp_path).version == version


@pytest.mark.parametrize("content", [bytes(range(256)), b"1" * 5000])
def test_build_replaces_a_broken_current(tmp_path, content):
    publish(tmp_path)
    (tmp_path / "CURRENT").write_bytes(content)
    version = publish(tmp_path)
    assert release.load(tmp_path).version == version
    assert release.load_manifest(tmp_path).previous is None


def test_directory_in_place_of_current_is_refused_before_a_build_begins(tmp_path):
    version = publish(tmp_path)
    (tmp_path / "CURRENT").unlink()
    (tmp_path / "CURRENT").mkdir()
    with pytest.raises(command.InputError, match="Remove it"):
        release.load(tmp_path)
    with pytest.raises(command.InputError, match="Remove it"):
        publication.rollback(tmp_path, version)
    with pytest.raises(command.InputError, match="Remove it"):
        publish(tmp_path)
    (tmp_path / "CURRENT").rmdir()
    publication.rollback(tmp_path, version)
    assert release.current(tmp_path) == version


@pytest.mark.parametrize("how", ["to nothing", "to itself", "directory", "pipe"])
@pytest.mark.parametrize("component", ["index", "videos"])
def test_file_of_a_release_that_is_no_file_is_refused(tmp_path, component, how):
    version = publish(tmp_path)
    file = tmp_path / component / version / "files" / "a"
    file.unlink()
    {
        "to nothing": lambda: file.symlink_to("nothing"),
        "to itself": lambda: file.symlink_to("a"),
        "directory": file.mkdir,
        "pipe": lambda: os.mkfifo(file),
    }[how]()
    with pytest.raises(release.ReleaseRefusedError, match=f"its {component} in"):
        release.load(tmp_path)


def _changed(**changes):
    return lambda body: body.update(changes)


def _changed_sum(value):
    return lambda body: body["components"]["index"].update({"files/a": value})


@pytest.mark.parametrize(
    "change",
    [
        _changed(version=7),
        _changed(created=None),
        _changed(previous=7),
        _changed(components=[]),
        _changed(components=None),
        _changed(components={"query_tower": "x"}),
        _changed(components={"query_tower": [1]}),
        _changed(metrics=None),
        _changed(gates="x"),
        _changed(gates=[1]),
        _changed(lineage=[]),
        _changed(forced=None),
        _changed(colour="red"),
        _changed(format="1"),
        _changed_sum([1]),
        _changed_sum({"bytes": 1}),
        _changed_sum({"sha256": "0", "bytes": "many"}),
        _changed_sum({"sha256": "0", "bytes": -1}),
        _changed_sum({"sha256": "0", "bytes": True}),
        lambda body: body["components"]["index"].update({"../../x": {"sha256": "0", "bytes": 1}}),
        lambda body: body["components"]["index"].update({"/etc/x": {"sha256": "0", "bytes": 1}}),
    ],
)
def test_manifest_of_wrong_types_is_refused_although_it_is_signed(tmp_path, change):
    version = publish(tmp_path)
    path = release.manifest_path(tmp_path, version)
    body = json.loads(path.read_text())["release"]
    change(body)
    digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    path.write_text(json.dumps({"sha256": digest, "release": body}))
    with pytest.raises(release.ReleaseRefusedError):
        release.load(tmp_path)


@pytest.mark.parametrize("content", ["[" * 200_000, '{"a":' * 100_000, "1" * 100_000, "null"])
def test_manifest_that_is_no_manifest_is_refused(tmp_path, content):
    version = publish(tmp_path)
    release.manifest_path(tmp_path, version).write_text(content)
    with pytest.raises(release.ReleaseRefusedError, match="cannot be used"):
        release.load(tmp_path)


def test_manifest_that_is_a_directory_or_a_loop_is_refused(tmp_path):
    path = release.manifest_path(tmp_path, publish(tmp_path))
    path.unlink()
    path.mkdir()
    with pytest.raises(release.ReleaseRefusedError, match="cannot be used"):
        release.load(tmp_path)
    path.rmdir()
    path.symlink_to(path.name)
    with pytest.raises(release.ReleaseRefusedError, match="cannot be used"):
        release.load(tmp_path)


@pytest.mark.parametrize("version", ["../../x", "", "1" * 5000, "a/b"])
def test_version_that_is_none_is_refused(tmp_path, version):
    publish(tmp_path)
    with pytest.raises(command.InputError, match="there is no release"):
        publication.rollback(tmp_path, version or " ")
