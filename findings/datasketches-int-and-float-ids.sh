#!/usr/bin/env bash
# datasketches distinct counts: viewer 7 and viewer 7.0 are two viewers
#
# Packages   datasketches 5.2.0, pandas 3.1.1, numpy 2.4.6
#
# Expected   Numbers that are equal are one item: 7 == 7.0, and both have one hash in
#            Python, in pandas and as the key of a dict. A sketch of Monday's viewers
#            united with one of the same viewers on Tuesday counts them once.
# Seen       update() hashes the eight bytes of an int64 for an int and those of a
#            double for a float, so equal ids of the two types have nothing in common.
#            pandas turns a column of ids into float64 as soon as one row has no id;
#            dropna() leaves it float64. Each day's estimate is right, their union is
#            twice the number of viewers, and their intersection (Theta) is 0. HLL,
#            CPC and Theta agree. The frequent items sketch of the same package
#            compares as Python does and merges 7 and 7.0.
# Matters    Reach, retention and overlap are computed from stored daily sketches. One
#            logged-out event in one partition makes a day's whole file disjoint from
#            the others: retention drops to zero and weekly reach doubles, while every
#            daily number looks right, and the raw ids are gone by then. Cast the ids
#            (to int, or all to str) in the line that updates.
# Pointer    The overloads of update in help(hll_sketch): int, float, str.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check --only-binary :all: \
    datasketches==5.2.0 pandas==3.1.1 numpy==2.4.6

cat > "$work/show.py" <<'PY'
from importlib.metadata import version

import datasketches as ds
import pandas as pd

print(f"datasketches {version('datasketches')}, pandas {pd.__version__}")

viewers = list(range(1, 1001))
monday = pd.DataFrame({"viewer": viewers})
tuesday = pd.DataFrame({"viewer": [*viewers, None]})  # one event without a viewer
columns = [day["viewer"].dropna() for day in (monday, tuesday)]
print(f"types of the ids: {columns[0].dtype}, {columns[1].dtype}")
exact = pd.concat(columns).nunique()
print(f"exact: {[c.nunique() for c in columns]} a day, {exact} in both")
assert exact == len(set(columns[0]) | set(columns[1])) == 1000

KINDS = {
    "hll": (lambda: ds.hll_sketch(14), lambda: ds.hll_union(14)),
    "cpc": (lambda: ds.cpc_sketch(14), lambda: ds.cpc_union(14)),
    "theta": (lambda: ds.update_theta_sketch(14), lambda: ds.theta_union(14)),
}


def near(value, target):
    return abs(value - target) <= 0.05 * target


def fill(make, values):
    sketch = make()
    for value in values:
        sketch.update(value)
    return sketch


for name, (make, make_union) in KINDS.items():
    for cast, expected in ((lambda value: value, 2000), (int, 1000)):
        days = [fill(make, map(cast, column)) for column in columns]
        union = make_union()
        for day in days:
            union.update(day)
        daily = [day.get_estimate() for day in days]
        both = union.get_result().get_estimate()
        print(f"{name:5} {'as int' if cast is int else 'as read':8} "
              f"days {[round(d) for d in daily]}, union {both:.0f}")
        assert all(near(d, 1000) for d in daily) and near(both, expected), (daily, both)
        if name == "theta":
            common = ds.theta_intersection()
            for day in days:
                common.update(day)
            shared = common.get_result().get_estimate()
            print(f"{'':15}seen on both days {shared:.0f}")
            assert shared == (1000 if cast is int else 0), shared

frequent = ds.frequent_items_sketch(5)
frequent.update(7)
frequent.update(7.0)
items = frequent.get_frequent_items(ds.frequent_items_error_type.NO_FALSE_NEGATIVES)
print(f"frequent items after 7 and 7.0: {[(item[0], item[1]) for item in items]}")
assert [item[1] for item in items] == [2]
PY

"$work/venv/bin/python" "$work/show.py"
echo "as described"
