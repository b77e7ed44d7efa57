"""Where a release's models run: in this process, or in TensorFlow Serving.

The funnel sees one Protocol. Both kinds take and give NumPy arrays by name, check the inputs
against what is asked, and raise the errors of :mod:`serving.errors`.
"""

import pathlib
import threading
import time
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from serving import errors, release
from serving.tensor_protos import from_proto, to_proto

Arrays = Mapping[str, np.ndarray]
DEFAULT_SIGNATURE = "serving_default"
# TensorFlow Serving's own default is 4 x cores; more callers than it has threads are refused.
MAX_IN_FLIGHT = 8
DEADLINE_S = 2.0
_MAX_MESSAGE_BYTES = 64 << 20


class Model(Protocol):
    """One signature of one model version. Safe for threads."""

    def predict(self, inputs: Arrays, *, deadline_s: float | None = None) -> dict[str, np.ndarray]:
        """Returns the outputs by name.

        Args:
            inputs: By name: strings as object arrays of str, numbers in the signature's dtype.
            deadline_s: Seconds that the answer may take; None for the backend's default.

        Raises:
            ModelError: See the subclasses.
        """


class Backend(Protocol):
    """A place where models run."""

    def open(self, component: str, found: release.Release) -> Model:
        """Returns the model ``query_tower`` or ``ranker`` of a release."""

    def close(self) -> None:
        """Lets go of connections."""


class EmbeddedBackend:
    """Runs SavedModels in this process."""

    def open(self, component: str, found: release.Release) -> Model:
        """See :class:`Backend`."""
        directory = {"query_tower": found.query_tower, "ranker": found.ranker}[component]
        if directory is None:
            raise ValueError(f"release {found.version} has no {component}.")
        return EmbeddedModel(directory)

    def close(self) -> None:
        """See :class:`Backend`."""


class EmbeddedModel:
    """A SavedModel, called through the concrete function of its signature."""

    def __init__(self, directory: pathlib.Path, signature: str = DEFAULT_SIGNATURE) -> None:
        import tensorflow as tf

        self._tf = tf
        # Held, because the function does not keep the variables alive.
        self._loaded = tf.saved_model.load(str(directory))
        if signature not in self._loaded.signatures:
            have = sorted(self._loaded.signatures)
            raise errors.ModelError(f"{directory} has no signature {signature!r}, only {have}.")
        self._function = self._loaded.signatures[signature]
        _, self._inputs = self._function.structured_input_signature
        self._name = f"{directory.parent.name}/{directory.name}"

    def predict(self, inputs: Arrays, *, deadline_s: float | None = None) -> dict[str, np.ndarray]:
        """See :class:`Model`. A running call cannot be stopped: the deadline is not enforced."""
        del deadline_s
        _require_names(self._name, set(inputs), set(self._inputs))
        for name, array in inputs.items():
            # A graph may well compute something from a wrong shape.
            if not self._inputs[name].shape.is_compatible_with(array.shape):
                raise errors.ModelError(
                    f"input {name!r} of model {self._name} must have the shape "
                    f"{self._inputs[name].shape}, got {array.shape}."
                )
        tf = self._tf
        try:
            tensors = {
                name: tf.constant(array, dtype=self._inputs[name].dtype)
                for name, array in inputs.items()
            }
            outputs = self._function(**tensors)
        except (tf.errors.OpError, ValueError, TypeError) as error:
            raise errors.ModelError(f"model {self._name} failed: {_first_line(error)}") from error
        return {name: tensor.numpy() for name, tensor in outputs.items()}


class TensorFlowServingBackend:
    """Asks a TensorFlow Serving over gRPC, always for the exact version of the release."""

    def __init__(
        self,
        address: str,
        *,
        max_in_flight: int = MAX_IN_FLIGHT,
        deadline_s: float = DEADLINE_S,
    ) -> None:
        """Prepares the connection; it is made at the first call.

        Args:
            address: ``host:port`` of the gRPC port.
            max_in_flight: Calls at a time; further ones wait within their deadline.
            deadline_s: For calls that name no other.
        """
        import grpc
        from tensorflow_serving.apis import prediction_service_pb2_grpc

        options = [
            ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
            ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
            # After a restart of the model server, be back within a second, not within minutes.
            ("grpc.max_reconnect_backoff_ms", 1000),
            ("grpc.initial_reconnect_backoff_ms", 100),
        ]
        self.address = address
        self.deadline_s = deadline_s
        self._channel = grpc.insecure_channel(address, options=options)
        self._stub = prediction_service_pb2_grpc.PredictionServiceStub(self._channel)
        self._in_flight = threading.BoundedSemaphore(max_in_flight)

    def open(self, component: str, found: release.Release) -> Model:
        """See :class:`Backend`."""
        return TensorFlowServingModel(self, component, int(found.version))

    def close(self) -> None:
        """See :class:`Backend`."""
        self._channel.close()

    def call(self, request: Any, deadline_s: float) -> Any:
        """Sends a PredictRequest; the deadline covers the wait for a free place as well."""
        import grpc

        start = time.monotonic()
        if not self._in_flight.acquire(timeout=deadline_s):
            raise errors.ModelUnavailableError(
                f"the model server {self.address} had no free place within {deadline_s:.3f} s."
            )
        try:
            left = max(deadline_s - (time.monotonic() - start), 0.001)
            return self._stub.Predict(request, timeout=left)
        except grpc.RpcError as error:
            code = error.code()
            message = f"model server {self.address}: {code.name}: {error.details()}"
            if code is grpc.StatusCode.DEADLINE_EXCEEDED:
                raise errors.ModelTimeoutError(message) from error
            if code in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED}:
                raise errors.ModelUnavailableError(message) from error
            raise errors.ModelError(message) from error
        finally:
            self._in_flight.release()


class TensorFlowServingModel:
    """One version of one model behind a :class:`TensorFlowServingBackend`."""

    def __init__(
        self,
        backend: TensorFlowServingBackend,
        name: str,
        version: int,
        signature: str = DEFAULT_SIGNATURE,
    ) -> None:
        self._backend = backend
        self._name = name
        self._version = version
        self._signature = signature

    def predict(self, inputs: Arrays, *, deadline_s: float | None = None) -> dict[str, np.ndarray]:
        """See :class:`Model`."""
        from tensorflow_serving.apis import predict_pb2

        request = predict_pb2.PredictRequest()
        request.model_spec.name = self._name
        request.model_spec.version.value = self._version
        request.model_spec.signature_name = self._signature
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


def _require_names(model: str, given: set[str], needed: set[str]) -> None:
    if given != needed:
        raise errors.ModelError(
            f"model {model} needs the inputs {sorted(needed)}: "
            f"missing {sorted(needed - given)}, unknown {sorted(given - needed)}."
        )


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
