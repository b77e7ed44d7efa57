import subprocess
import sys
import threading
from pathlib import Path

import pyarrow as pa
import pytest

from features import logs
from serving import errors, history_seed
from serving.events import CLICK_WINDOW_S, Event, Kind
from serving.history_store import SqliteHistoryStore

ROOT = Path(__file__).resolve().parents[2]
T = 1_700_000_000


@pytest.fixture
def store(tmp_path):
    opened = SqliteHistoryStore(tmp_path / "history.sqlite")
    yield opened
    opened.close()


def event(event_id, kind=Kind.WATCH, at=T, user="u", video="v", **more):
    if kind is Kind.SEARCH:
        return Event(event_id=event_id, kind=kind, user_id=user, time=at, **more)
    return Event(event_id=event_id, kind=kind, user_id=user, time=at, video_id=video, **more)


def test_unknown_user_has_empty_tables(store):
    found = store.read("nobody")
    assert not found.is_known
    assert (found.watches.num_rows, found.searches.num_rows, found.impressions.num_rows) == (
        0,
        0,
        0,
    )
    assert found.newest_s == 0


def test_events_in_any_order_are_read_sorted_by_time(store):
    store.append([event("b", at=T + 2, watch_time_s=2.5, completed=True), event("c", at=T + 3)])
    store.append([event("a", at=T + 1), event("s", Kind.SEARCH, at=T + 9, query="cats")])
    found = store.read("u")
    assert found.watches["time"].to_pylist() == [T + 1, T + 2, T + 3]
    assert found.watches["completed"].to_pylist() == [None, True, None]
    assert found.watches["watch_time_s"].to_pylist() == [0.0, 2.5, 0.0]
    assert found.searches.to_pylist() == [{"user_id": "u", "time": T + 9, "query": "cats"}]
    assert found.newest_s == T + 9


def test_event_is_applied_once(store):
    assert store.append([event("a"), event("a")]).accepted == 1
    again = store.append([event("a", at=T + 5), event("b")])
    assert (again.accepted, again.duplicates) == (1, 1)
    assert store.read("u").watches.num_rows == 2
    assert store.known([event("a"), event("x"), event("a", user="other")]) == ({("u", "a")}, {"u"})


def test_event_id_of_another_user_is_another_event(store):
    assert store.append([event("a"), event("a", user="other")]).accepted == 2


def test_profile_is_kept_from_the_first_meeting(store):
    assert store.append([event("a")], profiles={"u": {"region": "fr"}}).new_users == ("u",)
    assert store.append([event("b")], profiles={"u": {"region": "de"}}).new_users == ()
    assert store.read("u").profile == {"region": "fr"}


def test_only_the_newest_events_are_kept(tmp_path):
    store = SqliteHistoryStore(tmp_path / "h.sqlite", max_events=10)
    for start in range(0, 2000, 100):
        store.append([event(str(i), at=T + i) for i in range(start, start + 100)])
    found = store.read("u")
    assert found.watches["time"].to_pylist() == [T + i for i in range(1990, 2000)]
    with store.transaction() as connection:
        kept = connection.execute("SELECT count(*) FROM watches").fetchone()[0]
    assert kept <= 10 + 500
    store.close()


def test_store_survives_being_opened_again(store, tmp_path):
    store.append([event("a")])
    other = SqliteHistoryStore(tmp_path / "history.sqlite")
    assert other.read("u").watches.num_rows == 1
    other.close()


def test_write_of_another_store_is_seen_at_once_although_reads_are_cached(store, tmp_path):
    other = SqliteHistoryStore(tmp_path / "history.sqlite")
    store.append([event("a")])
    assert store.read("u").watches.num_rows == 1
    other.append([event("b")])
    assert store.read("u").watches.num_rows == 2
    other.close()


# ---- outcomes of impressions ---------------------------------------------------------------------


def shown(video="v", page="p", at=T, **more):
    return event(f"{page}/{video}", Kind.IMPRESSION, at, video=video, page_id=page, **more)


def outcomes(store):
    table = store.read("u").impressions
    return {
        (row["video_id"], row["time"]): (row["clicked"], row["watch_time_s"])
        for row in table.to_pylist()
    }


@pytest.mark.parametrize("reverse", [False, True])
def test_click_and_watch_reach_their_impression_in_any_order_of_arrival(store, reverse):
    arrivals = [
        [shown("a"), shown("b"), shown("c")],
        [event("c1", Kind.CLICK, T + 5, video="a", page_id="p")],
        [event("w1", Kind.WATCH, T + 90, video="a", page_id="p", watch_time_s=80.0)],
        [event("w2", Kind.WATCH, T + 100, video="b", watch_time_s=7.0)],
    ]
    for events in reversed(arrivals) if reverse else arrivals:
        store.append(events)
    assert outcomes(store) == {
        ("a", T): (True, 80.0),
        ("b", T): (True, 7.0),
        ("c", T): (False, 0.0),
    }


def test_watch_that_names_no_page_goes_to_the_latest_impression(store):
    store.append([shown(page="p1"), shown(page="p2", at=T + 60), shown(page="p3", at=T + 200)])
    store.append([event("w", at=T + 100, watch_time_s=5.0)])
    assert outcomes(store) == {
        ("v", T): (False, 0.0),
        ("v", T + 60): (True, 5.0),
        ("v", T + 200): (False, 0.0),
    }


def test_watch_that_names_its_page_goes_there(store):
    store.append([shown(page="p1"), shown(page="p2", at=T + 60)])
    store.append([event("w", at=T + 100, watch_time_s=5.0, page_id="p1")])
    assert outcomes(store)[("v", T)] == (True, 5.0)
    assert outcomes(store)[("v", T + 60)] == (False, 0.0)


def test_watch_after_the_window_or_from_elsewhere_is_not_the_impressions(store):
    store.append([shown("a", surface="home"), shown("b", surface="home")])
    store.append([event("w1", at=T + CLICK_WINDOW_S + 1, video="a", watch_time_s=5.0)])
    store.append([event("w2", at=T + 10, video="b", watch_time_s=5.0, source="search")])
    assert set(outcomes(store).values()) == {(False, 0.0)}


def test_watch_from_the_same_surface_is_the_impressions(store):
    store.append([shown("a", surface="home")])
    store.append([event("w", at=T + 10, video="a", watch_time_s=5.0, source="home")])
    assert outcomes(store) == {("a", T): (True, 5.0)}


def test_several_watches_of_an_impression_add_up(store):
    store.append([shown("a")])
    store.append([event(f"w{i}", at=T + i, video="a", watch_time_s=5.0) for i in (1, 2, 3)])
    assert outcomes(store) == {("a", T): (True, 15.0)}


def test_impression_that_says_how_it_ended_is_left_alone(store):
    store.append([shown("a", clicked=True, watch_time_s=3.0)])
    store.append([event("w", at=T + 1, video="a", watch_time_s=50.0)])
    assert outcomes(store) == {("a", T): (True, 3.0)}


# ---- filling from logs ---------------------------------------------------------------------------


@pytest.fixture
def logs_dir(tmp_path):
    directory = tmp_path / "logs"
    with logs.LogWriter(directory) as writer:
        writer.write(
            "users",
            pa.table({"user_id": ["a", "b"], "region": ["fr", None], "age": [30.0, float("nan")]}),
        )
        writer.write(
            "watches",
            pa.table(
                {
                    "user_id": ["a", "a", "b", "c", "", "a"],
                    "video_id": ["v1", "v2", "v1", "v3", "v1", "v9"],
                    "time": [T + 2, T + 1, T, T - 86400 * 3, T, T + 500],
                    "watch_time_s": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
                }
            ),
        )
        writer.write(
            "impressions",
            pa.table(
                {
                    "user_id": ["a"],
                    "video_id": ["v1"],
                    "time": [T],
                    "clicked": [False],
                    "watch_time_s": [0.0],
                }
            ),
        )
    return directory


def test_empty_store_is_filled_with_clean_rows_and_profiles(store, logs_dir):
    written = history_seed.seed(store, logs_dir, until_s=T + 100)
    # Left out: a row without user, and one after the moment.
    assert written == {"users": 2, "watches": 4, "impressions": 1}
    found = store.read("a")
    assert found.profile == {"region": "fr", "age": 30.0}
    assert found.watches["video_id"].to_pylist() == ["v2", "v1"]
    assert found.newest_s == T + 2
    assert store.read("b").profile == {}
    assert store.read("c").is_known  # not in the users table
    assert store.user_ids(10) == ["a", "b", "c"]


def test_impression_of_the_logs_keeps_its_outcome(store, logs_dir):
    # Watched two seconds later, but the logs say that it was not clicked: they know.
    history_seed.seed(store, logs_dir, until_s=T + 100)
    assert store.read("a").impressions["clicked"].to_pylist() == [False]


def test_store_that_has_users_is_not_filled(store, logs_dir):
    store.append([event("x")])
    assert history_seed.seed(store, logs_dir, until_s=T + 100) == {}
    assert not store.read("a").is_known


def test_filling_that_fails_leaves_the_store_empty(store, logs_dir):
    (broken,) = (logs_dir / "impressions").glob("*/*.parquet")
    broken.write_bytes(broken.read_bytes()[:-20])
    with pytest.raises(Exception, match="cannot be read as Parquet"):
        history_seed.seed(store, logs_dir, until_s=T + 100)
    assert store.is_empty
    assert store.append([event("x")]).accepted == 1


def test_filling_keeps_the_newest_events_of_each_user(tmp_path):
    directory = tmp_path / "logs"
    with logs.LogWriter(directory) as writer:
        times = [T + 86400 * day for day in range(6) for _ in range(3)]
        writer.write(
            "watches",
            pa.table(
                {
                    "user_id": ["a", "a", "b"] * 6,
                    "video_id": [f"v{i}" for i in range(18)],
                    "time": times,
                    "watch_time_s": [1.0] * 18,
                }
            ),
        )
    store = SqliteHistoryStore(tmp_path / "h.sqlite", max_events=4)
    history_seed.seed(store, directory, until_s=T + 86400 * 10)
    assert store.read("a").watches["video_id"].to_pylist() == ["v12", "v13", "v15", "v16"]
    assert store.read("b").watches["video_id"].to_pylist() == ["v8", "v11", "v14", "v17"]
    store.close()


def test_watches_are_counted_by_region(store, logs_dir):
    history_seed.seed(store, logs_dir, until_s=T + 100)
    counts = {(r["region"], r["video_id"]): r["watches"] for r in store.watch_counts(T).to_pylist()}
    assert counts == {("fr", "v1"): 1, ("fr", "v2"): 1, ("", "v1"): 1}


# ---- threads, processes, broken files ------------------------------------------------------------


def test_threads_write_and_read_together(store):
    def work(number):
        for i in range(25):
            store.append([event(f"{number}-{i}", at=T + i, user=f"u{i % 3}")])
            store.read(f"u{i % 3}")

    threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(store.read(f"u{i}").watches.num_rows for i in range(3)) == 6 * 25


def test_connections_of_dead_threads_are_closed(store):
    store.append([event("a")])
    for _ in range(20):
        thread = threading.Thread(target=store.read, args=("u",))
        thread.start()
        thread.join()
    assert len(store._connections) <= 2


_WRITER = """
import sys
from serving.events import Event, Kind
from serving.history_store import SqliteHistoryStore
store = SqliteHistoryStore(sys.argv[1])
for i in range(60):
    store.append([Event(event_id=f"{name}-{i}", kind=Kind.WATCH, user_id="u", time=1 + i,
                        video_id="v") for name in ("shared", sys.argv[2])])
"""


def test_two_processes_share_one_file(store):
    writers = [
        subprocess.Popen([sys.executable, "-c", _WRITER, str(store.path), name], cwd=ROOT)
        for name in ("a", "b")
    ]
    while any(process.poll() is None for process in writers):
        store.read("u")
    assert [process.returncode for process in writers] == [0, 0]
    # 60 of each process alone, and 60 that both wrote, once.
    assert store.read("u").watches.num_rows == 180


def test_file_that_is_no_database_is_refused(tmp_path):
    (tmp_path / "h.sqlite").write_text("this is no database, it is only text" * 100)
    with pytest.raises(errors.HistoryUnavailableError, match=r"h\.sqlite cannot be opened"):
        SqliteHistoryStore(tmp_path / "h.sqlite")


def test_failed_append_applies_nothing(store):
    with pytest.raises(ValueError, match="Out of range float"):
        store.append([event("a"), event("b", user="n")], profiles={"n": {"age": float("nan")}})
    assert store.read("u").watches.num_rows == 0
    assert store.append([event("a")]).accepted == 1
