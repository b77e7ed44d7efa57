"""A small examples directory with known contents, written without running preprocess."""

import dataclasses
import pathlib
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from features import files, preprocessing, spec
from features.spec import Kind, Side

NUM_VIDEOS = 24
NUM_GROUPS = 4
_TRANSFORM = b"transform graph"


def small_spec() -> spec.ResolvedSpec:
    """A bag, univalents, continuous and binary features on the query side, content of videos."""
    both, ranker = spec.MODELS, (spec.RANKER,)
    query = {"side": Side.QUERY, "models": both}
    video = {"side": Side.CANDIDATE, "models": both}
    make = spec.Feature
    return spec.ResolvedSpec(
        features=(
            make(
                name="watched_video_ids",
                kind=Kind.MULTIVALENT,
                source="history.watched_video_ids",
                space="video",
                max_length=6,
                **query,
            ),
            make(name="region", kind=Kind.UNIVALENT, source="users.region", **query),
            make(name="signed_in", kind=Kind.BINARY, source="users.signed_in", **query),
            make(name="age", kind=Kind.CONTINUOUS, source="users.age", **query),
            make(
                name="example_age_s",
                kind=Kind.CONTINUOUS,
                source="context.example_age_s",
                side=Side.QUERY,
                models=(spec.CANDIDATE,),
            ),
            make(
                name="video_id",
                kind=Kind.UNIVALENT,
                source="videos.video_id",
                space="video",
                **video,
            ),
            make(
                name="channel_id",
                kind=Kind.UNIVALENT,
                source="videos.channel_id",
                space="channel",
                **video,
            ),
            make(name="duration_s", kind=Kind.CONTINUOUS, source="videos.duration_s", **video),
            make(
                name="user_video_impressions_1h",
                kind=Kind.CONTINUOUS,
                source="history.user_video_impressions_1h",
                side=Side.CANDIDATE,
                models=ranker,
            ),
        )
    )


VOCABULARIES = {
    "video": [f"v{i}" for i in range(1, NUM_VIDEOS + 1)],
    "channel": [f"c{i}" for i in range(1, NUM_GROUPS + 1)],
    "category": ["region=a", "region=b"],
}


def candidate_rows(size: int, *, seed: int) -> dict[str, np.ndarray]:
    """Users who watched videos of one group and watch another of it next, nine times in ten."""
    rng = np.random.default_rng(seed)
    group = rng.integers(0, NUM_GROUPS, size)
    bags = 1 + group[:, None] + NUM_GROUPS * rng.integers(0, NUM_VIDEOS // NUM_GROUPS, (size, 6))
    bags[np.arange(6)[None, :] >= rng.integers(1, 7, size)[:, None]] = 0
    surprise = rng.random(size) < 0.1
    label_group = np.where(surprise, rng.integers(0, NUM_GROUPS, size), group)
    # Within a group, low ids are more popular.
    place = np.minimum(rng.geometric(0.4, size) - 1, NUM_VIDEOS // NUM_GROUPS - 1)
    labels = 1 + label_group + NUM_GROUPS * place
    return {
        "watched_video_ids": bags,
        "region": rng.integers(0, 3, size),
        "query_binary": rng.integers(0, 2, (size, 1)).astype(np.float32),
        "query_continuous": rng.random((size, 2)).astype(np.float32),
        "video_id": labels,
        **_content(labels),
        "user_id": np.array([f"u{i // 5 % 50}".encode() for i in range(size)], object),
        "time": np.arange(size),
        "label_video_id": np.array([f"v{label}".encode() for label in labels], object),
    }


def _content(ids: np.ndarray) -> dict[str, np.ndarray]:
    return {
        "channel_id": np.where(ids > 0, 1 + (ids - 1) % NUM_GROUPS, 0),
        "candidate_continuous": (ids[:, None] / (NUM_VIDEOS + 1)).astype(np.float32),
    }


def catalogue_rows() -> dict[str, np.ndarray]:
    """All videos, and one that is outside the vocabulary, of channel 1, in the last row."""
    rows = candidate_rows(NUM_VIDEOS + 1, seed=0)
    ids = np.append(np.arange(1, NUM_VIDEOS + 1), 0)
    content = _content(ids)
    content["channel_id"][-1] = 1
    names = [*VOCABULARIES["video"], "new"]
    return {
        **rows,
        "video_id": ids,
        **content,
        "label_video_id": np.array([name.encode() for name in names], object),
        "time": np.arange(len(ids)),
    }


def ranker_rows(size: int, *, seed: int, click_rate: float = 0.3) -> dict[str, np.ndarray]:
    """Impressions; channel 1 is watched for 100 seconds a click, the others for 10."""
    rng = np.random.default_rng(seed)
    query = candidate_rows(size, seed=seed)
    clicked = (rng.random(size) < click_rate).astype(np.float32)
    seconds = np.where(query["channel_id"] == 1, 100.0, 10.0) * clicked
    return {
        **{n: query[n] for n in ("watched_video_ids", "region", "query_binary")},
        **{n: query[n] for n in ("video_id", "channel_id", "user_id", "label_video_id", "time")},
        "query_continuous": query["query_continuous"][:, :1],
        "candidate_continuous": np.concatenate(
            [query["candidate_continuous"], rng.random((size, 1))], axis=1
        ).astype(np.float32),
        "page_id": np.array([f"p{i // 5}".encode() for i in range(size)], object),
        "position": np.arange(size) % 5,
        "clicked": clicked,
        "watch_time_s": seconds.astype(np.float32),
    }


Rows = Mapping[str, np.ndarray]


def write_examples(
    directory: pathlib.Path,
    *,
    candidate: Mapping[str, Rows] | None = None,
    ranker: Mapping[str, Rows] | None = None,
    vocabularies: Mapping[str, list[str]] = VOCABULARIES,
    info: Mapping[str, Any] | None = None,
    feedback: Sequence[str] = (),
) -> pathlib.Path:
    """Writes the parts of an examples directory that training reads.

    ``candidate`` and ``ranker`` give the rows of ``train`` and ``holdout``, ``info`` what COMPLETE
    holds besides, ``feedback`` the kinds of feedback that impressions got.
    """
    resolved = dataclasses.replace(small_spec(), feedback=tuple(feedback))
    resolved.save(directory)
    splits: dict[str, Mapping[str, Rows]] = {
        spec.CANDIDATE: {"videos": catalogue_rows(), **(candidate or {})},
        spec.RANKER: ranker or {},
    }
    counts = {}
    for model, rows_by_split in splits.items():
        feature_spec = preprocessing.transformed_feature_spec(resolved, model)
        for split, rows in rows_by_split.items():
            _write_records(directory / "transformed" / model / split, feature_spec, rows)
            counts[f"{model}_{split}"] = len(next(iter(rows.values())))
        assets = directory / "transform_fn" / model / "transform_fn" / "assets"
        assets.mkdir(parents=True, exist_ok=True)
        for space, tokens in vocabularies.items():
            text = "".join(f"{token}\n" for token in tokens)
            (assets / preprocessing.vocabulary_name(space)).write_text(text)
        (assets.parent / "saved_model.pb").write_bytes(_TRANSFORM)
    for model in spec.MODELS:
        for split in ("train", "holdout"):
            counts.setdefault(f"{model}_{split}", 0)
    complete = {"counts": counts, "train_until_s": 1000, "until_s": 2000, **(info or {})}
    files.mark_complete(directory, complete)
    return directory


def _write_records(
    directory: pathlib.Path, feature_spec: Mapping[str, Any], rows: Mapping[str, np.ndarray]
) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    size = len(next(iter(rows.values())))
    with tf.io.TFRecordWriter(str(directory / "part-00000.tfrecord")) as writer:
        for i in range(size):
            features = {
                name: _feature(np.atleast_1d(rows[name][i]), declared.dtype)
                for name, declared in feature_spec.items()
            }
            example = tf.train.Example(features=tf.train.Features(feature=features))
            writer.write(example.SerializeToString())


def _feature(values: np.ndarray, dtype: tf.DType) -> tf.train.Feature:
    if dtype == tf.string:
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=values.tolist()))
    if dtype == tf.int64:
        return tf.train.Feature(int64_list=tf.train.Int64List(value=values))
    return tf.train.Feature(float_list=tf.train.FloatList(value=values))


@pytest.fixture
def make_examples(tmp_path: pathlib.Path) -> Callable[..., pathlib.Path]:
    """Gives :func:`write_examples`, into ``tmp_path / "examples"``."""

    def make(**splits: Any) -> pathlib.Path:
        directory = tmp_path / "examples"
        directory.mkdir()
        return write_examples(directory, **splits)

    return make


@pytest.fixture(scope="session")
def small_examples(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Examples of both models, shared by tests that only read them."""
    return write_examples(
        tmp_path_factory.mktemp("examples"),
        candidate={
            "train": candidate_rows(2000, seed=1),
            "holdout": candidate_rows(300, seed=2),
        },
        ranker={"train": ranker_rows(2000, seed=3), "holdout": ranker_rows(500, seed=4)},
    )


@pytest.fixture(scope="session")
def world() -> Any:
    """The functions of this module, for tests that make their own rows."""

    return types.SimpleNamespace(
        spec=small_spec,
        candidate_rows=candidate_rows,
        ranker_rows=ranker_rows,
        catalogue_rows=catalogue_rows,
        write_examples=write_examples,
        vocabulary_sizes={space: len(tokens) for space, tokens in VOCABULARIES.items()},
        vocabularies=VOCABULARIES,
    )
