#!/usr/bin/env bash
# fastparquet writes a column of lists as JSON text, and each reader takes it differently
#
# Packages   fastparquet 2026.9.0, pandas 3.1.1, pyarrow 26.0.1, polars 2.1.0,
#            duckdb 2.0.1, numpy 2.4.6
#
# Expected   DataFrame.to_parquet gives a Parquet LIST for a column of Python lists,
#            whichever of pandas' two engines writes it, and len() of a value is
#            the number of its elements.
# Seen       engine="pyarrow" writes LIST of strings. engine="fastparquet" writes
#            one byte array per row with the JSON logical type. fastparquet decodes
#            it on reading, so its own round trip looks right; pyarrow returns
#            strings, Polars binary. DuckDB returns a JSON column, on which
#            len(topics) still runs, and counts characters rather than elements: 9
#            and 2 where the LIST file gives 2 and 0.
# Matters    Watch histories and topics are lists. pandas picks the engine by what
#            is installed (pandas 3.1 deprecates this one, but still falls back to
#            it), so an image with another set of packages changes the schema of the
#            logs, and a feature like "length of history" stays a plausible integer
#            (an empty history has length 2). Name the engine, and compare the schema
#            of a file with the one you expect.
# Pointer    object_encoding in the documentation of fastparquet.write ("infer"
#            guesses one of its types, none of which is a list).
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check --only-binary :all: \
    fastparquet==2026.9.0 pandas==3.1.1 pyarrow==26.0.1 polars==2.1.0 duckdb==2.0.1 \
    numpy==2.4.6

cat > "$work/show.py" <<'PY'
import warnings

import duckdb
import fastparquet
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

for module in (fastparquet, pd, pa, pl, duckdb):
    print(module.__name__, module.__version__)

warnings.filterwarnings("ignore", message=".*engine is deprecated")

logs = pd.DataFrame({"user": ["u1", "u2"], "topics": [["x", "y"], []]})
seen = {}
for engine in ("pyarrow", "fastparquet"):
    path = f"{engine}.parquet"
    logs.to_parquet(path, engine=engine)
    leaf = pq.ParquetFile(path).schema.column(1)
    seen[engine] = {
        "Parquet column": f"{leaf.path}, {leaf.physical_type}, {leaf.logical_type}",
        "fastparquet": [list(v) for v in pd.read_parquet(path, engine="fastparquet")["topics"]]
        if engine == "fastparquet" else None,
        "pyarrow": pq.read_table(path)["topics"].to_pylist(),
        "polars": pl.read_parquet(path)["topics"].to_list(),
        "duckdb len(topics)": [
            row[0] for row in duckdb.sql(f"SELECT len(topics) FROM '{path}'").fetchall()
        ],
    }
    print(f"written by {engine}")
    for reader, value in seen[engine].items():
        if value is not None:
            print(f"  {reader}: {value}")

lists = [["x", "y"], []]
good, text = seen["pyarrow"], seen["fastparquet"]
assert good["pyarrow"] == good["polars"] == lists
assert good["duckdb len(topics)"] == [2, 0]

assert text["Parquet column"].startswith("topics, BYTE_ARRAY, JSON"), text
assert text["fastparquet"] == lists
assert text["pyarrow"] == ['["x","y"]', "[]"]
assert text["polars"] == [b'["x","y"]', b"[]"]
assert text["duckdb len(topics)"] == [9, 2]
PY

cd "$work"
"$work/venv/bin/python" "$work/show.py"
echo "as described"
