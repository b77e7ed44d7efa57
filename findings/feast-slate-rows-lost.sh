#!/usr/bin/env bash
# Feast's file store: rows of a slate vanish, and the order of the features says how many
#
# Packages   feast 0.67.0, pandas 2.3.3, pyarrow 26.0.1, dask 2026.8.0, duckdb 2.0.1,
#            ibis-framework 12.0.0
#
# Expected   get_historical_features adds features to the rows of the entity frame: as many rows as
#            went in, with their labels, whatever features are named, and in whatever order.
# Seen       The file (Dask) store drops rows that share a time and the join keys seen so far. Three
#            items shown to one user in one request are one row after a view by user (and one item
#            shown to two users in one second, after a view by item). Named after a view by item,
#            the same view by user drops nothing, since both keys count by then:
#            ["user:clicks", "item:views"] gives one row of three, ["item:views", "user:clicks"]
#            all three. The DuckDB store keeps all.
# Matters    A slate of impressions is the natural training data of a ranker, and all of it has one
#            time. What is left is one item per request, whichever comes last, so clicks and
#            click rate both change; adding a feature, or sorting their names, changes the
#            training set. Compare row counts, or make times unique (add a microsecond per
#            position).
# Pointer    feast-dev/feast issue 6787 reports the loss; the order of the features is not in it.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check --only-binary :all: \
    feast==0.67.0 pandas==2.3.3 pyarrow==26.0.1 dask==2026.8.0 duckdb==2.0.1 \
    "ibis-framework[duckdb]==12.0.0"

cat > "$work/show.py" <<'PY'
import datetime
import pathlib
import warnings
from importlib.metadata import version

import pandas as pd
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
from feast.types import Int64

for name in ("feast", "pandas", "dask", "duckdb"):
    print(name, version(name))
warnings.filterwarnings("ignore")

HOUR = datetime.timedelta(hours=1)
EARLIER = pd.Timestamp(2026, 1, 1, 12, tz="UTC")
REQUEST = EARLIER + HOUR

values = {
    "user": pd.DataFrame({"user_id": [1, 2], "time": EARLIER, "clicks": [10, 20]}),
    "item": pd.DataFrame({"item_id": [7, 8, 9], "time": EARLIER, "views": [70, 80, 90]}),
}
# a request of user 1 with three items, and a minute later one of user 2 with one
slates = pd.DataFrame({
    "user_id": [1, 1, 1, 2],
    "item_id": [7, 8, 9, 7],
    "event_timestamp": [REQUEST, REQUEST, REQUEST, REQUEST + HOUR / 60],
    "clicked": [1, 1, 0, 1],
})


def store(kind):
    root = pathlib.Path(kind).resolve()
    root.mkdir()
    config = RepoConfig(
        project="slates",
        provider="local",
        registry=str(root / "registry.db"),
        offline_store={"type": kind},
        online_store={"type": "sqlite", "path": str(root / "online.db")},
        entity_key_serialization_version=3,
    )
    objects = []
    for name, frame in values.items():
        path = str(root / f"{name}.parquet")
        frame.to_parquet(path)
        entity = Entity(name=name, join_keys=[f"{name}_id"], value_type=ValueType.INT64)
        source = FileSource(name=f"{name}_source", path=path, timestamp_field="time")
        view = FeatureView(
            name=name,
            entities=[entity],
            ttl=24 * HOUR,
            schema=[Field(name=frame.columns[2], dtype=Int64)],
            source=source,
        )
        objects += [entity, view]
    made = FeatureStore(config=config)
    made.apply(objects)
    return made


def rows(made, features):
    frame = made.get_historical_features(entity_df=slates, features=features).to_df()
    assert set(frame["user_id"]) == {1, 2}
    slate = frame[frame["user_id"] == 1].sort_values("item_id")
    rate = frame["clicked"].mean()
    print(f"    {features}: items of user 1 {slate['item_id'].tolist()}, click rate {rate:.2f}")
    return slate["item_id"].tolist()


by_item, by_user = "item:views", "user:clicks"
print("file store")
made = store("file")
assert len(rows(made, [by_user])) == 1
assert len(rows(made, [by_user, by_item])) == 1
assert rows(made, [by_item, by_user]) == [7, 8, 9]
assert rows(made, [by_item]) == [7, 8, 9]

print("duckdb store")
made = store("duckdb")
assert rows(made, [by_user]) == [7, 8, 9]
assert rows(made, [by_item]) == [7, 8, 9]
PY
cd "$work"
export FEAST_USAGE=False
"$work/venv/bin/python" show.py 2> log || { cat log >&2; exit 1; }
echo "as described"
