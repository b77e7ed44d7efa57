#!/usr/bin/env bash
# TensorFlow: imported first, it decides which SQLite Python's sqlite3 module talks to
#
# Packages   tensorflow 2.21.0
#
# Expected   import sqlite3 uses the SQLite library that this Python was built or shipped with,
#            whatever was imported before it.
# Seen       TensorFlow's shared libraries hold a copy of SQLite of their own and export its
#            functions. Where tensorflow is imported before sqlite3, the sqlite3 module is bound
#            to that copy: another version, and built without full-text search (no fts5 module).
#            Where sqlite3 comes first it keeps its own library, also after TensorFlow is there.
# Matters    A service that keeps its data in SQLite and serves a model changes its database
#            engine with the order of two import lines, which a formatter may sort. Queries that
#            need FTS5 fail in one process and work in the next, and a newer file feature may be
#            there or not. Import sqlite3 before TensorFlow, and log sqlite3.sqlite_version.
# Pointer    CPython loads extension modules with their symbols bound at once, against what is
#            already global in the process.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check tensorflow==2.21.0

cat > "$work/show.py" <<'PY'
import importlib
import sys

for name in sys.argv[1:]:
    importlib.import_module(name)
import sqlite3

database = sqlite3.connect(":memory:")
options = {row[0] for row in database.execute("pragma compile_options")}
print(database.execute("select sqlite_version()").fetchone()[0], "ENABLE_FTS5" in options)
PY

say() { TF_CPP_MIN_LOG_LEVEL=3 "$work/venv/bin/python" "$work/show.py" "$@" 2> /dev/null; }
alone=$(say)
first=$(say sqlite3 tensorflow)
second=$(say tensorflow sqlite3)
"$work/venv/bin/pip" list 2> /dev/null | grep -i '^tensorflow '
echo "version of SQLite, and whether it was built with FTS5:"
echo "    sqlite3 alone            $alone"
echo "    sqlite3, then tensorflow $first"
echo "    tensorflow, then sqlite3 $second"
[ "$alone" = "$first" ]
[ "$alone" != "$second" ]
[ "${second#* }" = False ]
echo "as described"
