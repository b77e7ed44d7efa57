#!/usr/bin/env bash
# NaN in Parquet: DuckDB's isnan() finds no row, and filters answer by row group layout
#
# Packages   duckdb 2.0.1, pyarrow 26.0.1, polars 2.1.0, numpy 2.4.6
#
# Expected   A filter gives the same rows whether a table is in memory or in a
#            Parquet file, and however the file is cut in row groups. Above all,
#            a data check of the sort "count the NaN" finds them.
# Seen       The Parquet format leaves NaN out of a column chunk's min and max, so
#            [0.2, NaN, 0.9] is labelled 0.2..0.9. DuckDB takes that range as the
#            truth about a file that pyarrow wrote: isnan(x) and x > 1 (NaN is the
#            greatest number in DuckDB) return no row, x <= 1 returns the NaN row
#            too, and max(x) is 0.9; over the same Arrow table in memory it is the
#            opposite in each case. The file that DuckDB writes itself answers
#            like memory.
#            pyarrow's own read_table(filters=...) drops a row group whose min and
#            max both equal the constant of x != c, and with it the NaN row that
#            the same filter keeps in memory; written again with one larger row
#            group the row comes back. Polars is consistent throughout.
# Matters    Watch ratios are 0/0 for items of no length and CTRs 0/0 without
#            impressions, so NaN is common in a feature table. A NaN guard that
#            runs as SQL over the Parquet files reports a clean table, the training
#            job then reads the NaN; the number of rows that "x <> 0" keeps depends
#            on compaction. Write null instead of NaN.
# Pointer    duckdb/duckdb issue 25521 and pull request 16962; parquet.thrift, the
#            notes on ColumnOrder (NaN stays out of min and max).
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check --only-binary :all: \
    duckdb==2.0.1 pyarrow==26.0.1 polars==2.1.0 numpy==2.4.6

cat > "$work/show.py" <<'PY'
import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

print(f"duckdb {duckdb.__version__}, pyarrow {pa.__version__}, polars {pl.__version__}")
NAN = float("nan")
db = duckdb.connect()

# video 2 has no length: its ratio of time watched is 0/0
views = pa.table({"video": [1, 2, 3], "ratio": [0.2, NAN, 0.9]})
pq.write_table(views, "views.parquet")
stats = pq.read_metadata("views.parquet").row_group(0).column(1).statistics
print(f"written {views['ratio'].to_pylist()}, statistics {stats.min}..{stats.max}")
assert (stats.min, stats.max) == (0.2, 0.9)
db.register("views", views)


def videos(source, where):
    sql = f"SELECT video FROM {source} WHERE {where} ORDER BY video"
    return [row[0] for row in db.execute(sql).fetchall()]


print("DuckDB, videos for which ...      in memory      Parquet file")
for where, memory, file in (
    ("isnan(ratio)", [2], []),
    ("ratio > 1", [2], []),
    ("ratio <= 1", [1, 3], [1, 2, 3]),
):
    seen = videos("views", where), videos("'views.parquet'", where)
    print(f"  {where:30} {seen[0]!s:14} {seen[1]}")
    assert seen == (memory, file), seen

top_memory = db.execute("SELECT max(ratio) FROM views").fetchone()[0]
top_file = db.execute("SELECT max(ratio) FROM 'views.parquet'").fetchone()[0]
print(f"  {'max(ratio)':30} {top_memory!s:14} {top_file}")
assert top_memory != top_memory and top_file == 0.9

db.execute("COPY views TO 'own.parquet' (FORMAT parquet)")
own = videos("'own.parquet'", "isnan(ratio)")
print(f"  isnan(ratio) on a file that DuckDB wrote: {own}")
assert own == [2], own

more = pa.table({"video": [1, 2, 3, 4], "ratio": [0.5, NAN, 0.5, 0.7]})
keep = pc.field("ratio") != 0.5
in_memory = more.filter(keep)["video"].to_pylist()
print(f"pyarrow, ratio != 0.5: in memory {in_memory}")
assert in_memory == [2, 4], in_memory
for size, expected in ((2, [4]), (4, [2, 4])):
    pq.write_table(more, "more.parquet", row_group_size=size)
    arrow = pq.read_table("more.parquet", filters=keep)["video"].to_pylist()
    lazy = pl.scan_parquet("more.parquet").filter(pl.col("ratio") != 0.5)
    polars = lazy.collect()["video"].to_list()
    print(f"  row groups of {size}: pyarrow {arrow}, polars {polars}")
    assert arrow == expected, arrow
    assert polars == [2, 4], polars
PY

cd "$work"
"$work/venv/bin/python" "$work/show.py"
echo "as described"
