"""An event log, its clock, and events for it."""

import time

import pytest

from features.tables import logs
from serving.events.event import Event, Kind
from serving.events.log import EventLog

T = 1_700_000_000


class Wall:
    """A clock that a test moves; it starts at the real time, like the times of files."""

    def __init__(self):
        self.now = time.time()

    def __call__(self):
        return self.now


@pytest.fixture
def wall():
    return Wall()


@pytest.fixture
def log(tmp_path, wall):
    opened = EventLog(tmp_path / "logs", wall=wall)
    yield opened
    opened.close()


def impression(video="v", page="p", at=T, user="u", **more):
    return Event(
        event_id=f"{page}/{video}",
        kind=Kind.IMPRESSION,
        user_id=user,
        time=at,
        video_id=video,
        page_id=page,
        position=0,
        surface="home",
        **more,
    )


def watch(event_id, video="v", at=T + 60, seconds=30.0, user="u", **more):
    return Event(
        event_id=event_id,
        kind=Kind.WATCH,
        user_id=user,
        time=at,
        video_id=video,
        watch_time_s=seconds,
        **more,
    )


def rows(log, table):
    if table not in logs_there(log):
        return []
    return logs.read_table(log.logs_dir, table).to_pylist()


def logs_there(log):
    return {p.name for p in log.logs_dir.iterdir() if not p.name.startswith(".")}
