"""People at a server: they are shown what it says, and tell what they do when it is due."""

import dataclasses
import json

import numpy as np
import pytest

from features.durations import HOUR_S
from pipeline.living import course, oracle
from pipeline.living.config import LiveConfig
from pipeline.living.visitors import Visitors
from pipeline.site import choices as site_choices
from pipeline.site import config as site_config
from pipeline.site import pages as site_pages
from pipeline.site import simulator

SITE = dataclasses.replace(
    site_config.PRESETS["tiny"], users=60, videos=120, topics=4, channels=12, days=2, feedback=1.0
)
LIVE = LiveConfig(visits_per_day=4.0, tick_s=600, oracle_pages=1.0)


class FakeServer:
    """Shows the same videos to everybody, and keeps what it is told."""

    def __init__(self, best=tuple(range(12))):
        self.best, self.events, self.pages = best, [], 0

    def each(self, ask, questions):
        return [ask(question) for question in questions]

    def get(self, path, **query):
        assert path == "/v1/search"
        return {"items": [{"video_id": f"v{n:06d}"} for n in self.best[:3]]}

    def post(self, path, question):
        if path == "/v1/events":
            self.events += json.loads(json.dumps(question["events"]))
            return {}
        self.pages += 1
        items = [{"video_id": f"v{n:06d}"} for n in self.best[: question["k"]]]
        return {"items": items, "page_id": f"p{self.pages}", "release_id": "7", "rung": "full"}


@pytest.fixture(scope="module")
def world():
    return simulator.build(SITE)


def pass_hours(visitors, hours, first=0):
    for hour in range(first, first + hours):
        start = SITE.start_s + hour * HOUR_S
        visitors.begin_hour(start)
        for tick in range(start, start + HOUR_S, LIVE.tick_s):
            visitors.report(tick)
            assert all(event["time"] <= tick for event in visitors._client.events)
            visitors.act(tick, tick + LIVE.tick_s)


def test_what_was_clicked_is_reported_with_its_page_and_watches_when_they_end(world):
    server = FakeServer()
    visitors = Visitors(world, server, LIVE)
    pass_hours(visitors, 20)
    happened = visitors.drain()
    events = {kind: [e for e in server.events if e["type"] == kind] for kind in ("click", "watch")}
    assert len(events["click"]) > 20
    assert {e["page_id"] for e in events["click"]} <= {f"p{n}" for n in range(server.pages + 1)}
    assert len({e["event_id"] for e in server.events}) == len(server.events)
    watches = happened["watches"]
    ends = set((watches["time"] + np.ceil(watches["watch_time_s"]).astype(int)).tolist())
    assert {e["time"] for e in events["watch"]} <= ends
    shown = set(happened["impressions"]["video"].tolist())
    assert shown <= set(server.best)
    assert visitors.answers["7 full"] == server.pages


def test_the_same_seed_gives_the_same_course_also_when_it_is_taken_up_again(world, tmp_path):
    whole, parted = FakeServer(), FakeServer()
    one = Visitors(world, whole, LIVE)
    pass_hours(one, 12)
    two = Visitors(world, parted, LIVE)
    pass_hours(two, 5)
    course.save(tmp_path / "visitors.npz", two)
    again = Visitors(world, parted, LIVE)
    course.load(tmp_path / "visitors.npz", again)
    pass_hours(again, 7, first=5)
    assert len(whole.events) > 50
    assert whole.events == parted.events
    happened, *parts = (people.drain() for people in (one, two, again))
    for table, columns in happened.items():
        for name, values in columns.items():
            together = [part[table][name] for part in parts if table in part]
            np.testing.assert_array_equal(values, np.concatenate(together), f"{table} {name}")
    np.testing.assert_array_equal(one.returning.contentment, again.returning.contentment)


def test_the_oracle_is_never_beaten_and_a_good_page_is_worth_more_than_a_bad_one(world):
    visitors = Visitors(world, FakeServer(), LIVE)
    rows = np.arange(60)
    time = np.full(60, SITE.start_s + 20 * HOUR_S)
    moment = site_choices.Moment(
        world, visitors._hours.at(int(time[0])), visitors.state, rows, time
    )
    every = np.arange(moment.hour.num_videos)
    worth = oracle._worth(moment, np.broadcast_to(every, (60, len(every))), site_pages.HOME)
    order = np.argsort(-worth, axis=1)
    values = {}
    pages = {"best": order[:, :12], "any": order[:, 20:32], "worst": order[:, -12:]}
    for name, videos in pages.items():
        values[name], best = oracle.values(moment, videos, policy=site_pages.HOME)
        assert (values[name] <= best + 1e-9).all()
    np.testing.assert_allclose(values["best"], best)
    assert (values["best"] > values["any"]).all()
    assert (values["any"] > values["worst"]).all()
    reversed_, _ = oracle.values(moment, order[:, 11::-1], policy=site_pages.HOME)
    assert (reversed_ < values["best"]).all()  # The first places get more attention.


def test_people_of_a_past_without_a_server_go_on_as_they_are(world):
    told = {}

    def sink(table, rows):
        told.setdefault(table, []).extend(rows["time"].to_pylist())

    past = simulator.let_pass(world, sink, days=1)
    end_s = SITE.start_s + 24 * HOUR_S
    # A visit before midnight may last beyond it; nobody comes after it.
    assert set(told) >= {"watches", "impressions"}
    assert np.mean(np.array(told["watches"]) < end_s) > 0.95
    visitors = Visitors(world, FakeServer(), LIVE)
    before = visitors.state.last_video(np.arange(SITE.users))
    visitors.take_over(past)
    np.testing.assert_array_equal(
        visitors.state.last_video(np.arange(SITE.users)),
        past.state.last_video(np.arange(SITE.users)),
    )
    assert (visitors.state.last_video(np.arange(SITE.users)) != before).mean() > 0.1
    visitors.begin_hour(end_s)
    assert visitors.act(end_s, end_s + HOUR_S) > 0
