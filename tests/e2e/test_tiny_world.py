"""From raw logs to an answer over HTTP, and back into the logs."""

import collections
import json
import re
import shutil

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from features import command, spec
from features.as_of import examples
from features.event_columns import Queries
from features.spec import Side
from features.tables import logs
from pipeline.living import server as servers
from serving.batch.past_log import PastLog
from serving.events.event import Kind
from serving.funnel import loaded_release
from serving.history import seed as history_seed
from serving.history.sqlite_store import SqliteHistoryStore
from serving.live import seed as live_seed
from serving.live.state import LiveState
from serving.release import manifest as release
from serving.servables.embedded import EmbeddedBackend
from tests.e2e import collapse

_OF_COLLAPSE = ("effective number of videos in the top", "mean overlap of the top")


@pytest.fixture(scope="module")
def server(world, tmp_path_factory):
    newest = max(logs.read_table(world.logs, "impressions", columns=["time"])["time"].to_pylist())
    state = tmp_path_factory.mktemp("state")
    # Its own copy: the server appends what it serves.
    shutil.copytree(world.logs, state / "logs")
    arguments = [
        f"--serving_root={world.serving_root}",
        f"--logs={state / 'logs'}",
        f"--history={state / 'history.sqlite'}",
        f"--now={command.format_time(newest + 60)}",
    ]
    with servers.running(arguments) as running:
        yield running.client


def test_the_commands_that_made_it_said_nothing_but_what_is_theirs_to_say(world):
    said = world.said.read_text().splitlines()
    assert len(said) > 20
    ours = re.compile(r"\d\d:\d\d:\d\d \S|  +\S")  # Or a further line of a message.
    assert [line for line in said if not ours.match(line)] == []
    assert not [line for line in said if re.search(r"absl|site-packages|Warning\b|oneDNN", line)]


def page(server, user, k=20):
    answer = server.post("/v1/recommendations", {"user_id": user, "k": k})
    assert answer["rung"] == "full"
    return answer


def test_page_is_full_of_distinct_known_videos_best_first(world, server):
    user = logs.read_table(world.logs, "users")["user_id"][0].as_py()
    answer = page(server, user)
    ids = [item["video_id"] for item in answer["items"]]
    known = set(logs.read_table(world.logs, "videos")["video_id"].to_pylist())
    assert len(ids) == len(set(ids)) == 20
    assert set(ids) <= known
    assert all(item["sources"] for item in answer["items"])
    seconds = [item["expected_watch_time_s"] for item in answer["items"]]
    assert min(seconds) > 0
    current = (world.serving_root / "CURRENT").read_text().strip()
    assert answer["release_id"] == current


def test_recommendations_react_to_three_watches_of_one_topic(world, server):
    # Each of the five largest topics has a new user who watches its three best-watched videos.
    videos = {v["video_id"]: v for v in logs.read_table(world.logs, "videos").to_pylist()}
    watched = logs.read_table(world.logs, "watches")
    watched = watched.filter(pc.fill_null(watched["completed"], False))
    watched_of = collections.Counter(watched["video_id"].to_pylist())
    by_topic = collections.defaultdict(list)
    for video_id, _ in watched_of.most_common():
        for topic in videos.get(video_id, {}).get("topics") or ():
            by_topic[topic].append(video_id)
    largest = sorted(by_topic, key=lambda topic: -len(by_topic[topic]))[:5]
    before, after = [], []
    for topic in largest:
        user = f"new viewer of {topic}"
        before.append(share(page(server, user), topic))
        events = [
            {
                "event_id": f"{topic} {video_id}",
                "type": "watch",
                "user_id": user,
                "video_id": video_id,
                "watch_time_s": 300,
                "completed": True,
            }
            for video_id in by_topic[topic][:3]
        ]
        assert server.post("/v1/events", {"events": events})["accepted"] == 3
        after.append(share(page(server, user), topic))
    assert sum(after) > sum(before), (before, after)
    assert sum(a > b for a, b in zip(after, before, strict=True)) >= 3, (before, after)


def share(answer, topic):
    return sum(topic in item["topics"] for item in answer["items"]) / len(answer["items"])


def test_an_event_sent_twice_counts_once(server):
    event = {
        "event_id": "the same",
        "type": "search",
        "user_id": "somebody new",
        "query": "cooking",
    }
    assert server.post("/v1/events", {"events": [event]})["accepted"] == 1
    again = server.post("/v1/events", {"events": [event]})
    assert (again["accepted"], again["duplicates"]) == (0, 1)


def test_the_funnel_computes_the_features_that_training_saw(world, tmp_path):
    """No skew: holdout examples, rebuilt by the online path, equal those of the Beam job."""
    store = SqliteHistoryStore(tmp_path / "history.sqlite")
    history_seed.seed(store, world.logs, until_s=2_000_000_000)
    loaded = loaded_release.load(
        world.serving_root, release.current(world.serving_root), backend=EmbeddedBackend()
    )
    log = PastLog.read(world.logs, None)
    live = LiveState()
    streams = [
        live_seed.Stream(Kind.WATCH, log.tables["watches"]),
        live_seed.Stream(Kind.IMPRESSION, log.tables["impressions"]),
    ]
    loaded = loaded.with_live(live)
    table = pq.read_table(world.examples / "ranking_examples" / "holdout")
    pages = table.group_by(["user_id", "page_id"]).aggregate([("time", "min")]).to_pylist()
    rng = np.random.default_rng(1)
    chosen = rng.choice(len(pages), 25, replace=False)
    for asked in sorted((pages[place] for place in chosen), key=lambda page: page["time_min"]):
        for stream in streams:  # What happens at this second is told only after the page.
            events = stream.until(asked["time_min"])
            if events is not None:
                live.add(events)
        rows = table.filter(
            pc.and_(
                pc.equal(table["user_id"], asked["user_id"]),
                pc.equal(table["page_id"], asked["page_id"]),
            )
        )
        viewer = loaded.viewer(
            store.read(asked["user_id"]),
            now=asked["time_min"],
            context={n: rows[n][0].as_py() for n in ("device", "surface")},
        )
        query = examples.query_batch(
            loaded.resolved,
            spec.RANKER,
            request=viewer.request,
            users=viewer.users,
            history=viewer.history,
        )
        candidate = examples.candidate_batch(
            loaded.resolved,
            spec.RANKER,
            catalogue=loaded.catalogue,
            video_rows=loaded.catalogue.rows(rows["label_video_id"]),
            history=viewer.history,
            queries=Queries(
                np.zeros(rows.num_rows, np.int64), np.full(rows.num_rows, viewer.now, np.int64)
            ),
            statistics=loaded.statistics,
            live=loaded.live,
        )
        for name in query.schema.names:
            same(query.column(name)[0].as_py(), rows[name][0].as_py(), name)
        for name in candidate.schema.names:
            same(candidate.column(name).to_pylist(), rows[name].to_pylist(), name)
    store.close()


def same(online, trained, name):
    if name in {spec.vector_column(side, kind) for side in Side for kind in spec.Kind}:
        np.testing.assert_allclose(
            np.array(online, np.float64), np.array(trained, np.float64), rtol=1e-6, err_msg=name
        )
    else:
        assert online == trained, name


def test_retraining_again_repeats_nothing(world, run_command):
    before = (world.serving_root / "CURRENT").read_text()
    again = run_command(*world.retrain)
    assert again.returncode == 0, again.stderr
    steps = json.loads((world.work / "retrain.json").read_text())["steps"]
    outcomes = {step["name"]: step["outcome"] for step in steps}
    assert outcomes.pop("learn_order") == "skipped"  # A ranker orders the pages.
    assert set(outcomes.values()) == {"up to date"}, steps
    assert (world.serving_root / "CURRENT").read_text() == before


def test_a_model_with_one_list_for_everybody_is_refused(world, run_command, tmp_path):
    gates = release.load_manifest(world.serving_root).gates
    of_collapse = [gate for gate in gates if gate["rule"].startswith(_OF_COLLAPSE)]
    assert [gate["verdict"] for gate in of_collapse] == ["pass", "pass"]
    said = collapse.refused(world.logs.parent, run_command, tmp_path)
    assert "FAIL         mean overlap of the top" in said
