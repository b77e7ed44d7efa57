#!/usr/bin/env bash
# Frouros PSI: one value in an otherwise empty bin is worth .78, and the same data drift from itself
#
# Packages   frouros 0.9.0, numpy 2.1.3, scipy 1.14.1
#
# Expected   The population stability index of two samples of one distribution is near 0 (above .25
#            one speaks of a major change), and one value among 901 has little weight in it.
# Seen       A bin that is empty in one of the samples gets the smallest float, 2.2e-308, as its
#            share, where Evidently as a rule puts 1e-4: ln(share / 2.2e-308) is about 700, so a
#            single case there counts 700/n. One of 901 gives .78, and .0024 with 1e-4. The bins
#            have equal widths up to the largest value of both samples, so that long tails leave
#            most of them empty: two halves of one lognormal sample of 2,000 have a PSI of 3.5,
#            while a real shift of a normal by a third of its deviation has .11.
# Matters    Watch times, counts and prices have long tails. The index then tells in which of the
#            samples the largest value lies, warns of drift where there is none, and changes with
#            the sample size by 700/n: a threshold cannot be carried over from other tools. Clip at
#            a quantile of the reference before, or use its JS or KS on the same data.
# Pointer    The docstring of PSI in frouros.detectors.data_drift.batch has no word of empty bins; a
#            comment in _psi has.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check --only-binary :all: --no-compile \
    frouros==0.9.0 numpy==2.1.3 scipy==1.14.1

cat > "$work/show.py" <<'PY'
from importlib.metadata import version
from math import log
from sys import float_info

import numpy as np
from frouros.detectors.data_drift.batch import JS, KSTest, PSI

print(f"frouros {version('frouros')}, numpy {version('numpy')}")


def index(reference, sample):
    detector = PSI()  # ten bins
    detector.fit(X=reference)
    return float(detector.compare(X=sample)[0].distance)


common = np.repeat(np.arange(9) + 0.5, 100)
reference, sample = np.append(common, 9.5), np.append(common, 8.5)
share = 1 / 901
by_hand = share * log(share / float_info.min) + share * log(101 / 100)
usual = (share - 1e-4) * log(share / 1e-4) + share * log(101 / 100)
got = index(reference, sample)
test = KSTest()
test.fit(X=reference)
p_value = test.compare(X=sample)[0].p_value
print(f"one of 901 in another bin: PSI {got:.4f}, with 1e-4 {usual:.4f}, KS p-value {p_value:.2f}")
assert abs(got - by_hand) < 1e-9 and got > 0.75 and usual < 0.003 and p_value > 0.99

values = np.random.default_rng(0).lognormal(size=2000)
got = index(values[:1000], values[1000:])
distance = JS()
distance.fit(X=values[:1000])
js = float(distance.compare(X=values[1000:])[0].distance)
print(f"two halves of a lognormal sample: PSI {got:.2f}, JS {js:.3f}")
assert got > 2 and js < 0.1

values = np.random.default_rng(0).normal(size=200_000)
got = index(values[:100_000], np.clip(values[100_000:] + 1 / 3, values.min(), values.max()))
print(f"a normal that moved by a third of its deviation: PSI {got:.2f}")
assert 0.05 < got < 0.25
PY
"$work/venv/bin/python" "$work/show.py" 2> "$work/log" || { cat "$work/log" >&2; exit 1; }
echo "as described"
