#!/usr/bin/env bash
# tf.Transform: one NaN in the training data, and scale_to_0_1 answers sigmoid(x)
#
# Packages   tensorflow-transform 1.21.0, tfx-bsl 1.21.0, tensorflow 2.21.0, apache-beam 2.77.0,
#            numpy 2.4.6
#
# Expected   A NaN among the training values either is left out of the statistics of its column,
#            as tft.mean, tft.var, tft.quantiles and scale_to_z_score do, or makes the column NaN.
# Seen       It does neither. tft.min and tft.max become NaN, which scale_to_0_1 and
#            scale_by_min_max take for a column of one value: they answer a sigmoid, so 0, 10, 20,
#            30, 100 become .5, 1, 1, 1, 1 where they were 0, .1, .2, .3, 1. With a key
#            (scale_to_0_1_per_key) this befalls the group of the NaN alone.
# Matters    The output stays within the promised range and has no NaN but the one of the row
#            itself, so no check of ranges finds it, and one bad row in a billion flattens a
#            feature for all. The graph is exported with it: serving does the same. Replace NaN
#            before the function (tf.where), not after.
# Pointer    tft.mean and tft.var say that NaN is ignored, tft.quantiles too; the documentation
#            of tft.min, tft.max and the scaling functions does not mention it.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
# some of what Beam needs for Google Cloud is on PyPI as sources alone
"$work/venv/bin/pip" install --quiet --disable-pip-version-check --prefer-binary \
    tensorflow-transform==1.21.0 tfx-bsl==1.21.0 tensorflow==2.21.0 apache-beam==2.77.0 \
    numpy==2.4.6

cat > "$work/show.py" <<'PY'
import logging
import tempfile
from importlib.metadata import version

import numpy as np
import tensorflow as tf
import tensorflow_transform as tft
import tensorflow_transform.beam as tft_beam
from tensorflow_transform.tf_metadata import dataset_metadata, schema_utils

for name in ("tensorflow-transform", "tensorflow", "apache-beam"):
    print(name, version(name))
logging.disable(logging.WARNING)
SPEC = {
    "x": tf.io.FixedLenFeature([], tf.float32),
    "country": tf.io.FixedLenFeature([], tf.string),
}
METADATA = dataset_metadata.DatasetMetadata(schema_utils.schema_from_feature_spec(SPEC))


def preprocessing(inputs):
    x = inputs["x"]
    return {
        "x": x,
        "country": inputs["country"],
        "mean": tf.zeros_like(x) + tft.mean(x),
        "max": tf.zeros_like(x) + tft.max(x),
        "z_score": tft.scale_to_z_score(x),
        "0_1": tft.scale_to_0_1(x),
        "0_5": tft.scale_by_min_max(x, 0.0, 5.0),
        "0_1_per_key": tft.scale_to_0_1_per_key(x, inputs["country"]),
    }


def transformed(rows):
    """Columns by country and value, without the row of the NaN."""
    rows = [{"country": country, "x": x} for country, x in rows]
    with tft_beam.Context(temp_dir=tempfile.mkdtemp()):
        (data, _), _ = (rows, METADATA) | tft_beam.AnalyzeAndTransformDataset(preprocessing)
    data = [row for row in data if not np.isnan(row["x"])]
    data.sort(key=lambda row: (row["country"], row["x"]))
    return {name: np.array([row[name] for row in data]) for name in data[0]}


values = [0.0, 10.0, 20.0, 30.0, 100.0]
rows = [(country, x) for country in ("de", "fr") for x in values]
clean = transformed(rows)
marred = transformed([*rows, ("fr", float("nan"))])
for name in ("mean", "max", "z_score", "0_1", "0_5", "0_1_per_key"):
    print(f"{name}\n    without NaN: {np.round(clean[name], 3).tolist()}")
    print(f"    with a NaN:  {np.round(marred[name], 3).tolist()}")

scaled = np.array([0, 0.1, 0.2, 0.3, 1])
sigmoid = 1 / (1 + np.exp(-np.array(values)))
close = {"atol": 1e-5}
np.testing.assert_allclose(clean["0_1"], [*scaled, *scaled], **close)
np.testing.assert_allclose(clean["0_1_per_key"], [*scaled, *scaled], **close)
np.testing.assert_allclose(marred["mean"], clean["mean"], **close)
np.testing.assert_allclose(marred["z_score"], clean["z_score"], **close)
assert np.isnan(marred["max"]).all()
np.testing.assert_allclose(marred["0_1"], [*sigmoid, *sigmoid], **close)
np.testing.assert_allclose(marred["0_5"], 5 * np.array([*sigmoid, *sigmoid]), **close)
np.testing.assert_allclose(marred["0_1_per_key"], [*scaled, *sigmoid], **close)
PY
export TF_CPP_MIN_LOG_LEVEL=3 CUDA_VISIBLE_DEVICES=-1
"$work/venv/bin/python" "$work/show.py" 2> "$work/log" || { cat "$work/log" >&2; exit 1; }
echo "as described"
