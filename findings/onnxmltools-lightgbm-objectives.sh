#!/usr/bin/env bash
# onnxmltools: some LightGBM models are converted without a complaint, and predict something else
#
# Packages   onnxmltools 1.16.0, skl2onnx 1.20.0, onnx 1.23.2, onnxruntime 1.32.0, lightgbm 4.7.0,
#            treelite 4.8.1 (for contrast), numpy 2.4.6
#
# Expected   convert_lightgbm returns a graph that predicts what Booster.predict does, up to
#            float32, or refuses the model, as it does for the objectives mape and cross_entropy.
# Seen       It takes these, and the graph leaves out what follows (or stands in) the leaves:
#            boosting=rf, whose trees are summed rather than averaged (30 trees: a watch time of
#            3 is predicted as 86); reg_sqrt, whose output stays a square root; sigmoid=2, applied
#            as 1; linear_tree, where each leaf answers its constant; multiclassova, where one
#            softmax takes the place of a sigmoid per class. Plain binary, poisson, tweedie,
#            multiclass and lambdarank models agree to six digits. Treelite converts all of these
#            rightly, and refuses linear trees.
# Matters    A model that is checked in Python is served through ONNX. AUC and NDCG do not move
#            where the order stays the same (rf, sigmoid, reg_sqrt), so an offline test of the
#            served graph passes, while expected watch time, calibrated probabilities and bids are
#            wrong. Compare values, not ranks, after each conversion.
# Pointer    boosting, reg_sqrt, sigmoid, linear_tree and multiclassova in LightGBM's Parameters;
#            convert_lightgbm in onnx/onnxmltools.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check --only-binary :all: \
    onnxmltools==1.16.0 skl2onnx==1.20.0 onnx==1.23.2 onnxruntime==1.32.0 lightgbm==4.7.0 \
    treelite==4.8.1 numpy==2.4.6

cat > "$work/show.py" <<'PY'
from importlib.metadata import version

import lightgbm
import numpy as np
import onnxruntime
import treelite
from onnxmltools import convert_lightgbm
from onnxmltools.convert.common.data_types import FloatTensorType

for name in ("onnxmltools", "onnxruntime", "lightgbm", "treelite"):
    print(name, version(name))
onnxruntime.set_default_logger_severity(4)

generator = np.random.default_rng(0)
rows = 2000
features = generator.normal(size=(rows, 4)).astype(np.float32)
watched = generator.poisson(np.exp(0.5 * features[:, 0] + 1)).astype(float)
clicked = (features[:, 0] + 0.5 * generator.normal(size=rows) > 0).astype(int)
kind = np.digitize(features[:, 0], [-0.5, 0.5])
forest = {"boosting": "rf", "bagging_freq": 1, "bagging_fraction": 0.5}


def difference(labels, **parameters):
    """Largest difference from LightGBM of the ONNX graph and of Treelite, None if refused."""
    data = lightgbm.Dataset(features, labels, group=[20] * (rows // 20))
    common = {"verbose": -1, "num_threads": 1, "num_leaves": 8}
    booster = lightgbm.train({**common, **parameters}, data, 30)
    truth = booster.predict(features)
    try:
        graph = convert_lightgbm(
            booster, initial_types=[("features", FloatTensorType([None, 4]))], zipmap=False
        )
    except NotImplementedError:
        onnx = None
    else:
        session = onnxruntime.InferenceSession(graph.SerializeToString())
        served = session.run(None, {"features": features})[-1]
        if truth.ndim == 1 and served.ndim == 2:
            served = served[:, -1]
        onnx = float(np.abs(served - truth).max())
        example = f"first row: LightGBM {np.round(truth[0], 4)}, ONNX {np.round(served[0], 4)}"
    try:
        contrast = treelite.gtil.predict(
            treelite.frontend.from_lightgbm(booster), features.astype(np.float64)
        )
        other = float(np.abs(contrast.reshape(truth.shape) - truth).max())
    except treelite.TreeliteError:
        other = None
    print({name: value for name, value in parameters.items() if name not in common})
    print(f"    off by: ONNX {onnx}, Treelite {other}" + (f"; {example}" if onnx else ""))
    return onnx, other


for labels, objective, more in (
    (watched, "regression", {}),
    (watched, "poisson", {}),
    (watched, "tweedie", {}),
    (clicked, "binary", {}),
    (kind, "multiclass", {"num_class": 3}),
    (np.minimum(watched, 4), "lambdarank", {}),
):
    onnx, other = difference(labels, objective=objective, **more)
    assert onnx < 1e-4 and other < 1e-4, objective

for labels, objective in ((watched, "mape"), (clicked, "cross_entropy")):
    onnx, other = difference(labels, objective=objective)
    assert onnx is None and other < 1e-4, objective

for least, labels, parameters in (
    (50, watched, {"objective": "regression", **forest}),
    (0.2, clicked, {"objective": "binary", **forest}),
    (1, watched, {"objective": "regression", "reg_sqrt": True}),
    (0.1, clicked, {"objective": "binary", "sigmoid": 2.0}),
    (0.1, kind, {"objective": "multiclassova", "num_class": 3}),
):
    onnx, other = difference(labels, **parameters)
    assert onnx > least and other < 1e-4, parameters

onnx, other = difference(watched, objective="regression", linear_tree=True)
assert onnx > 1 and other is None
PY
"$work/venv/bin/python" "$work/show.py" 2> "$work/log" || { cat "$work/log" >&2; exit 1; }
echo "as described"
