"""Fetching Flink: whole and as pinned, or not there. A script stands in for Maven."""

import pathlib
import shutil

import pytest

from features import command
from pipeline.flink import processes


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv(processes.FLINK.variable, str(tmp_path / "cache" / "flink"))
    return tmp_path / "cache" / "flink"


def maven(tmp_path, monkeypatch, script):
    """Puts a program ``mvn`` alone on PATH; $OUT is the directory that it should fill."""
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "mvn").write_text(
        '#!/bin/sh\nfor a in "$@"; do case $a in -DoutputDirectory=*) OUT=${a#*=};; esac; done\n'
        + script
    )
    (programs / "mvn").chmod(0o755)
    monkeypatch.setenv("PATH", str(programs))


def assert_nothing_there(home):
    assert not home.exists()
    assert not list(home.parent.iterdir())


def test_every_jar_is_pinned_once_by_sha256():
    digests = processes.FLINK.digests()
    assert len(digests) > 100
    assert all(name.endswith(".jar") and len(digest) == 64 for name, digest in digests.items())
    assert len([name for name in digests if name.startswith("flink-runtime-")]) == 1


def test_without_maven_the_message_says_so(home, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(command.InputError, match="no mvn on PATH"):
        processes.FLINK.fetch()


def test_a_failed_fetch_shows_mavens_words_and_leaves_nothing(home, tmp_path, monkeypatch):
    maven(tmp_path, monkeypatch, 'echo half > "$OUT/a.jar"; echo no network; exit 1\n')
    with pytest.raises(command.InputError, match="no network"):
        processes.FLINK.fetch()
    assert_nothing_there(home)


def test_other_jars_than_the_pinned_ones_are_refused_and_removed(home, tmp_path, monkeypatch):
    name = next(iter(processes.FLINK.digests()))
    maven(tmp_path, monkeypatch, f'echo forged > "$OUT/{name}"\n')
    with pytest.raises(command.InputError, match="not those of"):
        processes.FLINK.fetch()
    assert_nothing_there(home)


def test_a_cluster_without_jars_says_how_to_get_them(home, tmp_path, monkeypatch):
    (tmp_path / "java").write_text("")
    (tmp_path / "java").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(command.InputError, match="flink_cluster --fetch"):
        processes.Cluster(tmp_path / "cluster").__enter__()
    assert not (tmp_path / "cluster").exists()


def test_without_java_the_message_says_so(home, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert "java" in processes.FLINK.missing()


def test_the_cache_is_named_after_the_pins(monkeypatch):
    monkeypatch.delenv(processes.FLINK.variable, raising=False)
    assert processes.FLINK.home().parent == pathlib.Path.home() / ".cache" / "watchnext"
