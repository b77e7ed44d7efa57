#!/usr/bin/env bash
# pytrec_eval sorts by float32 scores: a "newest first" list is ranked by item name
#
# Packages   pytrec_eval-terrier 0.5.11, numpy 2.4.6
#
# Expected   The evaluator takes scores as Python floats (64 bits). Distinct scores
#            make one clear order, and what an item is called cannot change its rank.
# Seen       trec_eval's C code, which the package wraps, holds a score in 32 bits.
#            Scores that differ in 64 bits but not in 32 become ties, and ties are
#            ranked by document name, last in the alphabet first; neither the order
#            of the dict nor the true scores matter. Epoch seconds lie in steps of
#            128 in float32: for videos published one second apart the newest one
#            has reciprocal rank 1.0 if it is called "z" and 1/20 if it is called
#            "a". Two model scores that differ in the ninth digit behave alike.
# Matters    Recency and popularity are the baselines that each recommender is held
#            against, and their natural scores (timestamps, long counts) are large
#            numbers. With ids that grow over time the recency baseline is flattered,
#            with hashed ids it is shuffled. Send ranks (for instance minus the
#            position) rather than raw scores.
# Pointer    usnistgov/trec_eval issues 34 (float type) and 22 (ties by docno).
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check --only-binary :all: \
    pytrec_eval-terrier==0.5.11 numpy==2.4.6

cat > "$work/show.py" <<'PY'
from importlib.metadata import version

import numpy as np
import pytrec_eval

print(f"pytrec_eval-terrier {version('pytrec_eval-terrier')}")


def reciprocal_rank(run, relevant):
    evaluator = pytrec_eval.RelevanceEvaluator({"user": {relevant: 1}}, {"recip_rank"})
    return evaluator.evaluate({"user": run})["user"]["recip_rank"]


first = 1_700_000_000  # seconds since 1970
step = float(np.spacing(np.float32(first)))
print(f"float32 near {first} moves in steps of {step:.0f} s")
assert step == 128.0

older = {f"m{i:02d}": float(first + i) for i in range(19)}
assert len(set(older.values())) == 19
for name, expected in (("z", 1.0), ("a", 1 / 20)):
    run = {name: float(first + 19), **older}
    assert max(run, key=run.get) == name  # the one clear best in 64 bits
    got = reciprocal_rank(run, name)
    print(f"newest of 20 videos called {name!r}: reciprocal rank {got:.2f}")
    assert abs(got - expected) < 1e-6, got

shifted = {"a": 19.0, **{k: v - first for k, v in older.items()}}
got = reciprocal_rank(shifted, "a")
print(f"same order, scores less the first timestamp, called 'a': {got:.2f}")
assert got == 1.0, got

close = {"a": 0.123456789, "b": 0.123456788}
got = reciprocal_rank(close, "a")
print(f"scores {close}: reciprocal rank of 'a' {got:.2f}")
assert close["a"] > close["b"] and got == 0.5, got
PY

"$work/venv/bin/python" "$work/show.py"
echo "as described"
