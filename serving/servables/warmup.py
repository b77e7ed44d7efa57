"""Warm-up requests: real ones, stored beside a SavedModel for TensorFlow Serving.

The server answers them before it calls a version available, so that no user pays for lazy
initialisation. A version that cannot answer them is never served, and the old one stays: that
makes them the last guard as well. The embedded backend runs the same file.
"""

import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from features import command, spec, tensors
from features.catalogue import Catalogue
from features.spec import ResolvedSpec, Side
from serving.servables import signatures, tensor_protos
from serving.servables.prepared_videos import PreparedVideos

FILE = "assets.extra/tf_serving_warmup_requests"
_QUERY_BATCHES = (1, 1, 8)
_VIDEO_BATCHES = (1, 32)
_CANDIDATES = (1, 100, 500)

Path = str | os.PathLike[str]
Arrays = Mapping[str, np.ndarray]
Request = tuple[str, Arrays]  # signature name, inputs


def query_tower_requests(examples_dir: Path) -> list[Request]:
    """Returns requests to the query tower, made of held-out raw examples."""
    query, videos = example_arrays(examples_dir, spec.CANDIDATE)
    requests = [
        (signatures.DEFAULT, _rows(query, size, start=i)) for i, size in enumerate(_QUERY_BATCHES)
    ]
    return requests + [(signatures.EMBED_VIDEOS, _rows(videos, size)) for size in _VIDEO_BATCHES]


def ranker_requests(examples_dir: Path) -> list[Request]:
    """Returns requests to the ranker, made of held-out raw examples."""
    query, videos = example_arrays(examples_dir, spec.RANKER)
    return [
        (signatures.DEFAULT, {**_rows(query, 1, start=i), **_rows(videos, size)})
        for i, size in enumerate(_CANDIDATES)
    ]


def prepared_requests(
    requests: Sequence[Request], prepared: PreparedVideos, catalogue: Catalogue
) -> list[Request]:
    """Returns the ranker's requests with the videos prepared before."""
    resolved = prepared.resolved
    query = tensors.signature_shapes(resolved, spec.RANKER, Side.QUERY)
    return [
        (
            signatures.SCORE_PREPARED,
            {n: v for n, v in arrays.items() if n in query}
            | prepared.inputs_for(arrays, catalogue.rows(pa.array(arrays["video_id"]))),
        )
        for _, arrays in requests
    ]


def write(saved_model: Path, servable: str, requests: Sequence[Request]) -> None:
    """Stores requests where TensorFlow Serving looks for them.

    Args:
        saved_model: SavedModel directory to write in.
        servable: Name under which the server loads it.
        requests: Requests to store, at most 1,000, the server's limit.
    """
    path = pathlib.Path(saved_model) / FILE
    path.parent.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for signature, arrays in requests:
            request = predict_request(servable, signature, arrays)
            log = prediction_log_pb2.PredictLog(request=request)
            writer.write(prediction_log_pb2.PredictionLog(predict_log=log).SerializeToString())


def read(saved_model: Path) -> Iterator[Request]:
    """Yields the stored requests of a SavedModel."""
    path = pathlib.Path(saved_model) / FILE
    for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
        request = prediction_log_pb2.PredictionLog.FromString(record).predict_log.request
        inputs = {name: tensor_protos.from_proto(proto) for name, proto in request.inputs.items()}
        yield request.model_spec.signature_name, inputs


def predict_request(
    servable: str, signature: str, arrays: Arrays, *, version: int | None = None
) -> predict_pb2.PredictRequest:
    """Returns a request to TensorFlow Serving; of an exact version where one is given."""
    request = predict_pb2.PredictRequest()
    request.model_spec.name = servable
    request.model_spec.signature_name = signature
    if version is not None:
        request.model_spec.version.value = version
    for name, values in arrays.items():
        tensor_protos.to_proto(values, request.inputs[name])
    return request


def example_arrays(examples_dir: Path, model: str) -> tuple[Arrays, Arrays]:
    """Returns the query and the video side of some raw examples, held-out ones if there are."""
    resolved = ResolvedSpec.load(examples_dir)
    for split in ("holdout", "train"):
        for path in raw_files(examples_dir, model, split):
            table = pq.ParquetFile(path).read_row_group(0)
            if table.num_rows:
                return (
                    tensors.to_arrays(table, resolved, model, Side.QUERY),
                    tensors.to_arrays(table, resolved, model, Side.CANDIDATE),
                )
    raise command.InputError(
        f"{examples_dir} has no raw examples of the {model} model to make warm-up requests of. "
        "Make them with: python -m pipeline.preprocess"
    )


def raw_files(examples_dir: Path, model: str, split: str) -> list[pathlib.Path]:
    """Returns the Parquet files of raw examples that have rows, sorted."""
    name = {spec.CANDIDATE: "candidate_examples", spec.RANKER: "ranking_examples"}[model]
    paths = sorted((pathlib.Path(examples_dir) / name / split).glob("*.parquet"))
    return [path for path in paths if pq.read_metadata(path).num_rows]


def _rows(arrays: Arrays, size: int, *, start: int = 0) -> dict[str, np.ndarray]:
    """Returns ``size`` rows from ``start`` on, going round where there are fewer."""
    return {
        name: values[np.arange(start, start + size) % len(values)]
        for name, values in arrays.items()
    }
