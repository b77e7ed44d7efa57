#!/usr/bin/env bash
# Beam ReadFromParquet(as_rows=True): columns change names if two files order them differently
#
# Packages   apache-beam 2.77.0, pyarrow 25.0.1, numpy 2.4.6
#
# Expected   Parquet columns have names, and readers of a directory match them by name
#            (pyarrow does, and so does ReadFromParquet without as_rows). A reader that
#            cannot do so reports that the schemas differ.
# Seen       With as_rows=True the fields are named after one file of the pattern, the
#            first that the file system lists, and the values of every other file are
#            put into them by position. A file written as (impressions, clicks) beside
#            one written as (clicks, impressions) yields rows in which the two numbers
#            have changed places, without a warning; files that differ in the number of
#            columns do raise. Which file is read rightly depends on the listing.
# Matters    Column order is an accident of the writer: another job, a backfill or a
#            SELECT typed anew changes it within one log directory, and counters are
#            all int64. 3 clicks on 100 impressions become 100 clicks on 3, in a part
#            of the data. Read as dicts (the default of the transform), or compare the
#            schemas of all files before the pipeline starts.
# Pointer    The docstring of ReadFromParquet documents as_rows without this condition;
#            _ArrowTableToBeamRows in apache_beam/io/parquetio.py.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check --only-binary :all: \
    apache-beam==2.77.0 pyarrow==25.0.1 numpy==2.4.6

cat > "$work/show.py" <<'PY'
import json
import logging
from operator import attrgetter, itemgetter
from pathlib import Path

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam.io.parquetio import ReadFromParquet
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

logging.disable(logging.WARNING)
print(f"apache-beam {beam.__version__}, pyarrow {pa.__version__}")

Path("logs").mkdir()
pq.write_table(pa.table({"impressions": [100], "clicks": [3]}), "logs/first.parquet")
pq.write_table(pa.table({"clicks": [5], "impressions": [200]}), "logs/second.parquet")

SEEN = Path("seen.jsonl")


def keep(pair):
    with open("seen.jsonl", "a", encoding="ascii") as out:
        out.write(json.dumps(pair) + "\n")


def read(as_rows):
    SEEN.write_text("")
    pick = (attrgetter if as_rows else itemgetter)("impressions", "clicks")
    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        (
            pipeline
            | "read" >> ReadFromParquet("logs/*.parquet", as_rows=as_rows)
            | "pick" >> beam.Map(pick)
            | "keep" >> beam.Map(keep)
        )
    return sorted(tuple(json.loads(line)) for line in SEEN.read_text().splitlines())


table = pq.read_table("logs")
by_arrow = sorted(zip(table["impressions"].to_pylist(), table["clicks"].to_pylist()))
by_dict, by_row = read(as_rows=False), read(as_rows=True)
print("(impressions, clicks)")
print(f"  pyarrow            {by_arrow}")
print(f"  beam, as dicts     {by_dict}")
print(f"  beam, as_rows=True {by_row}")
true = [(100, 3), (200, 5)]
assert by_arrow == by_dict == true, (by_arrow, by_dict)
# the file that is listed first is right, the other one is exchanged
assert by_row in ([(3, 100), (200, 5)], [(5, 200), (100, 3)]), by_row
PY

cd "$work"
"$work/venv/bin/python" "$work/show.py" 2> "$work/log" || { cat "$work/log" >&2; exit 1; }
echo "as described"
