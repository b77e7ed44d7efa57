#!/usr/bin/env bash
# statsmodels: a metric that could not be tested comes back as significant, if all the others are
#
# Packages   statsmodels 0.15.0, scipy 1.17.1, numpy 2.4.6, pandas 3.1.1
#
# Expected   A p-value of NaN, from a test that had nothing to go by, is refused, as in SciPy's
#            false_discovery_control, or is not rejected, and the other hypotheses are judged as
#            without it, or as if one more had been tested, consistently.
# Seen       multipletests, by its default (Holm-Sidak) and by Holm, marks NaN as rejected whenever
#            all p-values that are numbers are rejected, and if there are only NaN. One p-value
#            above the threshold, and the NaN is not rejected. Bonferroni, Sidak and the false
#            discovery rate never reject it. It counts as a test all the same: p = .03, significant
#            beside .001, is not so once a NaN stands with them. No warning.
# Matters    An experiment that reports twenty metrics has some without an event in either arm, and
#            reject is what the report reads: "significant" stands at the metric that nobody
#            produced, on just the days when the change works. Take NaN out before the call.
# Pointer    multipletests sorts NaN behind all numbers, and NaN > threshold is false; issue 2899 of
#            statsmodels is about corrected p-values that all turn NaN with the false discovery
#            rate, which can be seen.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check --only-binary :all: --no-compile \
    statsmodels==0.15.0 scipy==1.17.1 numpy==2.4.6 pandas==3.1.1

cat > "$work/show.py" <<'PY'
import warnings

import numpy as np
import scipy
import statsmodels
from scipy.stats import false_discovery_control
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportions_ztest

print(f"statsmodels {statsmodels.__version__}, scipy {scipy.__version__}, numpy {np.__version__}")
VIEWERS = [1000, 1000]
CLICKS, SHARES, PURCHASES = [200, 300], [150, 220], [0, 0]
with np.errstate(invalid="ignore"):
    clicks, shares, purchases = (
        float(proportions_ztest(counts, VIEWERS)[1]) for counts in (CLICKS, SHARES, PURCHASES)
    )
print(f"p-values: clicks {clicks:.1e}, shares {shares:.1e}, purchases {purchases}")
assert clicks < 1e-3 and shares < 1e-3 and np.isnan(purchases)
warnings.simplefilter("error")


def rejected(p_values, **method):
    answer = multipletests(p_values, alpha=0.05, **method)[0].tolist()
    print(f"{method.get('method', 'default'):14} {[float(f'{p:.1e}') for p in p_values]} {answer}")
    return answer


for method in ({}, {"method": "holm-sidak"}, {"method": "holm"}):
    assert rejected([clicks, purchases, shares], **method) == [True, True, True]
    assert rejected([clicks, purchases, 0.9], **method) == [True, False, False]
    assert rejected([purchases, purchases], **method) == [True, True]
    assert rejected([0.001, 0.03], **method) == [True, True]
    assert rejected([0.001, 0.03, purchases], **method) == [True, False, False]
for name in ("bonferroni", "sidak", "fdr_bh", "fdr_by"):
    assert rejected([clicks, purchases, shares], method=name) == [True, False, True]
try:
    false_discovery_control([clicks, purchases, shares])
except ValueError as error:
    print(f"scipy: {error}")
else:
    raise AssertionError("SciPy took the NaN")
PY
"$work/venv/bin/python" "$work/show.py" 2> "$work/log" || { cat "$work/log" >&2; exit 1; }
echo "as described"
