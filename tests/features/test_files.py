"""Directories that are whole or not there, whoever is killed while they are replaced."""

import errno
import fcntl
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from features import command, files

ROOT = pathlib.Path(__file__).resolve().parents[2]

# Replaces the directory argv[1], and is killed at its nth change to the file system, n = argv[2];
# argv[3] says whether the file system can exchange names.
_KILLED = """
import errno, os, pathlib, signal, sys
from features import files
left = int(sys.argv[2])
def counted(function):
    def call(*arguments, **options):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **options)
    return call
for name in ("rename", "unlink", "rmdir", "mkdir", "fsync", "open"):
    setattr(os, name, counted(getattr(os, name)))
if sys.argv[3] == "exchange":
    files._exchange = counted(files._exchange)
else:
    def cannot(first, second):
        raise OSError(errno.EINVAL, "no")
    files._exchange = cannot
with files.atomic_directory(sys.argv[1]) as new:
    (new / "content").write_text("new")
"""


def content(directory):
    return (directory / "content").read_text()


def names(directory):
    return sorted(path.name for path in directory.iterdir())


def replace(target, text="newest"):
    with files.atomic_directory(target) as new:
        (new / "content").write_text(text)


def fail_to_replace(target):
    with pytest.raises(ZeroDivisionError), files.atomic_directory(target):
        raise ZeroDivisionError


@pytest.mark.parametrize("way", ["exchange", "renames"])
def test_kill_at_any_step_leaves_the_old_or_the_new_and_the_next_run_removes_the_rest(
    tmp_path, way
):
    codes = set()
    for step in range(1, 40):
        target = tmp_path / str(step) / "out"
        target.mkdir(parents=True)
        (target / "content").write_text("old")
        arguments = [sys.executable, "-c", _KILLED, str(target), str(step), way]
        codes.add(subprocess.run(arguments, cwd=ROOT, check=False).returncode)
        if way == "exchange":
            assert content(target) in {"old", "new"}, step
        fail_to_replace(target)  # The next run fails: what is complete must be there all the same.
        assert content(target) in {"old", "new"}, step
        assert names(target.parent) == ["out"], step
        if 0 in codes:
            break
    assert codes == {-signal.SIGKILL, 0}


def test_directory_is_made_replaced_and_left_alone_when_the_block_fails(tmp_path):
    target = tmp_path / "out [1]"
    replace(target, "first")
    assert content(target) == "first"
    replace(target, "second")
    fail_to_replace(target)
    assert content(target) == "second"
    assert names(tmp_path) == ["out [1]"]


def test_link_is_replaced_and_not_what_it_leads_to(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    replace(elsewhere, "kept")
    (tmp_path / "out").symlink_to(elsewhere)
    replace(tmp_path / "out")
    assert (content(elsewhere), content(tmp_path / "out")) == ("kept", "newest")
    assert names(tmp_path) == ["elsewhere", "out"]


def test_leftover_is_told_by_its_lock_and_not_by_a_process_id(tmp_path):
    # In containers every killed run had the process id that this one has.
    for number in range(3):
        leftover = tmp_path / f".out.{os.getpid()}-0000000{number}.tmp"
        leftover.mkdir()
        (leftover / "big").write_text("x")
    alive = tmp_path / ".out.999999999-0.tmp"  # Nobody here has this id: it is of another host.
    alive.mkdir()
    with alive.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        replace(tmp_path / "out")
        assert names(tmp_path) == [alive.with_suffix(".lock").name, alive.name, "out"]
    replace(tmp_path / "out")
    assert names(tmp_path) == ["out"]


def test_writer_that_runs_is_left_alone_by_another_one(tmp_path):
    target = tmp_path / "out"
    with files.atomic_directory(target) as slow:
        (slow / "content").write_text("slow")
        replace(target, "quick")
        assert content(target) == "quick"
    assert content(target) == "slow"
    assert names(tmp_path) == ["out"]


def test_leftover_whose_lock_cannot_be_told_stays(tmp_path, monkeypatch, caplog):
    leftover = tmp_path / ".out.1.tmp"
    leftover.mkdir()
    leftover.with_suffix(".lock").touch()

    def no_locks(descriptor, operation):
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    replace(tmp_path / "out")
    assert leftover.is_dir()
    assert "cannot be told" in caplog.text


def test_file_that_a_killed_process_was_writing_is_removed_once_it_is_old(tmp_path):
    old, young = (tmp_path / f".file.{name}.tmp" for name in ("old", "young"))
    old.write_text("half")
    young.write_text("half")
    os.utime(old, (time.time() - 7200,) * 2)
    files.atomic_write(tmp_path / "file", "whole")
    assert names(tmp_path) == [young.name, "file"]


@pytest.mark.parametrize("damage", [b"\xff\xfe", b"[1]", b"{", b"[" * 100_000, b"7"])
def test_damaged_marker_is_refused(tmp_path, damage):
    (tmp_path / files.COMPLETE).write_bytes(damage)
    with pytest.raises(command.InputError, match="make it again"):
        files.require_complete(tmp_path, what="examples", made_by="python -m it")
