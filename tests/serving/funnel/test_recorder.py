"""What is acknowledged is in the history and in the tables, once, whatever happens in between."""

import dataclasses
import functools
import os
import time

import pytest

from features.tables import logs
from serving import errors
from serving.events import compaction
from serving.events import segments as event_segments
from serving.events.event import CLICK_WINDOW_S, Event, Kind
from serving.events.log import EventLog
from serving.funnel import recorder
from serving.funnel.recorder import Recorder
from serving.history.sqlite_store import SqliteHistoryStore
from serving.live.state import LiveState
from serving.server import memory

T = 1_700_000_000
LATER_S = 3 * 3600  # Than all that the event log keeps for clicks.


def watch(event_id, video="v", **more):
    return Event(
        event_id=event_id,
        kind=Kind.WATCH,
        user_id="u",
        time=T,
        video_id=video,
        watch_time_s=5.0,
        **more,
    )


def shown(event_id, video="v", page="p"):
    return Event(
        event_id=event_id, kind=Kind.IMPRESSION, user_id="u", time=T, video_id=video, page_id=page
    )


class Site:
    """A server's event log and history store, which dies and starts again."""

    def __init__(self, directory):
        self.directory = directory
        self.logs_dir = directory / "logs"
        self.wall = time.time()
        self.start()

    def start(self):
        self.history = SqliteHistoryStore(self.directory / "history.sqlite")
        self.log = EventLog(
            self.logs_dir,
            store=self.history.store_id,
            wall=lambda: self.wall,
            bring=lambda segments: recorder.bring(self.history, segments),
        )
        self.live = LiveState()
        recorder.catch_up(self.history, self.logs_dir)
        self.log.compact()
        self.recorder = Recorder(self.history, self.log, self.live)

    def dies(self):
        """The system lets go of a dead process's locks."""
        self.log._events.seal()
        self.log._pages.seal()
        self.history.close()

    def retrains(self):
        compaction.compact(self.logs_dir, wall_s=self.wall)

    def counts(self, table):
        there = logs.read_table(self.logs_dir, table).to_pylist()
        return [row["video_id"] for row in there]

    def history_of(self, table):
        return getattr(self.history.read("u"), table)["video_id"].to_pylist()


@pytest.fixture
def site(tmp_path):
    opened = Site(tmp_path)
    yield opened
    opened.dies()


@pytest.mark.parametrize("retrainings", [0, 1, 2])
@pytest.mark.parametrize("is_sent_again", ["before", "after", "never"])
def test_event_between_log_and_store_is_in_both_once(site, retrainings, is_sent_again):
    events = [watch("w0", "other"), watch("w1"), shown("i1")]
    site.recorder.record(events[:1], {})
    site.log.append(events[1:])  # Killed here: neither in the store nor acknowledged.
    site.dies()
    for _ in range(retrainings):
        site.wall += LATER_S
        site.retrains()
    site.start()
    if is_sent_again == "before":
        assert site.recorder.record(events, {}).accepted == 0
    site.wall += LATER_S
    site.log.compact()
    site.wall += LATER_S
    site.log.compact()
    if is_sent_again == "after":
        assert site.recorder.record(events, {}).accepted == 0
    site.log.compact(flush=True)
    assert sorted(site.counts("watches")) == ["other", "v"]
    assert site.counts("impressions") == ["v"]
    assert sorted(site.history_of("watches")) == ["other", "v"]
    assert site.history_of("impressions") == ["v"]
    left = [s.stream for s in event_segments.segments(site.logs_dir)]
    assert event_segments.OWED not in left


def test_what_the_store_lost_with_the_power_is_brought_back(site):
    site.recorder.record([watch("early", "early")], {})
    site.history.sync()
    as_synced = (site.directory / "history.sqlite").read_bytes()
    site.recorder.record([watch("w1")], {})
    site.dies()
    for path in site.directory.glob("history.sqlite*"):
        path.unlink()
    (site.directory / "history.sqlite").write_bytes(as_synced)
    site.wall += LATER_S
    site.retrains()
    site.start()
    assert sorted(site.history_of("watches")) == ["early", "v"]


def test_server_of_another_store_leaves_what_is_owed_to_this_one(site, tmp_path):
    site.log.append([watch("w1")])
    site.dies()
    other = SqliteHistoryStore(tmp_path / "other.sqlite")
    bring = functools.partial(recorder.bring, other)
    neighbour = EventLog(site.logs_dir, wall=lambda: site.wall, store=other.store_id, bring=bring)
    neighbour.append([watch("w2", "new")])
    neighbour.compact()
    site.wall += LATER_S
    neighbour.compact()
    assert other.read("u").watches.num_rows == 0  # Its own are not appended by this test.
    site.start()
    assert site.history_of("watches") == ["v"]
    assert site.recorder.record([watch("w1")], {}).accepted == 0
    assert sorted(site.counts("watches")) == ["new", "v"]
    neighbour.close()
    other.close()


def test_log_that_names_no_store_owes_to_whoever_asks(site):
    nameless = EventLog(site.logs_dir, wall=lambda: site.wall)
    nameless.append([watch("w1")])
    nameless._events.seal()  # It dies.
    site.retrains()
    site.dies()
    site.start()
    assert site.history_of("watches") == ["v"]
    site.wall += LATER_S
    site.log.compact()
    assert event_segments.segments(site.logs_dir) == []


def test_what_nobody_comes_for_is_dropped_in_the_end(site):
    site.log.append([watch("w1")])
    site.dies()
    site.retrains()
    assert [s.stream for s in event_segments.segments(site.logs_dir)] == [event_segments.OWED]
    site.wall += compaction.OWED_S + 60
    site.retrains()
    assert event_segments.segments(site.logs_dir) == []


def test_store_that_lost_everything_gets_what_it_is_owed_from_the_tables_alone(site):
    site.log.append([watch("w1")])
    site.dies()
    site.retrains()
    site.log.append([watch("w2", "waits")])
    for path in site.directory.glob("history.sqlite*"):
        path.unlink()
    lost, site.history = site.history, SqliteHistoryStore(site.directory / "history.sqlite")
    site.history.store_id = lost.store_id  # As of a Redis that came back without its data.
    for _ in range(2):
        memory.refill(site.history, site.log, now_s=int(site.wall))
        assert sorted(site.history_of("watches")) == ["v", "waits"]


class Unreachable:
    """A store that works until it does not."""

    def __init__(self, store):
        self._store = store
        self.is_there = True

    def __getattr__(self, name):
        def call(*arguments, **options):
            if not self.is_there:
                raise errors.HistoryUnavailableError("no store")
            return getattr(self._store, name)(*arguments, **options)

        return call


def test_tables_do_not_wait_for_a_store_that_is_out_of_reach_and_it_is_brought_up_later(site):
    store = site.history = Unreachable(site.history)
    writing = Recorder(store, site.log)
    writing.record([watch("w0", "other")], {})
    known = store._store.known

    def goes_away(events):
        store.is_there = False
        return known(events)

    store._store.known = goes_away
    with pytest.raises(errors.HistoryUnavailableError):
        writing.record([watch("w1")], {})
    store._store.known = known
    assert site.log.compact() == {"watches": 2}
    site.wall += LATER_S
    site.log.compact()
    store.is_there = True
    assert writing.record([watch("w2", "new")], {}).accepted == 1
    site.log.compact()
    assert writing.record([watch("w1")], {}).accepted == 0
    assert sorted(site.history_of("watches")) == ["new", "other", "v"]
    assert sorted(site.counts("watches")) == ["new", "other", "v"]


def test_store_that_cannot_be_made_durable_keeps_its_events_in_the_log(site):
    site.recorder.record([watch("w1")], {})

    def fails():
        raise errors.HistoryUnavailableError("the disk is full")

    site.history.sync = fails
    assert site.log.compact() == {"watches": 1}
    site.wall += LATER_S
    site.log.compact()
    assert [s.stream for s in event_segments.segments(site.logs_dir)] == [event_segments.OWED]
    del site.history.sync
    site.log.compact()
    assert event_segments.segments(site.logs_dir) == []


def test_retried_click_and_a_new_watch_of_one_id_lose_nothing(site):
    click = Event(event_id="view", kind=Kind.CLICK, user_id="u", time=T, video_id="v")
    assert site.recorder.record([click], {}).accepted == 1
    both = site.recorder.record([click, watch("view")], {})
    assert (both.accepted, both.duplicates) == (1, 1)
    site.log.compact()
    assert (site.history_of("watches"), site.counts("watches")) == (["v"], ["v"])


def test_impression_that_was_served_and_is_reported_counts_once_everywhere(site):
    site.recorder.record_page([shown("p/0"), shown("p/1", "w")], {})
    reported = dataclasses.replace(shown("seen"), time=T + 2)
    assert site.recorder.record([reported], {}).accepted == 0
    # Another server was told: this one reads of it in the log they share.
    site.live.apply([reported])
    assert site.live._minutes._waiting["impressions"][0].shape == (2,)
    assert len(site.live._minutes._waiting["impressions"]) == 1
    assert site.history_of("impressions") == ["v", "w"]
    site.log.compact(flush=True)
    assert sorted(site.counts("impressions")) == ["v", "w"]


def test_store_is_on_the_disk_before_events_leave_the_log(site):
    site.recorder.record([watch("w1")], {})
    wal = site.directory / "history.sqlite-wal"
    assert os.path.getsize(wal) > 0
    site.log.compact()
    assert site.history.checkpoint()  # Nothing is left to be moved into the file.
    site.wall += CLICK_WINDOW_S + 60
    site.log.compact()
    assert event_segments.segments(site.logs_dir) == []
