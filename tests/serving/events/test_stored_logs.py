"""Tables of events go to a store, whole and once, whatever is away meanwhile."""

import pyarrow as pa
import pytest

from features import command
from features.stores import directories, locations, objects
from features.tables import logs
from serving.events import stored_logs


def watch(number, day=0):
    return pa.table(
        {
            "user_id": ["u"],
            "video_id": [f"v{number}"],
            "time": [1_650_000_000 + 86_400 * day],
            "watch_time_s": [1.0],
        }
    )


@pytest.fixture
def url(store, request):
    return store.url(f"logs/{request.node.name.replace('[', '-').rstrip(']')}")


def seen(url):
    rows = logs.read_table(directories.fetch(locations.parse(url)), "watches")
    return sorted(rows["video_id"].to_pylist())


def test_what_is_added_here_is_read_there(url, tmp_path):
    with stored_logs.synced(url, tmp_path / "logs", now_s=0, days=1) as directory:
        logs.append(directory, "watches", watch(1))
        (directory / ".event_log").mkdir()
        (directory / ".event_log" / "events.jsonl").write_text("{}\n")
    assert seen(url) == ["v1"]
    place = locations.parse(url)
    assert all(m.key.endswith(".parquet") for m in objects.at(place).list(f"{place.key}/"))


def test_nothing_is_written_twice_also_when_what_was_written_is_forgotten(url, tmp_path, proxy):
    for number in range(3):
        with stored_logs.synced(url, tmp_path / "logs", now_s=0, days=1) as directory:
            if number < 2:
                logs.append(directory, "watches", watch(number))
        if number == 1:
            (tmp_path / "logs" / ".stored").unlink()
    assert seen(url) == ["v0", "v1"]
    before = len(proxy.requests)
    with stored_logs.synced(url, tmp_path / "logs", now_s=0, days=1):
        pass
    assert not [path for method, path in proxy.requests[before:] if method in {"PUT", "POST"}]


def test_the_store_being_away_delays_and_loses_nothing(url, tmp_path, proxy, monkeypatch, caplog):
    monkeypatch.setenv(objects.PATIENCE, "0.1")
    synced = stored_logs.synced(url, tmp_path / "logs", now_s=0, days=1, period_s=600)
    with synced as directory:
        proxy.fault = lambda method, path: "503"
        logs.append(directory, "watches", watch(1))
    assert "Events wait on this machine" in caplog.text
    proxy.fault = lambda method, path: ""
    with stored_logs.synced(url, tmp_path / "logs", now_s=0, days=1):
        pass
    assert seen(url) == ["v1"]


def test_a_new_machine_gets_the_last_days_and_all_that_has_no_date(url, tmp_path):
    with stored_logs.synced(url, tmp_path / "one", now_s=0, days=1) as directory:
        for day in range(5):
            logs.append(directory, "watches", watch(day, day))
        logs.append(directory, "videos", pa.table({"video_id": ["v"], "upload_time": [1]}))
    now_s = 1_650_000_000 + 4 * 86_400
    with stored_logs.synced(url, tmp_path / "two", now_s=now_s, days=2) as directory:
        found = logs.read_table(directory, "watches")["video_id"].to_pylist()
        assert sorted(found) == ["v2", "v3", "v4"]
        assert logs.tables_in(directory) == {"watches", "videos"}


def test_a_file_that_its_owner_removed_from_the_store_stays_removed(url, tmp_path):
    with stored_logs.synced(url, tmp_path / "logs", now_s=0, days=1) as directory:
        logs.append(directory, "watches", watch(1))
        logs.append(directory, "videos", pa.table({"video_id": ["v"], "upload_time": [1]}))
    place = locations.parse(url)
    bucket = objects.at(place)
    bucket.delete([m.key for m in bucket.list(f"{place.key}/watches/")])
    with stored_logs.synced(url, tmp_path / "logs", now_s=0, days=1):
        pass
    assert not list(bucket.list(f"{place.key}/watches/"))


def test_a_directory_is_of_one_process_and_of_one_place(url, tmp_path):
    with (
        stored_logs.synced(url, tmp_path / "logs", now_s=0, days=1),
        pytest.raises(command.InputError, match="is in use by another process"),
    ):
        stored_logs.StoredLogs(url, tmp_path / "logs")
    with pytest.raises(command.InputError, match="holds events of"):
        stored_logs.StoredLogs(f"{url}-other", tmp_path / "logs")
