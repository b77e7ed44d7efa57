#!/usr/bin/env bash
# River: ROCAUC of click rates is near .5, and a change of scale alone turns the order of two models
#
# Packages   river 0.26.1, scikit-learn 1.9.1 (for contrast), numpy 2.4.6
#
# Expected   AUC depends on the order of the predictions alone. An approximation of it that says
#            so has a small error, or a larger one in both directions.
# Seen       metrics.ROCAUC counts at ten fixed thresholds, 0 to 1 in steps of a ninth. Predicted
#            click rates of 2% on average lie below the second of them, all but a few: a calibrated
#            model with an AUC of .77 gets .53. The same predictions times ten get .76. A model
#            that is worse (AUC .70) but predicts too much gets .63, and wins. n_thresholds=1000
#            helps here, and not for rates of 1e-4. RollingROCAUC, by its name the same measure
#            over a window, is exact.
# Matters    AUC over a stream is how an online CTR model is watched and how challengers are chosen;
#            the figure moves with the level of the rates (a weekend, another placement)
#            while the order stays. Rank or logit-transform predictions before update, or use
#            RollingROCAUC.
# Pointer    metrics.ROCAUC in River's documentation calls itself an approximation and gives the
#            default n_thresholds=10, not the direction or size of its error.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check --only-binary :all: \
    river==0.26.1 scikit-learn==1.9.1 numpy==2.4.6

cat > "$work/show.py" <<'PY'
from importlib.metadata import version

import numpy as np
from river import metrics
from sklearn.metrics import roc_auc_score

for name in ("river", "scikit-learn"):
    print(name, version(name))
generator = np.random.default_rng(0)
count = 10_000
rates = generator.beta(1, 40, count)
clicks = generator.random(count) < rates
noisy = rates * np.exp(generator.normal(scale=1.0, size=count))


def aucs(name, predictions):
    predictions = np.clip(predictions, 0, 1)
    measures = {
        "ROCAUC": metrics.ROCAUC(),
        "ROCAUC(1000)": metrics.ROCAUC(n_thresholds=1000),
        "RollingROCAUC": metrics.RollingROCAUC(window_size=count),
    }
    for click, prediction in zip(clicks, predictions):
        for measure in measures.values():
            measure.update(bool(click), float(prediction))
    seen = {kind: measure.get() for kind, measure in measures.items()}
    seen["exact"] = float(roc_auc_score(clicks, predictions))
    mean = predictions.mean()
    print(f"{name}, mean {mean:.4f}: " + ", ".join(f"{k} {v:.3f}" for k, v in seen.items()))
    assert abs(seen["RollingROCAUC"] - seen["exact"]) < 1e-6
    return seen


calibrated = aucs("calibrated", rates)
scaled = aucs("calibrated, times ten", 10 * rates)
small = aucs("calibrated, divided by 100", rates / 100)
worse = aucs("worse, three times too much", 3 * noisy)
assert abs(calibrated["exact"] - scaled["exact"]) < 0.01
assert calibrated["ROCAUC"] < 0.57 and calibrated["exact"] > 0.73 and scaled["ROCAUC"] > 0.7
assert calibrated["ROCAUC(1000)"] > 0.7 and small["ROCAUC(1000)"] < 0.65
assert small["ROCAUC"] == 0.5
assert worse["exact"] < calibrated["exact"] - 0.05
assert worse["ROCAUC"] > calibrated["ROCAUC"] + 0.02
PY
"$work/venv/bin/python" "$work/show.py"
echo "as described"
