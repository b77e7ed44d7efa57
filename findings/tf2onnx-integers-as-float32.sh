#!/usr/bin/env bash
# tf2onnx: integers are compared as 32-bit floats, so a view of a minute ago is not before now
#
# Packages   tf2onnx 1.17.0, onnx 1.23.2, onnxruntime 1.32.0, tensorflow 2.21.0, numpy 2.4.6
#
# Expected   ONNX compares int32 and int64 as integers, and finds the k largest of them, as
#            TensorFlow does; a converted graph of comparisons answers what the original does.
# Seen       The converter casts integers to float32 before Less, Greater and TopK (with it tf.sort
#            and tf.argsort), and not before LessOrEqual, GreaterOrEqual and Equal. Above 2**24
#            neighbours fall together, epoch seconds in steps of 128: of three times within 51
#            seconds none is before the last of them, and a >= b, a == b and not (a > b) part
#            company. tf.sort answers a number three times that was not among the three. The same
#            at every opset tried, without a warning.
# Matters    Masks of what had been watched before a request, the newest k of a history and hashed
#            or large item ids are integers above 2**24. The graph passes a test on small ones, then
#            drops up to two minutes of a history in production, and gives ids that do not exist.
#            Write a < b as not (a >= b), and subtract the request's time before sorting.
# Pointer    tf2onnx/onnx_opset/math.py, where the types that need no cast are floats only; ONNX has
#            had integers in Less and Greater since opset 9, in TopK since 11.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check --only-binary :all: --no-compile \
    tf2onnx==1.17.0 onnx==1.23.2 onnxruntime==1.32.0 tensorflow==2.21.0 numpy==2.4.6

cat > "$work/show.py" <<'PY'
from importlib.metadata import version

import numpy as np
import onnxruntime
import tensorflow as tf
import tf2onnx

for name in ("tf2onnx", "onnx", "onnxruntime", "tensorflow"):
    print(name, version(name))
NOW = 1_700_000_050
TIMES = [1_700_000_000, 1_700_000_001, NOW]


def both(function, dtype, opset, values):
    """What TensorFlow and the converted graph answer."""
    signature = [tf.TensorSpec([None], dtype, name="x")]
    graph = tf.function(function, input_signature=signature)
    model, _ = tf2onnx.convert.from_function(graph, input_signature=signature, opset=opset)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    values = np.array(values, dtype.as_numpy_dtype)
    return graph(tf.constant(values)).numpy().tolist(), session.run(None, {"x": values})[0].tolist()


CASES = {
    "x < now": (lambda x: x < NOW, [False, False, False]),
    "not (x >= now)": (lambda x: tf.logical_not(x >= NOW), None),
    "x > first": (lambda x: x > TIMES[0], [False, False, False]),
    "not (x <= first)": (lambda x: tf.logical_not(x <= TIMES[0]), None),
    "x == second": (lambda x: tf.equal(x, TIMES[1]), None),
    "top_k(x, 2), places": (lambda x: tf.math.top_k(x, 2).indices, [0, 1]),
    "top_k(x, 2), values": (lambda x: tf.math.top_k(x, 2).values, [1_700_000_000] * 2),
    "sort(x - first)": (lambda x: tf.sort(x - TIMES[0]), None),
}
for opset in (13, 18):
    for dtype in (tf.int32, tf.int64):
        for label, (function, seen) in CASES.items():
            original, converted = both(function, dtype, opset, TIMES)
            print(f"opset {opset}, {dtype.name}: {label:20} {original} -> {converted}")
            assert converted == (original if seen is None else seen)
        original, converted = both(tf.sort, dtype, opset, TIMES)
        print(f"opset {opset}, {dtype.name}: {'sort(x)':20} {original} -> {converted}")
        assert original == TIMES and not set(converted) & set(TIMES)
        original, converted = both(lambda x: x > 2**24, dtype, opset, [2**24 + 1, 2**24 + 2])
        assert original == [True, True] and converted == [False, True]
PY
export TF_CPP_MIN_LOG_LEVEL=3 CUDA_VISIBLE_DEVICES=-1
"$work/venv/bin/python" "$work/show.py" 2> "$work/log" || { cat "$work/log" >&2; exit 1; }
echo "as described"
