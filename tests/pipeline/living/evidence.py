"""What a server acknowledged to the people of a living site, and what of it is in the tables."""

import hashlib
import json
import pathlib
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from features.tables import logs

_NAMES = {"page_id", "release_id"}  # Columns of names that each run gives anew.


def digest(table: pa.Table) -> list[object]:
    """Number of rows, and a hash of their content in any order."""
    kept = table.select(sorted(set(table.column_names) - _NAMES))
    rows = sorted(repr(row) for row in kept.to_pylist())
    return [len(rows), hashlib.sha256("\n".join(rows).encode()).hexdigest()]


def kept(path: pathlib.Path) -> Iterator[tuple[object, ...]]:
    """Keys of what a server acknowledged: pages that were given, and what people did."""
    for what, kept in lines(path):
        if what == "page":
            yield from (("shown", kept[1], video) for video in kept[2])
        for event in kept if what == "events" else ():
            kind, about = event["type"], event.get("video_id")
            if kind == "watch":
                yield "watch", event["user_id"], about, event["watch_time_s"]
            elif kind == "search":
                yield "search", event["user_id"], event["query"], event["time"]
            elif kind == "click":
                yield "clicked", event["page_id"], about
            else:
                yield kind, event["user_id"], about, event["time"]


def in_tables(directory: pathlib.Path) -> Iterator[tuple[object, ...]]:
    """Keys of the rows of the tables, likewise."""
    for row in _rows(directory, "watches", "user_id", "video_id", "watch_time_s"):
        yield "watch", *row
    for row in _rows(directory, "searches", "user_id", "query", "time"):
        yield "search", *row
    yield from _rows(directory, "feedback", "kind", "user_id", "video_id", "time")
    for *about, is_clicked in _rows(directory, "impressions", "page_id", "video_id", "clicked"):
        yield "shown", *about
        if is_clicked:
            yield "clicked", *about


def _rows(directory: pathlib.Path, table: str, *columns: str) -> Iterator[tuple[object, ...]]:
    if table in logs.tables_in(directory):
        values = logs.read_table(directory, table).select(columns).to_pydict()
        yield from zip(*values.values(), strict=True)


def lines(path: pathlib.Path) -> list[Any]:
    """Whole lines of a file: the last one may have been cut off."""
    whole = path.read_text().split("\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in whole]


def forget_unfinished(path: pathlib.Path, snapshots: pathlib.Path) -> None:
    """Leaves what was acknowledged in whole snapshots: others will pass once more."""
    whole = {snapshot.name.partition("-")[2] for snapshot in snapshots.glob("[0-9]*-*")}
    left = lines(path)
    while left and not (left[-1][0] == "snapshot" and left[-1][1] in whole):
        left.pop()
    path.write_text("".join(json.dumps(line) + "\n" for line in left))
