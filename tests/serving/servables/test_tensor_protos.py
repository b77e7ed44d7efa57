"""Arrays as the protos that TensorFlow itself makes of them."""

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework import types_pb2
from tensorflow_serving.apis import predict_pb2

from serving import errors
from serving.servables import tensor_protos


@pytest.mark.parametrize(
    "array",
    [
        np.array([[1.5, -2], [0, np.inf]], np.float32),
        np.arange(6, dtype=np.int64).reshape(2, 3),
        np.array([True, False]),
        np.array([[0.1, -3], [1e-6, 65504]], np.float16),
        np.zeros((0, 4), np.float32),
        np.array([["a", ""], ["ü", "b"]], object),
        np.array(3.0),
    ],
)
def test_protos_are_those_of_tensorflow(array):
    proto = predict_pb2.PredictRequest().inputs["x"]
    tensor_protos.to_proto(array, proto)
    expected = np.vectorize(lambda v: v.encode() if isinstance(v, str) else v, otypes=[object])
    wanted = expected(array) if array.dtype == object else array
    np.testing.assert_array_equal(tf.make_ndarray(proto), wanted)
    np.testing.assert_array_equal(tensor_protos.from_proto(proto), wanted)
    np.testing.assert_array_equal(tensor_protos.from_proto(tf.make_tensor_proto(array)), wanted)


def test_trailing_repetitions_are_restored():
    proto = predict_pb2.PredictRequest().inputs["x"]
    proto.dtype = types_pb2.DT_FLOAT
    proto.tensor_shape.dim.add().size = 4
    proto.float_val.extend([1.0, 2.0])
    assert tensor_protos.from_proto(proto).tolist() == [1.0, 2.0, 2.0, 2.0]


def test_half_precision_comes_as_bits_of_integers():
    values = np.array([0.1, -3, 65504], np.float16)
    proto = predict_pb2.PredictRequest().inputs["x"]
    proto.dtype = types_pb2.DT_HALF
    proto.tensor_shape.dim.add().size = 3
    proto.half_val.extend(values.view(np.uint16).tolist())
    np.testing.assert_array_equal(tensor_protos.from_proto(proto), values)


def test_dtype_that_no_signature_has_is_refused():
    with pytest.raises(errors.ModelError, match="dtype"):
        tensor_protos.to_proto(np.array([1j]), predict_pb2.PredictRequest().inputs["x"])
