#!/usr/bin/env bash
# DDSketch counts NaN as 0, so that quantiles of what was measured move down
#
# Packages   ddsketch 3.0.1, datasketches 5.2.0 and crick 0.0.8 (for contrast), numpy 2.4.6
#
# Expected   A NaN is refused, or left out as in the KLL sketch of datasketches and the t-digest of
#            crick: quantiles, of which this one promises a relative error of a percent, are those
#            of the numbers.
# Seen       add() sorts values into positive, negative and the rest, which is counted as zero. NaN
#            is neither greater nor smaller than a bound, so it is a zero. Of 40 values 10.0 and 60
#            NaN the median is 0; of 90 and 10, the fifth percentile is; the count is 100. The sum
#            becomes NaN, for good and through each merge, while quantiles stay plausible.
# Matters    Watch times, bit rates and latencies are NaN where a player or a probe gave nothing. A
#            median watch time then falls with the share of missing reports, not with how long
#            people watch, and a p50 latency improves when the measurement fails. Sketches are
#            merged and stored, and the raw values are gone. Test with x == x before add(), and
#            watch sum for NaN.
# Pointer    BaseDDSketch.add in ddsketch/ddsketch.py; the documentation does not mention NaN.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check --only-binary :all: --no-compile \
    ddsketch==3.0.1 datasketches==5.2.0 crick==0.0.8 numpy==2.4.6

cat > "$work/show.py" <<'PY'
from importlib.metadata import version
from math import isnan, nan

import crick
import datasketches
import numpy as np
from ddsketch import DDSketch

print(*(f"{name} {version(name)}" for name in ("ddsketch", "datasketches", "crick")))


def quantiles(values, q):
    """The quantile by DDSketch, KLL and t-digest, and the number of values that each has seen."""
    sketch, kll, digest = DDSketch(), datasketches.kll_doubles_sketch(), crick.TDigest()
    for value in values:
        sketch.add(value)
        kll.update(value)
    digest.update(np.array(values))
    found = [sketch.get_quantile_value(q), kll.get_quantile(q), float(digest.quantile(q))]
    counts = [sketch.count, kll.n, int(digest.size())]
    print(f"{sum(v == v for v in values)} numbers, {sum(v != v for v in values)} NaN, q={q}:",
          f"{[round(v, 2) for v in found]} of {counts} values, DDSketch's sum {sketch.sum}")
    assert isnan(sketch.sum) == any(v != v for v in values)
    return found, counts


def near(value):
    return abs(value - 10) <= 0.1


found, counts = quantiles([10.0] * 40, 0.5)
assert all(map(near, found)) and counts == [40, 40, 40]
found, counts = quantiles([10.0] * 40 + [nan] * 60, 0.5)
assert found[0] == 0 and all(map(near, found[1:])) and counts == [100, 40, 40]
found, counts = quantiles([10.0] * 90 + [nan] * 10, 0.05)
assert found[0] == 0 and all(map(near, found[1:])) and counts == [100, 90, 90]

whole, part = DDSketch(), DDSketch()
whole.add(10.0)
part.add(nan)
whole.merge(part)
assert isnan(whole.sum) and whole.count == 2 and whole.get_quantile_value(0) == 0
PY
"$work/venv/bin/python" "$work/show.py" 2> "$work/log" || { cat "$work/log" >&2; exit 1; }
echo "as described"
