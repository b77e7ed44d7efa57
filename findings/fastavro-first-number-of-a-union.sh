#!/usr/bin/env bash
# fastavro: an integer goes into the first numeric branch of a union, also a 32-bit float
#
# Packages   fastavro 1.13.1
#
# Expected   A whole number written to the union [null, float, long] is stored as long: of the
#            branches it is the one that holds it exactly.
# Seen       The first branch that a value passes for is taken, and every int passes for float and
#            double. 1764460800123 (milliseconds of a day in 2025) comes back 55 seconds off, as a
#            float; an id above 2^24 comes back as another id. Nothing is raised or warned. With
#            the branches the other way round the value is kept, and a Python float does get the
#            better of float and double, whichever comes first: only whole numbers are taken so.
#            Naming the branch, ("long", value), helps.
# Matters    Schemas of event streams grow unions by appending types. Whether a time or an id
#            survives then depends on the order in which somebody added branches; a reader sees
#            plausible numbers. Check that event ids and times come back as int.
# Pointer    fastavro's documentation on union types; the Avro specification leaves the choice open.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check --only-binary :all: fastavro==1.13.1

cat > "$work/show.py" <<'PY'
import io

import fastavro

print(f"fastavro {fastavro.__version__}")


def through(branches, value):
    schema = {"type": "record", "name": "Event", "fields": [{"name": "v", "type": branches}]}
    buffer = io.BytesIO()
    fastavro.writer(buffer, fastavro.parse_schema(schema), [{"v": value}])
    buffer.seek(0)
    return next(iter(fastavro.reader(buffer)))["v"]


time_ms, identity = 1764460800123, 2**24 + 1
for branches in (["null", "float", "long"], ["null", "long", "float"], ["null", "double", "long"]):
    back = [through(branches, value) for value in (time_ms, identity)]
    print(f"{branches}: {time_ms} -> {back[0]!r}, {identity} -> {back[1]!r}")

off_s = abs(through(["null", "float", "long"], time_ms) - time_ms) / 1000
print(f"the time is {off_s:.0f} s off")
assert off_s > 10
assert through(["null", "float", "long"], identity) == identity - 1.0
assert through(["null", "long", "float"], time_ms) == time_ms
assert isinstance(through(["null", "double", "long"], identity), float)
assert through(["null", "float", "double"], 0.1) == 0.1
assert through(["null", "float", "long"], ("long", time_ms)) == time_ms
PY
"$work/venv/bin/python" "$work/show.py"
echo "as described"
