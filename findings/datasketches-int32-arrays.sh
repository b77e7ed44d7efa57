#!/usr/bin/env bash
# datasketches quantile sketches: one number too large is refused, an array of them wraps
#
# Packages   datasketches 5.2.0, numpy 2.4.6
#
# Expected   update(x) and update(array of x) are the same operation, the second
#            one faster. The *_ints_sketch classes hold 32-bit integers, so a value
#            that does not fit is an error in both.
# Seen       update(1780000000000) raises TypeError, but update(int64 array that
#            holds this number) is accepted: the binding converts the array to
#            int32 and keeps the low 32 bits of each value, without a warning. The
#            same call truncates a float64 array (0.9 becomes 0), though
#            update(0.9) is refused. n, the quantiles and the error bounds all look
#            sound. KLL, REQ and the classic quantiles sketch agree in this.
# Matters    The vector form is the one that feature pipelines use, on epoch
#            milliseconds, 64-bit ids or watch fractions. The sketch is then merged
#            and stored for bucket boundaries, where nothing can tell that its
#            values are residues: later events can sort before earlier ones, and all
#            fractions below one fall in a single bucket. Use a *_doubles_sketch
#            (exact up to 2^53), and check min and max against the data.
# Pointer    The update overloads in help(kll_ints_sketch): int, and ndarray of int32.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check --only-binary :all: \
    datasketches==5.2.0 numpy==2.4.6

cat > "$work/show.py" <<'PY'
from importlib.metadata import version

import datasketches as ds
import numpy as np

print(f"datasketches {version('datasketches')}, numpy {np.__version__}")

MAKE = {
    "kll": lambda kind: getattr(ds, f"kll_{kind}_sketch")(200),
    "req": lambda kind: getattr(ds, f"req_{kind}_sketch")(12),
    "quantiles": lambda kind: getattr(ds, f"quantiles_{kind}_sketch")(128),
}


def refuses(sketch, value):
    try:
        sketch.update(value)
    except TypeError:
        return True
    return False


# two events, an hour apart, on either side of a multiple of 2^32 milliseconds
edge = 414 * 2**32
earlier, later = edge - 1_800_000, edge + 1_800_000
events = np.array([earlier, later], dtype=np.int64)
residues = sorted(int(v) - 2**32 if v >= 2**31 else int(v) for v in events % 2**32)

for name, make in MAKE.items():
    sketch = make("ints")
    assert refuses(sketch, later), "a single value was taken"
    assert sketch.is_empty()
    sketch.update(events)
    low, high = sketch.get_min_value(), sketch.get_max_value()
    print(f"{name}_ints: one value TypeError; array of {events.tolist()}")
    print(f"    accepted, n {sketch.n}, min {low}, max {high}")
    assert sketch.n == 2 and [low, high] == residues, (low, high)

# the order of time is lost as well: the event thirty days later sorts first
jump = np.array([edge, edge + 30 * 86_400_000], dtype=np.int64)
sketch = MAKE["kll"]("ints")
sketch.update(jump)
print(f"kll_ints: rank of the value kept for the later event is "
      f"{sketch.get_rank(int(jump[1].astype(np.int32)), True)}, of the earlier "
      f"{sketch.get_rank(0, True)}")
assert sketch.get_min_value() < 0 and sketch.get_max_value() == 0
assert sketch.get_rank(0, True) == 1.0

fractions = np.linspace(0.0, 0.99, 100)
sketch = MAKE["kll"]("ints")
assert refuses(sketch, 0.9), "a single fraction was taken"
sketch.update(fractions)
print(f"kll_ints: array of fractions 0.00..0.99 accepted, median "
      f"{sketch.get_quantile(0.5)}, max {sketch.get_max_value()}")
assert sketch.n == 100 and sketch.get_max_value() == 0

sketch = MAKE["kll"]("doubles")
sketch.update(events)
print(f"kll_doubles: min {sketch.get_min_value():.0f}, max {sketch.get_max_value():.0f}")
assert (sketch.get_min_value(), sketch.get_max_value()) == (earlier, later)
PY

"$work/venv/bin/python" "$work/show.py"
echo "as described"
