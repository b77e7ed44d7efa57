import os
import threading
import time

import pytest

from pipeline.living.snapshots import Snapshots
from serving.events import compaction


@pytest.fixture
def site(tmp_path):
    parts = {name: tmp_path / "site" / name for name in ("logs", "root")}
    for path in parts.values():
        path.mkdir(parents=True)
    (parts["logs"] / ".event_log").mkdir()
    return parts


def test_a_snapshot_is_there_when_it_is_whole_and_the_site_goes_back_to_it(tmp_path, site):
    snapshots = Snapshots(tmp_path / "snapshots")
    with snapshots.adding("visits-1", site) as (directory, record):
        (site["logs"] / "a.parquet").write_text("a")
        (site["logs"] / ".event_log" / "held.jsonl").write_text("waits")
        os.utime(site["logs"] / ".event_log" / "held.jsonl", (5, 5))
        (directory / "people").write_text("p")
        record["answer"] = 42
    with pytest.raises(RuntimeError), snapshots.adding("night-1", site):
        (site["root"] / "half").write_text("of a release")
        raise RuntimeError("killed")
    (site["logs"] / ".event_log" / "held.jsonl").write_text("later")
    assert snapshots.done() == [("visits-1", {"answer": 42})]
    kept = Snapshots(tmp_path / "snapshots").restore(site)
    assert kept == snapshots.path("visits-1")
    assert (kept / "people").read_text() == "p"
    assert (site["logs"] / "a.parquet").read_text() == "a"
    waiting = site["logs"] / ".event_log" / "held.jsonl"
    assert (waiting.read_text(), waiting.stat().st_mtime) == ("waits", 5)
    assert not (site["root"] / "half").exists()


def test_nothing_is_kept_while_the_event_log_moves_into_the_tables(tmp_path, site):
    compacting = threading.Event()

    def compact():
        with compaction.paused(site["logs"]):  # As whoever compacts holds it.
            (site["logs"] / ".event_log" / "commit-1").mkdir()
            compacting.set()
            time.sleep(0.2)
            (site["logs"] / ".event_log" / "commit-1").rmdir()
            (site["logs"] / "moved.parquet").write_text("m")

    thread = threading.Thread(target=compact)
    thread.start()
    compacting.wait()
    snapshots = Snapshots(tmp_path / "snapshots")
    with snapshots.adding("visits-1", site):
        pass
    thread.join()
    kept = snapshots.path("visits-1") / "site" / "logs"
    assert (kept / "moved.parquet").read_text() == "m"
    assert not (kept / ".event_log" / "commit-1").exists()


def test_before_the_first_snapshot_the_site_is_empty(tmp_path, site):
    (site["root"] / "half").write_text("of a release")
    assert Snapshots(tmp_path / "snapshots").restore(site) is None
    assert not site["root"].exists()
    with pytest.raises(KeyError):
        Snapshots(tmp_path / "snapshots").path("visits-1")
