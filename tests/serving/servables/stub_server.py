"""A stub of TensorFlow Serving with a small model."""

import concurrent.futures
import pathlib
import threading
import types

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from serving.servables.embedded import EmbeddedBackend, EmbeddedModel
from serving.servables.tensorflow_serving import (
    TensorFlowServingBackend,
)

VERSION = "20231114000000"


class Lengths(tf.Module):
    """Gives, per row, the number x weight + characters of the name."""

    def __init__(self):
        super().__init__()
        self.weight = tf.Variable(2.0)

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, 2], tf.float32, name="numbers"),
            tf.TensorSpec([None], tf.string, name="name"),
        ]
    )
    def __call__(self, numbers, name):
        size = tf.cast(tf.strings.length(name, "UTF8_CHAR"), tf.float32)
        return {"score": tf.reduce_sum(numbers, 1) * self.weight + size, "name": name}


@pytest.fixture(scope="module")
def saved_model(tmp_path_factory):
    directory = tmp_path_factory.mktemp("serving") / "query_tower" / VERSION
    module = Lengths()
    tf.saved_model.save(module, str(directory), signatures={"serving_default": module.__call__})
    return directory


class Servicer(prediction_service_pb2_grpc.PredictionServiceServicer):
    """A PredictionService that runs the real SavedModel, with faults on request."""

    def __init__(self, directory: pathlib.Path):
        self._model = EmbeddedModel(directory)
        self.requests = []
        self.abort = None
        self.hold = None
        self.answer_version = None
        self.in_flight = self.most_in_flight = 0
        self._lock = threading.Lock()

    def Predict(self, request, context):  # noqa: N802
        with self._lock:
            self.requests.append(request)
            self.in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            if self.hold is not None:
                self.hold.wait(5)
            if self.abort is not None:
                context.abort(self.abort, "as the test wants it")
            inputs = {name: tf.make_ndarray(proto) for name, proto in request.inputs.items()}
            answer = predict_pb2.PredictResponse()
            answer.model_spec.CopyFrom(request.model_spec)
            answer.model_spec.version.value = self.answer_version or int(VERSION)
            for name, array in self._model.predict(inputs).items():
                answer.outputs[name].CopyFrom(tf.make_tensor_proto(array))
            return answer
        finally:
            with self._lock:
                self.in_flight -= 1


@pytest.fixture
def server(saved_model):
    servicer = Servicer(saved_model)
    running = grpc.server(concurrent.futures.ThreadPoolExecutor(8))
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(servicer, running)
    port = running.add_insecure_port("127.0.0.1:0")
    running.start()
    yield types.SimpleNamespace(servicer=servicer, address=f"127.0.0.1:{port}", grpc=running)
    running.stop(None).wait()


def release_at(directory):
    return types.SimpleNamespace(
        version=VERSION, query_tower=directory, ranker=None, model=lambda component: directory
    )


@pytest.fixture(params=["embedded", "tensorflow_serving"])
def model(request, saved_model):
    if request.param == "embedded":
        yield EmbeddedBackend().open("query_tower", release_at(saved_model))
        return
    server = request.getfixturevalue("server")
    backend = TensorFlowServingBackend(server.address)
    yield backend.open("query_tower", release_at(saved_model))
    backend.close()


INPUTS = {
    "numbers": np.array([[1, 2], [3, 4]], np.float32),
    "name": np.array(["cats", "ünï"], object),
}
