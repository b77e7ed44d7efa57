"""Feedback in the history stores: the same in each, also where it came from the logs."""

import sqlite3

import pyarrow as pa
import pytest

from features.tables import logs
from serving.events.event import Event, Kind
from serving.history import seed
from serving.history.redis_store import RedisHistoryStore
from serving.history.sqlite_store import SqliteHistoryStore

T = 1_700_000_000


@pytest.fixture(params=["sqlite", "redis"])
def store(request, tmp_path):
    if request.param == "redis":
        server = request.getfixturevalue("redis_server")
        server.empty()
        opened = RedisHistoryStore(server.url, max_events=20)
    else:
        opened = SqliteHistoryStore(tmp_path / "history.sqlite", max_events=20)
    yield opened
    opened.close()


def given(number, kind, *, at, **more):
    return Event(
        event_id=f"f{number}", kind=Kind.FEEDBACK, user_id="u", time=at, feedback=kind, **more
    )


def test_store_gives_feedback_back_in_the_order_of_time(store):
    events = [
        given(1, "like", at=T + 5, video_id="v1"),
        given(2, "hide", at=T, channel_id="c1", value=1.0),
        given(1, "share", at=T + 9, video_id="v1"),
    ]
    assert store.append([*events, events[0]]).accepted == 3
    rows = store.read("u").feedback.to_pylist()
    assert [
        (r["time"] - T, r["kind"], r["video_id"], r["channel_id"], r["value"]) for r in rows
    ] == [
        (0, "hide", "", "c1", 1.0),
        (5, "like", "v1", "", None),
        (9, "share", "v1", "", None),
    ]
    assert store.read("u").newest_s == T + 9
    assert store.known(events)[0] == {event.key for event in events}


def test_hidden_is_what_was_not_taken_back(store):
    store.append(
        [
            given(1, "hide", at=T, video_id="v1"),
            given(2, "hide", at=T, video_id="v2"),
            given(3, "hide", at=T, channel_id="c1"),
            given(4, "hide", at=T + 1, video_id="v2", value=0.0),
            given(5, "dislike", at=T + 2, video_id="v3"),
        ]
    )
    hidden = store.read("u").hidden
    assert hidden.videos == ("v1",)
    assert hidden.channels == ("c1",)
    assert store.read("nobody").hidden.videos == ()


def test_store_is_filled_with_the_feedback_of_the_logs(store, tmp_path):
    directory = tmp_path / "logs"
    logs.append(directory, "videos", pa.table({"video_id": ["v1", "v2"], "upload_time": [T, T]}))
    rows = {
        "user_id": ["u", "u", "u", "u"],
        "time": [T + 1, T + 2, T + 3, T + 4],
        "kind": ["like", "hide", "applaud", "like"],
        "video_id": ["v1", None, "v1", "unlisted"],
        "channel_id": [None, "c1", None, None],
    }
    logs.append(directory, "feedback", pa.table(rows))
    assert seed.seed(store, directory, until_s=T + 100)["feedback"] == 3
    found = store.read("u").feedback.to_pylist()
    assert [(r["kind"], r["video_id"], r["channel_id"], r["value"]) for r in found] == [
        ("like", "v1", "", None),
        ("hide", "", "c1", None),
        # It may be watched yet, and exists from then on.
        ("like", "unlisted", "", None),
    ]


def test_file_of_an_earlier_version_takes_feedback(tmp_path):
    path = tmp_path / "history.sqlite"
    SqliteHistoryStore(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("DROP TABLE feedback")
        connection.execute("ALTER TABLE users DROP COLUMN feedback")
    connection.close()
    store = SqliteHistoryStore(path)
    store.append([given(1, "like", at=T, video_id="v1")])
    assert store.read("u").feedback.num_rows == 1
    store.close()
