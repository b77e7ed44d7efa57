#!/usr/bin/env bash
# tf.Transform: scale_to_gaussian learns another function if the same rows come in another order
#
# Packages   tensorflow-transform 1.21.0, tfx-bsl 1.21.0, tensorflow 2.21.0, apache-beam 2.77.0,
#            numpy 2.4.6
#
# Expected   An analyzer is a full pass over the data: neither the order of the rows nor the size
#            of the batches changes what tft learns, as with mean, quantiles or scale_to_z_score.
# Seen       scale_to_gaussian estimates the tails within each batch and averages the estimates.
#            3,000 lognormal values: shuffled, in batches of 100, the largest becomes 3.2 and the
#            median -.37; sorted, 10.5 and -.33, for the tails are not seen and the result is
#            the plain z-score. So it is with batches of up to three rows, in whatever order. The
#            default size of batches is chosen by Beam while it runs, from how long they take:
#            two runs over the same rows can then export two different functions.
# Matters    Tables are sorted by user, country or time, that is, by groups with much the same
#            values, and a preprocessing job cannot be repeated bit by bit, nor run with more
#            workers, without a change of features. A model trained on one run and served with
#            the graph of another gets shifted inputs. Shuffle, and set desired_batch_size; or
#            use quantiles.
# Pointer    tft.scale_to_gaussian describes L-moments of the column, with no word of batches;
#            desired_batch_size in tft_beam.Context.
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
SPEC = {"x": tf.io.FixedLenFeature([], tf.float32)}
METADATA = dataset_metadata.DatasetMetadata(schema_utils.schema_from_feature_spec(SPEC))


def preprocessing(inputs):
    x = inputs["x"]
    return {"x": x, "gaussian": tft.scale_to_gaussian(x), "z_score": tft.scale_to_z_score(x)}


def transformed(name, values, batch):
    """The values of both functions, in ascending order of x."""
    rows = [{"x": float(value)} for value in values]
    with tft_beam.Context(temp_dir=tempfile.mkdtemp(), desired_batch_size=batch):
        (data, _), _ = (rows, METADATA) | tft_beam.AnalyzeAndTransformDataset(preprocessing)
    data.sort(key=lambda row: row["x"])
    gaussian, z_score = (
        np.array([row[kind] for row in data], np.float64) for kind in ("gaussian", "z_score")
    )
    least, median, largest = gaussian[0], gaussian[len(data) // 2], gaussian[-1]
    print(
        f"{name}, batches of {batch or 'any size'}: least {least:.4f}, median {median:.4f},"
        f" largest {largest:.4f}; largest z-score {z_score[-1]:.4f}"
    )
    return gaussian, z_score


shuffled = np.random.default_rng(0).lognormal(size=3000)
gaussian, z_score = transformed("shuffled", shuffled, 100)
assert gaussian[-1] < 4 < 10 < z_score[-1]

for name, values, batch in (
    ("sorted", np.sort(shuffled), 100),
    ("shuffled", shuffled, 2),
):
    other, other_z_score = transformed(name, values, batch)
    np.testing.assert_allclose(other_z_score, z_score, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(other, other_z_score, rtol=1e-3, atol=1e-3)

# the default: the same rows again and again, until an answer differs
first = transformed("shuffled", shuffled, None)[0]
for _ in range(20):
    difference = np.abs(transformed("shuffled", shuffled, None)[0] - first).max()
    if difference > 1e-4:
        break
print(f"two runs with batches of any size differ by up to {difference:.4f}")
assert difference > 1e-4
PY
export TF_CPP_MIN_LOG_LEVEL=3 CUDA_VISIBLE_DEVICES=-1
"$work/venv/bin/python" "$work/show.py" 2> "$work/log" || { cat "$work/log" >&2; exit 1; }
echo "as described"
