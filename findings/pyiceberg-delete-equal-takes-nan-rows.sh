#!/usr/bin/env bash
# PyIceberg: deleting f = 1.0 deletes NaN rows of files whose numbers are all 1.0
#
# Packages   pyiceberg 0.12.0 (extras pyarrow, sql-sqlite), pyarrow 25.0.1
#
# Expected   NaN equals nothing: delete("f = 1.0") keeps a NaN row, a scan of "f != 1.0" returns
#            it, and neither depends on the other rows of its data file.
# Seen       Lower and upper bounds of a data file leave NaN out. Where both are 1.0 the file is
#            taken to hold 1.0 alone: delete("f = 1.0") drops the whole file, NaN included, and a
#            scan of "f != 1.0" passes it over. Put 3.0 beside them and the same NaN survives the
#            delete and is returned by the scan. Nulls are not lost: their number is looked at.
# Matters    A flag or rating that is almost constant within a partition, with NaN for "unknown",
#            is exactly such a file: a clean-up of one value takes the unknown ones along, in some
#            partitions. Compare counts by a full read, or keep null instead of NaN.
# Pointer    The Iceberg specification says that bounds do not cover NaN and gives nan_value_counts.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check \
    "pyiceberg[pyarrow,sql-sqlite]==0.12.0" pyarrow==25.0.1

cat > "$work/show.py" <<'PY'
import sys
from importlib.metadata import version

import pyarrow as pa
from pyiceberg.catalog.sql import SqlCatalog

for name in ("pyiceberg", "pyarrow"):
    print(f"{name} {version(name)}")
NAN = float("nan")
catalog = SqlCatalog(
    "c", uri=f"sqlite:///{sys.argv[1]}/catalog.db", warehouse=f"file://{sys.argv[1]}/warehouse"
)
catalog.create_namespace("n")


def table(name, values):
    rows = pa.table({"k": pa.array(range(len(values))), "f": pa.array(values, pa.float64())})
    made = catalog.create_table(f"n.{name}", schema=rows.schema)
    made.append(rows)  # One data file.
    return made


def keys(of, row_filter=None):
    scan = of.scan(row_filter=row_filter) if row_filter else of.scan()
    return sorted(scan.to_arrow()["k"].to_pylist())


alone, beside = table("alone", [1.0, NAN]), table("beside", [1.0, NAN, 3.0])
seen = [keys(one, "f != 1.0") for one in (alone, beside)]
print(f"scan f != 1.0: {seen[0]} of [1.0, NaN], {seen[1]} of [1.0, NaN, 3.0]")
assert seen == [[], [1, 2]]
for one in (alone, beside):
    one.delete("f = 1.0")
left = [keys(one) for one in (alone, beside)]
print(f"left after delete f = 1.0: {left[0]} and {left[1]}")
assert left == [[], [1, 2]]

nulls = table("nulls", [1.0, None])
nulls.delete("f = 1.0")
print(f"left of [1.0, null]: {keys(nulls)}")
assert keys(nulls) == [1]
PY
"$work/venv/bin/python" "$work/show.py" "$work"
echo "as described"
