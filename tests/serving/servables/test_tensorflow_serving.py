"""Requests to TensorFlow Serving: versions, deadlines, replicas, TLS, and pages over it."""

import concurrent.futures
import subprocess
import threading
import time
import types

import grpc
import pytest
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from features import command
from serving import errors
from serving.funnel.page import PageRequest
from serving.process.clock import Clock
from serving.servables.embedded import EmbeddedBackend, EmbeddedModel
from serving.servables.tensorflow_serving import (
    SYSTEM_CERTIFICATES,
    TensorFlowServingBackend,
)
from serving.server import service
from tests.serving.servables.stub_server import INPUTS, VERSION, Servicer, release_at


@pytest.fixture
def open_model(server, saved_model):
    backends = []

    def make(**options):
        backends.append(TensorFlowServingBackend(server.address, **options))
        return backends[-1].open("query_tower", release_at(saved_model))

    yield make
    for backend in backends:
        backend.close()


def test_each_request_names_the_exact_version(open_model, server):
    open_model().predict(INPUTS)
    (request,) = server.servicer.requests
    assert request.model_spec.name == "query_tower"
    assert request.model_spec.version.value == int(VERSION)
    assert request.model_spec.signature_name == "serving_default"


def test_answer_of_another_version_is_refused(open_model, server):
    server.servicer.answer_version = 7
    with pytest.raises(errors.ModelError, match="answered with version 7 of query_tower"):
        open_model().predict(INPUTS)


def test_slow_server_is_given_up_at_the_deadline(open_model, server):
    server.servicer.hold = threading.Event()
    with pytest.raises(errors.ModelTimeoutError, match="DEADLINE_EXCEEDED"):
        open_model().predict(INPUTS, deadline_s=0.1)
    server.servicer.hold.set()


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (grpc.StatusCode.UNAVAILABLE, errors.ModelUnavailableError),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, errors.ModelUnavailableError),
        (grpc.StatusCode.CANCELLED, errors.ModelUnavailableError),
        (grpc.StatusCode.ABORTED, errors.ModelUnavailableError),
        (grpc.StatusCode.NOT_FOUND, errors.ModelVersionMissingError),
        (grpc.StatusCode.INVALID_ARGUMENT, errors.ModelError),
    ],
)
def test_errors_of_the_server_are_told_apart(open_model, server, code, expected):
    server.servicer.abort = code
    with pytest.raises(errors.ModelError, match=code.name) as raised:
        open_model().predict(INPUTS)
    assert type(raised.value) is expected


def manifest_of(*components):
    return types.SimpleNamespace(version=VERSION, components={name: {} for name in components})


@pytest.mark.parametrize("code", [grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNAVAILABLE])
def test_a_version_that_is_not_there_yet_is_awaited(server, code):
    backend = TensorFlowServingBackend(server.address)
    server.servicer.abort = code
    assert code.name in backend.lacks(manifest_of("query_tower"))
    server.servicer.abort = None
    assert backend.lacks(manifest_of("query_tower")) == ""
    backend.close()


def test_every_model_of_a_release_is_awaited_and_no_other(server):
    backend = TensorFlowServingBackend(server.address)
    backend.lacks(manifest_of("query_tower", "ranker", "index"))
    backend.lacks(manifest_of("query_tower", "index"))
    asked = [request.model_spec.name for request in server.servicer.requests]
    assert asked == ["query_tower", "ranker", "query_tower"]
    versions = {request.model_spec.version.value for request in server.servicer.requests}
    assert versions == {int(VERSION)}
    backend.close()


def test_models_of_this_process_are_never_awaited():
    assert EmbeddedBackend().lacks(manifest_of("query_tower", "ranker")) == ""


@pytest.fixture
def replicas(saved_model):
    """Two model servers, and a model that asks both."""
    started = []
    for _ in range(2):
        servicer = Servicer(saved_model)
        running = grpc.server(concurrent.futures.ThreadPoolExecutor(8))
        prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(servicer, running)
        port = running.add_insecure_port("127.0.0.1:0")
        running.start()
        started.append(
            types.SimpleNamespace(servicer=servicer, address=f"127.0.0.1:{port}", grpc=running)
        )
    backend = TensorFlowServingBackend(", ".join(one.address for one in started))
    yield *started, backend.open("query_tower", release_at(saved_model))
    backend.close()
    for one in started:
        one.grpc.stop(None).wait()


def test_replicas_take_turns(replicas):
    first, second, asked = replicas
    for _ in range(10):
        asked.predict(INPUTS)
    assert (len(first.servicer.requests), len(second.servicer.requests)) == (5, 5)


@pytest.mark.parametrize(
    "code",
    [
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.NOT_FOUND,
    ],
)
def test_what_one_replica_cannot_answer_another_does(replicas, code):
    first, _, asked = replicas
    first.servicer.abort = code
    for _ in range(10):
        assert asked.predict(INPUTS)["score"].tolist() == [10, 17]


def test_replica_that_is_gone_costs_no_answer(replicas):
    first, _, asked = replicas
    first.grpc.stop(None).wait()
    for _ in range(10):
        assert asked.predict(INPUTS)["score"].tolist() == [10, 17]


def test_calls_in_flight_on_a_replica_that_stops_are_answered_by_another(replicas):
    first, second, asked = replicas
    first.servicer.hold = threading.Event()
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        calls = [pool.submit(asked.predict, INPUTS, deadline_s=60.0) for _ in range(8)]
        while first.servicer.in_flight < 4:
            threading.Event().wait(0.01)
        stopped = first.grpc.stop(None)  # As TensorFlow Serving does: nothing is waited for.
        assert all(call.result()["score"].tolist() == [10, 17] for call in calls)
    first.servicer.hold.set()
    stopped.wait()
    assert len(second.servicer.requests) == 8


def test_replica_that_hangs_leaves_time_for_another_and_is_then_avoided(replicas):
    first, second, asked = replicas
    first.servicer.hold = threading.Event()
    for _ in range(4):
        assert asked.predict(INPUTS, deadline_s=2.0)["score"].tolist() == [10, 17]
    first.servicer.hold.set()
    assert len(first.servicer.requests) == 1
    assert len(second.servicer.requests) == 4


def test_request_that_no_replica_understands_is_not_repeated(replicas):
    first, second, asked = replicas
    for one in (first, second):
        one.servicer.abort = grpc.StatusCode.INVALID_ARGUMENT
    with pytest.raises(errors.ModelError, match="INVALID_ARGUMENT"):
        asked.predict(INPUTS)
    assert len(first.servicer.requests) + len(second.servicer.requests) == 1


def test_tls_asks_for_a_certificate_of_the_authority(saved_model, tmp_path, needs_program):
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        [
            *(needs_program("openssl"), "req", "-x509", "-newkey", "rsa:2048", "-nodes"),
            *("-keyout", str(key), "-out", str(certificate), "-days", "2"),
            *("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"),
        ],
        check=True,
        capture_output=True,
    )
    credentials = grpc.ssl_server_credentials([(key.read_bytes(), certificate.read_bytes())])
    running = grpc.server(concurrent.futures.ThreadPoolExecutor(2))
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
        Servicer(saved_model), running
    )
    port = running.add_secure_port("localhost:0", credentials)
    running.start()
    trusting, strict = (
        TensorFlowServingBackend(f"localhost:{port}", root_certificates=roots)
        for roots in (certificate, SYSTEM_CERTIFICATES)
    )
    found = release_at(saved_model)
    assert trusting.open("query_tower", found).predict(INPUTS)["score"].tolist() == [10, 17]
    with pytest.raises(errors.ModelUnavailableError):
        strict.open("query_tower", found).predict(INPUTS)
    for backend in (trusting, strict):
        backend.close()
    running.stop(None).wait()


def test_missing_certificates_are_said_so(tmp_path):
    with pytest.raises(command.InputError, match="--model_server_ca must be a PEM file"):
        TensorFlowServingBackend("a:1", root_certificates=tmp_path / "none.pem")


def test_server_that_is_gone_is_unavailable_and_found_again(open_model, server, saved_model):
    asked = open_model(deadline_s=5.0)
    asked.predict(INPUTS)
    server.grpc.stop(None).wait()
    with pytest.raises(errors.ModelUnavailableError):
        asked.predict(INPUTS)
    again = grpc.server(concurrent.futures.ThreadPoolExecutor(2))
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(server.servicer, again)
    again.add_insecure_port(server.address)
    again.start()
    for _ in range(50):
        try:
            assert asked.predict(INPUTS)["score"][0] == 10
            break
        except errors.ModelUnavailableError:
            threading.Event().wait(0.1)
    else:
        pytest.fail("the model server is back, but was not found within 5 s")
    again.stop(None).wait()


def test_calls_in_flight_are_bounded(open_model, server):
    server.servicer.hold = threading.Event()
    bounded = open_model(max_in_flight=2, deadline_s=5.0)
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        futures = [pool.submit(bounded.predict, INPUTS) for _ in range(6)]
        threading.Event().wait(0.3)
        server.servicer.hold.set()
        assert all(future.result()["score"][0] == 10 for future in futures)
    assert server.servicer.most_in_flight == 2


def test_no_free_place_within_the_deadline_is_unavailable(open_model, server):
    server.servicer.hold = threading.Event()
    bounded = open_model(max_in_flight=1)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        first = pool.submit(bounded.predict, INPUTS)
        threading.Event().wait(0.2)
        with pytest.raises(errors.ModelUnavailableError, match="no free place"):
            bounded.predict(INPUTS, deadline_s=0.05)
        server.servicer.hold.set()
        first.result()


# ---- the funnel over it --------------------------------------------------------------------------


class ReleaseServicer(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Serves every model of a serving root, by name and version, like the real server."""

    def __init__(self, root):
        self._root = root
        self._models = {}
        self.holds = None  # Versions; None: all that are there.

    def Predict(self, request, context):  # noqa: N802
        name, version = request.model_spec.name, request.model_spec.version.value
        if self.holds is not None and str(version) not in self.holds:
            context.abort(grpc.StatusCode.NOT_FOUND, "Servable not found for request")
        if (name, version) not in self._models:
            self._models[name, version] = EmbeddedModel(self._root / name / str(version))
        inputs = {key: tf.make_ndarray(proto) for key, proto in request.inputs.items()}
        answer = predict_pb2.PredictResponse()
        answer.model_spec.CopyFrom(request.model_spec)
        for key, array in self._models[name, version].predict(inputs).items():
            answer.outputs[key].CopyFrom(tf.make_tensor_proto(array))
        return answer


def test_page_over_tensorflow_serving_is_the_embedded_page_and_degrades_when_it_is_gone(
    published_root, tmp_path, tiny
):
    running = grpc.server(concurrent.futures.ThreadPoolExecutor(4))
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
        ReleaseServicer(published_root), running
    )
    port = running.add_insecure_port("127.0.0.1:0")
    running.start()
    services = [
        service.build(
            service.ServiceConfig(
                serving_root=published_root,
                logs=tmp_path / str(number) / "logs",
                history=str(tmp_path / str(number) / "history.sqlite"),
                model_server=address,
            ),
            clock=Clock(now=lambda: tiny.now),
        )
        for number, address in enumerate([None, f"127.0.0.1:{port}"])
    ]
    asked = PageRequest(user_id="old", k=20, context={"region": "de"})
    embedded, remote = (one.funnel.recommend(asked) for one in services)
    assert remote.rung == embedded.rung == "full"
    assert remote.items == embedded.items
    running.stop(None).wait()
    gone = services[1].funnel.recommend(asked)
    assert gone.rung == "last_embedding"
    assert "UNAVAILABLE" in gone.reasons[0]
    assert len(gone.items) == 20
    for one in services:
        one.on_close()


def test_publication_under_a_model_server_is_waited_for_and_then_serves(
    serving_root, tmp_path, tiny, caplog
):
    running = grpc.server(concurrent.futures.ThreadPoolExecutor(4))
    servicer = ReleaseServicer(serving_root)
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(servicer, running)
    port = running.add_insecure_port("127.0.0.1:0")
    running.start()
    built = service.build(
        service.ServiceConfig(
            serving_root=serving_root,
            logs=tmp_path / "logs",
            history=str(tmp_path / "history.sqlite"),
            model_server=f"127.0.0.1:{port}",
        ),
        clock=Clock(now=lambda: tiny.now),
    )
    old = built.releases.current.version
    servicer.holds = {old}
    new = tiny.publish(serving_root)
    caplog.clear()
    while built.releases.waiting_s == 0.0:
        time.sleep(0.05)
    built.releases.refresh()
    assert built.releases.current.version == old
    servicer.holds = {old, new}
    end = time.monotonic() + 300
    while built.releases.current.version != new:
        assert time.monotonic() < end
        time.sleep(0.05)
    assert built.releases.failures == 0
    assert built.releases.waiting_s == 0.0
    ours = [record for record in caplog.records if record.name == "absl"]
    assert not [record for record in ours if record.levelname == "ERROR"]
    built.on_close()
    running.stop(None).wait()
