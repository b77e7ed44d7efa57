"""What was said, and uploaded, a minute ago is known to the next page of a real server."""

import shutil
import time

import httpx
import numpy as np
import pyarrow as pa
import pytest

from features import command, dataset, spec, vectors
from features.durations import DAY_S
from features.spec import ResolvedSpec
from features.tables import logs
from models import config
from models.candidate import training as candidate_training
from models.ranking import model as ranker
from pipeline.preprocessing import job as preprocessing_job
from serving.building import assembly
from serving.building import config as build_config
from tests.serving import trained_release

NUM_VIDEOS, NUM_USERS, DAYS = 40, 20, 4
FIRST_DAY_S = trained_release.FIRST_DAY_S
NOW = FIRST_DAY_S + DAYS * DAY_S + 3600
QUICK = config.TrainingConfig(epochs=6, batch_size=64, learning_rate=0.03, patience=6)


def content(camp, rng):
    """What videos of a camp are like: one number tells the camps apart."""
    return np.concatenate([[1.0 - 2 * camp], 0.1 * rng.normal(size=2)]).tolist()


def write_logs(directory):
    """Two camps of videos, and users who watch and like those of theirs; some are hidden."""
    rng = np.random.default_rng(0)
    shown = 1200
    user, video = rng.integers(NUM_USERS, size=shown), rng.integers(NUM_VIDEOS, size=shown)
    at = np.sort(FIRST_DAY_S + rng.integers(0, DAYS * DAY_S, shown))
    clicked = rng.random(shown) < np.where(user % 2 == video % 2, 0.6, 0.02)
    seconds = clicked * rng.uniform(20, 200, shown)
    rows = {"user_id": [f"u{n}" for n in user], "video_id": [f"v{n}" for n in video], "time": at}
    impressions = pa.table({**rows, "clicked": clicked, "watch_time_s": seconds})
    watches = impressions.filter(pa.array(clicked)).drop_columns(["clicked"])
    kinds = np.where(rng.random(shown) < 0.7, "like", "hide")
    said = pa.table({**rows, "time": at + 9, "kind": kinds}).filter(pa.array(clicked))
    ids = [f"v{n}" for n in range(NUM_VIDEOS)]
    with logs.LogWriter(directory) as writer:
        uploaded = FIRST_DAY_S - rng.integers(0, 30 * DAY_S, NUM_VIDEOS)
        liking = [content(n % 2, rng) for n in range(NUM_VIDEOS)]
        writer.write(
            "videos", pa.table({"video_id": ids, "upload_time": uploaded, "content": liking})
        )
        writer.write("impressions", impressions)
        writer.write("watches", watches)
        writer.write("feedback", said.slice(0, said.num_rows // 2))
        writer.write_features(vectors.declarations_of("content", 3))


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Logs, and a serving root with a release that learnt from them."""
    root = tmp_path_factory.mktemp("signals")
    site = trained_release.SmallSite(*(root / n for n in ("logs", "examples", "tower", "ranker")))
    write_logs(site.logs)
    preprocessing_job.run(
        str(site.logs), str(site.examples), preprocessing_job.PreprocessConfig(), []
    )
    tower = config.CandidateConfig(embedding_dim=8, depth=1)
    candidate_training.train(site.examples, site.candidate_model, tower, QUICK)
    resolved, ranker_config = ResolvedSpec.load(site.examples), config.RankerConfig(hidden=(16,))
    sizes = dataset.vocabulary_sizes(site.examples, spec.RANKER)
    ranker.save(
        ranker.Ranker(resolved, sizes, ranker_config),
        site.ranker_model,
        contents=trained_release.contents(site, spec.RANKER, ranker_config),
    )
    assembly.publish(site.inputs, root / "serving_root", build_config.BuildConfig())
    return root


class Asked:
    """A server of its own logs, and what it answers."""

    def __init__(self, built, directory, serve):
        self.logs = directory / "logs"
        shutil.copytree(built / "logs", self.logs)
        flags = (f"--serving_root={built / 'serving_root'}", f"--logs={self.logs}")
        self._url = serve(*flags, f"--now={command.format_time(NOW)}").url

    def page(self, user):
        """Returns the videos of a whole page by id."""
        body = {"user_id": user, "k": 48, "exclude_watched": False, "debug": True}
        answer = httpx.post(f"{self._url}/v1/recommendations", json=body, timeout=120).json()
        assert answer["rung"] == "full", answer
        return {item["video_id"]: item for item in answer["items"]}

    def says(self, user, kind, video_id):
        """Reports what was said a minute ago."""
        event = {"event_id": kind + video_id, "user_id": user, "type": kind, "video_id": video_id}
        body = {"events": [{**event, "time": NOW - 60}]}
        answer = httpx.post(f"{self._url}/v1/events", json=body, timeout=120)
        assert answer.json() == {"accepted": 1, "duplicates": 0}


@pytest.fixture
def server(built, tmp_path, serve):
    return Asked(built, tmp_path, serve)


def logits_of_likes(page):
    chance = {video_id: item["feedback"]["like"] for video_id, item in page.items()}
    return {video_id: np.log(p / (1 - p)) for video_id, p in chance.items()}


def test_a_like_and_a_hide_of_a_minute_ago_are_known_to_the_next_page(server):
    before = server.page("u1")
    liked, hidden = sorted(before)[:2]
    server.says("u1", "like", liked)
    now = logits_of_likes(server.page("u1"))
    changes = {v: now[v] - logit for v, logit in logits_of_likes(before).items() if v in now}
    others = [change for video_id, change in changes.items() if video_id != liked]
    # What was liked is told by a feature of its own; that something was, by one of all videos.
    assert abs(changes[liked] - np.median(others)) > 10 * np.std(others)
    server.says("u1", "hide", hidden)
    assert set(server.page("u1")) == set(now) - {hidden}
    assert hidden in server.page("u3")


def test_an_upload_of_a_minute_ago_is_placed_by_its_content(server):
    rng = np.random.default_rng(1)
    uploads = {"of camp 0": content(0, rng), "of camp 1": content(1, rng)}
    table = {"video_id": [*uploads], "upload_time": [NOW - 60] * 2, "content": [*uploads.values()]}
    logs.append(server.logs, "videos", pa.table(table))
    until = time.monotonic() + 300
    while not set(uploads) <= set(server.page("u0")):
        assert time.monotonic() < until, "the uploads are on no page"
        time.sleep(0.2)
    for camp in (0, 1):
        page = server.page(f"u{camp}")
        own, other = (page[f"of camp {c}"]["retrieval_score"] for c in (camp, 1 - camp))
        assert own > other
        # Nobody watched it yet, and it is where those are that its viewers like.
        assert own > np.median([item["retrieval_score"] for item in page.values()]) > other
