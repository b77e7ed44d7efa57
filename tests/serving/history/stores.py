"""Stores of both kinds, and events for them."""

import contextlib

import pyarrow as pa
import pytest

from features.tables import logs
from serving.events.event import Event, Kind
from serving.history.redis_store import RedisHistoryStore
from serving.history.sqlite_store import SqliteHistoryStore

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


def shown(video="v", page="p", at=T, **more):
    return event(f"{page}/{video}", Kind.IMPRESSION, at, video=video, page_id=page, **more)


def outcomes(store):
    table = store.read("u").impressions
    return {
        (row["video_id"], row["time"]): (row["clicked"], row["watch_time_s"])
        for row in table.to_pylist()
    }


def moments(store):
    table = store.read("u").impressions
    return dict(zip(table["video_id"].to_pylist(), table["clicked_at"].to_pylist(), strict=True))


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
