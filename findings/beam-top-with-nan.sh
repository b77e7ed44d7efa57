#!/usr/bin/env bash
# Beam Top: one NaN score pushes the true best items out of the list
#
# Packages   apache-beam 2.77.0, numpy 2.4.6
#
# Expected   Top.Of(n) and Top.PerKey(n) return the n largest elements. A NaN is
#            refused, or stands first or last; at worst it takes one of n places.
# Seen       Top keeps a heap of n elements, and lets a new one in when it is greater
#            than the least of them. Nothing is greater than NaN: once a NaN has got
#            to the bottom of the heap, that key takes in no further element. Of the
#            scores NaN, 1, 3, 2, 5 the top two are 1 and NaN; the same scores with the
#            NaN last give 5 and 3. So the answer depends on the order of arrival,
#            which Beam does not define, and on how a runner cuts bundles. Pairs of
#            (score, item) behave alike, as Python compares the scores first.
# Matters    The last step of batch scoring is a Top.PerKey over (score, item) for each
#            user. One item with a NaN embedding, scored early, fills the list of
#            every user with whatever came next, and a filter of NaN behind the Top
#            only makes short lists of poor items. Filter the NaN before.
# Pointer    apache_beam.transforms.combiners.TopCombineFn; apache/beam pull request
#            16801 (NaN among the results of nlargest in an example pipeline).
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check --only-binary :all: \
    apache-beam==2.77.0 numpy==2.4.6

cat > "$work/show.py" <<'PY'
import json
import logging
import math
from pathlib import Path

import apache_beam as beam
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

logging.disable(logging.WARNING)
print(f"apache-beam {beam.__version__}")

SEEN = Path("seen.jsonl")


def keep(value):
    with open("seen.jsonl", "a", encoding="ascii") as out:
        out.write(json.dumps(value) + "\n")


def top_of(scores):
    SEEN.write_text("")
    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        (
            pipeline
            | "scores" >> beam.Create(scores, reshuffle=False)
            | "top" >> beam.combiners.Top.Of(2)
            | "keep" >> beam.Map(keep)
        )
    return json.loads(SEEN.read_text())


def top_per_user(scored):
    SEEN.write_text("")
    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        (
            pipeline
            | "scored" >> beam.Create(scored, reshuffle=False)
            | "top" >> beam.combiners.Top.PerKey(2)
            | "keep" >> beam.Map(keep)
        )
    return dict(json.loads(line) for line in SEEN.read_text().splitlines())


nan = float("nan")
early, late = [nan, 1.0, 3.0, 2.0, 5.0], [1.0, 3.0, 2.0, 5.0, nan]
for scores in (early, late):
    print(f"Top.Of(2) of {scores}: {top_of(scores)}")
found = top_of(early)
assert 1.0 in found and 5.0 not in found and any(map(math.isnan, found)), found
assert top_of(late) == [5.0, 3.0]

catalogue = [(nan, "broken"), (0.1, "poor"), (0.8, "good"), (0.9, "best")]
lists = top_per_user([(user, pair) for user in ("u1", "u2") for pair in catalogue])
clean = top_per_user([(user, pair) for user in ("u1", "u2") for pair in catalogue[1:]])
for user in ("u1", "u2"):
    names, right = {item for _, item in lists[user]}, {item for _, item in clean[user]}
    print(f"Top.PerKey(2) for {user}: {sorted(names)}, without the NaN item {sorted(right)}")
    assert names == {"broken", "poor"} and right == {"good", "best"}, (names, right)
PY

cd "$work"
"$work/venv/bin/python" "$work/show.py" 2> "$work/log" || { cat "$work/log" >&2; exit 1; }
echo "as described"
