"""Runs a release's SavedModels in this process.

Each is opened in a session, as TensorFlow Serving opens it, and not by ``tf.saved_model.load``:
called from Python, a function of two dozen inputs costs milliseconds of the interpreter before the
first operation runs, and a session's callable next to nothing. A request of the funnel calls two.
"""

import functools
import pathlib
import queue
import weakref
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np

from features.screen import quiet
from serving import errors
from serving.process import cores
from serving.release import manifest as release
from serving.servables import signatures
from serving.servables.signatures import Arrays, Model

_Opened = TypeVar("_Opened")
# By directory: one model in memory for all its signatures, for as long as one of them is used.
Kept = weakref.WeakValueDictionary[pathlib.Path, _Opened]


class EmbeddedBackend:
    """A :class:`serving.servables.tensorflow_serving.Backend` in this process."""

    def __init__(self) -> None:
        self._opened: Kept[OpenedModel] = weakref.WeakValueDictionary()

    def open(
        self, component: str, on_disk: release.Release, *, signature: str = signatures.DEFAULT
    ) -> Model:
        """Returns a signature of a model, loaded once for all that are in use."""
        directory = on_disk.model(component)
        opened = self._opened.get(directory)
        if opened is None:
            opened = self._opened[directory] = OpenedModel(directory)
        return opened.model(signature)

    def lacks(self, manifest: release.Manifest) -> str:
        """Returns "": opening a model loads it."""
        del manifest
        return ""

    def close(self) -> None:
        """Does nothing: models go with their last signature."""


class OpenedModel:
    """A SavedModel in memory, until it and all its :meth:`model` are let go of.

    Attributes:
        name: Servable and version.
        signatures: Name to signature definition.
    """

    def __init__(self, directory: pathlib.Path) -> None:
        import tensorflow as tf

        hush_half_precision()
        v1 = tf.compat.v1
        graph = tf.Graph()
        with graph.as_default():
            self._session = v1.Session(graph=graph, config=_session_config())
            loaded = v1.saved_model.load(self._session, [v1.saved_model.SERVING], str(directory))
        self.name = f"{directory.parent.name}/{directory.name}"
        self.signatures: Mapping[str, Any] = loaded.signature_def

    def model(self, signature: str) -> "EmbeddedModel":
        """Returns one of its signatures."""
        return EmbeddedModel(self, signature)

    def callable(
        self, outputs: list[str], inputs: list[str], *, pool: int
    ) -> Callable[..., list[np.ndarray]]:
        """Returns a function of the values of some tensors, which gives those of others.

        Args:
            outputs: Names of the tensors to return.
            inputs: Names of the tensors to take.
            pool: Number of the thread pool, below :func:`serving.process.cores.num_for_models`.
        """
        from tensorflow.core.protobuf import config_pb2

        options = config_pb2.CallableOptions(feed=inputs, fetch=outputs)
        options.run_options.inter_op_thread_pool = pool
        # What is public, Session.make_callable, looks every tensor up again in each call.
        return self._session._make_callable_from_options(options)


@functools.cache
def hush_half_precision() -> None:
    """Computes with half-precision numbers once, where nobody sees what oneDNN says of the first.

    A process that opens a release meets them in the parts of prepared videos.
    """
    import tensorflow as tf

    v1 = tf.compat.v1
    with quiet.filtered_stderr(), tf.Graph().as_default() as graph:
        number = v1.placeholder(tf.float16, [])
        with v1.Session(graph=graph, config=_session_config()) as session:
            session.run(tf.cast(number, tf.float32) + 1.0, {number: 1.0})


def _session_config() -> Any:
    import tensorflow as tf

    config = tf.compat.v1.ConfigProto(intra_op_parallelism_threads=1)
    for number in range(cores.num_for_models()):
        # Of one thread each, which all models share: the operations of a call are too short to be
        # worth handing from one thread to another.
        config.session_inter_op_thread_pool.add(num_threads=1, global_name=f"models-{number}")
    return config


class EmbeddedModel:
    """A signature of a SavedModel in this process.

    Args:
        opened: The SavedModel, or its directory.
        signature: Name of the signature to call.

    Raises:
        ModelError: There is no such signature.
    """

    def __init__(
        self, opened: OpenedModel | pathlib.Path, signature: str = signatures.DEFAULT
    ) -> None:
        import tensorflow as tf

        self.signature = signature
        self._opened = opened if isinstance(opened, OpenedModel) else OpenedModel(opened)
        self._name = self._opened.name
        loaded = self._opened.signatures.get(signature)
        if loaded is None:
            have = sorted(self._opened.signatures)
            raise errors.ModelError(f"{self._name} has no signature {signature!r}, only {have}.")
        self._failures = (tf.errors.OpError, ValueError, TypeError)
        self._dtypes = {
            name: tf.dtypes.as_dtype(info.dtype).as_numpy_dtype
            for name, info in loaded.inputs.items()
        }
        self._shapes = {
            name: tf.TensorShape(info.tensor_shape).as_list()
            for name, info in loaded.inputs.items()
        }
        self._outputs = list(loaded.outputs)
        outputs = [loaded.outputs[name].name for name in self._outputs]
        names = [loaded.inputs[name].name for name in self._dtypes]
        # A call takes one that is free, or waits: more at a time than cores are for no good.
        self._free: queue.SimpleQueue[Callable[..., list[np.ndarray]]] = queue.SimpleQueue()
        for pool in range(cores.num_for_models()):
            self._free.put(self._opened.callable(outputs, names, pool=pool))

    def predict(self, inputs: Arrays, *, deadline_s: float | None = None) -> dict[str, np.ndarray]:
        """Returns the outputs; a running call cannot be stopped: the deadline is not enforced."""
        del deadline_s
        signatures.require_inputs(inputs, self._shapes, model=self._name)
        with signatures.explained(self._name, *self._failures):
            values = [np.asarray(inputs[name], dtype) for name, dtype in self._dtypes.items()]
            run = self._free.get()
            try:
                return dict(zip(self._outputs, run(*values), strict=True))
            finally:
                self._free.put(run)
