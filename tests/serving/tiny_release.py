"""A release small enough to reason about: 48 videos, 4 topics, models of a few lines.

Video ``v<n>`` is on topic ``t<n % 4>``, of channel ``c<n % 8>``, was uploaded n hours before
``NOW`` and lasts 100 + n seconds. Its embedding is 1 at its topic; the query tower gives the
share of each topic among the last watches, so retrieval finds what was watched. The ranker
expects ten times the retrieval score plus the place of the video (higher number, longer).
"""

import contextlib
import dataclasses
import pathlib
import shutil
import types

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features import feedback, spec, tensors
from features.as_of.statistics import VideoStatistics
from features.catalogue import Catalogue
from serving import errors
from serving.funnel import sources
from serving.funnel.loaded_release import LoadedRelease
from serving.funnel.nominations import Built
from serving.funnel.page import FunnelConfig
from serving.funnel.viewer import Profiles
from serving.index import sharded_building
from serving.release import publication

ROOT = pathlib.Path(__file__).resolve().parents[2]
NOW = 1_700_000_000
TOPICS = 4
COUNT = 48


class FakeIndex:
    """Exact search."""

    kind = "exact"
    answering = 1.0

    def __init__(self, embeddings):
        self.embeddings = embeddings
        self.dimension = embeddings.shape[1]

    def __len__(self):
        return len(self.embeddings)

    def search(self, queries, k):
        scores = queries @ self.embeddings.T
        rows = np.argsort(-scores, axis=1, kind="stable")[:, :k].astype(np.int32)
        return rows, np.take_along_axis(scores, rows, axis=1)


class TopicTower:
    """The share of each topic among ``watched_topics``, and the 1 of the bias."""

    def __init__(self):
        self.asked = []

    def predict(self, inputs, *, deadline_s=None):
        self.asked.append(inputs)
        topics = [topic for topic in inputs["watched_topics"][0] if topic]
        shares = [topics.count(f"t{i}") / max(len(topics), 1) for i in range(TOPICS)]
        return {"embedding": np.array([[*shares, 1.0]], np.float32)}


class PlaceRanker:
    """Ten times the retrieval score, plus the number of the video over the count."""

    def __init__(self, resolved):
        names = resolved.vector_names(spec.RANKER, spec.Side.CANDIDATE, spec.Kind.CONTINUOUS)
        self._score = names.index("retrieval_score")
        self.asked = []

    def predict(self, inputs, *, deadline_s=None):
        self.asked.append(inputs)
        number = np.array([int(v[1:] or 0) for v in inputs["video_id"]])
        score = np.nan_to_num(inputs["candidate_continuous"][:, self._score])
        return {"expected_watch_time_s": (10 * score + number / COUNT).astype(np.float32)}


class BrokenModel:
    """Fails like a model server that is gone."""

    def predict(self, inputs, *, deadline_s=None):
        raise errors.ModelUnavailableError("model server: UNAVAILABLE")


def make_catalogue(count=COUNT):
    numbers = range(count)
    return Catalogue(
        pa.table(
            {
                "video_id": [f"v{n}" for n in numbers],
                "upload_time": pa.array([NOW - 1 - 3600 * n for n in numbers], pa.int64()),
                "channel_id": [f"c{n % 8}" for n in numbers],
                "topics": [[f"t{n % TOPICS}"] for n in numbers],
                "language": ["en"] * count,
                "duration_s": [100.0 + n for n in numbers],
                "title": [f"Video {n}" for n in numbers],
            }
        )
    )


def make_daily():
    """v0 is the most watched, then v1, and so on."""
    day = NOW // 86400
    return pa.table(
        {
            "video_id": [f"v{n}" for n in range(COUNT)],
            "day": pa.array([day - 1] * COUNT, pa.int64()),
            "impressions": pa.array([100] * COUNT, pa.int64()),
            "clicks": pa.array([10] * COUNT, pa.int64()),
            "watches": pa.array([COUNT - n for n in range(COUNT)], pa.int64()),
            "watch_time_s": [1000.0] * COUNT,
        }
    )


def make_release(version="20231114000000", *, query_tower=None, ranker="fake", said=(), **changes):
    """Its ranker reads counts of the kinds of feedback in ``said``."""
    catalogue = make_catalogue()
    daily = make_daily()
    resolved = spec.resolve(
        {
            "users": ["user_id", "region", "age", "signed_in"],
            "videos": catalogue.table.column_names,
            "watches": [],
            "searches": [],
            "impressions": ["candidate_sources", "retrieval_score", "release_id"],
            "context": ["device", "surface"],
            **({"feedback": []} if said else {}),
        }
    )
    counted = [f for f in resolved.features if feedback.kind_of(f.column) in {"", *said}]
    resolved = dataclasses.replace(resolved, features=tuple(counted))
    embeddings = np.zeros((COUNT, TOPICS + 1), np.float32)
    embeddings[np.arange(COUNT), np.arange(COUNT) % TOPICS] = 1
    exact = FakeIndex(embeddings)
    built = Built(catalogue=catalogue, index=exact, daily=daily)
    asked = tuple(source.of(built) for source in sources.SOURCES)
    release = LoadedRelease(
        version=version,
        manifest=None,
        resolved=resolved,
        catalogue=catalogue,
        statistics=VideoStatistics.of(daily, catalogue),
        profiles=Profiles(
            pa.table({"user_id": ["old"], "region": ["fr"], "age": [30.0], "signed_in": [True]})
        ),
        index=exact,
        query_tower=query_tower or TopicTower(),
        ranker=PlaceRanker(resolved) if ranker == "fake" else ranker,
        sources=asked,
        popular=next(source for source in asked if isinstance(source, sources.Popular)),
    )
    return dataclasses.replace(release, **changes)


class OneRelease:
    """Always the same release; it can be exchanged."""

    def __init__(self, release):
        self.current = release
        self.loaded_at = 0.0
        self.failures = self.renewal_failures = 0
        self.waiting_s = 0.0

    @contextlib.contextmanager
    def pin(self):
        if self.current is None:
            raise errors.NotReadyError("no release is loaded yet.")
        yield self.current

    def close(self):
        pass


def patient(**changes):
    """Settings whose deadlines a busy machine does not miss."""
    stages = ("history", "query_tower", "sources", "ranker", "record")
    return FunnelConfig(**{f"{stage}_deadline_s": 120.0 for stage in stages} | changes)


@pytest.fixture
def tiny():
    """The pieces of the tiny world, by name."""
    return types.SimpleNamespace(
        now=NOW,
        count=COUNT,
        release=make_release,
        catalogue=make_catalogue,
        releases=OneRelease,
        tower=TopicTower,
        ranker=PlaceRanker,
        broken=BrokenModel,
        index=FakeIndex,
        publish=publish,
        patient=patient,
    )


# ---- the same release, published for real --------------------------------------------------------


def _tensor_specs(resolved, model, side, batch=None):
    import tensorflow as tf

    shapes = tensors.signature_shapes(resolved, model, side)
    return {
        name: tf.TensorSpec([batch, *shape[1:]], dtype, name=name)
        for name, (dtype, shape) in shapes.items()
    }


def _save_query_tower(resolved, directory):
    import tensorflow as tf

    module = tf.Module()
    module.topics = tf.constant([f"t{i}" for i in range(TOPICS)])

    @tf.function
    def embed(**raw):
        watched = raw["watched_topics"]
        hits = tf.cast(watched[:, :, None] == module.topics[None, None, :], tf.float32)
        total = tf.maximum(tf.reduce_sum(hits, [1, 2])[:, None], 1.0)
        shares = tf.reduce_sum(hits, 1) / total
        return {"embedding": tf.concat([shares, tf.ones_like(shares[:, :1])], 1)}

    @tf.function
    def embed_videos(**raw):
        hits = tf.cast(raw["topics"][:, :, None] == module.topics[None, None, :], tf.float32)
        place = tf.reduce_max(hits, 1)
        return {"embedding": tf.concat([place, tf.zeros_like(place[:, :1])], 1)}

    inputs = _tensor_specs(resolved, spec.CANDIDATE, spec.Side.QUERY)
    videos = _tensor_specs(resolved, spec.CANDIDATE, spec.Side.CANDIDATE)
    served = {
        "serving_default": embed.get_concrete_function(**inputs),
        "embed_videos": embed_videos.get_concrete_function(**videos),
    }
    tf.saved_model.save(module, str(directory), signatures=served)


def _save_ranker(resolved, directory, sign=1.0):
    import tensorflow as tf

    names = resolved.vector_names(spec.RANKER, spec.Side.CANDIDATE, spec.Kind.CONTINUOUS)
    column = names.index("retrieval_score")
    module = tf.Module()

    @tf.function
    def score(**raw):
        scores = raw["candidate_continuous"][:, column]
        number = tf.strings.to_number(tf.strings.substr(raw["video_id"], 1, 9))
        finite = tf.where(tf.math.is_finite(scores), scores, 0.0)
        return {"expected_watch_time_s": 20 + sign * (10 * finite + number / COUNT)}

    inputs = _tensor_specs(resolved, spec.RANKER, spec.Side.QUERY, 1)
    inputs |= _tensor_specs(resolved, spec.RANKER, spec.Side.CANDIDATE)
    signature = score.get_concrete_function(**inputs)
    tf.saved_model.save(module, str(directory), signatures={"serving_default": signature})


def publish(serving_root, *, has_ranker=True, sign=1.0, shards=1, **columns):
    """Publishes the tiny release with real SavedModels and a real index; returns its version.

    ``columns`` join its videos table, whatever they are: nothing is tried here. A ``sign`` of -1
    makes a ranker that puts last what it should put first.
    """
    release = make_release()
    table = release.catalogue.table
    for name, values in columns.items():
        table = table.append_column(name, pa.array(values))
    with publication.building(serving_root) as build:
        videos = build.directory("videos")
        release.resolved.save(videos)
        pq.write_table(table, videos / "videos.parquet")
        pq.write_table(make_daily(), videos / "video_statistics.parquet")
        pq.write_table(release.profiles.table, videos / "users.parquet")
        queries = np.zeros((40, TOPICS + 1), np.float32)
        queries[np.arange(40), np.arange(40) % TOPICS] = 1
        queries[:, -1] = 1
        sharded_building.build(
            build.directory("index"),
            release.catalogue.video_ids,
            (release.index.embeddings[shard::shards] for shard in range(shards)),
            shards=shards,
            tuning_queries=queries,
            recall_target=0.95,
            exact_below=20_000,
        )
        _save_query_tower(release.resolved, build.directory("query_tower"))
        if has_ranker:
            _save_ranker(release.resolved, build.directory("ranker"), sign)
        return build.publish(metrics={}, gates=[], lineage={}).version


@pytest.fixture(scope="session")
def published_root(tmp_path_factory):
    """A serving root with one real release; do not change it, copy it."""
    root = tmp_path_factory.mktemp("published") / "serving_root"
    publish(root)
    return root


@pytest.fixture(scope="session")
def tiny_publish():
    """Publishes the tiny release once more, into any serving root."""
    return publish


@pytest.fixture
def serving_root(published_root, tmp_path):
    """A serving root of the test's own."""
    return shutil.copytree(published_root, tmp_path / "serving_root")
