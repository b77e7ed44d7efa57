"""What only the store in SQLite has: files, checkpoints, connections."""

import contextlib
import shutil
import sqlite3
import threading
import time

import pytest

from serving import errors
from serving.history import sqlite_store
from serving.history.sqlite_store import SqliteHistoryStore
from serving.history.user_history import Blocked
from tests.serving.history.stores import event


def test_connections_of_dead_threads_are_closed(sqlite_at):
    store = sqlite_at()
    store.append([event("a")])
    for _ in range(20):
        thread = threading.Thread(target=store.read, args=("u",))
        thread.start()
        thread.join()
    assert len(store._connections) <= 2


def on_disk(store, directory):
    """What the file holds without its write-ahead log."""
    copy = shutil.copy(store.path, directory / "copy.sqlite")
    with contextlib.closing(sqlite3.connect(copy)) as connection:
        return connection.execute("SELECT count(*) FROM watches").fetchone()[0]


def test_checkpoint_moves_what_was_written_into_the_file(sqlite_at, tmp_path):
    store = sqlite_at()
    store.checkpoint()
    store.append([event("a")])
    assert on_disk(store, tmp_path) == 0
    store.checkpoint()
    assert on_disk(store, tmp_path) == 1


def test_checkpoints_are_made_from_time_to_time(sqlite_at, tmp_path, monkeypatch):
    monkeypatch.setattr(sqlite_store, "CHECKPOINT_PERIOD_S", 0.01)
    store = sqlite_at()
    store.checkpoint()
    store.append([event("a")])
    until = time.monotonic() + 300
    while on_disk(store, tmp_path) == 0:
        assert time.monotonic() < until
        time.sleep(0.01)


def test_file_that_is_no_database_is_refused(tmp_path):
    (tmp_path / "h.sqlite").write_text("this is no database, it is only text" * 100)
    with pytest.raises(errors.HistoryUnavailableError, match=r"h\.sqlite cannot be opened"):
        SqliteHistoryStore(tmp_path / "h.sqlite")


def test_file_of_an_earlier_version_gets_what_it_lacks(tmp_path, sqlite_at):
    store = sqlite_at()
    store.append([event("a")])
    store.close()
    with contextlib.closing(sqlite3.connect(tmp_path / "history.sqlite")) as connection:
        connection.execute("ALTER TABLE users DROP COLUMN blocked")
    again = sqlite_at()
    assert again.read("u").watches.num_rows == 1
    again.set_blocked("u", Blocked(videos=("v",)))
    assert again.read("u").blocked.videos == ("v",)
