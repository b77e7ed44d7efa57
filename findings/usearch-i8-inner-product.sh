#!/usr/bin/env bash
# usearch stored as int8: the inner product metric turns into cosine
#
# Packages   usearch 2.26.6, numpy 2.4.6
#
# Expected   dtype="i8" is a coarser copy of the vectors, so the order that
#            metric="ip" gives may blur a little, but an item whose vector is three
#            times as long still has about three times the inner product.
# Seen       On the way to int8 each vector is divided by its own length and then
#            scaled to the range of int8, whatever the metric, and the length is
#            kept nowhere. (1,0,0,0) and (3,0,0,0) become the same stored vector up
#            to one unit of rounding. Over a thousand items with uneven lengths the
#            top ten of the i8 index are those of cosine, hardly those of the inner
#            product, which f32, f16 and bf16 indexes of the same vectors return.
#            Nothing raises or warns. Arrays that are int8 already are stored as
#            they are.
# Matters    Two-tower and factorisation models put popularity in the length of the
#            item vector. Compressing the index to a quarter then silently replaces
#            maximum inner product search: long-tail items of the right direction
#            come first, and recall against the exact search collapses where one
#            budgeted for a percent. Quantise with one common scale before add().
# Pointer    unum-cloud/USearch issues 405 (i8 with inner product) and 668 (which
#            metrics normalise is undocumented).
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check --only-binary :all: \
    usearch==2.26.6 numpy==2.4.6

cat > "$work/show.py" <<'PY'
from importlib.metadata import version

import numpy as np
from usearch.index import Index

print(f"usearch {version('usearch')}, numpy {np.__version__}")


def build(vectors, dtype):
    index = Index(ndim=vectors.shape[1], metric="ip", dtype=dtype)
    index.add(np.arange(len(vectors)), vectors)
    return index


pair = np.array([[1, 0, 0, 0], [3, 0, 0, 0]], np.float32)
full, small = build(pair, "f32"), build(pair, "i8")
for key in (0, 1):
    print(f"{pair[key].tolist()} is stored as f32 {full.get(key).tolist()}, "
          f"i8 {small.get(key).tolist()}")
stored = [int(small.get(key)[0]) for key in (0, 1)]
assert full.get(1)[0] == 3 * full.get(0)[0]
assert abs(stored[0] - stored[1]) <= 2 and min(stored) > 120, stored

rng = np.random.default_rng(0)
items = rng.normal(size=(1000, 16)).astype(np.float32)
items *= rng.lognormal(0.0, 1.0, size=(1000, 1)).astype(np.float32)
users = rng.normal(size=(50, 16)).astype(np.float32)
product = users @ items.T
cosine = product / np.linalg.norm(items, axis=1)


def best(scores):
    return [set(row) for row in np.argsort(-scores, axis=1)[:, :10].tolist()]


def overlap(found, truth):
    return float(np.mean([len(a & b) / 10 for a, b in zip(found, truth)]))


print("top ten of 1000 items, share that agrees with  inner product   cosine")
for dtype in ("f32", "f16", "bf16", "i8"):
    index = build(items, dtype)
    found = [set(row) for row in index.search(users, 10, exact=True).keys.tolist()]
    by_product, by_cosine = overlap(found, best(product)), overlap(found, best(cosine))
    print(f"  {dtype:44} {by_product:8.2f} {by_cosine:14.2f}")
    if dtype == "i8":
        assert by_cosine > 0.8 and by_product < 0.6, (by_product, by_cosine)
    else:
        assert by_product > 0.9 and by_cosine < 0.6, (by_product, by_cosine)

# one common scale, done by hand, keeps the order of the inner product
scale = 127 / np.abs(items).max()
common = build(np.rint(items * scale).astype(np.int8), "i8")
asked = np.rint(users * 127 / np.abs(users).max()).astype(np.int8)
found = [set(row) for row in common.search(asked, 10, exact=True).keys.tolist()]
by_product = overlap(found, best(product))
print(f"  {'i8, scaled by hand with one factor':44} {by_product:8.2f} "
      f"{overlap(found, best(cosine)):14.2f}")
assert by_product > 0.8, by_product
PY

"$work/venv/bin/python" "$work/show.py"
echo "as described"
