"""The SavedModels of a release behind a PredictionService.

Always behind one that is built here from the official stubs; also behind the real
tensorflow_model_server, started with our generated configuration, where the environment variable
TENSORFLOW_MODEL_SERVER names its binary.
"""

import concurrent.futures
import contextlib
import os
import shutil
import socket
import subprocess
import time
import types
import urllib.request

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from serving import errors
from serving.funnel.page import FunnelConfig, PageRequest
from serving.process.clock import Clock
from serving.release import manifest as release
from serving.release import tf_serving_config
from serving.servables import signatures, warmup
from serving.servables.embedded import EmbeddedModel
from serving.servables.tensorflow_serving import TensorFlowServingBackend
from serving.server import service

REAL = "TENSORFLOW_MODEL_SERVER"
SERVERS = ["stubs", *(["real"] if os.environ.get(REAL) else [])]
START_S = 120
PATIENT = FunnelConfig(
    history_deadline_s=120,
    query_tower_deadline_s=120,
    sources_deadline_s=120,
    ranker_deadline_s=120,
)


@pytest.fixture(scope="module")
def root(small_release, tmp_path_factory):
    """A serving root of this module's own, for which the configuration names the right paths."""
    root = shutil.copytree(small_release, tmp_path_factory.mktemp("tf_serving") / "root")
    version = release.current(root)
    tf_serving_config.write(
        root, {name: [version] for name in (signatures.QUERY_TOWER, signatures.RANKER)}
    )
    return root


class Servicer(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Serves the versions that are there, any signature, like the real server."""

    def __init__(self, root):
        self._root = root
        self._models = {}

    def Predict(self, request, context):  # noqa: N802
        spec = request.model_spec
        directory = self._root / spec.name / str(spec.version.value)
        if not directory.is_dir():
            context.abort(grpc.StatusCode.NOT_FOUND, "Servable not found for request")
        key = (directory, spec.signature_name)
        if key not in self._models:
            self._models[key] = EmbeddedModel(directory, spec.signature_name)
        inputs = {name: tf.make_ndarray(proto) for name, proto in request.inputs.items()}
        answer = predict_pb2.PredictResponse()
        answer.model_spec.CopyFrom(spec)
        for name, array in self._models[key].predict(inputs).items():
            answer.outputs[name].CopyFrom(tf.make_tensor_proto(array))
        return answer


@contextlib.contextmanager
def served_by_stubs(root):
    running = grpc.server(concurrent.futures.ThreadPoolExecutor(4))
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(Servicer(root), running)
    port = running.add_insecure_port("127.0.0.1:0")
    running.start()
    yield types.SimpleNamespace(address=f"127.0.0.1:{port}", rest=None)
    running.stop(None).wait()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def served_for_real(root, log):
    directory = root / tf_serving_config.DIRECTORY
    port, rest = free_port(), free_port()
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                os.environ[REAL],
                f"--port={port}",
                f"--rest_api_port={rest}",
                "--grpc_max_threads=64",
                "--num_load_threads=4",
                "--max_num_load_retries=1",
                "--load_retry_interval_micros=1000000",
                f"--model_config_file={directory / 'models.config'}",
                "--model_config_file_poll_wait_seconds=1",
                f"--monitoring_config_file={directory / 'monitoring.config'}",
                "--enable_batching",
                "--enable_per_model_batching_parameters",
                f"--batching_parameters_file={directory / 'batching.config'}",
            ],
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield types.SimpleNamespace(address=f"127.0.0.1:{port}", rest=rest)
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture(scope="module", params=SERVERS)
def server(request, root, tmp_path_factory):
    if request.param == "stubs":
        with served_by_stubs(root) as running:
            yield running
        return
    log = tmp_path_factory.mktemp("log") / "server.log"
    with served_for_real(root, log) as running:
        wait_for(running.address, release.load(root), log)
        yield running


def wait_for(address, found, log):
    """Waits until every model answers a real prediction: AVAILABLE alone does not say so."""
    end = time.monotonic() + START_S
    for name in (signatures.QUERY_TOWER, signatures.RANKER):
        signature, inputs = next(iter(warmup.read(getattr(found, name))))
        while True:
            try:
                ask(address, name, found, signature, inputs)
                break
            except errors.ModelError:
                if time.monotonic() > end:
                    pytest.fail(f"the server does not answer; it said:\n{log.read_text()[-5000:]}")
                time.sleep(0.5)


def ask(address, name, found, signature, inputs):
    backend = TensorFlowServingBackend(address, deadline_s=120.0)
    try:
        return backend.open(name, found, signature=signature).predict(inputs)
    finally:
        backend.close()


@pytest.mark.parametrize("name", [signatures.QUERY_TOWER, signatures.RANKER])
def test_every_warm_up_request_is_answered_as_in_this_process(server, root, name):
    found = release.load(root)
    asked = set()
    for signature, inputs in warmup.read(getattr(found, name)):
        here = EmbeddedModel(getattr(found, name), signature).predict(inputs)
        there = ask(server.address, name, found, signature, inputs)
        assert set(there) == set(here)
        for output, values in here.items():
            # Another build of TensorFlow adds up in another order.
            np.testing.assert_allclose(there[output], values, rtol=1e-3, atol=1e-4)
        asked.add(signature)
    expected = {
        signatures.QUERY_TOWER: {signatures.DEFAULT, signatures.EMBED_VIDEOS},
        signatures.RANKER: {signatures.DEFAULT, signatures.SCORE_PREPARED},
    }
    assert asked == expected[name]


def test_the_page_is_the_one_of_models_in_this_process(server, root, tmp_path):
    found = release.load(root)
    for name in (signatures.QUERY_TOWER, signatures.RANKER):
        for signature, inputs in warmup.read(getattr(found, name)):
            ask(
                server.address, name, found, signature, inputs
            )  # The first call loads, for the stubs.
    pages = []
    for number, address in enumerate([None, server.address]):
        built = service.build(
            service.ServiceConfig(
                serving_root=root,
                logs=tmp_path / str(number) / "logs",
                history=str(tmp_path / str(number) / "history.sqlite"),
                model_server=address,
                settings=PATIENT,
            ),
            clock=Clock(now=lambda: 1_700_300_000.0),
        )
        pages.append(built.funnel.recommend(PageRequest(user_id="u1", context={"region": "DE"})))
        built.on_close()
    embedded, remote = pages
    assert embedded.rung == remote.rung == "full"
    assert [i.video_id for i in embedded.items] == [i.video_id for i in remote.items]
    seconds = [{i.video_id: i.expected_watch_time_s for i in page.items} for page in pages]
    common = seconds[0].keys() & seconds[1].keys()
    assert len(common) >= 10
    for video in common:
        assert seconds[0][video] == pytest.approx(seconds[1][video], rel=1e-5)


def test_version_that_the_server_does_not_have_is_told_apart(server, root):
    found = release.load(root)
    signature, inputs = next(iter(warmup.read(found.query_tower)))
    unknown = types.SimpleNamespace(version="7")
    with pytest.raises(errors.ModelVersionMissingError, match="NOT_FOUND"):
        ask(server.address, signatures.QUERY_TOWER, unknown, signature, inputs)


def test_new_version_is_served_beside_the_old_one(server, root):
    found = release.load(root)
    newer = types.SimpleNamespace(version=str(int(found.version) + 1))
    names = (signatures.QUERY_TOWER, signatures.RANKER)
    for name in names:
        shutil.copytree(root / name / found.version, root / name / newer.version)
    tf_serving_config.write(root, {name: [found.version, newer.version] for name in names})
    signature, inputs = next(iter(warmup.read(found.query_tower)))
    end = time.monotonic() + START_S
    while True:
        try:
            new = ask(server.address, signatures.QUERY_TOWER, newer, signature, inputs)
            break
        except errors.ModelVersionMissingError:
            assert time.monotonic() < end
            time.sleep(0.2)
    old = ask(server.address, signatures.QUERY_TOWER, found, signature, inputs)
    np.testing.assert_array_equal(new["embedding"], old["embedding"])
    tf_serving_config.write(root, {name: [found.version] for name in names})
    for name in names:
        shutil.rmtree(root / name / newer.version)


def test_real_server_is_monitored(server):
    if server.rest is not None:
        address = f"http://127.0.0.1:{server.rest}/monitoring/prometheus/metrics"
        with urllib.request.urlopen(address, timeout=10) as answer:
            assert b"tensorflow" in answer.read()
