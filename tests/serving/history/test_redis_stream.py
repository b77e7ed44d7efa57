"""What replicas record reaches those of other logs directories through a real Redis, once each."""

import time

import pytest

from serving import errors
from serving.events.event import Event, Kind, NewUser
from serving.events.log import EventLog
from serving.history import redis_stream
from serving.history.redis_stream import RedisStream
from serving.servables.embedded import EmbeddedBackend
from serving.server.live_service import LiveParts


def event(name, kind=Kind.WATCH, *, video="v1", user="u", page=""):
    now = int(time.time())
    return Event(event_id=name, kind=kind, user_id=user, time=now, video_id=video, page_id=page)


class Replica:
    """An event log of its own, and the stream as its process sees it."""

    def __init__(self, url, directory):
        self.log = EventLog(directory)
        self.stream = RedisStream(url, self.log)

    def news(self):
        return [record["event_id"] for page in self.stream.pages() for record in page]


@pytest.fixture
def replica(redis_server, tmp_path):
    redis_server.empty()
    return lambda name: Replica(redis_server.url, tmp_path / name)


def test_each_hears_the_others_once_and_not_itself(replica):
    one, other = replica("one"), replica("other")
    one.log.append([event("a"), event("b", Kind.CLICK, page="p")])
    one.log.append_page([event("c", Kind.IMPRESSION, page="p")])
    other.log.append([event("d")])
    assert one.news() == other.news() == []  # Nothing is published yet.
    one.stream.publish()
    other.stream.publish()
    assert sorted(other.news()) == ["a", "b", "c"]
    assert one.news() == ["d"]
    one.stream.publish()
    assert one.news() == other.news() == []


def test_what_is_not_live_is_not_published(replica):
    one, other = replica("one"), replica("other")
    one.log.append(
        [
            Event(event_id="s", kind=Kind.SEARCH, user_id="u", time=1, query="cats"),
            NewUser(user_id="u", profile={"region": "de"}),
            event("a"),
        ]
    )
    one.stream.publish()
    ((first, second),) = other.stream.pages()
    assert first == {"kind": "user", "user_id": "u", "profile": '{"region": "de"}'}
    assert set(second) == {"kind", "event_id", "user_id", "time", "video_id"}


def test_who_starts_later_catches_up_in_pages_and_who_fails_is_given_them_again(
    replica, monkeypatch
):
    monkeypatch.setattr(redis_stream, "_BATCH", 2)
    monkeypatch.setattr(redis_stream, "_PAGE", 3)
    one = replica("one")
    one.log.append([event(f"e{number}") for number in range(10)])
    one.stream.publish()
    late = replica("late")
    pages = late.stream.pages()
    assert len(next(pages)) == 6
    pages.close()  # As where the block that takes them in fails.
    assert late.news() == [f"e{number}" for number in range(10)]
    assert late.news() == []


def test_processes_of_one_directory_follow_it_and_not_the_stream(replica):
    one, beside = replica("one"), replica("one")
    assert redis_stream.origin_of(one.log.logs_dir) == redis_stream.origin_of(beside.log.logs_dir)
    one.log.append([event("a")])
    one.stream.publish()
    assert beside.news() == []
    beside.stream.publish()  # What it did not write it leaves to others.
    assert replica("other").news() == ["a"]


def test_what_cannot_be_published_waits(replica, redis_server):
    one, other = replica("one"), replica("other")
    redis_server.stop()
    one.log.append([event("a")])
    with pytest.raises(errors.HistoryUnavailableError, match="cannot add to the live events"):
        one.stream.publish()
    with pytest.raises(errors.HistoryUnavailableError, match="cannot read the live events"):
        other.news()
    redis_server.start()
    one.log.append([event("b")])
    one.stream.publish()
    assert other.news() == ["a", "b"]


def test_an_entry_that_holds_something_else_is_left_out(replica, redis_server):
    one, other = replica("one"), replica("other")
    with redis_server.client() as client:
        client.xadd(redis_stream.KEY, {"records": b"no batch"})
        client.xadd(redis_stream.KEY, {"other": b""})
        wrong = redis_stream.packed([{"kind": "watch"}])
        client.xadd(redis_stream.KEY, {"origin": b"x", "records": wrong})
    one.log.append([event("a")])
    one.stream.publish()
    assert other.news() == ["a"]


def test_the_stream_is_bounded(replica, redis_server, monkeypatch):
    monkeypatch.setattr(redis_stream, "_BATCH", 1)
    monkeypatch.setattr(redis_stream, "MOST_BYTES", 50_000)
    one = replica("one")
    with redis_server.client() as client:
        for turn in range(3):
            one.log.append([event(f"{turn}-{number}") for number in range(1000)])
            one.stream._looked_at = float("-inf")
            one.stream.publish()
        assert client.xlen(redis_stream.KEY) < 2000
        assert client.memory_usage(redis_stream.KEY) < 200_000
        old = int((time.time() - redis_stream.KEPT_S - 3600) * 1000)
        client.delete(redis_stream.KEY)
        for number in range(300):
            client.xadd(redis_stream.KEY, {"origin": "x"}, id=f"{old}-{number + 1}")
        one.log.append([event(f"new-{number}") for number in range(300)])
        one.stream.publish()
        assert client.xlen(redis_stream.KEY) < 400  # Redis drops whole nodes of its tree.


def test_a_replica_counts_as_live_what_another_host_recorded(replica, tmp_path):
    one, other = replica("one"), replica("other")
    heard = []
    parts = LiveParts(
        tmp_path / "no_root", other.log.logs_dir, EmbeddedBackend(), stream=other.stream
    )
    parts.on_events = heard.extend
    one.log.append([event(f"w{n}", user=f"u{n}", video="hit") for n in range(3)])
    one.log.append([event("click", Kind.CLICK, page="p7")])
    one.stream.publish()
    parts.seed()
    parts.follow()
    assert parts.state.known(0)[1] == ["hit"]
    assert [(e.kind, e.page_id) for e in heard if e.kind is Kind.CLICK] == [(Kind.CLICK, "p7")]
    assert len(heard) == 4
    parts.close()
