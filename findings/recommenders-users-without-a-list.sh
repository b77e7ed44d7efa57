#!/usr/bin/env bash
# recommenders: its ranking metrics are means over three different sets of users
#
# Packages   recommenders 1.2.1, pandas 2.3.3, numpy 2.4.6, scikit-learn 1.9.1, scipy 1.17.1
#            (installed without recommenders' other dependencies, which the metrics do not use)
#
# Expected   A user who has something to find and is offered nothing has recall 0, and the metrics
#            of one call, on the same two frames, are means over the same users.
# Seen       recall_at_k, precision_at_k and map_at_k take the users that occur in both frames;
#            ndcg_at_k all users of rating_true; r_precision_at_k those with a hit among the first
#            R places. Ten users have one relevant item each. A model that serves all ten and is
#            right for six has .6, but an R-precision of 1.0. A model that serves one of them,
#            rightly, has recall, precision, MAP and R-precision 1.0, and NDCG .1. No warning, and
#            which of the two models is better depends on the metric.
# Matters    Neighbourhood models, minimum scores, cold users and filters leave users without a
#            list, and a model is the better judged the fewer it dares to serve: tuning a score
#            threshold on recall@k or MAP ends with the easiest users. Give each user without a list
#            a row with an item that nobody has, report how many users were served, and leave
#            R-precision alone.
# Pointer    The docstring of merge_ranking_true_pred, an inner helper in python_evaluation.py, says
#            "common users"; those of the metrics say nothing of it. NDCG is as expected.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check --only-binary :all: --no-compile \
    pandas==2.3.3 numpy==2.4.6 scikit-learn==1.9.1 scipy==1.17.1
"$work/venv/bin/pip" install --quiet --disable-pip-version-check --only-binary :all: --no-compile \
    --no-deps recommenders==1.2.1

cat > "$work/show.py" <<'PY'
from importlib.metadata import version

import pandas as pd
from recommenders.evaluation import python_evaluation as metrics

print(f"recommenders {version('recommenders')}, pandas {pd.__version__}")
NAMES = ("recall_at_k", "precision_at_k", "map_at_k", "r_precision_at_k", "ndcg_at_k")
RIGHT, WRONG, UNKNOWN = 7, 8, -1
truth = pd.DataFrame({"userID": range(10), "itemID": RIGHT, "rating": 1.0})


def values(label, served):
    """The metrics at 1 of a model that answers users with one item each."""
    rows = [(user, item, 1.0) for user, item in served.items()]
    lists = pd.DataFrame(rows, columns=["userID", "itemID", "prediction"])
    answer = {name: float(getattr(metrics, name)(truth, lists, k=1)) for name in NAMES}
    print(f"{label:28}", {name: round(value, 3) for name, value in answer.items()})
    return [round(answer[name], 9) for name in NAMES]


six = values("serves all, right for six", {u: RIGHT if u < 6 else WRONG for u in range(10)})
one = values("serves one, rightly", {0: RIGHT})
mended = values("the same, others UNKNOWN", {u: UNKNOWN if u else RIGHT for u in range(10)})
assert six == [0.6, 0.6, 0.6, 1.0, 0.6]  # six of ten, by any of them, if all users count
assert one == [1.0, 1.0, 1.0, 1.0, 0.1]  # one of ten
assert mended == [0.1, 0.1, 0.1, 1.0, 0.1]
PY
"$work/venv/bin/python" "$work/show.py" 2> "$work/log" || { cat "$work/log" >&2; exit 1; }
echo "as described"
