"""A funnel that starts beside its model server waits for it, says so, and gives up clearly."""

import concurrent.futures
import contextlib
import logging
import re
import signal
import socket
import threading
import types

import grpc
import pytest
from tensorflow_serving.apis import prediction_service_pb2_grpc

from features import command
from serving import model_server_wait
from serving.backends import TensorFlowServingBackend

VERSION = "20231114000000"


class Servicer(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Has the models in ``loaded``, and refuses requests without inputs as the stock one does."""

    def __init__(self, *loaded):
        self.loaded = set(loaded)
        self.asked = []
        self.was_asked = threading.Event()

    def Predict(self, request, context):  # noqa: N802
        self.asked.append((request.model_spec.name, request.model_spec.version.value))
        self.was_asked.set()
        if request.model_spec.name not in self.loaded:
            context.abort(grpc.StatusCode.NOT_FOUND, "Servable not found for request")
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, "input tensor alias not found")


@pytest.fixture
def free_port():
    with contextlib.closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture
def start():
    """Starts a model server with a servicer; all are stopped in the end."""
    running = []

    def start(servicer, port=0):
        server = grpc.server(concurrent.futures.ThreadPoolExecutor(2))
        prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(servicer, server)
        port = server.add_insecure_port(f"127.0.0.1:{port}")
        server.start()
        running.append(server)
        return f"127.0.0.1:{port}"

    yield start
    for server in running:
        server.stop(None).wait()


@pytest.fixture
def told(caplog, monkeypatch):
    """What was said while it waited, with a line at every look."""
    monkeypatch.setattr(model_server_wait, "_TELL_EVERY_S", 0.0)
    monkeypatch.setattr(model_server_wait, "_POLL_S", 0.02)
    caplog.set_level(logging.INFO, "absl")
    return caplog


def wait(address, *, up_to_s=60.0, ranker=True):
    components = {"query_tower": {}, "ranker": {} if ranker else None}
    manifest = types.SimpleNamespace(version=VERSION, components=components)
    backend = TensorFlowServingBackend(address)
    try:
        model_server_wait.wait(backend, manifest, up_to_s=up_to_s)
    finally:
        backend.close()


def test_a_port_that_is_not_open_yet_is_waited_for(start, told, free_port):
    waiting = threading.Thread(target=wait, args=(f"127.0.0.1:{free_port}",))
    waiting.start()
    while "UNAVAILABLE" not in told.text:
        assert waiting.is_alive()
    start(Servicer("query_tower", "ranker"), free_port)
    waiting.join()
    assert told.text.count("Waiting for the model server, ") >= 1
    assert f"The model server has release {VERSION}." in told.text


def test_a_model_that_is_not_loaded_yet_is_waited_for_in_the_version_of_the_release(start, told):
    servicer = Servicer("query_tower")
    waiting = threading.Thread(target=wait, args=(start(servicer),))
    waiting.start()
    while "ranker: model server" not in told.text:
        assert waiting.is_alive()
    servicer.loaded.add("ranker")
    waiting.join()
    assert set(servicer.asked) == {("query_tower", int(VERSION)), ("ranker", int(VERSION))}


def test_a_release_without_a_ranker_waits_for_none_and_says_nothing(start, told):
    wait(start(Servicer("query_tower")), ranker=False)
    assert told.text == ""


def test_one_of_several_servers_is_enough(start, free_port):
    wait(f"127.0.0.1:{free_port},{start(Servicer('query_tower', 'ranker'))}", up_to_s=0)


@pytest.mark.parametrize("loaded", [None, ["query_tower"]])
def test_when_the_time_is_over_one_error_says_what_to_look_at(start, free_port, loaded):
    address = f"127.0.0.1:{free_port}" if loaded is None else start(Servicer(*loaded))
    with pytest.raises(command.InputError) as refused:
        wait(address, up_to_s=0.1)
    reason = "UNAVAILABLE" if loaded is None else "ranker: .*NOT_FOUND"
    assert re.search(reason, str(refused.value))
    for hint in (VERSION, address, "--rest_api_port", "models.config", "--model_server_wait_s"):
        assert hint in str(refused.value)


def test_the_server_says_what_it_waits_for_and_a_signal_ends_it(
    serving_root, start_binary, free_port
):
    process = start_binary(
        f"--serving_root={serving_root}", f"--model_server=127.0.0.1:{free_port}", "--port=0"
    )
    for line in process.stderr:
        if "Waiting for the model server, 0 of 240 s: query_tower: " in line:
            break
    else:
        pytest.fail("it never waited")
    process.send_signal(signal.SIGTERM)
    process.communicate()
    assert process.returncode == 0


def test_the_server_gives_up_with_one_message(serving_root, start_binary, free_port):
    process = start_binary(
        f"--serving_root={serving_root}", f"--model_server=127.0.0.1:{free_port}", "--port=0",
        "--model_server_wait_s=0",
    )  # fmt: skip
    _, errors = process.communicate()
    assert process.returncode == 2
    assert "error: the model server cannot be asked for release" in errors
    assert "Traceback" not in errors


@pytest.mark.parametrize("address", ["localhost", "http://localhost:8501", "", "a:1,,b:2", "a:b"])
def test_what_is_no_address_is_refused_at_once(address):
    with pytest.raises(command.InputError, match="--model_server must be HOST:PORT"):
        TensorFlowServingBackend(address)


@pytest.mark.parametrize("address", ["a:8500", "a:1, b:2", "[::1]:8500", "unix:/run/models"])
def test_addresses_as_grpc_has_them_are_taken(address):
    TensorFlowServingBackend(address).close()
