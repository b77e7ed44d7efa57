#!/usr/bin/env bash
# pyarrow's join_asof: where equal times cross a chunk boundary, two runs give different rows
#
# Packages   pyarrow 26.0.1, polars 2.1.0, pandas 3.1.1
#
# Expected   If several rows on the right have the same key and time, a backward as-of join takes
#            the last of them, as pandas and Polars do, or at least the same one each time.
# Seen       The tables are the same objects, and the answer changes between two calls: where tied
#            rows lie in two chunks of the right table, the join takes the last of the first chunk
#            or the last of all, by whether the next chunk has reached it yet. With all rows in one
#            chunk, or with times that are unique, every call agrees with pandas.
# Matters    Several events of a user in the same second are the rule, and a table has the chunks
#            of the row groups, files or batches it came from. A few rows in ten thousand change
#            from run to run, so a training set cannot be made twice, and a comparison of two
#            pipelines finds differences that nobody made. Aggregate rows of equal time first (or
#            join with Polars); combine_chunks() helps only as long as the table fits into one of
#            the batches of the engine.
# Pointer    Table.join_asof in pyarrow's documentation; it asks for sorted input, and says
#            nothing of equal times.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check --only-binary :all: \
    pyarrow==26.0.1 polars==2.1.0 pandas==3.1.1

cat > "$work/show.py" <<'PY'
import warnings

import pandas as pd
import polars as pl
import pyarrow as pa

for module in (pa, pl, pd):
    print(module.__name__, module.__version__)
warnings.filterwarnings("ignore", message="Sortedness")

COUNT, SIZE = 20_000, 1_001


def tables(ties, size):
    """Events of one user, as many with one time as there are ties, and the times to ask for."""
    right = pa.table({
        "user": [7] * COUNT,
        "time": [event // ties for event in range(COUNT)],
        "event": list(range(COUNT)),
    })
    left = pa.table({"user": [7] * (COUNT // ties), "time": list(range(COUNT // ties))})
    return left, pa.concat_tables([right.slice(start, size) for start in range(0, COUNT, size)])


def answers(ties, size, calls):
    """The answers of so many calls, or of fewer if there are two; each once."""
    left, right = tables(ties, size)
    truth = [ties * time + ties - 1 for time in range(COUNT // ties)]
    merged = pd.merge_asof(left.to_pandas(), right.to_pandas(), on="time", by="user")
    assert merged["event"].tolist() == truth
    polars = pl.from_arrow(left).join_asof(pl.from_arrow(right), on="time", by="user")
    assert polars["event"].to_list() == truth
    different = set()
    for _ in range(calls):
        events = left.join_asof(right, on="time", by=["user"], tolerance=-1)["event"].to_pylist()
        assert len(events) == len(truth)
        different.add(tuple((t, e) for t, e in enumerate(events) if e != truth[t]))
        if len(different) > 1:
            break
    print(f"{ties} event(s) a second, chunks of {size}: {len(different)} answer(s)")
    return different


assert answers(ties=1, size=SIZE, calls=50) == {()}
assert answers(ties=4, size=COUNT, calls=50) == {()}
two = answers(ties=4, size=SIZE, calls=1000)
for wrong in two:
    print(f"    {len(wrong)} rows are not the last of their second; (second, event): {wrong[:4]}")
assert len(two) == 2
for time, event in {row for wrong in two for row in wrong}:
    assert event // 4 == time and (event + 1) % SIZE == 0, "not the end of a chunk"
PY
"$work/venv/bin/python" "$work/show.py"
echo "as described"
