#!/usr/bin/env bash
# LightGBM NDCG and MAP: a query without any positive counts as a perfect 1.0
#
# Packages   lightgbm 4.7.0, xgboost-cpu 3.2.0, scikit-learn 1.9.1, numpy 2.4.6,
#            scipy 1.17.1
#
# Expected   A query in which nothing is relevant cannot be ranked well or badly: it
#            is left out of the mean, or scores 0 as in scikit-learn. A ranker that
#            puts the only relevant item last in every query is near 0.
# Seen       LightGBM gives such a query 1.0 in ndcg@k as in map@k. With one query in
#            five that has a positive, the perfect ranker scores 1.0 and the one that
#            reverses it 0.8; scikit-learn gives 0.2 and 0.0 for the same scores.
#            XGBoost follows LightGBM, but takes "ndcg@5-" for the other convention;
#            LightGBM has no such switch and the parameter list does not mention it.
# Matters    A query here is a page of impressions, and most pages get no click, so
#            the metric that stops the training and picks the model moves in a narrow
#            band below 1.0, and says more about the share of pages with a click than
#            about the order: a validation day with fewer clicks looks better. Drop
#            the empty queries from the validation set.
# Pointer    XGBoost documentation, parameter eval_metric ("ndcg-", "map-");
#            lightgbm-org/LightGBM issue 6814 (NDCG that others cannot reproduce).
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check --only-binary :all: \
    lightgbm==4.7.0 xgboost-cpu==3.2.0 scikit-learn==1.9.1 numpy==2.4.6 scipy==1.17.1

cat > "$work/show.py" <<'PY'
import lightgbm as lgb
import numpy as np
import sklearn
import xgboost as xgb
from sklearn.metrics import ndcg_score

print(f"lightgbm {lgb.__version__}, xgboost {xgb.__version__}, scikit-learn {sklearn.__version__}")

pages, size, clicked = 100, 10, 20
rng = np.random.default_rng(0)
scores = rng.permuted(np.tile(np.arange(size, dtype=float), (pages, 1)), axis=1)
labels = np.zeros((pages, size), int)
labels[np.arange(clicked), scores[:clicked].argmax(axis=1)] = 1  # best item clicked
still = np.zeros((pages * size, 1))  # a constant feature: the scores below decide alone


def by_lightgbm(score, label):
    data = lgb.Dataset(
        still[: score.size], label.ravel(), group=[size] * len(score), init_score=score.ravel()
    )
    seen = {}
    lgb.train(
        {"objective": "lambdarank", "metric": ["ndcg", "map"], "eval_at": [5], "verbose": -1},
        data, 1, valid_sets=[data], callbacks=[lgb.record_evaluation(seen)],
    )
    return seen["training"]["ndcg@5"][0], seen["training"]["map@5"][0]


def by_xgboost(score, label, metric):
    data = xgb.DMatrix(
        still, label.ravel(), group=[size] * len(score), base_margin=score.ravel()
    )
    seen = {}
    xgb.train(
        {"objective": "rank:ndcg", "eval_metric": metric, "eta": 1e-9},
        data, 1, evals=[(data, "pages")], evals_result=seen, verbose_eval=False,
    )
    return seen["pages"][metric][0]


def close(a, b):
    return abs(a - b) < 1e-6


print("                    LightGBM         XGBoost            scikit-learn")
print("                    ndcg@5  map@5    ndcg@5  ndcg@5-    ndcg_score")
share = clicked / pages
for name, score, all_pages, only_clicked in (
    ("perfect ranker", scores, 1.0, 1.0),
    ("reversed ranker", -scores, 1 - share, 0.0),
):
    ndcg, mean_precision = by_lightgbm(score, labels)
    like, minus = by_xgboost(score, labels, "ndcg@5"), by_xgboost(score, labels, "ndcg@5-")
    peer = ndcg_score(labels, score, k=5)
    print(f"{name:18} {ndcg:7.2f} {mean_precision:6.2f} {like:9.2f} {minus:8.2f} {peer:13.2f}")
    assert close(ndcg, all_pages) and close(mean_precision, all_pages)
    assert close(like, all_pages)
    assert close(minus, share * only_clicked) and close(peer, share * only_clicked)

    kept, _ = by_lightgbm(score[:clicked], labels[:clicked])
    print(f"    LightGBM, pages with a click only: {kept:.2f}")
    assert close(kept, only_clicked)
PY

"$work/venv/bin/python" "$work/show.py"
echo "as described"
