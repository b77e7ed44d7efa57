#!/usr/bin/env bash
# scikit-learn's IsotonicRegression: float32 scores less than 1e-6 apart are one score
#
# Packages   scikit-learn 1.9.1, numpy 2.4.6
#
# Expected   Isotonic regression uses the order of the scores alone: the fit does not change when
#            all scores are divided by a thousand, and float32 scores, whose relative precision is
#            1e-7, give what the same numbers in float64 give.
# Seen       fit() first merges scores that are less than np.finfo(dtype).resolution apart, an
#            absolute distance: 1e-15 for float64, 1e-6 for float32. 20,000 float32 scores between
#            0 and 1e-5 become ten, and the mean of the fitted rates is .55 where that of the
#            labels is .50; scores between 0 and 9e-7 become one, and predict() returns the mean
#            label for everybody: AUC .84 turns into .50. float64 copies of the same numbers give
#            the same fit at each scale.
# Matters    Models answer in float32, and rates of conversions, installs or reports lie at 1e-6
#            to 1e-4. A calibrator whose one promise is an unbiased rate then overbids by a tenth,
#            or forgets the order, without a warning. Convert scores to float64 (the values do not
#            change, only the distance does), or calibrate logits.
# Pointer    _make_unique in sklearn/_isotonic.pyx; scikit-learn pull request 18639 brought the
#            distance in against infinities among subnormal float64 numbers.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check --only-binary :all: \
    scikit-learn==1.9.1 numpy==2.4.6

cat > "$work/show.py" <<'PY'
import numpy as np
import sklearn
from sklearn.isotonic import IsotonicRegression
from sklearn.metrics import log_loss, roc_auc_score

print(f"scikit-learn {sklearn.__version__}, numpy {np.__version__}")
generator = np.random.default_rng(0)
count = 20_000
uniform = generator.random(count).astype(np.float32)
labels = (generator.random(count) < uniform).astype(np.float32)


def fitted(scale, kind):
    scores = uniform * np.float32(scale)
    assert len(np.unique(scores)) > 0.99 * count
    model = IsotonicRegression(out_of_bounds="clip").fit(scores.astype(kind), labels)
    rates = model.predict(scores.astype(kind)).astype(np.float64)
    auc, loss = roc_auc_score(labels, rates), log_loss(labels, rates)
    print(
        f"scores in [0, {scale:g}] as {np.dtype(kind)}: {len(model.X_thresholds_)} thresholds,"
        f" mean {rates.mean():.3f}, AUC {auc:.3f}, log loss {loss:.3f}"
    )
    return len(model.X_thresholds_), rates.mean() - labels.mean(), auc, loss


for scale in (1.0, 1e-5, 9e-7):
    thresholds, bias, auc, loss = fitted(scale, np.float64)
    assert thresholds > 50 and abs(bias) < 1e-3 and auc > 0.83 and loss < 0.5
    thresholds, bias, auc, loss_of_float32 = fitted(scale, np.float32)
    if scale == 1.0:
        assert thresholds > 50 and abs(bias) < 1e-3 and auc > 0.83 and loss_of_float32 < 0.5
    elif scale == 1e-5:
        assert thresholds <= 11 and bias > 0.03 and loss_of_float32 > loss + 0.005
    else:
        assert thresholds == 1 and auc == 0.5

merged = IsotonicRegression().fit(np.float32([0, 5e-7, 1]), np.float32([0, 1, 1]))
print(f"scores 0, 5e-7 and 1, labels 0, 1 and 1: thresholds {merged.X_thresholds_},"
      f" values {merged.y_thresholds_}")
assert merged.X_thresholds_.tolist() == [0, 1] and merged.y_thresholds_.tolist() == [0.5, 1]
PY
"$work/venv/bin/python" "$work/show.py"
echo "as described"
