#!/usr/bin/env bash
# Keras top-k accuracy: a collapsed model scores 1.0, and under JAX so does one that diverged to NaN
#
# Packages   keras 3.15.1 (NumPy and JAX backends), jax 0.10.2, jaxlib 0.10.2, numpy 2.4.6
#
# Expected   A model that gives every candidate the same score knows nothing, so
#            top-1 accuracy among 8 candidates should be about 1/8; a model whose
#            scores are all NaN should be 0, or NaN. Top-1 accuracy and plain
#            accuracy should be the same number.
# Seen       SparseTopKCategoricalAccuracy(k=1) is 1.0 for equal scores while
#            SparseCategoricalAccuracy on the same arrays is 0.125: a target
#            counts as a hit unless k others are strictly greater, so everything
#            that ties with it is treated as ranked below it.
#            On the JAX backend the same rule meets NaN: no comparison with NaN
#            is true, so nothing is ever "strictly greater", and a batch of pure
#            NaN has top-1 accuracy 1.0. The NumPy backend gives 0.0 for it, so
#            the number also changes with the backend. A rival whose score
#            turns NaN no longer beats the target, which then counts as a hit.
# Matters    Retrieval towers are watched (and early-stopped, and picked) by top-k
#            accuracy over in-batch or corpus scores. Collapse to one embedding
#            and divergence to NaN are their two usual ways to fail, and both
#            show up as a perfect score; scores quantised to few levels are
#            flattered for the same reason. Watch plain accuracy or the spread
#            of the scores beside it.
# Pointer    keras-team/keras issue 19995 (NaN in in_top_k of the JAX backend).
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check --only-binary :all: \
    keras==3.15.1 jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6

cat > "$work/show.py" <<'PY'
import keras
import numpy as np


def top_k(labels, scores, k):
    metric = keras.metrics.SparseTopKCategoricalAccuracy(k=k)
    metric.update_state(labels, scores)
    return float(metric.result())


def plain(labels, scores):
    metric = keras.metrics.SparseCategoricalAccuracy()
    metric.update_state(labels, scores)
    return float(metric.result())


backend = keras.backend.backend()
print(f"keras {keras.__version__}, backend {backend}")

n = 8
labels = np.arange(n)  # in-batch negatives: row i belongs to candidate i
collapsed = np.full((n, n), 0.125, np.float32)
diverged = np.full((n, n), np.nan, np.float32)

tied_top1 = top_k(labels, collapsed, 1)
tied_plain = plain(labels, collapsed)
print(f"  all scores equal: top-1 accuracy {tied_top1}, plain accuracy {tied_plain}")
assert tied_top1 == 1.0, tied_top1
assert tied_plain == 1 / n, tied_plain

nan_top1 = top_k(labels, diverged, 1)
print(f"  all scores NaN:   top-1 accuracy {nan_top1}")
assert nan_top1 == {"jax": 1.0, "numpy": 0.0}[backend], nan_top1

# Every target is beaten by its right-hand neighbour: an honest zero ...
beaten = np.zeros((n, n), np.float32)
beaten[labels, (labels + 1) % n] = 1.0
honest = top_k(labels, beaten, 1)
# ... until the winning scores overflow to NaN.
broken = beaten.copy()
broken[labels, (labels + 1) % n] = np.nan
masked = top_k(labels, broken, 1)
print(f"  target beaten by one candidate: {honest}; that candidate turns NaN: {masked}")
assert honest == 0.0, honest
assert masked == {"jax": 1.0, "numpy": 0.0}[backend], masked
PY

for backend in numpy jax; do
    KERAS_BACKEND=$backend JAX_PLATFORMS=cpu KERAS_HOME="$work/keras" \
        "$work/venv/bin/python" "$work/show.py"
done
echo "as described"
