#!/usr/bin/env bash
# ir_measures: RR@10 of a run is above its RR, as a cutoff changes the library behind the measure
#
# Packages   ir_measures 0.4.3, pytrec-eval-terrier 0.5.11, numpy 2.4.6
#
# Expected   The reciprocal rank cut at ten is at most the reciprocal rank: the cut can only remove
#            a hit. Measures of one call stand for one ranking.
# Seen       RR is computed by pytrec_eval, which sorts by float32 scores and breaks ties by the
#            name of the item, from z to a. RR@10 is no measure of pytrec_eval, and goes to
#            the msmarco provider, which sorts by the full score and leaves ties in the order of the
#            run. A list with equal scores has RR .1 and RR@10 1, in one call; nDCG@10 and AP go
#            with the former. Scores that differ only beyond float32 do the same.
# Matters    MRR@10 beside nDCG@10 is the usual table of a retrieval paper. Models with quantised
#            or popularity scores, rerankers that clamp, "newest first" lists: RR@10 looks at the
#            order in which the run was written, which often has the positive first, and the
#            columns of a table no longer describe one model. Give ranks as scores (-1, -2, ...)
#            before evaluating.
# Pointer    terrierteam/ir_measures issue 18 on ties among providers, open since 2021;
#            measures.RR of its documentation lists providers by parameter.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check --only-binary :all: \
    ir_measures==0.4.3 pytrec-eval-terrier==0.5.11 numpy==2.4.6

cat > "$work/show.py" <<'PY'
from importlib.metadata import version

import ir_measures
from ir_measures import AP, RR, Qrel, ScoredDoc, nDCG

for name in ("ir_measures", "pytrec-eval-terrier"):
    print(name, version(name))
MEASURES = [RR, RR @ 10, AP, nDCG @ 10]


def values(name, scores, positive):
    run = [ScoredDoc("user", item, score) for item, score in scores.items()]
    found = ir_measures.calc_aggregate(MEASURES, [Qrel("user", positive, 1)], run)
    print(f"{name}: " + ", ".join(f"{measure} {found[measure]:.3f}" for measure in MEASURES))
    return [round(found[measure], 6) for measure in MEASURES]


items = "abcdefghij"
rr, rr_10, ap, ndcg = values("distinct", {i: -r for r, i in enumerate(items)}, "c")
assert rr == rr_10 == ap == round(1 / 3, 6)

rr, rr_10, ap, ndcg = values("all equal, positive first", dict.fromkeys(items, 1.0), "a")
assert (rr, rr_10, ap) == (0.1, 1.0, 0.1) and ndcg < 0.3
rr, rr_10, ap, ndcg = values("all equal, positive last", dict.fromkeys(items, 1.0), "j")
assert (rr, rr_10, ap, ndcg) == (1.0, 0.1, 1.0, 1.0)

# upload times in seconds, newest first: float32 counts in steps of 128 there
newest = {item: 1_780_000_000.0 - rank for rank, item in enumerate(items)}
rr, rr_10, ap, ndcg = values("newest first", newest, "a")
assert rr_10 == 1.0 and rr == ap == 0.1, (rr, rr_10)
ranks = {item: -float(rank) for rank, item in enumerate(sorted(newest, key=newest.get)[::-1])}
rr, rr_10, ap, ndcg = values("newest first, as ranks", ranks, "a")
assert rr == rr_10 == ap == ndcg == 1.0
PY
"$work/venv/bin/python" "$work/show.py"
echo "as described"
