"""A release of a million videos for the benchmarks, made in minutes instead of an hour.

A small simulated site is preprocessed and trained on with the real commands. Then its catalogue
grows: every video gets hundreds of relatives, with the metadata of their parent, an embedding
near that of their parent, and a norm and a popularity of their own. Vocabularies and weights grow
with it, and the real assembly code publishes the result, gates and index tuning included.

Columns are added to the simulated videos until the models read at least 200 inputs.
"""

import dataclasses
import json
import os
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from absl import logging

from features import files, spec
from features.durations import DAY_S
from features.spec import ResolvedSpec
from pipeline.steps import commands

# Few users with long histories cost a request more than many with short ones.
_SITE = ("--preset=small", "--users=800", "--days=21", "--seed=1")
_EXTRA_NUMBERS = 84
_TRAINING = ("--epochs=1", "--batch_size=512")
DIMENSION = 256
NUM_VIDEOS = 1_000_000
_NOISE = 0.35  # Of a relative's embedding, as a share of its parent's norm.
_NORM_SHAPE = 8.0  # Of the gamma distribution of norms: deviations of about a third.
_BATCH = 20_000
_VIDEO = "video"


@dataclasses.dataclass(frozen=True)
class Site:
    """Where the parts of the grown site are.

    Attributes:
        logs: Raw logs of the small site; the users of the benchmark.
        serving_root: Directory with one release of the grown catalogue.
        num_inputs: Number of features that the ranker reads.
    """

    logs: pathlib.Path
    serving_root: pathlib.Path
    num_inputs: int


def build(work: pathlib.Path, *, num_videos: int = NUM_VIDEOS) -> Site:
    """Makes the site, or what is missing of it: each part is kept in ``work``."""
    from serving.release import manifest as release  # TensorFlow loads with what follows.

    logs, small, grown = work / "logs", work / "small", work / "grown"
    root = work / "serving_root"
    if not (logs / "features.json").is_file():
        shutil.rmtree(logs, ignore_errors=True)
        commands.run_binary("pipeline.simulate", f"--logs={logs}", *_SITE)
        _add_columns(logs)
    examples = small / "examples"
    if files.read_complete(examples) is None:
        commands.run_binary("pipeline.preprocess", f"--logs={logs}", f"--examples={examples}")
    for kind, flags in ((spec.CANDIDATE, (f"--embedding_dim={DIMENSION}",)), (spec.RANKER, ())):
        model = small / kind
        if files.read_complete(model) is None:
            commands.run_binary(
                f"models.train_{kind}",
                f"--examples={examples}",
                f"--model={model}",
                *_TRAINING,
                *flags,
            )
    if files.read_complete(grown) is None:
        with files.atomic_directory(grown) as temporary:
            _grow(small, temporary, num_videos)
            files.mark_complete(temporary, {"num_videos": num_videos})
    if release.stated_current(root) is None:
        _publish(grown, root)
    resolved = ResolvedSpec.load(examples)
    return Site(logs, root, len(resolved.of(spec.RANKER)))


def _add_columns(logs: pathlib.Path) -> None:
    """Gives videos more numbers, and impressions the release that makes nominations features."""
    rng = np.random.default_rng(2)
    (path,) = (logs / "videos").glob("*.parquet")
    videos = pq.read_table(path)
    names = [f"number_{i:02d}" for i in range(_EXTRA_NUMBERS)]
    for name in names:
        values = rng.gamma(2.0, size=videos.num_rows) ** rng.uniform(0.5, 2)
        videos = videos.append_column(name, pa.array(values))
    pq.write_table(videos, path)
    for path in (logs / "impressions").rglob("*.parquet"):
        shown = pq.ParquetFile(path).read()
        release = pa.array(["simulated"] * shown.num_rows)
        pq.write_table(shown.append_column("release_id", release), path)
    extra = [
        {
            "name": name,
            "kind": "continuous",
            "side": "candidate",
            "models": ["ranker"],
            "source": f"videos.{name}",
        }
        for name in names
    ]
    files.atomic_write(logs / "features.json", json.dumps(extra, indent=1))


# ---- growing -------------------------------------------------------------------------------------


def _grow(small: pathlib.Path, grown: pathlib.Path, num_videos: int) -> None:
    """Writes examples and both models with a catalogue of ``num_videos``."""
    rng = np.random.default_rng(3)
    source, examples = small / "examples", grown / "examples"
    shutil.copytree(
        source, examples, ignore=shutil.ignore_patterns("COMPLETE", "rejected", "*.tfrecord.tmp")
    )
    videos = pq.read_table(source / "videos").combine_chunks()
    count = videos.num_rows
    parents = np.concatenate([np.arange(count), rng.integers(count, size=num_videos - count)])
    table, ids = _grown_catalogue(videos, parents, rng)
    _replace_parquet(examples / "videos", table)
    _replace_parquet(
        examples / "video_statistics",
        _grown_statistics(pq.read_table(source / "video_statistics"), ids[count:], rng),
    )
    for kind in spec.MODELS:
        path = examples / "transform_fn" / kind / "transform_fn" / "assets" / "vocabulary_video"
        with path.open("a") as file:
            file.writelines(f"{video_id}\n" for video_id in ids[count:])
    info = files.read_complete(source) or {}
    files.mark_complete(examples, {**info, "num_videos": num_videos})
    _write_transformed_videos(examples, table)
    logging.info("Growing the models to %d videos.", num_videos)
    parent_ids = videos["video_id"].take(pa.array(parents[count:])).to_pylist()
    parent_of = dict(zip(ids[count:], parent_ids, strict=True))
    for kind in spec.MODELS:
        _grow_model(kind, small / kind, grown, parent_of)


def _grown_catalogue(
    videos: pa.Table, parents: npt.NDArray[np.int64], rng: np.random.Generator
) -> tuple[pa.Table, list[str]]:
    table = videos.take(pa.array(parents)).combine_chunks()
    count, total = videos.num_rows, len(parents)
    ids = [
        video_id if row < count else f"{video_id}.{row}"
        for row, video_id in enumerate(table["video_id"].to_pylist())
    ]
    uploaded = np.array(table["upload_time"].combine_chunks(), np.int64)
    uploaded[count:] -= rng.integers(0, 900 * DAY_S, size=total - count)
    # A channel of a million videos is no channel.
    channels = [
        channel if row < count or channel is None else f"{channel}.{row % 97}"
        for row, channel in enumerate(table["channel_id"].to_pylist())
    ]
    changed = {
        "video_id": pa.array(ids, pa.string()),
        "upload_time": pa.array(uploaded),
        "channel_id": pa.array(channels, pa.string()),
    }
    for name, values in changed.items():
        table = table.set_column(table.column_names.index(name), name, values)
    return table, ids


def _grown_statistics(daily: pa.Table, new_ids: list[str], rng: np.random.Generator) -> pa.Table:
    """Every third new video was shown on one or two of the last days."""
    last = int(np.asarray(daily["day"].combine_chunks()).max())
    chosen = np.sort(rng.integers(len(new_ids), size=len(new_ids) // 2))
    shown = 1 + rng.geometric(0.05, size=len(chosen))
    clicks = rng.binomial(shown, 0.1)
    new = pa.table(
        {
            "video_id": pa.array(new_ids, pa.string()).take(pa.array(chosen)),
            "day": pa.array(last - rng.integers(0, 20, size=len(chosen))),
            "impressions": pa.array(shown),
            "clicks": pa.array(clicks),
            "watches": pa.array(clicks),
            "watch_time_s": pa.array(clicks * rng.gamma(2.0, 60.0, size=len(chosen))),
        }
    ).cast(daily.schema)
    sums = pa.concat_tables([daily, new]).group_by(["video_id", "day"])
    measures = [name for name in daily.column_names if name not in {"video_id", "day"}]
    merged = sums.aggregate([(name, "sum") for name in measures])
    merged = merged.rename_columns([n.removesuffix("_sum") for n in merged.column_names])
    return merged.select(daily.column_names)


def _replace_parquet(directory: pathlib.Path, table: pa.Table) -> None:
    shutil.rmtree(directory)
    directory.mkdir()
    pq.write_table(table, directory / "part-00000.parquet")


def _write_transformed_videos(examples: pathlib.Path, table: pa.Table) -> None:
    """Writes the catalogue through the candidate model's transform, as preprocessing does."""
    import tensorflow as tf
    from tfx_bsl.coders import example_coder

    directory = examples / "transformed" / spec.CANDIDATE / "videos"
    shutil.rmtree(directory)
    directory.mkdir(parents=True)
    with tf.io.TFRecordWriter(str(directory / "part-00000-of-00001.tfrecord")) as writer:
        for batch in _transformed_videos(examples, table):
            for record in example_coder.RecordBatchToExamplesEncoder(None).encode(batch):
                writer.write(record)


def _transformed_videos(examples: pathlib.Path, table: pa.Table) -> Iterator[pa.RecordBatch]:
    import tensorflow as tf
    import tensorflow_transform as tft

    from features import tensors
    from features.as_of import examples as raw_examples
    from features.catalogue import Catalogue
    from features.spec import Kind, Side

    resolved = ResolvedSpec.load(examples)
    output = tft.TFTransformOutput(str(examples / "transform_fn" / spec.CANDIDATE))
    layer = output.transform_features_layer()
    lists = {f.name for f in resolved.of(spec.CANDIDATE) if f.kind is Kind.MULTIVALENT}
    catalogue = Catalogue(table)
    for start in range(0, len(catalogue), _BATCH):
        rows = np.arange(start, min(start + _BATCH, len(catalogue)))
        batch = raw_examples.candidate_batch(
            resolved, spec.CANDIDATE, catalogue=catalogue, video_rows=rows
        )
        raw = tensors.to_arrays(batch, resolved, spec.CANDIDATE, Side.CANDIDATE)
        given = {
            name: tf.sparse.from_dense(values) if name in lists else tf.constant(values)
            for name, values in raw.items()
        }
        out = layer(given)
        columns: dict[str, pa.Array] = {}
        for name in raw:
            values = np.asarray(out[name])
            width = 1 if values.ndim == 1 else values.shape[1]
            offsets = np.arange(len(rows) + 1, dtype=np.int32) * np.int32(width)
            columns[name] = pa.ListArray.from_arrays(offsets, values.reshape(-1))
        one = np.arange(len(rows) + 1, dtype=np.int32)
        ids = catalogue.video_ids.slice(start, len(rows)).cast(pa.binary())
        nobody = pa.array([b""] * len(rows))
        columns["label_video_id"] = pa.ListArray.from_arrays(one, pa.concat_arrays([ids]))
        columns["user_id"] = pa.ListArray.from_arrays(one, nobody)
        columns["time"] = pa.ListArray.from_arrays(one, pa.array(rows))
        yield pa.RecordBatch.from_pydict(columns)


def _grow_model(
    kind: str, source: pathlib.Path, grown_site: pathlib.Path, parent_of: dict[str, str]
) -> None:
    """Writes a trained model with rows for the new videos beside those of their parents."""
    from features import dataset
    from models import config
    from models.candidate import model as candidate_model
    from models.ranking import model as ranker
    from models.training import saved

    examples, rng = grown_site / "examples", np.random.default_rng(4)
    small = (candidate_model if kind == spec.CANDIDATE else ranker).load(source)
    classes: dict[str, Any] = {
        spec.CANDIDATE: candidate_model.CandidateModel,
        spec.RANKER: ranker.Ranker,
    }
    sizes, sizes_before = dataset.vocabulary_sizes(examples, kind), small.vocabulary_sizes
    grown = classes[kind](small.resolved, sizes, small.config)
    tokens = dataset.vocabulary(examples, kind, _VIDEO)
    row_of = {token: row for row, token in enumerate(tokens)}
    parents = np.array([row_of.get(parent_of.get(t, t), -1) for t in tokens]) + 1
    for old, new in zip(small.variables, grown.variables, strict=True):
        assert old.name == new.name, (old.name, new.name)
        values = old.numpy()
        if old.shape == new.shape:
            new.assign(values)
            continue
        if old.shape[0] == sizes_before[_VIDEO] + 1 and new.shape[0] == sizes[_VIDEO] + 1:
            rows = np.concatenate([[0], parents])
            rows[rows >= len(values)] = 0
            taken = values[rows]
            if values.shape[1] > 1:
                taken[len(values) :] = _relatives(taken[len(values) :], rng)
            # Wider vocabularies have wider embeddings in the ranker; what is new there is 0.
            new.assign(np.pad(taken, ((0, 0), (0, new.shape[1] - taken.shape[1]))))
            continue
        # A layer above such an embedding keeps its initial weights: speed is what is measured.
    info = files.read_complete(source) or {}
    contents = saved.Contents(
        configs={"model": config.from_mapping(type(small.config), _configs(source)["model"])},
        vocabularies={_VIDEO: tokens},
        metrics=info["metrics"],
        lineage={**info["lineage"], "transform": saved.transform_fingerprint(examples, kind)},
    )
    saved.write(grown_site / kind, kind=kind, model=grown, contents=contents)


def _configs(source: pathlib.Path) -> dict[str, Any]:
    return dict(json.loads((source / "config.json").read_text()))


def _relatives(vectors: npt.NDArray[np.float32], rng: np.random.Generator) -> Any:
    """Returns the vectors with noise, and with norms of their own."""
    size = np.linalg.norm(vectors, axis=1, keepdims=True)
    noise = rng.standard_normal(vectors.shape, np.float32)
    noise *= _NOISE * size / np.sqrt(vectors.shape[1])
    norms = rng.gamma(_NORM_SHAPE, 1 / _NORM_SHAPE, size=(len(vectors), 1)).astype(np.float32)
    return (vectors + noise) * norms


def _publish(grown: pathlib.Path, root: pathlib.Path) -> None:
    from serving.building import assembly
    from serving.building.config import BuildConfig, Inputs

    assembly.publish(
        Inputs(
            examples=grown / "examples",
            candidate_model=grown / spec.CANDIDATE,
            ranker_model=grown / spec.RANKER,
        ),
        root,
        BuildConfig(force_publish="a benchmark of speed: the grown models are not judged"),
    )


def second_release(root: pathlib.Path, *, mark: str) -> tuple[str, str]:
    """Makes a second release whose titles all end with ``mark``; the first one stays current.

    Everything else is the same files, so it differs in nothing but what proves where a page came
    from.

    Returns:
        The version that serves, and the new one.
    """
    from serving.release import checksums
    from serving.release import manifest as release

    first = release.load_manifest(root)
    second = str(int(first.version) + 1)
    if second in release.versions(root):
        return first.version, second
    for name in release.COMPONENTS:
        source = release.component_directory(root, name, first.version)
        if first.components.get(name) is None:
            continue
        target = release.component_directory(root, name, second)
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(source, target, copy_function=os.link)
    path = release.component_directory(root, "videos", second) / "videos.parquet"
    table = pq.read_table(path)
    titles = [f"{title} {mark}" for title in table["title"].to_pylist()]
    table = table.set_column(table.column_names.index("title"), "title", pa.array(titles))
    path.unlink()  # The other name of the file is the first release's.
    pq.write_table(table, path, compression="zstd")
    videos = {**first.components, "videos": checksums.of_tree(path.parent)}
    manifest = dataclasses.replace(first, version=second, previous=first.version, components=videos)
    files.atomic_write(release.manifest_path(root, second), manifest.to_json())
    return first.version, second
