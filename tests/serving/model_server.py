"""A model server of our own for tests: the official stubs, the real SavedModels, faults on request.

    python model_server.py PORT SERVING_ROOT VERSION

SIGUSR1 makes every call fail with INTERNAL, SIGUSR2 makes it answer again.
"""

import concurrent.futures
import pathlib
import signal
import sys

import grpc
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from serving.servables.embedded import EmbeddedModel


class Servicer(prediction_service_pb2_grpc.PredictionServiceServicer):
    def __init__(self, root, version):
        self.is_broken = False
        self._version = version
        self._models = {
            name: EmbeddedModel(root / name / str(version)) for name in ("query_tower", "ranker")
        }

    def Predict(self, request, context):  # noqa: N802
        if self.is_broken:
            context.abort(grpc.StatusCode.INTERNAL, "as the test wants it")
        inputs = {name: tf.make_ndarray(proto) for name, proto in request.inputs.items()}
        answer = predict_pb2.PredictResponse()
        answer.model_spec.CopyFrom(request.model_spec)
        for name, array in self._models[request.model_spec.name].predict(inputs).items():
            answer.outputs[name].CopyFrom(tf.make_tensor_proto(array))
        return answer


def main(port, root, version):
    servicer = Servicer(pathlib.Path(root), int(version))
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(8))
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(servicer, server)
    server.add_insecure_port(f"127.0.0.1:{port}")
    signal.signal(signal.SIGUSR1, lambda *_: setattr(servicer, "is_broken", True))
    signal.signal(signal.SIGUSR2, lambda *_: setattr(servicer, "is_broken", False))
    server.start()
    print("ready", flush=True)
    while True:  # A handler runs between two waits.
        server.wait_for_termination(0.1)


if __name__ == "__main__":
    main(*sys.argv[1:])
