"""When events reach the tables, with which outcome, and that each does once."""

import dataclasses

import pyarrow as pa
import pytest

from features.tables import logs
from serving.events import attribution
from serving.events import keys as event_keys
from serving.events import segments as event_segments
from serving.events.event import CLICK_WINDOW_S, WATCH_WINDOW_S, Event, Kind, NewUser
from serving.events.log import EventLog
from tests.serving.events.logs_of_events import T, impression, logs_there, rows, watch


def click(event_id, video="v", at=T + 50, user="u", **more):
    return Event(event_id=event_id, kind=Kind.CLICK, user_id=user, time=at, video_id=video, **more)


def test_watches_and_searches_reach_the_tables_at_the_first_compaction(log):
    log.append(
        [
            watch("w1", completed=True, source="search", device="tv"),
            Event(
                event_id="s1", kind=Kind.SEARCH, user_id="u", time=T, query='cats "and" ünïcode\n'
            ),
        ]
    )
    assert log.compact() == {"watches": 1, "searches": 1}
    (row,) = rows(log, "watches")
    assert row == {
        "user_id": "u",
        "video_id": "v",
        "time": T + 60,
        "watch_time_s": 30.0,
        "completed": True,
        "source": "search",
        "device": "tv",
    }
    assert rows(log, "searches")[0]["query"] == 'cats "and" ünïcode\n'
    assert log.compact() == {}


def test_impression_waits_for_its_click_and_is_written_with_it(log, wall):
    log.append_page([impression("a"), impression("b")])
    wall.now += CLICK_WINDOW_S - 5
    log.append([watch("w", "a", seconds=42, page_id="p")])
    assert log.compact() == {"watches": 1}
    wall.now += 10
    assert log.compact() == {"impressions": 2}
    found = {r["video_id"]: (r["clicked"], r["watch_time_s"]) for r in rows(log, "impressions")}
    assert found == {"a": (True, 42.0), "b": (False, 0.0)}


def test_row_of_an_impression_tells_when_it_was_clicked(log):
    log.append_page([impression("a"), impression("b"), impression("c")])
    log.append([watch("w1", "a", at=T + 60, page_id="p"), click("c1", "a", at=T + 50)])
    log.append([watch("w2", "b", at=T + 70)])
    log.compact(flush=True)
    found = {row["video_id"]: row["click_time"] for row in rows(log, "impressions")}
    assert found == {"a": T + 50, "b": T + 70, "c": None}


def test_click_later_than_the_window_is_none_whenever_the_row_is_written(log):
    log.append_page([impression("a")])
    log.append([watch("w1", "a", at=T + CLICK_WINDOW_S + 1, page_id="p")])
    log.compact(flush=True)
    (row,) = rows(log, "impressions")
    assert (row["clicked"], row["watch_time_s"], row["click_time"]) == (False, 0.0, None)


def test_watch_of_a_younger_impression_that_still_waits_is_not_the_older_ones():
    def shown(at):
        columns = {"user_id": ["u"], "video_id": ["v"], "time": [at], "page_id": [str(at)]}
        more = {"surface": [""], "clicked": [False], "watch_time_s": [0.0]}
        return pa.table(columns | more)

    watched = pa.table(
        {
            "user_id": ["u"],
            "video_id": ["v"],
            "time": [T + 100],
            "page_id": [""],
            "source": [""],
            "watch_time_s": [5.0],
        }
    )
    younger = shown(T + 60)
    clicked, seconds, _ = attribution.attribute(shown(T), watched, beside=younger)
    assert (clicked.tolist(), seconds.tolist()) == ([False], [0.0])
    clicked, seconds, moment = attribution.attribute(shown(T), watched, beside=younger.slice(1))
    assert (clicked.tolist(), seconds.tolist(), moment.tolist()) == ([True], [5.0], [T + 100])


def test_served_impression_keeps_how_it_was_chosen(log):
    log.append_page(
        [
            impression(
                candidate_sources=("retrieval", "fresh"),
                retrieval_score=1.5,
                release_id="7",
                device="phone",
            )
        ]
    )
    log.compact(flush=True)
    (row,) = rows(log, "impressions")
    assert row["candidate_sources"] == ["retrieval", "fresh"]
    assert (row["retrieval_score"], row["release_id"], row["device"]) == (1.5, "7", "phone")
    assert (row["page_id"], row["position"], row["surface"]) == ("p", 0, "home")


def test_clicked_impression_waits_longer_for_its_watch(log, wall):
    log.append_page([impression("a"), impression("b")])
    log.append([click("c", "a", page_id="p")])
    wall.now += CLICK_WINDOW_S + 5
    assert log.compact() == {"impressions": 1}
    wall.now += 3600
    log.append([watch("w", "a", at=T + 5000, seconds=4000, page_id="p")])
    assert log.compact() == {"watches": 1, "impressions": 1}
    found = {r["video_id"]: (r["clicked"], r["watch_time_s"]) for r in rows(log, "impressions")}
    assert found == {"a": (True, 4000.0), "b": (False, 0.0)}


def test_clicked_impression_without_a_watch_is_written_in_the_end(log, wall):
    log.append_page([impression("a")])
    log.append([click("c", "a", page_id="p")])
    wall.now += WATCH_WINDOW_S + 5
    assert log.compact() == {"impressions": 1}
    assert rows(log, "impressions")[0]["clicked"] is True


def test_flush_writes_impressions_that_are_not_ripe(log):
    log.append_page([impression()])
    assert log.compact() == {}
    assert log.compact(flush=True) == {"impressions": 1}


def test_event_sent_twice_is_one_row_across_compactions(log):
    log.append([watch("w1"), watch("w1")])
    log.compact()
    log.append([watch("w1"), watch("w2")])
    log.compact()
    assert len(rows(log, "watches")) == 2


def test_same_event_id_of_another_user_is_another_event(log):
    log.append([watch("w1"), watch("w1", user="someone else")])
    assert log.compact() == {"watches": 2}


def test_impression_reported_by_the_client_for_a_served_page_is_the_same_impression(log):
    log.append_page([impression("a")])
    reported = Event(
        event_id="client", kind=Kind.IMPRESSION, user_id="u", time=T, video_id="a", page_id="p"
    )
    log.append([reported])
    assert log.compact(flush=True) == {"impressions": 1}


def test_old_evidence_is_removed(log, wall):
    log.append([watch("w1")])
    log.compact()
    directory = log.logs_dir / event_segments.DIRECTORY
    assert len(list(directory.glob("evidence-*"))) == 1
    wall.now += CLICK_WINDOW_S + 60
    log.compact()
    assert list(directory.glob("*.jsonl")) == []
    assert len(list(directory.glob("keys-*"))) == 1
    wall.now += event_keys.KEPT_S
    log.compact()
    assert list(directory.glob("keys-*")) == []


@pytest.mark.parametrize("later_s", [0, CLICK_WINDOW_S + 60, 23 * 3600])
def test_event_that_comes_again_within_a_day_is_one_row(log, wall, later_s):
    seen = impression("a", page="")
    log.append([watch("w1"), Event(event_id="s", kind=Kind.SEARCH, user_id="u", time=T, query="q")])
    log.append([seen])
    log.append_page([impression("b")])
    assert log.compact(flush=True) == {"watches": 1, "searches": 1, "impressions": 2}
    wall.now += later_s
    log.append([watch("w1"), watch("w2"), seen])
    log.append([Event(event_id="s", kind=Kind.SEARCH, user_id="u", time=T, query="q")])
    # Told of by the client what was served here: known by page and video.
    log.append([dataclasses.replace(impression("b"), event_id="client", release_id="")])
    assert log.compact(flush=True) == {"watches": 1}


def test_impression_that_is_told_of_again_takes_no_click_from_the_first(log, wall, tmp_path):
    log.append_page([impression("a")])
    log._pages.seal()
    wall.now += CLICK_WINDOW_S + 60
    other = EventLog(log.logs_dir, wall=wall)  # Of a server that was told when another had died.
    other.append([dataclasses.replace(impression("a", at=T + 2), event_id="client")])
    other.append([click("c", "a", at=T + 3, page_id="p"), watch("w", "a", at=T + 3, page_id="p")])
    log.compact()
    assert [row["clicked"] for row in rows(log, "impressions")] == [True]
    other.compact(flush=True)
    assert len(rows(log, "impressions")) == 1
    other.close()


def test_damaged_keys_are_named_and_lose_no_event(log):
    log.append([watch("w1")])
    log.compact()
    (keys,) = (log.logs_dir / event_segments.DIRECTORY).glob("keys-*")
    keys.write_bytes(b"garbage")
    log.append([watch("w2")])
    assert log.compact() == {"watches": 1}


def test_watch_that_came_twice_is_watched_once(log):
    log.append_page([impression("a")])
    for _ in range(2):
        log.append([watch("w1", "a", seconds=40, page_id="p")])
        log.compact()
    assert log.compact(flush=True) == {"impressions": 1}
    assert rows(log, "impressions")[0]["watch_time_s"] == 40.0


def test_new_users_are_added_where_the_logs_have_users(log):
    logs.append(
        log.logs_dir, "users", pa.table({"user_id": ["old"], "region": ["fr"], "age": [30]})
    )
    log.append(
        [
            NewUser(user_id="new", profile={"region": "de", "age": "not a number", "hat": 1}),
            NewUser(user_id="new", profile={}),
        ]
    )
    assert log.compact() == {"users": 1}
    found = {row["user_id"]: row for row in rows(log, "users")}
    assert found["new"]["region"] == "de"
    assert found["new"]["age"] is None


def test_users_that_the_logs_know_are_not_written_again_by_a_store_that_is_new(log):
    # The newest row of a user counts, and this one would know less.
    logs.append(log.logs_dir, "users", pa.table({"user_id": ["old"], "region": ["fr"]}))
    log.append([NewUser(user_id="old", profile={}), NewUser(user_id="new", profile={})])
    assert log.compact() == {"users": 1}
    assert sorted(row["user_id"] for row in rows(log, "users")) == ["new", "old"]


def test_users_table_is_not_begun_for_new_users_alone(log):
    # It would make all other users of the logs unknown.
    log.append([NewUser(user_id="new", profile={"region": "de"}), watch("w", user="new")])
    assert log.compact() == {"watches": 1}
    assert "users" not in logs_there(log)
