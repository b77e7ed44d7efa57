"""Files for the stock TensorFlow Serving: which versions of which models it holds, and how.

Every publication and every rollback writes ``serving_root/tf_serving/models.config`` before
CURRENT changes, so that a model server which polls it has the new version loaded, beside the old
one, when the first funnel asks for it:

    tensorflow_model_server --port=8500 --rest_api_port=8501 --grpc_max_threads=64 \
        --num_load_threads=4 --max_num_load_retries=1 --load_retry_interval_micros=1000000 \
        --model_config_file=SERVING_ROOT/tf_serving/models.config \
        --model_config_file_poll_wait_seconds=5 \
        --monitoring_config_file=SERVING_ROOT/tf_serving/monitoring.config

The paths in it are absolute, so a container mounts the serving root under the same path. Without
``--grpc_max_threads`` sixteen callers on two cores are turned away. Without the second line models
load one after the other, and one that cannot load is tried again for five minutes before the next.

A server that reads an empty list unloads everything, while one that meets a broken or missing file
keeps what it has: so the list is never empty, and a reader sees the old file or the new one.

Batching is off. Where many funnels ask one server with many cores, these let it put requests to
the query tower together:

    --enable_batching --enable_per_model_batching_parameters \
        --batching_parameters_file=SERVING_ROOT/tf_serving/batching.config

With the second flag only a model with a ``batching_params.pbtxt`` of its own is batched, and the
ranker has none: its query side has one row for many candidates, which the server's batching
refuses. Never give the first flag without the second.
"""

import os
import pathlib
from collections.abc import Mapping, Sequence

from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from features import files

DIRECTORY = "tf_serving"
_HEADER = "# Written with every publication and rollback; edits are lost.\n"
# The classes of these two are in no distribution; nothing of what they say is ours to fill in.
_MONITORING = """\
# Prometheus metrics on the REST port.
prometheus_config {
  enable: true
  path: "/monitoring/prometheus/metrics"
}
"""
_BATCHING = """\
# Threads of all batched models together; sizes and times stand beside each model.
num_batch_threads { value: 4 }
"""
_QUERY_TOWER_BATCHING = """\
# Read only under --enable_batching --enable_per_model_batching_parameters.
max_batch_size { value: 32 }
batch_timeout_micros { value: 1000 }
max_enqueued_batches { value: 100 }
"""


def write(serving_root: pathlib.Path, versions: Mapping[str, Sequence[str]]) -> None:
    """Replaces models.config; the other files are written once and may be edited.

    Args:
        serving_root: Directory in which releases are published.
        versions: Servable name to the versions that the server must hold.

    Raises:
        ValueError: No model is to be held; see the module.
    """
    directory = serving_root / DIRECTORY
    text = _HEADER + text_format.MessageToString(_models(serving_root, versions), as_utf8=True)
    files.atomic_write(directory / "models.config", text)
    for name, content in (("monitoring.config", _MONITORING), ("batching.config", _BATCHING)):
        if not (directory / name).exists():
            files.atomic_write(directory / name, content)


def is_written(serving_root: pathlib.Path, versions: Mapping[str, Sequence[str]]) -> bool:
    """Returns whether models.config holds these versions; arguments as in :func:`write`."""
    path = serving_root / DIRECTORY / "models.config"
    held = model_server_config_pb2.ModelServerConfig()
    try:
        text_format.Parse(path.read_text(encoding="utf-8"), held)
    except (FileNotFoundError, text_format.ParseError):
        return False
    return bool(held == _models(serving_root, versions))


def write_batching(query_tower: str | os.PathLike[str]) -> None:
    """Allows the server to batch a query tower; see the module."""
    files.atomic_write(pathlib.Path(query_tower) / "batching_params.pbtxt", _QUERY_TOWER_BATCHING)


def _models(
    serving_root: pathlib.Path, versions: Mapping[str, Sequence[str]]
) -> model_server_config_pb2.ModelServerConfig:
    config = model_server_config_pb2.ModelServerConfig()
    for name, held in versions.items():
        if held:
            model = config.model_config_list.config.add(
                name=name,
                base_path=str(serving_root.resolve() / name),
                model_platform="tensorflow",
            )
            model.model_version_policy.specific.versions.extend(sorted(map(int, set(held))))
    if not config.model_config_list.config:
        raise ValueError(f"the model server of {serving_root} must hold some version of a model.")
    return config
