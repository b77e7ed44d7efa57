#!/usr/bin/env bash
# DuckDB's CSV sniffer: one line with a field too few changes the columns, or drops the lines above
#
# Packages   duckdb 2.0.1
#
# Expected   A line of a CSV file that has fewer or more fields than the header is an
#            error that names the line, as strict_mode=true promises, or is set aside
#            by ignore_errors; the other lines come as they are. The same for a file
#            that was cut in the middle of a quoted value.
# Seen       read_csv looks for a dialect under which every line has the same number
#            of fields, and finds one. A single short line among a thousand makes the
#            whole file one column named "user,item,seconds", of 1001 rows. In a small
#            file whose last line is longer, the lines above it, header included, are
#            taken for a preamble, and one row is left of four. A file that ends inside
#            of a quoted value gives its last row, with the opening quote as a part of
#            the text. Nothing is said in any of the three.
# Matters    Exports are cut by full disks and time-outs, and appended by hand. A COPY
#            into Parquet succeeds, and what is missing is noticed by whoever counts.
#            With auto_detect=false, and names, delim, quote and header given, each of
#            the three is an error with the number of the line.
# Pointer    The sniffer in DuckDB's documentation on reading CSV; auto_detect,
#            strict_mode, null_padding and ignore_errors there.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check --only-binary :all: \
    duckdb==2.0.1

cat > "$work/show.py" <<'PY'
import pathlib

import duckdb

print("duckdb", duckdb.__version__)
HEADER = "user,item,seconds"
WATCHES = [f"u{n},i{n},{n}" for n in range(1000)]
FILES = {
    "whole": [HEADER, *WATCHES],
    "one line too short": [HEADER, *WATCHES[:500], "u,i", *WATCHES[500:]],
    "last line too long": ["a,b", "1,x", "2,z", "3", "4,5,6,7"],
    "cut in a quoted value": ["user,item,title", '1,2,"a title that'],
}
NAMED = (
    "auto_detect=false, header=true, delim=',', quote='\"', escape='\"', "
    "columns={'a': 'VARCHAR', 'b': 'VARCHAR'%s}"
)


def read(name, options=""):
    text = "\n".join(FILES[name]) + ("" if "cut" in name else "\n")
    pathlib.Path("file.csv").write_text(text)
    found = duckdb.connect().sql(f"FROM read_csv('file.csv'{options})")
    return found.columns, found.fetchall()


sniffed = {name: read(name) for name in FILES}
for name, (columns, rows) in sniffed.items():
    lines = len(FILES[name]) - 1
    print(f"{name}: {lines} lines under the header; columns {columns}, {len(rows)} rows")
print("  its only row:", sniffed["last line too long"][1])
print("  its row:", sniffed["cut in a quoted value"][1])

assert sniffed["whole"][0] == ["user", "item", "seconds"]
assert sniffed["one line too short"][0] == [HEADER], sniffed["one line too short"][0]
assert len(sniffed["one line too short"][1]) == 1001
assert [tuple(map(str, row)) for row in sniffed["last line too long"][1]] == [("4", "5", "6", "7")]
assert sniffed["cut in a quoted value"][1][0][2] == '"a title that'

for name in list(FILES)[1:]:
    more = "" if name == "last line too long" else ", 'c': 'VARCHAR'"
    try:
        read(name, ", " + NAMED % more)
    except duckdb.Error as error:
        print(f"{name}, columns named: {str(error).splitlines()[0]}")
    else:
        raise AssertionError(f"{name} was read")
PY

cd "$work"
"$work/venv/bin/python" "$work/show.py"
echo "as described"
