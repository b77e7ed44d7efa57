"""Pages by a declared formula: in order of it, by arm, and refused where the ranker cannot."""

import dataclasses
import json

import numpy as np
import pytest

from features import command
from serving.funnel import experiment as ab_experiment
from serving.funnel.funnel import Funnel
from serving.funnel.page import FunnelConfig, PageRequest
from serving.history.sqlite_store import SqliteHistoryStore
from serving.server import service


class HeadedRanker:
    """Every tenth video is liked for sure; watch time falls with the number."""

    def predict(self, inputs, *, deadline_s=None):
        number = np.array([int(v[1:]) for v in inputs["video_id"]])
        like = (number % 10 == 3).astype(np.float32)
        return {"expected_watch_time_s": (100.0 - number).astype(np.float32), "like": like}


@pytest.fixture
def release(tiny):
    made = tiny.release(ranker=HeadedRanker())
    return dataclasses.replace(
        made, resolved=dataclasses.replace(made.resolved, feedback=("like",))
    )


@pytest.fixture
def page_of(tiny, release, tmp_path):
    history = SqliteHistoryStore(tmp_path / "history.sqlite")

    def make(user="u", experiment=None, **settings):
        funnel = Funnel(
            releases=tiny.releases(release),
            history=history,
            recorder=None,
            settings=tiny.patient(per_channel=48, **settings),
            clock=lambda: tiny.now,
            experiment=experiment,
        )
        page = funnel.recommend(PageRequest(user_id=user, k=5, context={"region": "de"}))
        funnel.close()
        return page

    yield make
    history.close()


def ids(page):
    return [item.video_id for item in page.items]


def test_page_is_in_the_order_of_its_formula(page_of):
    assert ids(page_of()) == ["v0", "v1", "v2", "v3", "v4"]
    page = page_of(page_value="watch_time_s + 50*like")
    assert ids(page) == ["v3", "v13", "v23", "v33", "v43"]
    first = page.items[0]
    assert (first.expected_watch_time_s, first.value) == (97.0, 147.0)
    assert first.feedback == {"like": 1.0}
    assert ids(page_of(page_value="-watch_time_s"))[0] == "v47"


def test_arm_has_a_formula_of_its_own(page_of, tmp_path):
    path = tmp_path / "experiment.json"
    arms = [
        {"name": "control", "share": 0.5},
        {"name": "likes", "share": 0.5, "settings": {"page_value": "like"}},
    ]
    path.write_text(json.dumps({"name": "value", "arms": arms}))
    split = ab_experiment.load(path)
    by_arm = {split.arm_of(f"u{n}").name: f"u{n}" for n in range(20)}
    assert ids(page_of(by_arm["control"], split))[0] == "v0"
    assert ids(page_of(by_arm["likes"], split))[0] == "v3"


def test_formula_that_is_none_stops_the_start(tmp_path):
    with pytest.raises(command.InputError, match="there is no 'applause'"):
        FunnelConfig(page_value="applause")
    path = tmp_path / "experiment.json"
    arms = [
        {"name": "control", "share": 0.5},
        {"name": "likes", "share": 0.5, "settings": {"page_value": "like +"}},
    ]
    path.write_text(json.dumps({"name": "value", "arms": arms}))
    with pytest.raises(command.InputError, match="settings of likes: page_value must be a formula"):
        ab_experiment.load(path)


def test_server_does_not_start_on_a_formula_that_its_release_cannot_answer(serving_root, tmp_path):
    config = service.ServiceConfig(
        serving_root=serving_root,
        logs=tmp_path / "logs",
        history=str(tmp_path / "history.sqlite"),
        settings=FunnelConfig(page_value="watch_time_s + 30*like"),
    )
    with pytest.raises(command.InputError, match="reads like, but the ranker of release"):
        service.build(config)


def test_diverse_page_has_other_topics(page_of):
    def topics(page):
        return {item.video["topics"][0] for item in page.items}

    value = "watch_time_s + 1000*like"
    assert len(topics(page_of(page_value=value))) <= 3
    assert len(topics(page_of(page_value=value, diversity=0.9))) == 4


def test_explored_videos_are_marked(page_of, tiny):
    found = [page_of(explored=0.4, retrieved=48) for _ in range(10)]
    marked = {item.video_id for page in found for item in page.items if item.is_explored}
    # Uploaded within three days, and not shown 200 times: all of the tiny catalogue.
    assert marked
    assert all(len(page.items) == 5 for page in found)
    assert not [i for i in page_of().items if i.is_explored]


@pytest.mark.parametrize("settings", [{"diversity": 1.5}, {"explored": 0.6}, {"explored": -0.1}])
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(command.InputError, match=r"must be in \[0, "):
        FunnelConfig(**settings)
