#!/usr/bin/env bash
# Batch search in usearch and ScaNN: short result rows are filled up with item 0
#
# Packages   usearch 2.26.6, scann 1.4.2, faiss-cpu 1.15.1 (for contrast), numpy 2.4.6
#
# Expected   When fewer than k neighbours are found, a batch marks the empty places
#            with an id that no item can have (FAISS: -1), or a single query and a
#            batch of one query at least return the same ids.
# Seen       A single query returns a shorter list in both libraries. A batch of
#            the same query returns k ids: the places that are left hold id 0 and
#            distance NaN. For usearch 0 is an ordinary key, also if no vector has
#            it; for ScaNN it is the first row of the data set. ScaNN does this not
#            just for a k above the size of the index, but whenever the searched
#            leaves hold fewer than k items, so on full-size indexes as well.
#            usearch gives the true lengths in .counts, ScaNN gives no count.
# Matters    Candidate generators ask in batches for hundreds of items and often
#            filter hard. Code that reads only the ids offers item 0 to users whose
#            leaves are small, and an offline recall computed from them credits
#            whoever watched item 0. Tests that use single queries cannot see it.
#            Mask by isnan(distance), or use .counts.
# Pointer    huggingface/sentence-transformers pull request 3956 met this padding in
#            usearch; BatchMatches in the usearch Python documentation.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check --only-binary :all: \
    usearch==2.26.6 scann==1.4.2 faiss-cpu==1.15.1 numpy==2.4.6

cat > "$work/show.py" <<'PY'
from importlib.metadata import version

import faiss
import numpy as np
import scann
from usearch.index import Index

for name in ("usearch", "scann", "faiss-cpu"):
    print(f"{name} {version(name)}")

vectors = np.eye(4, dtype=np.float32)[:3]
query = np.array([0.1, 0.9, 0.2, 0.0], np.float32)
k = 6


def check(name, single, batch, distances, first):
    print(f"{name}: single {single.tolist()}, batch {batch.tolist()}")
    print(f"    distances of the batch {[round(float(d), 2) for d in distances]}")
    assert len(single) == 3 and len(batch) == k
    assert batch[:3].tolist() == single.tolist() and single[0] == first
    assert (batch[3:] == 0).all() and np.isnan(distances[3:]).all()
    assert not np.isnan(distances[:3]).any()


index = Index(ndim=4, metric="ip", dtype="f32")
index.add(np.array([10, 20, 30]), vectors)  # there is no item 0
one = index.search(query, k)
many = index.search(query[None].repeat(2, axis=0), k)
check("usearch", one.keys, many.keys[0], many.distances[0], 20)
print(f"    counts {many.counts.tolist()}")
assert many.counts.tolist() == [3, 3] and 0 not in index

searcher = scann.scann_ops_pybind.builder(vectors, k, "dot_product").score_brute_force().build()
ids, _ = searcher.search(query, final_num_neighbors=k)
rows, scores = searcher.search_batched(query[None], final_num_neighbors=k)
check("scann, 3 items", ids, rows[0], scores[0], 1)

flat = faiss.IndexFlatIP(4)
flat.add(vectors)
_, padded = flat.search(query[None], k)
print(f"faiss: batch {padded[0].tolist()}")
assert padded[0][3:].tolist() == [-1] * 3

# a thousand items, fifty leaves of which one is searched
rng = np.random.default_rng(0)
items = rng.normal(size=(1000, 16)).astype(np.float32)
items /= np.linalg.norm(items, axis=1, keepdims=True)
searcher = (
    scann.scann_ops_pybind.builder(items, 100, "dot_product")
    .tree(num_leaves=50, num_leaves_to_search=1, training_sample_size=1000)
    .score_brute_force()
    .build()
)
users = items[1:101]
rows, scores = searcher.search_batched(users, final_num_neighbors=100)
filled = np.isnan(scores)
found = []
for user in users:
    ids, score = searcher.search(user, final_num_neighbors=100)
    assert not np.isnan(score).any()
    found.append(len(ids))
print(f"scann, 1000 items, k 100: {filled.any(axis=1).sum()} of {len(users)} rows are "
      f"filled up, {filled.mean():.0%} of all places are item 0 with NaN")
print(f"    one by one the same queries return {min(found)} to {max(found)} ids, none of them with NaN")
assert (rows[filled] == 0).all() and filled.any(axis=1).mean() > 0.5
assert rows.shape == (100, 100) and min(found) < 100
PY

# ScaNN logs its training to stderr: shown only if the script fails
"$work/venv/bin/python" "$work/show.py" 2> "$work/log" || { cat "$work/log" >&2; exit 1; }
echo "as described"
