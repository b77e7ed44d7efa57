#!/usr/bin/env bash
# Voyager, inner product: recall .33 or 1.0, by the order in which the same items were added
#
# Packages   voyager 2.2.3, usearch 2.26.6 (for contrast), numpy 2.4.6
#
# Expected   Vectors of different lengths may be added in any order: HNSW graphs then differ a
#            little, and their recall hardly at all, as usearch shows on the same data.
# Seen       The same 3,000 vectors of 64 numbers, same ids, M 16 and ef 200: added in the order of
#            length, up or down, the index finds all of the exact top 10; added in an order that
#            has nothing to do with length, a third of them. Putting the one longest vector first
#            does not help. The returned distances are exact, and the list is full and sorted.
#            With vectors of one length every order finds everything.
# Matters    Inner product is the metric of two-tower models, where the length of a video's vector
#            carries its popularity. Ids follow upload time, so the bad order is the natural one;
#            nothing in the answer tells, and a test with normalised vectors passes. Sort by
#            length before add_items, which an index that grows cannot keep up; measure recall
#            against brute force with the real lengths, on an index built like the one that serves.
# Pointer    spotify/voyager pull request 25: the coordinate that is to turn inner product into a
#            distance comes from the longest vector so far.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check --only-binary :all: \
    voyager==2.2.3 usearch==2.26.6 numpy==2.4.6

cat > "$work/show.py" <<'PY'
from importlib.metadata import version

import numpy as np
import usearch.index
import voyager

for name in ("voyager", "usearch"):
    print(name, version(name))
COUNT, WIDTH, TOP = 3000, 64, 10
generator = np.random.default_rng(0)
directions = generator.normal(size=(COUNT, WIDTH))
directions /= np.linalg.norm(directions, axis=1, keepdims=True)
lengths = generator.lognormal(0.0, 0.5, size=COUNT)
users = generator.normal(size=(200, WIDTH)).astype(np.float32)


def by_voyager(items, order):
    index = voyager.Index(
        voyager.Space.InnerProduct, WIDTH, M=16, ef_construction=200, random_seed=1
    )
    index.add_items(items[order], ids=order.tolist(), num_threads=1)
    ids, distances = index.query(users, TOP, num_threads=1, query_ef=200)
    exact = 1 - np.take_along_axis(users @ items.T, ids.astype(np.int64), axis=1)
    np.testing.assert_allclose(distances, exact, rtol=1e-4, atol=1e-4)
    assert ids.shape == (len(users), TOP) and (np.diff(distances) >= 0).all()
    return ids


def by_usearch(items, order):
    index = usearch.index.Index(
        ndim=WIDTH, metric="ip", dtype="f32", connectivity=16, expansion_add=200,
        expansion_search=200,
    )
    index.add(order, items[order], threads=1)
    return index.search(users, TOP, threads=1).keys


def recall(found, items):
    exact = np.argsort(-(users @ items.T), axis=1)[:, :TOP]
    return float(np.mean([len(set(a) & set(b)) / TOP for a, b in zip(found, exact)]))


up = np.argsort(lengths)
rest = np.setdiff1d(np.arange(COUNT), up[-1:])
orders = {
    "any": np.arange(COUNT),
    "any, the longest first": np.concatenate([up[-1:], rest]),
    "longest to shortest": up[::-1].copy(),
    "shortest to longest": up,
}
for kind, scale in (("one length", np.ones(COUNT)), ("many lengths", lengths)):
    items = (directions * scale[:, None]).astype(np.float32)
    for name, order in orders.items():
        seen = {
            "voyager": recall(by_voyager(items, order), items),
            "usearch": recall(by_usearch(items, order), items),
        }
        print(f"{kind}, order: {name}: recall@{TOP} {seen}")
        assert seen["usearch"] > 0.95
        if kind == "many lengths" and name.startswith("any"):
            assert seen["voyager"] < 0.5
        else:
            assert seen["voyager"] > 0.95
PY
"$work/venv/bin/python" "$work/show.py"
echo "as described"
