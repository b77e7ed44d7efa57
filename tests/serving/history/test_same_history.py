"""Training and serving see the same history: what happens over HTTP, and what Beam makes of it.

A server is told by HTTP what users do, in the order of time, and asked for pages in between. What
its ranker was given for each page is compared with what the preprocessing job makes of that page
from the tables that the server wrote, value by value.
"""

import dataclasses

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from features import clicks, spec
from features.as_of import replay, statistics
from features.as_of.examples import Users
from features.catalogue import Catalogue
from features.event_columns import MAX_EVENTS
from features.spec import Kind, Side
from features.tables import logs, unlisted
from features.tables.clean_logs import Cleaner
from pipeline.preprocessing.config import PreprocessConfig
from pipeline.preprocessing.raw_examples import RawExamples, directory_of
from serving.funnel import fresh_shelf
from serving.history import redis_store
from serving.history.redis_store import RedisHistoryStore
from serving.live.state import LiveState
from tests.serving.tiny_release import TOPICS

HOUR, DAY = 3600, 86400
AT_ONCE = 500
SAID = ("like", "follow", "hide")
KNOWN, UNKNOWN = 48, 3


class NoTopic:
    """Embeds videos of which nothing is known."""

    def predict(self, inputs):
        return {"embedding": np.zeros((len(inputs["video_id"]), TOPICS + 1), np.float32)}


class Site:
    """Reports what users do, and asks for pages; the clock is that of the events.

    Args:
        running: The server.
        tiny: Holds its clock.
    """

    def __init__(self, running, tiny):
        self.running = running
        self.tiny = tiny
        self.pages = {}
        self.from_s = None
        self._waiting = []
        self._number = 0
        self._live = LiveState()

    def happens(self, kind, user, at, **more):
        """Something happens at ``at``; it is reported before the next page."""
        self._number += 1
        event = {"event_id": f"e{self._number}", "type": kind, "user_id": user, "time": at} | more
        self._waiting.append(event)
        return event

    def again(self, event, **more):
        """The same event is sent again, or a copy of it under another name."""
        self._waiting.append(event | more)

    def report(self):
        """Sends what waits; then the release has what is watched, as a live server's has."""
        for start in range(0, len(self._waiting), AT_ONCE):
            part = self._waiting[start : start + AT_ONCE]
            self.tiny.now = max(self.tiny.now, *(event["time"] for event in part), 0)
            answer = self.running.client.post("/v1/events", json={"events": part})
            assert answer.status_code == 200, answer.text
            self._live.apply([e for e in self.running.live.events if e.time >= (self.from_s or 0)])
            self.running.live.events.clear()
        self._waiting = []
        releases = self.running.releases
        watched = self._live.watched_outside(releases.current.catalogue, most=UNKNOWN)
        if watched:
            columns = dict(zip(unlisted.TYPES, zip(*watched, strict=True), strict=True))
            shelver = fresh_shelf.Shelver(releases.current, NoTopic(), None)
            releases.current = shelver.with_videos(pa.table(columns, pa.schema(unlisted.TYPES)))

    def page(self, user, at):
        """Asks for a page at ``at``; what its ranker was given is kept under its name."""
        self.report()
        self.tiny.now = at
        asked = {"user_id": user, "k": 10, "exclude_watched": False}
        answer = self.running.client.post("/v1/recommendations", json=asked).json()
        assert answer["rung"] == "full", answer
        if self.from_s is None or answer["now"] >= self.from_s:
            inputs = self.running.releases.current.ranker.asked[-1]
            self.pages[answer["page_id"]] = inputs
        return answer


def video(number):
    """Returns a video of the table; from ``KNOWN`` on, one that is in none."""
    return f"v{number}" if number < KNOWN else f"u{number}"


def visit(site, rng, user, at):
    """Some busy minutes: pages, clicks, watches and searches, several in one second."""
    site.happens("search", user, at, query="big cats")
    copy = site.happens("watch", user, at, video_id=video(3), watch_time_s=2.5, completed=True)
    site.again(copy)
    site.again(copy, event_id=f"copy of {copy['event_id']}")
    site.happens("search", user, at, query="cats")
    first = site.page(user, at + 2)
    shown = [item["video_id"] for item in first["items"]]
    named = {"page_id": first["page_id"]}
    site.happens("click", user, at + 10, video_id=shown[0], **named)
    # A page between a click and its watch, and one between an impression and its click.
    site.page(user, at + 11)
    site.happens("watch", user, at + 90, video_id=shown[0], watch_time_s=60.25, **named)
    site.happens("watch", user, at + 90, video_id=shown[1], watch_time_s=4, completed=False)
    site.page(user, at + 91)
    say(site, user, at + 91, page=first)
    for place in rng.permutation(10)[:4].tolist():
        site.happens("click", user, at + 100, video_id=shown[place])
    site.happens("watch", user, at + 101, video_id=video(KNOWN), watch_time_s=9, completed=True)
    site.happens("impression", user, at + 101, video_id=video(KNOWN + 1), clicked=True)
    # One that another system showed, and that was clicked: when, only its watch tells.
    site.happens("impression", user, at + 101, video_id=video(7), clicked=True)
    site.happens("impression", user, at + 101, video_id=video(8), clicked=True)
    site.page(user, at + 105)
    site.happens("watch", user, at + 130, video_id=video(7), watch_time_s=9)
    site.page(user, at + 130)
    site.page(user, at + 131)
    # More than half an hour after the page: no click of it.
    site.happens("click", user, at + 2 + clicks.CLICK_WINDOW_S + 1, video_id=shown[5], **named)
    site.page(user, at + HOUR)
    site.happens("watch", user, at + HOUR + 9, video_id=shown[6], watch_time_s=5, **named)
    site.page(user, at + 2 * HOUR)


def say(site, user, at, *, page):
    """Likes, a follow and a hide of what was on a page; one is taken back, one sent twice."""
    shown, named = page["items"], {"page_id": page["page_id"]}
    site.happens("like", user, at, video_id=shown[0]["video_id"], **named)
    site.page(user, at + 1)
    site.happens("follow", user, at + 1, channel_id=shown[0]["channel_id"])
    site.happens("hide", user, at + 2, video_id=shown[2]["video_id"], **named)
    site.page(user, at + 3)
    site.happens("like", user, at + 4, video_id=shown[0]["video_id"], value=0)
    site.again(site.happens("like", user, at + 4, video_id=video(3)))


def many(site, rng, user, at):
    """More events of each kind than count, some of them copies and on unknown videos."""
    number = MAX_EVENTS + 700
    for place in range(number):
        now = at + 7 * place
        unknown = place % 50 == 0
        shown = video(KNOWN + place % UNKNOWN) if unknown else video(place % KNOWN)
        site.happens("impression", user, now, video_id=shown, page_id=f"{user} {place // 10}")
        site.happens("search", user, now, query=f"words {place % 100}")
        if place < 4000 or place % 3 == 0:
            more = {"page_id": f"{user} {place // 10}"} if place % 2 else {}
            site.happens("click", user, now + 3, video_id=shown, **more)
        watch = {"watch_time_s": float(rng.integers(100)), "completed": place % 4 == 0}
        told = site.happens("watch", user, now + 5, video_id=shown, **watch)
        if place % 40 == 0:
            site.happens("like", user, now + 6, video_id=shown)
        if place % 60 == 0:
            site.again(told, event_id=f"copy {place}")
    return at + 7 * number


@pytest.fixture
def lived(request, running, tiny, monkeypatch):
    """A site after three days, its server, and the logs that it wrote.

    Its parameters: the store, and how long after the begin the release's logs began; 0 for all.
    """
    store, since = request.param
    options = {}
    if store == "redis":
        monkeypatch.setattr(redis_store, "_TIMEOUT_S", 120.0)  # A busy machine's.
        server = request.getfixturevalue("redis_server")
        server.empty()
        options = {"history": RedisHistoryStore(server.url)}
    server = running(**options)
    server.releases.current = tiny.release(said=SAID)
    site, rng = Site(server, tiny), np.random.default_rng(5)
    begin = tiny.now
    if since:
        site.from_s = begin + since
        release = server.releases.current
        resolved = dataclasses.replace(release.resolved, history_from_s=site.from_s)
        server.releases.current = dataclasses.replace(release, resolved=resolved)
    end = many(site, rng, "heavy", begin)
    site.page("heavy", end)
    visit(site, rng, "u", begin + DAY)
    visit(site, rng, "heavy", begin + DAY + HOUR)
    visit(site, rng, "u", begin + 3 * DAY - 3 * HOUR)
    visit(site, rng, "heavy", begin + 3 * DAY)
    site.report()
    server.log.close()
    server.log.compact(flush=True)
    logs.append(server.log.logs_dir, "videos", tiny.catalogue().table)
    return site


def by_beam(site, output):
    """Returns the features and ranking examples of the job."""
    logs_dir = site.running.log.logs_dir
    RawExamples(
        logs_dir=logs_dir,
        output=output,
        config=PreprocessConfig(from_s=site.from_s, max_rejected_fraction=0.2),
        options=PipelineOptions([]),
        tables=logs.tables_in(logs_dir),
    ).make()
    parts = [pq.read_table(directory_of(output, spec.RANKER, s)) for s in ("train", "holdout")]
    return spec.ResolvedSpec.load(output), pa.concat_tables(parts)


def differences(site, resolved, examples):
    """Returns (page, video, feature, served, trained) wherever a feature of history differs."""
    serving = site.running.releases.current.resolved
    names = [f.name for f in serving.of(spec.RANKER) if f.origin == "history"]
    assert set(names) == {f.name for f in resolved.of(spec.RANKER) if f.origin == "history"}
    found = []
    for row in examples.filter(pc.is_in(examples["page_id"], pa.array([*site.pages]))).to_pylist():
        inputs = site.pages[row["page_id"]]
        place = list(inputs["video_id"]).index(row["label_video_id"])
        served, trained = of_server(serving, inputs, place), of_job(resolved, row)
        found += [
            (row["page_id"], row["label_video_id"], name, served[name], trained[name])
            for name in names
            if served[name] != trained[name]
        ]
    return found


def of_server(resolved, inputs, place):
    values = {}
    for side, at in ((Side.QUERY, 0), (Side.CANDIDATE, place)):
        for feature in resolved.of(spec.RANKER, side):
            if feature.categorical:
                value = inputs[feature.name][at]
                values[feature.name] = value if isinstance(value, str) else [v for v in value if v]
        names = resolved.vector_names(spec.RANKER, side, Kind.CONTINUOUS)
        vector = inputs[spec.vector_column(side, Kind.CONTINUOUS)][at]
        values |= zip(names, vector.tolist(), strict=True)
    return values


def of_job(resolved, row):
    values = {f.name: row[f.name] for f in resolved.of(spec.RANKER) if f.categorical}
    for side in Side:
        names = resolved.vector_names(spec.RANKER, side, Kind.CONTINUOUS)
        values |= zip(names, row[spec.vector_column(side, Kind.CONTINUOUS)], strict=True)
    return values


@pytest.mark.parametrize("lived", [("sqlite", 0), ("redis", 0)], indirect=True)
def test_the_server_and_the_job_see_the_same_history(lived, tmp_path):
    resolved, examples = by_beam(lived, tmp_path / "examples")
    shown = examples.filter(pc.is_in(examples["page_id"], pa.array([*lived.pages])))
    assert shown.num_rows == 10 * len(lived.pages)
    assert differences(lived, resolved, examples) == []
    # The comparison is about something: everything that counts clicks differs between pages.
    trained = [of_job(resolved, row) for row in shown.to_pylist()]
    for name in ("user_any_clicks_1h", "user_any_clicks_all", "user_channel_seconds_since_click"):
        assert len({values[name] for values in trained}) > 3, name
    for name in ("user_any_likes_7d", "user_video_likes_all", "user_topic_likes_7d"):
        assert len({values[name] for values in trained}) > 1, name
    assert max(values["user_channel_follows_all"] for values in trained) > 0
    assert max(values["user_any_impressions_all"] for values in trained) == MAX_EVENTS
    assert max(values["user_any_watches_all"] for values in trained) == MAX_EVENTS
    # Also of videos that no table has, which exist from their first watch.
    assert video(KNOWN) in {v for values in trained for v in values["watched_video_ids"]}


@pytest.mark.parametrize("lived", [("sqlite", DAY + 60)], indirect=True)
def test_a_release_that_learnt_from_a_part_of_the_logs_sees_no_more_when_it_serves(lived, tmp_path):
    resolved, examples = by_beam(lived, tmp_path / "examples")
    assert resolved.history_from_s == lived.from_s
    shown = examples.filter(pc.is_in(examples["page_id"], pa.array([*lived.pages])))
    assert shown.num_rows == 10 * len(lived.pages) > 0
    assert differences(lived, resolved, examples) == []
    # The store has all of it, so that what was watched is left out of pages all the same.
    assert lived.running.history.read("heavy").watches.num_rows >= MAX_EVENTS


def replayed(site, tables):
    """Returns the ranking examples of tables by the code that Beam runs."""
    listed = site.tiny.catalogue().table
    found = unlisted.first_watches(site.running.log.logs_dir, listed)
    assert found.num_rows == UNKNOWN
    catalogue = Catalogue(unlisted.joined(listed, found))
    cleaner = Cleaner(videos=catalogue.video_ids, users=None, now_s=site.tiny.now + DAY)
    clean = {
        name: rows.sort_by([("user_id", "ascending"), ("time", "ascending")])
        for name, rows in cleaner.tables(tables).items()
    }
    resolved = site.running.releases.current.resolved
    replayer = replay.Replayer(
        replay.ReplayConfig(train_until_s=0),
        resolved=resolved,
        catalogue=catalogue,
        users=Users(replay.NO_USERS),
    )
    made = replayer.examples(clean, statistics.merge([]))
    return pa.Table.from_batches([b for model, _, b in made if model == spec.RANKER])


def _without(rows, user, at):
    is_it = pc.and_(pc.equal(rows["user_id"], user), pc.equal(rows["time"], at))
    assert pc.sum(is_it).as_py() > 0
    return rows.filter(pc.invert(is_it))


def _clicked_when_shown(rows):
    told = pc.if_else(rows["clicked"], rows["time"], pa.scalar(None, pa.int64()))
    return rows.set_column(rows.column_names.index("click_time"), "click_time", told)


@pytest.mark.parametrize("lived", [("sqlite", 0)], indirect=True)
def test_planted_differences_are_seen(lived, monkeypatch):
    tables = {
        name: logs.read_table(lived.running.log.logs_dir, name)
        for name in ("watches", "searches", "impressions", "feedback")
    }
    resolved = lived.running.releases.current.resolved

    def features_that_differ(**changed):
        found = differences(lived, resolved, replayed(lived, tables | changed))
        return {name for _, _, name, _, _ in found}

    assert not features_that_differ()
    newest = pc.max(tables["watches"]["time"]).as_py()
    found = features_that_differ(watches=_without(tables["watches"], "heavy", newest))
    assert {"user_any_watches_1d", "last_video_id"} & found
    found = features_that_differ(impressions=_clicked_when_shown(tables["impressions"]))
    assert "user_any_seconds_since_click" in found
    newest = pc.max(tables["feedback"]["time"]).as_py() - 4
    found = features_that_differ(feedback=_without(tables["feedback"], "heavy", newest))
    assert {"user_any_likes_7d", "user_video_likes_all"} <= found
    searched = tables["searches"]
    index = searched.column_names.index("time")
    later = searched.set_column(index, "time", pc.add(searched["time"], HOUR))
    assert "last_search_tokens" in features_that_differ(searches=later)
    monkeypatch.setattr("features.event_columns.MAX_EVENTS", MAX_EVENTS - 1)
    assert "user_any_impressions_all" in features_that_differ()
