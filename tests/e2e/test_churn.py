"""Refreshing a page without a click pushes down what was ignored (paper section 4.1)."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf

from features import spec, tensors
from features.as_of import pages, statistics
from features.as_of.examples import Users
from features.as_of.history import History
from features.as_of.replay import ReplayConfig, Replayer
from features.catalogue import Catalogue
from features.spec import ResolvedSpec, Side
from features.tables import logs
from models import config
from models.ranking import model as ranker
from models.ranking import training as ranker_training
from serving.servables import export, signatures

USERS, SHOWN, REFRESHES, SECONDS = 30, 6, 8, 90


def page(users, videos, now):
    """Impressions of one page per user at one moment, none clicked."""
    rows = [(u, v, now) for u, shown in zip(users, videos, strict=True) for v in shown]
    names, ids, times = zip(*rows, strict=True)
    return pa.table(
        {
            "user_id": pa.array(names, pa.string()),
            "video_id": pa.array(ids, pa.string()),
            "time": pa.array(times, pa.int64()),
            "page_id": pa.array([f"{u} {now}" for u in names], pa.string()),
            "clicked": pa.array([False] * len(rows)),
            "watch_time_s": pa.array([0.0] * len(rows), pa.float64()),
        }
    )


def logits(world, servable, asked, ignored):
    """Scores pages as of their moment, given impressions that came before them."""
    examples = world.examples
    resolved = ResolvedSpec.load(examples)
    catalogue = Catalogue(pq.read_table(examples / "videos").combine_chunks())
    users = sorted(set(asked["user_id"].to_pylist()))
    codes = {user: code for code, user in enumerate(users)}
    earlier = logs.read_table(world.logs, "impressions")
    earlier = earlier.filter(pa.compute.is_in(earlier["user_id"], pa.array(users)))
    shown = pa.concat_tables([earlier, ignored], promote_options="default")
    order = [("user_id", "ascending"), ("time", "ascending")]
    history = History.of(catalogue, codes, watches=None, impressions=shown.sort_by(order))
    replayer = Replayer(
        ReplayConfig(train_until_s=0),
        resolved=resolved,
        catalogue=catalogue,
        users=Users(pq.read_table(examples / "users").combine_chunks()),
    )
    asked = pages.with_pages(asked.sort_by(order))
    nothing = statistics.VideoStatistics.of(statistics.merge([]), catalogue)
    raw = replayer.ranking_batch(asked, codes, history, nothing)
    inputs = {}
    for side in Side:
        inputs |= tensors.to_arrays(raw, resolved, spec.RANKER, side)
    outputs = servable.signatures[signatures.SCORE_PAIRS](
        **{name: tf.constant(values) for name, values in inputs.items()}
    )
    keys = zip(asked["user_id"].to_pylist(), asked["video_id"].to_pylist(), strict=True)
    return dict(zip(keys, outputs["logit"].numpy().tolist(), strict=True))


@pytest.fixture(scope="module")
def fall(world, tmp_path_factory):
    """Gives the change of log expected watch time of ignored videos against unseen ones."""
    now = int(pa.compute.max(logs.read_table(world.logs, "impressions")["time"]).as_py()) + 3600
    rng = np.random.default_rng(0)
    users = sorted(set(pq.read_table(world.examples / "users")["user_id"].to_pylist()))[:USERS]
    videos = sorted(pq.read_table(world.examples / "videos")["video_id"].to_pylist())
    drawn = [rng.choice(videos, 2 * SHOWN, replace=False).tolist() for _ in users]
    ignored_videos = [ids[:SHOWN] for ids in drawn]
    refreshes = [page(users, ignored_videos, now + SECONDS * i) for i in range(REFRESHES)]
    asked = page(users, drawn, now + SECONDS * REFRESHES)

    def measure(name, **settings):
        directory = tmp_path_factory.mktemp(name)
        training = config.TrainingConfig(epochs=6, decay=True, evaluations_per_epoch=1)
        ranker_training.train(
            world.examples, directory / "model", config.RankerConfig(**settings), training
        )
        model = ranker.load(directory / "model", world.examples)
        export.export_ranker(model, world.examples, directory / "saved")
        servable = tf.saved_model.load(str(directory / "saved"))
        before = logits(world, servable, asked, refreshes[0].slice(0, 0))
        after = logits(world, servable, asked, pa.concat_tables(refreshes))
        change = {key: after[key] - before[key] for key in before}
        pairs = list(zip(users, ignored_videos, strict=True))
        seen = [change[user, video] for user, shown in pairs for video in shown]
        keys = {(user, video) for user, shown in pairs for video in shown}
        unseen = [value for key, value in change.items() if key not in keys]
        assert len(seen) == len(unseen) == USERS * SHOWN
        return np.array(seen), np.array(unseen)

    return measure


def test_ignored_videos_fall_and_unseen_ones_take_their_place(fall):
    seen, unseen = fall("churn")
    # Eight refreshes in twelve minutes: by more than a fifth of the expected watch time.
    assert seen.mean() - unseen.mean() < np.log(0.8)
    assert (seen < np.median(unseen)).mean() > 0.8


def test_without_churn_features_ignored_videos_stay_where_they_are(fall, world):
    names = [f.name for f in ResolvedSpec.load(world.examples).of(spec.RANKER)]
    churn = [n for n in names if n.startswith("user_") and "impression" in n]
    assert "user_video_impressions_1h" in churn
    seen, unseen = fall("no-churn", exclude=tuple(churn))
    np.testing.assert_allclose(seen, 0, atol=1e-4)
    np.testing.assert_allclose(unseen, 0, atol=1e-4)
