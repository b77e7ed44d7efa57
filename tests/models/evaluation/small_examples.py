"""Examples of eight videos, and models whose figures can be told by hand."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf

from features import files
from features.spec import Feature, Kind, ResolvedSpec, Side
from models.evaluation import evaluation

TRAIN_END = 1_650_000_000


VIDEOS = [f"v{i}" for i in range(8)]


BOTH = ("candidate", "ranker")


SPEC = ResolvedSpec(
    features=(
        Feature(name="watched_video_ids", kind=Kind.MULTIVALENT, side=Side.QUERY, models=BOTH,
                source="history.watched_video_ids", space="video", max_length=3),
        Feature(name="region", kind=Kind.UNIVALENT, side=Side.QUERY, models=BOTH,
                source="users.region"),
        Feature(name="video_id", kind=Kind.UNIVALENT, side=Side.CANDIDATE, models=BOTH,
                source="videos.video_id", space="video"),
        Feature(name="video_age_s", kind=Kind.CONTINUOUS, side=Side.CANDIDATE, models=("ranker",),
                source="videos.age_s"),
    )
)  # fmt: skip


class TowersThatFollow:
    """After the newest watch comes the next video in the catalogue; ids are rows + 1."""

    def query_embeddings(self, features):
        return np.eye(8, dtype=np.float32)[features["watched_video_ids"][:, 0] % 8]

    def video_embeddings(self, features):
        return np.eye(8, dtype=np.float32)[(features["video_id"] - 1) % 8]

    repeat_bias = 0.0

    def can_embed(self, video_features):
        return np.ones(len(video_features["video_id"]), bool)


class RankerThatPrefersAge:
    """Expects 60 seconds times the video's age in quantiles."""

    def logits(self, query_features, candidate_features):
        assert set(query_features) == {"watched_video_ids", "region"}
        return np.log(60 * np.maximum(candidate_features["candidate_continuous"][:, 0], 1e-3))


def example(**columns):
    def feature(value):
        if isinstance(value, (bytes, str)):
            data = value.encode() if isinstance(value, str) else value
            return tf.train.Feature(bytes_list=tf.train.BytesList(value=[data]))
        values = np.atleast_1d(value)
        if values.dtype.kind == "f":
            return tf.train.Feature(float_list=tf.train.FloatList(value=values))
        return tf.train.Feature(int64_list=tf.train.Int64List(value=values))

    features = {name: feature(value) for name, value in columns.items()}
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


def write_transformed(directory, model, split, records):
    path = directory / "transformed" / model / split
    path.mkdir(parents=True)
    with tf.io.TFRecordWriter(str(path / "part-0.tfrecord")) as writer:
        for record in records:
            writer.write(record)


def write_candidates(directory, split, watches):
    """Each watch is (user, time, label row, rows watched before, newest first)."""
    path = directory / "candidate_examples" / split
    path.mkdir(parents=True)
    table = pa.table(
        {
            "user_id": pa.array([w[0] for w in watches], pa.string()),
            "time": pa.array([w[1] for w in watches], pa.int64()),
            "label_video_id": pa.array([VIDEOS[w[2]] for w in watches], pa.string()),
            "region": pa.array(["SE" for _ in watches], pa.string()),
            "watched_video_ids": pa.array(
                [[VIDEOS[row] for row in w[3]] for w in watches], pa.list_(pa.string())
            ),
        }
    )
    pq.write_table(table, path / "part-0.parquet")
    # Transformed examples come in another order than the raw ones.
    records = [
        example(
            user_id=user, time=time, label_video_id=VIDEOS[label], video_id=label + 1, region=1,
            watched_video_ids=[row + 1 for row in history] + [0] * (3 - len(history)),
        )
        for user, time, label, history in reversed(watches)
    ]  # fmt: skip
    write_transformed(directory, "candidate", split, records)


def write_impressions(directory, split, rows):
    """Each row is (user, page, time, video row, age quantile, clicked, seconds)."""
    records = [
        example(
            user_id=user, page_id=page, time=time, label_video_id=VIDEOS[row], position=-1,
            clicked=float(clicked), watch_time_s=float(seconds), video_id=row + 1, region=1,
            watched_video_ids=[1, 0, 0], candidate_continuous=[float(age)],
        )
        for user, page, time, row, age, clicked, seconds in rows
    ]  # fmt: skip
    write_transformed(directory, "ranker", split, records)


def write_examples(directory, *, holdout=True, ranking=True, **info):
    watches = [
        (f"u{user}", TRAIN_END - 1000 + step, (user + step) % 8, [(user + step - 1) % 8])
        for user in range(8)
        for step in range(3)
    ]
    write_candidates(directory, "train", watches)
    tomorrow = [
        (f"u{user}", TRAIN_END + 10 * user, (user + 4) % 8, [(user + 3) % 8, user])
        for user in range(7)
    ]
    new_user = [("new", TRAIN_END + 99, 0, [])]
    write_candidates(directory, "holdout", (tomorrow + new_user) * holdout)
    catalogue = [
        example(user_id="", time=row, label_video_id=VIDEOS[row], video_id=row + 1, region=0,
                watched_video_ids=[0, 0, 0])
        for row in range(8)
    ]  # fmt: skip
    write_transformed(directory, "candidate", "videos", reversed(catalogue))
    (directory / "videos").mkdir()
    uploads = [TRAIN_END - 86_400 * age for age in range(8)]
    pq.write_table(
        pa.table({"video_id": VIDEOS, "upload_time": uploads}), directory / "videos/part-0.parquet"
    )
    impressions = [
        (f"u{user}", page, TRAIN_END + 5, row, row / 8, row > 4, 60 * (row > 4))
        for user in range(4)
        for page in ("p", "")
        for row in range(8)
    ]
    if ranking:
        write_impressions(directory, "train", impressions)
        write_impressions(directory, "holdout", impressions * holdout)
        assets = directory / "transform_fn/ranker/transform_fn/assets"
        assets.mkdir(parents=True)
        (assets / "vocabulary_category").write_text("region=SE\n")
    SPEC.save(directory)
    files.mark_complete(
        directory,
        {
            "train_until_s": TRAIN_END,
            "has_ranking": ranking,
            "counts": {"ranker_train": 64},
            **info,
        },
    )
    return directory


@pytest.fixture(scope="module")
def examples_dir(tmp_path_factory):
    return write_examples(tmp_path_factory.mktemp("examples"))


CONFIG = evaluation.EvaluationConfig(ks=(2, 1), replicates=50, linear=False)


@pytest.fixture(scope="module")
def measured(examples_dir):
    return evaluation.evaluate(
        examples_dir,
        candidate_model=TowersThatFollow(),
        ranker=RankerThatPrefersAge(),
        config=CONFIG,
    )


def value(measured, key):
    return measured.figures[key].value
