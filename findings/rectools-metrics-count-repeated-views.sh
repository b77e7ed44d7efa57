#!/usr/bin/env bash
# RecTools: a view that is logged three times trebles NDCG and precision, and NDCG passes 1
#
# Packages   RecTools 0.19.0 (brings pandas and numpy below 2)
#
# Expected   Ranking metrics ask whether an item of the list is among those that the user watched;
#            a second row of the same user and item in the interactions changes nothing, and no
#            metric that is at most 1 by definition goes above it. A perfect list has NDCG 1.
# Seen       Interactions are joined to the list as they are. With the one relevant item in first
#            place NDCG@10 is .220 (divided by what ten hits would give, not one), .660 when its
#            row stands there three times, and 1.41 with divide_by_achievable=True; precision goes
#            from .1 to .3, MAP can pass 1. Recall and HitRate do not move, so nothing looks odd.
#            A repeated row in the recommendations counts twice, too.
# Matters    Logs of videos, music and news repeat views. Metrics then mostly measure how often
#            users come back to the items that every model gets right, and comparisons with papers
#            or other libraries fail. drop_duplicates() on user and item before calculating, and
#            say which NDCG it is.
# Pointer    RecTools' metrics say "divide_by_achievable"; pytrec_eval and ranx take a set of
#            relevant items, so they cannot see it.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check RecTools==0.19.0

cat > "$work/show.py" <<'PY'
import warnings
from importlib.metadata import version

warnings.filterwarnings("ignore")

import pandas as pd
from rectools import Columns
from rectools.metrics import MAP, NDCG, HitRate, Precision, Recall

print(f"RecTools {version('RecTools')}")
recommended = pd.DataFrame(
    {Columns.User: [1] * 10, Columns.Item: range(1, 11), Columns.Rank: range(1, 11)}
)
metrics = {
    "NDCG": NDCG(10),
    "NDCG achievable": NDCG(10, divide_by_achievable=True),
    "precision": Precision(10),
    "MAP": MAP(10),
    "recall": Recall(10),
    "hit rate": HitRate(10),
}


def measured(watched):
    rows = pd.DataFrame({Columns.User: [1] * len(watched), Columns.Item: watched})
    values = {name: round(float(m.calc(recommended, rows)), 3) for name, m in metrics.items()}
    print(f"watched {watched}: {values}")
    return values


once, thrice, mixed = measured([1]), measured([1, 1, 1]), measured([1, 1, 2])
assert once["NDCG"] == 0.22 and once["NDCG achievable"] == 1
assert thrice["NDCG"] == 0.66 and thrice["precision"] == 0.3
assert thrice["NDCG achievable"] > 1.4 and mixed["MAP"] > 1.1
assert once["recall"] == thrice["recall"] == 1 and once["hit rate"] == thrice["hit rate"] == 1
PY
"$work/venv/bin/python" "$work/show.py"
echo "as described"
