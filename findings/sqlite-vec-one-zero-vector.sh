#!/usr/bin/env bash
# sqlite-vec, cosine: one vector of zeros hides true neighbours of every query, by its place
#
# Packages   sqlite-vec 0.1.9, apsw 3.54.1.0 (for its SQLite, which loads extensions), numpy 2.4.6
#
# Expected   A vector of zeros has no angle to any other. It is refused, left out of the answer, or
#            comes last; the nearest of the other vectors are found as without it (the search of a
#            vec0 table is exact), wherever in the table it stands.
# Seen       Its distance is NaN (shown as NULL), to which no number compares as smaller. The table
#            is searched in chunks of 1,024 rows whose lists of the k best are merged, and a NaN in
#            the first row of a chunk upsets both. 3,000 random vectors, k=10: with zeros in row 1 a
#            third of the true neighbours are missing, in row 1,025 two thirds, though the zero
#            vector itself is in no answer; in row 2,049, of the last chunk, it is in every answer,
#            at its head; in the last row, or the 600th, nothing happens. There is no error, and the
#            distances of what is returned are right.
# Matters    Zeros are what a pipeline writes for a video without an embedding yet, and ids of the
#            seed catalogue come first. Recall falls for all users by one row, and a test on a small
#            table, or a rebuild in another order, does not show it. Leave such rows out when
#            inserting, or normalise the others and use L2, by which zeros have a distance of 1.
# Pointer    vlasky/sqlite-vec issue 8 (of a fork, which refuses such vectors since) speaks of the
#            order of answers, not of lost neighbours.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check --only-binary :all: --no-compile \
    sqlite-vec==0.1.9 apsw==3.54.1.0 numpy==2.4.6

cat > "$work/show.py" <<'PY'
import apsw
import numpy as np
import sqlite_vec

K = 10
database = apsw.Connection(":memory:")
database.enable_load_extension(True)
database.load_extension(sqlite_vec.loadable_path())
print("sqlite-vec", *database.execute("SELECT vec_version()"), "SQLite", apsw.sqlite_lib_version())
random = np.random.default_rng(0)
vectors = random.normal(size=(3000, 8)).astype(np.float32)
queries = random.normal(size=(20, 8)).astype(np.float32)


def search(items):
    """The ids (rows from 1) of the K nearest to each query, best first."""
    database.execute("DROP TABLE IF EXISTS items")
    database.execute(
        "CREATE VIRTUAL TABLE items USING"
        " vec0(id INTEGER PRIMARY KEY, vector FLOAT[8] DISTANCE_METRIC=cosine)"
    )
    with database:
        for row, vector in enumerate(items, 1):
            database.execute("INSERT INTO items VALUES (?, ?)", (row, vector.tobytes()))
    sql = "SELECT id FROM items WHERE vector MATCH ? AND k = ? ORDER BY distance"
    return [[row for (row,) in database.execute(sql, (q.tobytes(), K))] for q in queries]


def measure(row):
    """The share of true neighbours that are found with zeros in a row, and where the zeros are."""
    items = vectors.copy()
    if row:
        items[row - 1] = 0
    angles = queries @ vectors.T / np.linalg.norm(vectors, axis=1)
    if row:
        angles[:, row - 1] = -np.inf
    exact = np.argsort(-angles, axis=1)[:, :K] + 1
    lists = search(items)
    recall = np.mean([len(set(a) & set(b)) / K for a, b in zip(exact.tolist(), lists, strict=True)])
    heads = sum(answer[0] == row for answer in lists)
    held = sum(row in answer for answer in lists)
    print(f"zeros in row {row or '-':>4}: recall {recall:.2f}, first in {heads} of 20 answers")
    return recall, held, heads


assert measure(None)[0] == measure(600)[0] == measure(3000)[0] == 1
recall, held, _ = measure(1)
assert recall < 0.8 and held == 0
recall, held, _ = measure(1025)
assert recall < 0.5 and held == 0
assert measure(2049)[1:] == (20, 20)
vectors = vectors[:100]
assert measure(1)[1:] == (20, 20) and measure(100) == (1, 0, 0)
PY
"$work/venv/bin/python" "$work/show.py" 2> "$work/log" || { cat "$work/log" >&2; exit 1; }
echo "as described"
