#!/usr/bin/env bash
# RePlay's TimeSplitter: pandas splits between two times, Polars in the middle of one
#
# Packages   replay-rec 0.22.0, pandas 2.3.3, polars 1.44.2, pyarrow 23.0.1, numpy 2.4.6,
#            scikit-learn 1.8.0
#
# Expected   TimeSplitter(0.2) gives the same train and test rows for the same interactions, whether
#            they come as pandas or Polars, and nothing in train is as late as the first test row.
# Seen       pandas (and, by its source, Spark) looks up the time at the 80th percent of the rows
#            and puts every row from that time on into test. Polars counts rows: of those that share
#            that time some go to train and some to test, by the order in which they stand in the
#            frame. Ten rows with three distinct times: 3 and 7 rows in pandas, 8 and 2 in Polars.
#            The same Polars rows in another order give another split. A datetime or an integer as
#            threshold splits alike in both.
# Matters    Times in logs of interactions have a resolution of a second, public data sets often
#            that of a day, so one time holds many rows. Moving an experiment from pandas to Polars
#            for its speed changes the test set, its size and each metric, and lets a model
#            train on what other users did at the very moment of the test. Compute the time yourself
#            and pass it.
# Pointer    The documentation of TimeSplitter says of a float that it splits by ratio.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check --only-binary :all: --no-compile \
    replay-rec==0.22.0 pandas==2.3.3 polars==1.44.2 pyarrow==23.0.1 numpy==2.4.6 \
    scikit-learn==1.8.0

cat > "$work/show.py" <<'PY'
from importlib.metadata import version

import pandas as pd
import polars as pl
from replay.splitters import TimeSplitter

print(*(f"{name} {version(name)}" for name in ("replay-rec", "pandas", "polars")))
times = [10, 10, 10, 20, 20, 20, 20, 20, 20, 30]
rows = pd.DataFrame({"query_id": range(10), "item_id": 1, "timestamp": times})


def split(threshold, frame):
    """The users of train and of test, and the times that occur in both."""
    train, test = TimeSplitter(threshold).split(frame)
    users = [sorted(part["query_id"].to_list()) for part in (train, test)]
    shared = sorted(set(train["timestamp"].to_list()) & set(test["timestamp"].to_list()))
    print(f"{threshold!s:4} {type(frame).__module__.split('.')[0]:6} train {users[0]},"
          f" test {users[1]}, times in both {shared}")
    return users, shared


by_time = [[0, 1, 2], [3, 4, 5, 6, 7, 8, 9]]
assert split(0.2, rows) == (by_time, [])
assert split(0.2, pl.from_pandas(rows)) == ([[0, 1, 2, 3, 4, 5, 6, 7], [8, 9]], [20])
turned = rows.iloc[::-1].reset_index(drop=True)
assert split(0.2, turned) == (by_time, [])
(train, test), shared = split(0.2, pl.from_pandas(turned))
assert (len(train), len(test), shared) == (8, 2, [20]) and test != [8, 9]
assert split(20, rows) == split(20, pl.from_pandas(rows)) == (by_time, [])
PY
"$work/venv/bin/python" "$work/show.py" 2> "$work/log" || { cat "$work/log" >&2; exit 1; }
echo "as described"
