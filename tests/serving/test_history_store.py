import contextlib
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from features import logs
from serving import errors, history_seed, history_store, redis_history
from serving.events import CLICK_WINDOW_S, WATCH_WINDOW_S, Event, Kind
from serving.history_store import SqliteHistoryStore
from serving.redis_history import RedisHistoryStore
from serving.user_history import Blocked

ROOT = Path(__file__).resolve().parents[2]
T = 1_700_000_000


@pytest.fixture
def sqlite_at(tmp_path):
    """Opens the same SQLite file, as often as it is called."""
    with contextlib.ExitStack() as stack:

        def make(**more):
            store = SqliteHistoryStore(tmp_path / "history.sqlite", **more)
            stack.callback(store.close)
            return store

        yield make


@pytest.fixture
def redis_at(redis_server):
    """Opens the same Redis database, empty at first, as often as it is called."""
    redis_server.empty()
    with contextlib.ExitStack() as stack:

        def make(**more):
            store = RedisHistoryStore(redis_server.url, **more)
            stack.callback(store.close)
            return store

        yield make


@pytest.fixture(params=["sqlite", "redis"])
def open_store(request):
    """Both kinds of store: what holds of one holds of the other."""
    return request.getfixturevalue(f"{request.param}_at")


@pytest.fixture
def store(open_store):
    return open_store()


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
    asked = [event("a"), event("x"), event("a", user="other"), event("a", Kind.CLICK)]
    assert store.known(asked) == ({("u", "watch", "a")}, {"u"})


def test_one_id_for_a_click_and_a_watch_is_two_events(store):
    both = [event("x", Kind.CLICK), event("x", at=T + 9)]
    assert store.append(both).accepted == 2
    assert store.known(both)[0] == {("u", "click", "x"), ("u", "watch", "x")}


def test_impression_that_names_its_page_is_known_by_page_and_video(store):
    served = event("p/0", Kind.IMPRESSION, page_id="p", surface="home")
    reported = event("seen", Kind.IMPRESSION, at=T + 2, page_id="p")
    others = [
        event("seen", Kind.IMPRESSION, at=T + 2, page_id="p2"),
        event("seen", Kind.IMPRESSION, at=T + 2, page_id="p", video="w"),
        event("seen", Kind.IMPRESSION, at=T + 2),
    ]
    assert store.append([served]).accepted == 1
    assert store.append([reported, *others]).accepted == 3
    assert store.known([reported])[0] == {served.key}
    assert store.read("u").impressions.num_rows == 4


def test_event_id_of_another_user_is_another_event(store):
    assert store.append([event("a"), event("a", user="other")]).accepted == 2


def test_profile_is_kept_from_the_first_meeting(store):
    assert store.append([event("a")], profiles={"u": {"region": "fr"}}).new_users == ("u",)
    assert store.append([event("b")], profiles={"u": {"region": "de"}}).new_users == ()
    assert store.read("u").profile == {"region": "fr"}


def test_only_the_newest_events_are_kept(open_store):
    store = open_store(max_events=10)
    for start in range(0, 2000, 100):
        store.append([event(str(i), at=T + i) for i in range(start, start + 100)])
    found = store.read("u")
    # Beside the ten that are looked at, 500 for those among them that turn out not to count.
    assert found.watches["time"].to_pylist() == [T + i for i in range(1490, 2000)]
    pairs, _ = store.known([event(str(i)) for i in range(2000)])
    assert 510 <= len(pairs) <= 510 + 500


def test_store_survives_being_opened_again(store, open_store):
    store.append([event("a")])
    assert open_store().read("u").watches.num_rows == 1


def test_write_of_another_store_is_seen_at_once_although_reads_are_cached(store, open_store):
    other = open_store()
    store.append([event("a")])
    assert store.read("u").watches.num_rows == 1
    other.append([event("b")])
    assert store.read("u").watches.num_rows == 2


def test_ties_in_time_are_kept_in_the_order_of_arrival(store):
    store.append([event("z", video="first")])
    store.append([event("a", video="second"), event("m", video="third")])
    assert store.read("u").watches["video_id"].to_pylist() == ["first", "second", "third"]


def test_ids_are_any_text(store):
    user, made = 'a:b "c" ü/\u2028', "e:1/ü {}"
    store.append([event(made, user=user, video="v:ü/1")], profiles={user: {"region": "ß"}})
    found = store.read(user)
    assert found.watches["video_id"].to_pylist() == ["v:ü/1"]
    assert found.profile == {"region": "ß"}
    assert store.known([event(made, user=user)]) == ({(user, "watch", made)}, {user})
    assert store.user_ids(10) == [user]
    assert store.watch_counts(T).to_pylist() == [{"region": "ß", "video_id": "v:ü/1", "watches": 1}]


def test_what_a_user_blocks_is_kept_replaced_and_seen_at_once(store, open_store):
    other = open_store()
    store.append([event("a")], profiles={"u": {"region": "fr"}})
    assert store.read("u").blocked == Blocked()
    other.set_blocked("u", Blocked(videos=("v1",), channels=("c1", "c2")))
    assert store.read("u").blocked == Blocked(videos=("v1",), channels=("c1", "c2"))
    other.set_blocked("u", Blocked(channels=("c3",)))
    found = store.read("u")
    assert found.blocked == Blocked(channels=("c3",))
    assert (found.profile, found.watches.num_rows) == ({"region": "fr"}, 1)


def test_user_who_blocks_before_watching_anything_is_known(store):
    store.set_blocked("new", Blocked(videos=("v1",)))
    found = store.read("new")
    assert (found.is_known, found.blocked.videos, found.newest_s) == (True, ("v1",), 0)
    assert store.user_ids(10) == []
    store.append([event("a", user="new")])
    assert store.read("new").blocked.videos == ("v1",)
    assert store.user_ids(10) == ["new"]


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


# ---- the moments of clicks -----------------------------------------------------------------------


def moments(store):
    table = store.read("u").impressions
    return dict(zip(table["video_id"].to_pylist(), table["clicked_at"].to_pylist(), strict=True))


@pytest.mark.parametrize("page", ["p", ""])
def test_click_happens_at_the_first_click_or_watch_that_came_from_the_impression(store, page):
    store.append([shown("a"), shown("b"), shown("c")])
    assert moments(store) == {"a": None, "b": None, "c": None}
    store.append([event("w1", at=T + 90, video="a", watch_time_s=8.0, page_id=page)])
    assert moments(store) == {"a": T + 90, "b": None, "c": None}
    store.append([event("c1", Kind.CLICK, T + 5, video="a", page_id=page)])
    store.append([event("c2", Kind.CLICK, T + 9, video="b", page_id=page)])
    assert moments(store) == {"a": T + 5, "b": T + 9, "c": None}


def test_what_names_the_page_later_than_a_click_can_be_is_no_click(store):
    # The tables have the impression by then, as not clicked.
    store.append([shown("a"), shown("b")])
    late = {"at": T + CLICK_WINDOW_S + 1, "page_id": "p", "watch_time_s": 5.0}
    store.append([event("w1", video="a", **late)])
    store.append([event("c2", Kind.CLICK, T + 9, video="b"), event("w2", video="b", **late)])
    assert moments(store) == {"a": None, "b": T + 9}
    assert outcomes(store) == {("a", T): (False, 0.0), ("b", T): (True, 5.0)}


def test_impression_told_as_clicked_was_clicked_at_the_first_watch_as_in_training(store):
    store.append([shown("a", clicked=True), shown("b")])
    assert moments(store) == {"a": T + CLICK_WINDOW_S, "b": None}
    store.append([event("w2", at=T + 60, video="a", source="search")])
    assert moments(store) == {"a": T + 60, "b": None}
    store.append([event("w1", at=T + 50, video="a")])
    assert moments(store) == {"a": T + 50, "b": None}


# ---- going on from what was read -----------------------------------------------------------------

KEPT = 12


@pytest.fixture
def little_slack(monkeypatch):
    """Stores remove rows at nearly every write."""
    for module in (history_store, redis_history):
        monkeypatch.setattr(module, "PRUNE_SLACK", 3)


def contents(found):
    tables = (found.watches, found.searches, found.impressions)
    return [found.newest_s, found.profile, found.blocked, *(table.to_pylist() for table in tables)]


def anything(rng, number):
    """An event close to the others in time, on one of few videos and pages; at times an old one."""
    kind = list(Kind)[rng.integers(4)]
    minute = int(rng.integers(90))  # Some happen in the same second.
    at = T + 60 * minute - (WATCH_WINDOW_S if rng.random() < 0.2 else 0)
    if kind is Kind.SEARCH:
        return event(f"s{number}", kind, at, query=f"words {number}")
    more = {"page_id": str(rng.choice(["", "p", "q"])), "video": f"v{rng.integers(3)}"}
    if kind is Kind.IMPRESSION:
        more |= {"surface": str(rng.choice(["home", "next"])), "clicked": rng.random() < 0.1}
    else:
        more["source"] = str(rng.choice(["", "home", "next"]))
    if kind is Kind.WATCH:
        more["watch_time_s"] = float(rng.random())
    return event(f"{kind.value}{number}", kind, at, **more)


@pytest.mark.parametrize("seed", range(8))
def test_store_that_goes_on_reads_what_one_reads_that_begins(open_store, little_slack, seed):
    rng = np.random.default_rng(seed)
    stores = [open_store(max_events=KEPT) for _ in range(3)]
    arrived = []
    for _ in range(25):
        batch = [anything(rng, len(arrived) + i) for i in range(rng.integers(1, 6))]
        again = [arrived[i] for i in rng.integers(len(arrived), size=2)] if arrived else []
        arrived += batch
        stores[rng.integers(2)].append([*batch, *again])
        if rng.random() < 0.1:
            stores[0].set_blocked("u", Blocked(videos=(f"v{len(arrived)}",)))
        expected = contents(stores[2].read("u"))
        assert contents(open_store(max_events=KEPT).read("u")) == expected
        if rng.random() < 0.6:
            assert contents(stores[0].read("u")) == expected
    assert contents(stores[0].read("u")) == contents(stores[1].read("u")) == expected


def test_sqlite_reads_only_what_arrived_since(sqlite_at):
    store = sqlite_at()
    store.append([event("a", video="a"), event("b", at=T + 9, video="b")])
    store.read("u")
    with store.transaction() as connection:  # Behind its back: it would notice, did it look.
        connection.execute("UPDATE watches SET video_id = 'changed'")
    store.append([event("c", at=T + 5, video="c")])
    assert store.read("u").watches["video_id"].to_pylist() == ["a", "c", "b"]


def test_impression_that_is_told_late_takes_the_watch_of_an_earlier_one(store):
    store.append([shown(page="p1"), event("w", at=T + 100, watch_time_s=5.0)])
    assert outcomes(store) == {("v", T): (True, 5.0)}
    store.append([shown(page="p2", at=T + 60)])
    assert outcomes(store) == {("v", T): (False, 0.0), ("v", T + 60): (True, 5.0)}


def test_impression_that_is_told_after_its_watch_of_the_same_second_has_it(store):
    store.append([event("w", at=T, watch_time_s=5.0)])
    assert outcomes(store) == {}
    store.append([shown()])
    assert outcomes(store) == {("v", T): (True, 5.0)}


def test_watch_that_is_told_late_adds_to_what_was_attributed(store):
    store.append([shown("a"), shown("b"), event("w1", at=T + 9, video="a", watch_time_s=5.0)])
    assert outcomes(store) == {("a", T): (True, 5.0), ("b", T): (False, 0.0)}
    store.append([event("w2", at=T + 5, video="a", watch_time_s=2.0)])
    assert outcomes(store) == {("a", T): (True, 7.0), ("b", T): (False, 0.0)}


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
    # Left out, as training does: a row without user, and one of a user who is not in the users
    # table; and one after the moment.
    assert written == {"users": 2, "watches": 3, "impressions": 1}
    found = store.read("a")
    assert found.profile == {"region": "fr", "age": 30.0}
    assert found.watches["video_id"].to_pylist() == ["v2", "v1"]
    assert found.newest_s == T + 2
    assert store.read("b").profile == {}
    assert not store.read("c").is_known
    assert store.user_ids(10) == ["a", "b"]


def test_impression_of_the_logs_keeps_its_outcome(store, logs_dir):
    # Watched two seconds later, but the logs say that it was not clicked: they know.
    history_seed.seed(store, logs_dir, until_s=T + 100)
    assert store.read("a").impressions["clicked"].to_pylist() == [False]


def test_a_filled_store_has_what_training_has_and_the_moments_of_clicks(tmp_path, store):
    directory = tmp_path / "logs"
    ids = {"user_id": ["u"] * 4, "video_id": ["a", "a", "gone", "b"]}
    with logs.LogWriter(directory) as writer:
        writer.write("videos", pa.table({"video_id": ["a", "b"], "upload_time": [T - 9, T - 9]}))
        watched = ids | {"time": [T + 40, T + 40, T + 41, T + 42], "watch_time_s": [9.0] * 4}
        writer.write("watches", pa.table(watched))
        shown = ids | {"time": [T, T, T, T], "watch_time_s": [0.0] * 4, "clicked": [True] * 4}
        told = pa.array([None, None, None, T + 3], pa.int64())
        writer.write("impressions", pa.table(shown).append_column("click_time", told))
    written = history_seed.seed(store, directory, until_s=T + 100)
    assert written == {"watches": 2, "impressions": 2}
    assert store.read("u").watches["video_id"].to_pylist() == ["a", "b"]
    assert moments(store) == {"a": T + 40, "b": T + 3}


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


def test_filling_keeps_the_newest_events_of_each_user(tmp_path, open_store):
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
    store = open_store(max_events=4)
    history_seed.seed(store, directory, until_s=T + 86400 * 10)
    assert store.read("a").watches["video_id"].to_pylist() == ["v12", "v13", "v15", "v16"]
    assert store.read("b").watches["video_id"].to_pylist() == ["v8", "v11", "v14", "v17"]


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
    monkeypatch.setattr(history_store, "CHECKPOINT_PERIOD_S", 0.01)
    store = sqlite_at()
    store.checkpoint()
    store.append([event("a")])
    until = time.monotonic() + 60
    while on_disk(store, tmp_path) == 0:
        assert time.monotonic() < until
        time.sleep(0.01)


_WRITER = """
import sys
from serving.events import Event, Kind
from serving.history_store import SqliteHistoryStore
from serving.redis_history import RedisHistoryStore
kind = RedisHistoryStore if sys.argv[1].startswith("redis:") else SqliteHistoryStore
store = kind(sys.argv[1])
for i in range(60):
    store.append([Event(event_id=f"{name}-{i}", kind=Kind.WATCH, user_id="u", time=1 + i,
                        video_id="v") for name in ("shared", sys.argv[2])])
"""


def test_two_processes_share_one_store(store):
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


# ---- Redis ---------------------------------------------------------------------------------------


def test_redis_that_goes_is_unavailable_and_is_found_again_when_it_comes_back(
    redis_at, redis_server
):
    store = redis_at()
    store.append([event("a")])
    redis_server.stop()
    with pytest.raises(errors.HistoryUnavailableError, match="cannot be read"):
        store.read("u")
    with pytest.raises(errors.HistoryUnavailableError, match="cannot be written"):
        store.append([event("b")])
    redis_server.start()
    # It writes every command to its disk, as the documentation asks for.
    assert store.read("u").watches.num_rows == 1
    assert store.append([event("a"), event("b")]).accepted == 1
    assert store.read("u").watches.num_rows == 2


def test_redis_that_was_restarted_between_two_requests_is_not_noticed(redis_at, redis_server):
    store = redis_at()
    store.append([event("a")])
    redis_server.stop()
    redis_server.start()
    assert store.append([event("b")]).accepted == 1
    assert store.read("u").watches.num_rows == 2


def test_redis_that_came_back_empty_is_not_answered_for_from_memory(redis_at, redis_server):
    store = redis_at()
    store.append([event("a", video="old")])
    assert store.read("u").watches["video_id"].to_pylist() == ["old"]
    redis_server.empty()
    with pytest.raises(errors.HistoryLostError):
        store.read("u")
    with store.filling() as filling:
        assert filling is not None  # And nothing to fill it with.
    assert not store.read("u").is_known
    store.append([event("b", video="new")])
    assert store.read("u").watches["video_id"].to_pylist() == ["new"]


def test_redis_reads_only_what_arrived_since(redis_at, redis_server):
    store = redis_at()
    store.append([event("a", video="a"), event("b", at=T + 9, video="b")])
    store.read("u")
    with redis_server.client() as client:
        row = client.hget("watchnext:watch:u", "a").decode()
        client.hset("watchnext:watch:u", "a", row.replace('"a"', '"changed"'))
    store.append([event("c", at=T + 5, video="c")])
    assert store.read("u").watches["video_id"].to_pylist() == ["a", "c", "b"]


def test_redis_that_lost_its_last_writes_is_read_anew(redis_at, redis_server):
    store = redis_at()
    store.append([event("a", video="kept")])
    store.append([event("b", video="lost")])
    assert store.read("u").watches["video_id"].to_pylist() == ["kept", "lost"]
    with redis_server.client() as client:  # As after a power cut: the next arrival is b's again.
        (member,) = client.zrange("watchnext:watch_order:u", 1, 1)
        client.zrem("watchnext:watch_order:u", member)
        client.hdel("watchnext:watch:u", "b")
        client.decr("watchnext:arrivals")
    store.append([event("c", video="new")])
    assert store.read("u").watches["video_id"].to_pylist() == ["kept", "new"]


def test_redis_that_hangs_is_given_up(redis_at, redis_server):
    store = redis_at()
    redis_server.process.send_signal(signal.SIGSTOP)
    try:
        with pytest.raises(errors.HistoryUnavailableError, match="Timeout"):
            store.read("u")
    finally:
        redis_server.process.send_signal(signal.SIGCONT)


def test_row_of_a_newer_server_is_refused_and_what_it_appended_is_left_alone(
    redis_at, redis_server
):
    store = redis_at()
    store.append([event("a")])
    with redis_server.client() as client:
        key = "watchnext:watch:u"
        row = client.hget(key, "a").decode()
        client.hset(key, "a", row[:-1] + ', "appended"]')
        client.hset("watchnext:user:u", "version", "x")
        assert store.read("u").watches["video_id"].to_pylist() == ["v"]
        client.hset(key, "a", "[2" + row[2:])
    with pytest.raises(errors.HistoryUnavailableError, match=r"version \[2\].*update this one"):
        redis_at().read("u")


def test_filling_that_was_killed_is_done_again_from_the_start(redis_at, redis_server, logs_dir):
    with redis_server.client() as client:
        # What a server leaves that dies while it fills: rows, and no users that are met.
        client.hset("watchnext:watch:a", "log-1", '[1,"gone",1,1.0,null,"",""]')
        client.zadd("watchnext:watch_order:a", {"0000000000000001:log-1": 1})
    store = redis_at()
    redis_server_rows = history_seed.seed(store, logs_dir, until_s=T + 100)
    assert redis_server_rows == {"users": 2, "watches": 3, "impressions": 1}
    assert store.read("a").watches["video_id"].to_pylist() == ["v2", "v1"]
    assert store.append([event("new", user="a", at=T + 50)]).accepted == 1
    assert store.read("a").watches["video_id"].to_pylist() == ["v2", "v1", "v"]


def test_two_servers_that_fill_at_once_fill_once(redis_at, logs_dir):
    stores = [redis_at(), redis_at()]
    written = []

    def fill(store):
        written.append(history_seed.seed(store, logs_dir, until_s=T + 100))

    threads = [threading.Thread(target=fill, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(map(len, written)) == [0, 3]
    assert stores[0].read("a").watches.num_rows == 2
