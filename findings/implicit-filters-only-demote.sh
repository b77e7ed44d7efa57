#!/usr/bin/env bash
# implicit: recommend() returns the very items that it was asked to filter out
#
# Packages   implicit 0.7.3, numpy 2.4.6, scipy 1.17.1
#
# Expected   filter_already_liked_items=True and filter_items=[...] take items out of
#            the answer. If fewer than N are left the answer is shorter, or the
#            places that are left are marked by an impossible id.
# Seen       Filtering only changes scores. The matrix factorisation models (ALS, BPR,
#            logistic) give a filtered item the least float32, -3.4e38, and still pick
#            N items: liked and blocked ones fill the end of the list under their own
#            ids. With items=[...] the whole answer can consist of them. The
#            neighbourhood models return liked items as well, with score 0.0, and
#            ahead of an item that nobody filtered and that is related to nothing,
#            which they leave out.
# Matters    It needs no tiny catalogue: a second stage that passes the candidates of
#            one user as items=, a category page, or a block list with a short shelf
#            are enough. Taken-down or already watched videos are then served, and
#            the float minimum in a blend of scores drowns the other sources. Filter
#            the returned ids once more, rather than trust the length of the answer.
# Pointer    The docstring of recommend(): liked items are not returned, filter_items
#            are left out of the output; benfred/implicit pull request 507.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check --only-binary :all: \
    implicit==0.7.3 numpy==2.4.6 scipy==1.17.1

cat > "$work/show.py" <<'PY'
import warnings
from importlib.metadata import version

import numpy as np
import scipy.sparse as sp
from implicit.als import AlternatingLeastSquares
from implicit.bpr import BayesianPersonalizedRanking
from implicit.lmf import LogisticMatrixFactorization
from implicit.nearest_neighbours import CosineRecommender

warnings.filterwarnings("ignore")  # advice about BLAS threads
print(f"implicit {version('implicit')}")

likes = np.array([
    [1, 1, 1, 1, 0, 0, 0],
    [1, 0, 0, 0, 1, 1, 0],
    [0, 1, 1, 0, 0, 1, 0],
    [0, 0, 0, 0, 0, 0, 1],  # item 6 has nothing in common with the rest
], np.float32)
users = sp.csr_matrix(likes)
liked = {0, 1, 2, 3}  # by user 0
least = np.finfo(np.float32).min


def show(name, call, answer):
    ids, scores = answer
    pairs = ", ".join(f"{i}: {s:.2g}" for i, s in zip(ids.tolist(), scores.tolist()))
    print(f"{name}, {call}: {{{pairs}}}")
    return ids.tolist(), scores


factor = {"factors": 4, "iterations": 5, "random_state": 0, "num_threads": 1}
for kind in (
    AlternatingLeastSquares, BayesianPersonalizedRanking, LogisticMatrixFactorization,
):
    model = kind(**factor)
    model.fit(users, show_progress=False)
    name = kind.__name__

    ids, scores = show(name, "N=5", model.recommend(0, users[0], N=5))
    assert set(ids[:3]) == {4, 5, 6} and set(ids[3:]) < liked, ids
    assert (scores[3:] == least).all() and (scores[:3] > least).all()

    ids, scores = show(
        name, "N=7, filter_items=[4, 5]",
        model.recommend(0, users[0], N=7, filter_items=[4, 5]),
    )
    assert ids[0] == 6 and {4, 5} < set(ids) and (scores[1:] == least).all()

    ids, scores = show(
        name, "N=2, items=[0, 1]", model.recommend(0, users[0], N=2, items=[0, 1])
    )
    assert set(ids) == {0, 1} and (scores == least).all()

model = CosineRecommender()
model.fit(users, show_progress=False)
ids, scores = show("CosineRecommender", "N=7", model.recommend(0, users[0], N=7))
assert liked < set(ids), ids
by_id = dict(zip(ids, scores.tolist()))
assert all(by_id[item] == 0.0 for item in liked), by_id
assert 6 not in by_id, by_id
PY

OPENBLAS_NUM_THREADS=1 "$work/venv/bin/python" "$work/show.py"
echo "as described"
