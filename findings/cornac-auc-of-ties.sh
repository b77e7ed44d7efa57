#!/usr/bin/env bash
# Cornac: AUC counts a tie as a loss, so a model without an opinion has AUC 0
#
# Packages   cornac 2.2.1, numpy 1.26.4, scikit-learn 1.7.2 (for contrast)
#
# Expected   AUC is the chance that a relevant item scores above another one, a tie counting one
#            half: equal scores for all items give .5, as in scikit-learn.
# Seen       A pair counts only if the relevant item's score is strictly larger. Equal scores give
#            0, the value of a model that orders everything the wrong way round; scores with a
#            few levels lose half of each tie.
# Matters    Popularity counts, rounded or quantised scores, cold users to whom a model gives one
#            constant: each tie costs, so a coarse baseline looks worse than it is, and AUC of
#            different models cannot be compared. Add a small random number to the scores first,
#            or take scikit-learn's.
# Pointer    cornac.metrics.AUC; Rendle et al. 2009 define it with a strict comparison for scores
#            that do not tie.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check --only-binary :all: \
    cornac==2.2.1 scikit-learn==1.7.2 numpy==1.26.4

cat > "$work/show.py" <<'PY'
from importlib.metadata import version

import numpy as np
from cornac.metrics import AUC
from sklearn.metrics import roc_auc_score

for name in ("cornac", "scikit-learn"):
    print(f"{name} {version(name)}")
relevant, others = np.array([0, 1]), np.array([2, 3])


def both(scores):
    scores = np.array(scores)
    ours = AUC().compute(
        item_indices=np.arange(4), pd_scores=scores, gt_pos=relevant, gt_neg=others
    )
    theirs = roc_auc_score([1, 1, 0, 0], scores)
    print(f"scores {scores}: cornac {ours:.2f}, scikit-learn {theirs:.2f}")
    return float(ours), float(theirs)


assert both([4.0, 3.0, 2.0, 1.0]) == (1.0, 1.0)
assert both([1.0, 2.0, 3.0, 4.0]) == (0.0, 0.0)
assert both([1.0, 1.0, 1.0, 1.0]) == (0.0, 0.5)
assert both([2.0, 1.0, 1.0, 1.0]) == (0.5, 0.75)
PY
"$work/venv/bin/python" "$work/show.py" 2> "$work/log" || { cat "$work/log" >&2; exit 1; }
echo "as described"
