#!/usr/bin/env bash
# DuckDB to Parquet: sums of integers and 128-bit hashes are written as DOUBLE
#
# Packages   duckdb 2.0.1, pyarrow 26.0.1, numpy 2.4.6
#
# Expected   SUM of a BIGINT column, a whole number in every result that DuckDB
#            prints, is a whole number in the Parquet file too, or COPY refuses. A
#            key that is written and read again joins with itself.
# Seen       SUM(BIGINT) has type HUGEINT, and md5_number() gives UHUGEINT. The
#            Parquet writer has no such types and stores both as DOUBLE, without a
#            warning: count(*) beside it stays INT64. From 2^53 on the values are
#            rounded, so two sums that differ by one are equal in the file, and the
#            hashes of a thousand users match none of the hashes that are read back.
#            Arrow, taken from the same query, gets an exact decimal128(38, 0).
# Matters    Watch time in microseconds passes 2^53 at 2.5 million hours, an hour of
#            a big site; checksums by sum of ids pass it at once. Features of type
#            int64 turn into floats (tf.Example schemas reject or recast them), and
#            hashed user keys that went through a file lose their join. Cast to
#            BIGINT or DECIMAL(38,0), and hashes to UUID or VARCHAR, before COPY.
# Pointer    duckdb/duckdb issue 21180 and pull request 24173.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check --only-binary :all: \
    duckdb==2.0.1 pyarrow==26.0.1 numpy==2.4.6

cat > "$work/show.py" <<'PY'
import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

print(f"duckdb {duckdb.__version__}, pyarrow {pa.__version__}")
db = duckdb.connect()

# two days whose total watch time differs by one microsecond
half = 2**52
watched = pa.table({
    "day": [1, 1, 2, 2],
    "watch_us": pa.array([half, half, half, half + 1], pa.int64()),
})
db.register("watched", watched)
query = "SELECT day, count(*) AS n, sum(watch_us) AS us FROM watched GROUP BY day ORDER BY day"
in_memory = [row[2] for row in db.execute(query).fetchall()]
arrow_type = db.sql(query).to_arrow_table().schema.field("us").type

db.execute(f"COPY ({query}) TO 'sums.parquet' (FORMAT parquet)")
file = pq.read_table("sums.parquet")
types = {field.name: str(field.type) for field in file.schema}
in_file = file["us"].to_pylist()
print(f"sum in DuckDB {in_memory}, as Arrow {arrow_type}")
print(f"sum in the file {in_file}, columns {types}")
assert in_memory == [2**53, 2**53 + 1], in_memory
assert arrow_type == pa.decimal128(38, 0), arrow_type
assert types == {"day": "int64", "n": "int64", "us": "double"}, types
assert in_file == [float(2**53)] * 2, in_file

db.execute(f"COPY (SELECT day, us::BIGINT AS us FROM ({query})) TO 'cast.parquet' (FORMAT parquet)")
cast = pq.read_table("cast.parquet")["us"].to_pylist()
print(f"cast to BIGINT first: {cast}")
assert cast == in_memory, cast

db.execute("CREATE TABLE keys AS SELECT md5_number('user' || i) AS key FROM range(1000) t(i)")
db.execute("COPY keys TO 'keys.parquet' (FORMAT parquet)")
stored = str(pq.read_schema("keys.parquet").field("key").type)
joined = db.execute(
    "SELECT count(*) FROM keys JOIN 'keys.parquet' f ON keys.key = f.key::UHUGEINT"
).fetchone()[0]
itself = db.execute("SELECT count(*) FROM keys JOIN keys k USING (key)").fetchone()[0]
print(f"md5 keys: stored as {stored}; of 1000, {itself} join in memory, {joined} with the file")
assert stored == "double" and itself == 1000 and joined == 0, (stored, itself, joined)
PY

cd "$work"
"$work/venv/bin/python" "$work/show.py"
echo "as described"
