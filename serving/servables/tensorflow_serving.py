"""Where a release's models run: the interface, and TensorFlow Serving.

Models in this process are in :mod:`serving.servables.embedded`. Both kinds take and give NumPy
arrays by name and raise the errors of :mod:`serving.errors`.
"""

import dataclasses
import itertools
import os
import pathlib
import re
import threading
import time
from typing import Any, Protocol

import numpy as np

from features import command
from serving import errors
from serving.release import manifest as release
from serving.servables import signatures
from serving.servables.signatures import Arrays, Model
from serving.servables.tensor_protos import from_proto, to_proto

# TensorFlow Serving's own default is 4 x cores; more callers than it has threads are refused.
MAX_IN_FLIGHT = 8
DEADLINE_S = 2.0
SYSTEM_CERTIFICATES = "system"
_MAX_MESSAGE_BYTES = 64 << 20
_AVOID_S = 1.0
# What a server that is busy, gone or stopping says of calls: a stop does not wait for them.
_UNAVAILABLE = ("UNAVAILABLE", "RESOURCE_EXHAUSTED", "CANCELLED", "ABORTED")
# A name or an address, IPv6 in brackets; or what gRPC calls a target, such as unix:/run/models.
_ADDRESS = re.compile(r"(\[[^\]\s]+\]|[^:/\s\[\]]+):\d{1,5}|(unix|dns|ipv4|ipv6|xds):\S+")
_ANOTHER_MAY_ANSWER = (
    errors.ModelUnavailableError,
    errors.ModelTimeoutError,
    errors.ModelVersionMissingError,
)


class Backend(Protocol):
    """A place where models run."""

    def open(
        self, component: str, on_disk: release.Release, *, signature: str = signatures.DEFAULT
    ) -> Model:
        """Returns one signature of the model ``query_tower`` or ``ranker`` of a release."""

    def lacks(self, manifest: release.Manifest) -> str:
        """Returns why the models of a release cannot be asked yet; "" where nothing is awaited."""

    def close(self) -> None:
        """Lets go of connections."""


@dataclasses.dataclass
class _Replica:
    """One model server: its connection, its places, and when it last failed."""

    address: str
    channel: Any
    stub: Any
    places: threading.BoundedSemaphore
    failed_at: float = -float("inf")


class TensorFlowServingBackend:
    """Asks TensorFlow Serving over gRPC, always for the exact version of the release.

    Of several replicas each takes its turn. What one cannot answer another is asked, within the
    deadline of the call; predictions change nothing, so asking twice is harmless. A replica that
    failed is asked last for a second.
    """

    def __init__(
        self,
        address: str,
        *,
        max_in_flight: int = MAX_IN_FLIGHT,
        deadline_s: float = DEADLINE_S,
        root_certificates: str | os.PathLike[str] | None = None,
    ) -> None:
        """Prepares the connections; they are made at the first call.

        Args:
            address: ``host:port`` of the gRPC port; of several replicas, separated by commas.
            max_in_flight: Number of calls at a time to each replica; further ones wait within their
                deadline.
            deadline_s: Time for calls that name no other, seconds.
            root_certificates: PEM file of the authorities that sign the servers' certificates;
                ``system`` for those that the machine trusts; None for connections without TLS.

        Raises:
            command.InputError: An address is none.
        """
        from tensorflow_serving.apis import prediction_service_pb2_grpc

        self.address = address
        self.deadline_s = deadline_s
        self._replicas = []
        for one in (part.strip() for part in address.split(",")):
            if not _ADDRESS.fullmatch(one):
                raise command.InputError(
                    "--model_server must be HOST:PORT of TensorFlow Serving's gRPC, or several "
                    f"with commas, got {address!r}."
                )
            channel = _channel(one, root_certificates)
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            places = threading.BoundedSemaphore(max_in_flight)
            self._replicas.append(_Replica(one, channel, stub, places))
        self._turns = itertools.count()

    def open(
        self, component: str, on_disk: release.Release, *, signature: str = signatures.DEFAULT
    ) -> Model:
        """Returns one signature of the model, of this version of the release."""
        return TensorFlowServingModel(self, component, int(on_disk.version), signature)

    def lacks(self, manifest: release.Manifest) -> str:
        """Returns why the models of a release cannot be asked yet; "" where they can.

        A request without inputs is refused by a model that is there, at no cost; whether it can
        answer real ones is for the warm-up to see.
        """
        for name in (signatures.QUERY_TOWER, signatures.RANKER):
            if manifest.components.get(name) is None:
                continue
            try:
                TensorFlowServingModel(self, name, int(manifest.version)).predict({})
            except _ANOTHER_MAY_ANSWER as error:
                return f"{name}: {error}"
            except errors.ModelError:
                continue
        return ""

    def close(self) -> None:
        """Closes the connections."""
        for replica in self._replicas:
            replica.channel.close()

    def call(self, request: Any, deadline_s: float) -> Any:
        """Sends a PredictRequest; the deadline covers waits for a place and all replicas asked."""
        end = time.monotonic() + deadline_s
        replicas = self._in_turn()
        for number, replica in enumerate(replicas, start=1):
            left = max(end - time.monotonic(), 0.001)
            others = number < len(replicas)
            try:
                # A replica that hangs leaves the others half of the time.
                return self._ask(replica, request, left / 2 if others else left)
            except _ANOTHER_MAY_ANSWER:
                if not others:
                    raise
        raise AssertionError("there is no replica")

    def _in_turn(self) -> list[_Replica]:
        turn = next(self._turns) % len(self._replicas)
        ordered = [*self._replicas[turn:], *self._replicas[:turn]]
        recently = time.monotonic() - _AVOID_S
        return sorted(ordered, key=lambda replica: replica.failed_at > recently)

    @staticmethod
    def _ask(replica: _Replica, request: Any, deadline_s: float) -> Any:
        import grpc

        start = time.monotonic()
        if not replica.places.acquire(timeout=deadline_s):
            raise errors.ModelUnavailableError(
                f"the model server {replica.address} had no free place within {deadline_s:.3f} s."
            )
        try:
            left = max(deadline_s - (time.monotonic() - start), 0.001)
            return replica.stub.Predict(request, timeout=left)
        except grpc.RpcError as error:
            code = error.code()
            message = f"model server {replica.address}: {code.name}: {error.details()}"
            if code is grpc.StatusCode.DEADLINE_EXCEEDED:
                replica.failed_at = time.monotonic()
                raise errors.ModelTimeoutError(message) from error
            if code.name in _UNAVAILABLE:
                replica.failed_at = time.monotonic()
                raise errors.ModelUnavailableError(message) from error
            if code is grpc.StatusCode.NOT_FOUND:
                # This replica has not loaded the version yet; another one may have.
                raise errors.ModelVersionMissingError(message) from error
            raise errors.ModelError(message) from error
        finally:
            replica.places.release()


def _channel(address: str, root_certificates: str | os.PathLike[str] | None) -> Any:
    import grpc

    options = [
        ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
        ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
        # After a restart of the model server, be back within a second, not within minutes.
        ("grpc.max_reconnect_backoff_ms", 1000),
        ("grpc.initial_reconnect_backoff_ms", 100),
    ]
    if root_certificates is None:
        return grpc.insecure_channel(address, options=options)
    roots = None
    if str(root_certificates) != SYSTEM_CERTIFICATES:
        try:
            roots = pathlib.Path(root_certificates).read_bytes()
        except OSError as error:
            raise command.InputError(
                f"--model_server_ca must be a PEM file or {SYSTEM_CERTIFICATES!r}: {error}."
            ) from None
    credentials = grpc.ssl_channel_credentials(root_certificates=roots)
    return grpc.secure_channel(address, credentials, options=options)


class TensorFlowServingModel:
    """One version of one model behind a :class:`TensorFlowServingBackend`."""

    def __init__(
        self,
        backend: TensorFlowServingBackend,
        name: str,
        version: int,
        signature: str = signatures.DEFAULT,
    ) -> None:
        self._backend = backend
        self._name = name
        self._version = version
        self.signature = signature

    def predict(self, inputs: Arrays, *, deadline_s: float | None = None) -> dict[str, np.ndarray]:
        """Returns the outputs by name, of exactly this version."""
        from tensorflow_serving.apis import predict_pb2

        request = predict_pb2.PredictRequest()
        request.model_spec.name = self._name
        request.model_spec.version.value = self._version
        request.model_spec.signature_name = self.signature
        for name, array in inputs.items():
            to_proto(array, request.inputs[name])
        answer = self._backend.call(request, deadline_s or self._backend.deadline_s)
        answered = answer.model_spec.version.value
        if answered != self._version:
            raise errors.ModelError(
                f"model server {self._backend.address} answered with version {answered} of "
                f"{self._name}, not {self._version}; a mix of versions is refused."
            )
        return {name: from_proto(proto) for name, proto in answer.outputs.items()}
