"""NumPy arrays to TensorFlow's TensorProto and back, by the bytes, without making tensors."""

from collections.abc import Callable
from typing import Any

import numpy as np

from serving import errors

# Numbers of tensorflow.DataType in types.proto.
_FLOAT, _DOUBLE, _INT32, _STRING, _INT64, _BOOL, _HALF = 1, 2, 3, 7, 9, 10, 19
_NUMBERS: dict[str, int] = {
    "float32": _FLOAT,
    "float64": _DOUBLE,
    "int32": _INT32,
    "int64": _INT64,
    "bool": _BOOL,
    "float16": _HALF,
}
_DTYPES = {number: np.dtype(name) for name, number in _NUMBERS.items()}
# Where a server writes values one by one instead of as bytes.
_REPEATED: dict[int, Callable[[Any], Any]] = {
    _FLOAT: lambda proto: proto.float_val,
    _DOUBLE: lambda proto: proto.double_val,
    _INT32: lambda proto: proto.int_val,
    _INT64: lambda proto: proto.int64_val,
    _BOOL: lambda proto: proto.bool_val,
    # The bits of each in an integer.
    _HALF: lambda proto: np.array(proto.half_val, np.uint16).view(np.float16),
}


def to_proto(array: np.ndarray, proto: Any) -> None:
    """Writes an array into an empty TensorProto.

    Args:
        array: float16, float32, float64, int32, int64 or bool; or an object array of str or bytes.
        proto: Empty TensorProto to fill.
    """
    for size in array.shape:
        proto.tensor_shape.dim.add().size = size
    if array.dtype == object or array.dtype.kind in {"U", "S"}:
        proto.dtype = _STRING
        proto.string_val.extend(
            value if isinstance(value, bytes) else str(value).encode() for value in array.flat
        )
        return
    if array.dtype.name not in _NUMBERS:
        raise errors.ModelError(f"an input must have a dtype of {[*_NUMBERS]}, got {array.dtype}.")
    proto.dtype = _NUMBERS[array.dtype.name]
    proto.tensor_content = np.ascontiguousarray(array).tobytes()


def from_proto(proto: Any) -> np.ndarray:
    """Returns the array of a TensorProto; strings as an object array of bytes."""
    shape = [dim.size for dim in proto.tensor_shape.dim]
    if proto.dtype == _STRING:
        return np.array(list(proto.string_val), object).reshape(shape)
    if proto.dtype not in _DTYPES:
        raise errors.ModelError(f"a model answered with TensorFlow type {proto.dtype}.")
    dtype = _DTYPES[proto.dtype]
    if proto.tensor_content:
        return np.frombuffer(proto.tensor_content, dtype).reshape(shape)
    values = np.array(_REPEATED[proto.dtype](proto), dtype)
    # TensorFlow leaves out trailing repetitions of the last value.
    missing = int(np.prod(shape)) - len(values)
    if missing and len(values):
        values = np.concatenate([values, np.repeat(values[-1:], missing)])
    return values.reshape(shape)
