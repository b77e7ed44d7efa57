"""Moves the segments of the event log into the Parquet tables of the raw logs, exactly once.

When. Watches and searches: at each compaction. Impressions: ``CLICK_WINDOW_S`` after they were
received, so that the click that follows one can be written into its row (``clicked``,
``watch_time_s``; the rule is in :mod:`serving.attribution`). An impression that was clicked but
not watched yet waits for its watch, at most ``WATCH_WINDOW_S``. What comes later is still a
watch in the logs, but the impression stays as it was written.

How. Everything that a compaction will change is first prepared in ``staging-<id>/``; renaming
that to ``commit-<id>/`` decides it. Then each prepared Parquet file is renamed into its table,
and the segments it came from are removed. Each of these steps can be done again, so whoever
finds a commit that a killed process left finishes it, before anything else. A duplicate (one
event id of a user twice, as after a retry that crossed a crash) is dropped.
"""

import contextlib
import dataclasses
import fcntl
import json
import os
import pathlib
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from absl import logging

from features import clicks, files, logs, schema
from features.catalogue import combined
from serving import attribution
from serving.event_segments import (
    DIRECTORY,
    EVENTS,
    EVIDENCE,
    PAGES,
    Segment,
    read,
    segment_name,
    segments,
)
from serving.events import CLICK_WINDOW_S, WATCH_WINDOW_S

# Impressions read at once: about 2 GB of memory.
_MAX_BATCH_BYTES = 512 << 20
_STAGING, _COMMIT, _TABLES, _PLAN = "staging-", "commit-", "tables", "plan.json"


def compact(
    logs_dir: str | os.PathLike[str], *, wall_s: float, flush: bool = False
) -> dict[str, int]:
    """Moves what is ripe into the tables; segments of live processes are left to them.

    Args:
        logs_dir: Raw logs with an event log inside; nothing is done where there is none.
        wall_s: Clock of the machine, Unix seconds.
        flush: Whether impressions need not be ripe.

    Returns:
        Rows written by table.
    """
    root = pathlib.Path(logs_dir)
    total: dict[str, int] = {}
    if not (root / DIRECTORY).is_dir():
        return total
    with paused(root):
        _recover(root)
        while True:
            batch = _choose(segments(root), wall_s=wall_s, flush=flush)
            if not batch.events and not batch.pages:
                break
            rows = _compact_batch(root, batch, wall_s=wall_s, flush=flush)
            for table, count in rows.items():
                total[table] = total.get(table, 0) + count
            if batch.is_last:
                break
        _drop_old_evidence(root, wall_s)
    if any(total.values()):
        logging.info("Compacted the event log into %s: %s rows.", root, total)
    return total


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Batch:
    """Segments to compact, and those that only help."""

    events: Sequence[Segment]
    pages: Sequence[Segment]
    evidence: Sequence[Segment]
    growing: Sequence[Segment]
    younger: Sequence[Segment]
    is_last: bool


def _choose(found: Sequence[Segment], *, wall_s: float, flush: bool) -> _Batch:
    ripe = [
        s
        for s in found
        if s.stream == PAGES and s.is_sealed and (flush or s.end_s <= wall_s - CLICK_WINDOW_S)
    ]
    pages: list[Segment] = []
    size = 0
    for segment in ripe:
        if pages and size + segment.size > _MAX_BATCH_BYTES:
            break
        pages.append(segment)
        size += segment.size
    return _Batch(
        events=[s for s in found if s.stream == EVENTS and s.is_sealed],
        pages=pages,
        evidence=[s for s in found if s.stream == EVIDENCE],
        growing=[s for s in found if s.stream == EVENTS and not s.is_sealed],
        younger=_younger(found, pages),
        is_last=len(pages) == len(ripe),
    )


def _younger(found: Sequence[Segment], pages: Sequence[Segment]) -> list[Segment]:
    """Returns segments of impressions that a click or watch may have come from instead."""
    until_s = max((s.end_s for s in pages), default=0) + CLICK_WINDOW_S
    rest = [s for s in found if s.stream == PAGES and s not in pages]
    return [s for s in rest if s.start_s <= until_s]


def _compact_batch(
    root: pathlib.Path, batch: _Batch, *, wall_s: float, flush: bool
) -> dict[str, int]:
    before = read(batch.evidence)
    events = _without_duplicates(read(batch.events), before)
    pages = _without_repeated_impressions(_without_duplicates(read(batch.pages), read([])))
    engagements = pa.concat_tables([before, events, read(batch.growing)])
    is_engagement = pc.is_in(engagements["kind"], pa.array(["click", "watch"]))
    clicked, seconds, moment = attribution.attribute(
        pages, engagements.filter(is_engagement), beside=read(batch.younger)
    )
    received = np.asarray(combined(pages["received"]), np.int64)
    held = clicked & (seconds == 0) & (received > wall_s - WATCH_WINDOW_S) & (not flush)
    done = pages.filter(pa.array(~held))
    tables = {
        "watches": _table("watches", events.filter(pc.equal(events["kind"], "watch"))),
        "searches": _table("searches", events.filter(pc.equal(events["kind"], "search"))),
        "impressions": _impressions(done, clicked[~held], seconds[~held], moment[~held]),
        "users": _new_users(root, events.filter(pc.equal(events["kind"], "user"))),
    }
    _commit(root, batch, tables, pages.filter(pa.array(held)))
    return {name: table.num_rows for name, table in tables.items() if table.num_rows}


def _without_duplicates(records: pa.Table, before: pa.Table) -> pa.Table:
    """Keeps the first record of each user, kind and event id that ``before`` does not have."""
    if not records.num_rows:
        return records
    together = pa.concat_tables([before.select(_KEY), records.select(_KEY)])
    first = _first_rows(together, _KEY)
    is_new = np.zeros(together.num_rows, bool)
    is_new[first] = True
    return records.filter(pa.array(is_new[before.num_rows :]))


_KEY = ["user_id", "kind", "event_id"]


def _without_repeated_impressions(pages: pa.Table) -> pa.Table:
    """Keeps one impression of a video on a page: served here and reported by a client is one."""
    on_page = np.asarray(combined(pc.not_equal(pages["page_id"], "")).cast(pa.int8()), bool)
    keep = ~on_page
    rows = np.flatnonzero(on_page)
    first = _first_rows(pages.take(pa.array(rows)), ["user_id", "page_id", "video_id"])
    keep[rows[first]] = True
    return pages.filter(pa.array(keep))


def _first_rows(records: pa.Table, names: Sequence[str]) -> np.ndarray:
    numbered = records.select(list(names)).append_column(
        "row", pa.array(np.arange(records.num_rows))
    )
    first = numbered.group_by(list(names), use_threads=False).aggregate([("row", "min")])
    return np.sort(np.asarray(combined(first["row_min"]), np.int64))


# ---- tables --------------------------------------------------------------------------------------


def _table(name: str, records: pa.Table) -> pa.Table:
    """Returns the contract columns; "" and -1 stand for what is not known."""
    columns: dict[str, pa.ChunkedArray] = {}
    for column in schema.TABLES[name].columns:
        if column.name not in records.column_names:
            continue
        values = records[column.name]
        if not column.required and pa.types.is_string(column.type):
            values = pc.if_else(pc.equal(values, ""), pa.scalar(None, pa.string()), values)
        if column.name == "position":
            values = pc.if_else(pc.less(values, 0), pa.scalar(None, pa.int64()), values)
        columns[column.name] = values
    return pa.table(columns)


def _impressions(
    records: pa.Table, clicked: np.ndarray, seconds: np.ndarray, moment: np.ndarray
) -> pa.Table:
    table = _table("impressions", records)
    for name, values in (("clicked", clicked), ("watch_time_s", seconds)):
        table = table.set_column(table.column_names.index(name), name, pa.array(values))
    return table.append_column("click_time", pa.array(moment, mask=moment == clicks.NEVER))


def _new_users(root: pathlib.Path, records: pa.Table) -> pa.Table:
    """Returns rows for the users table, where the logs have one.

    Without one nobody is unknown; a table of the new users alone would make all others so.
    """
    has_users = next((root / "users").glob("**/*.parquet"), None) is not None
    if not has_users or not records.num_rows:
        return schema.empty("users")
    kept = records.take(pa.array(_first_rows(records, ["user_id"])))
    types = logs.column_types(root, "users")
    rows = []
    for user_id, profile in zip(
        kept["user_id"].to_pylist(), kept["profile"].to_pylist(), strict=True
    ):
        rows.append({**json.loads(profile or "{}"), "user_id": user_id})
    columns = {name: _typed([row.get(name) for row in rows], kind) for name, kind in types.items()}
    return pa.table(columns)


def _typed(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    """Returns the values in the type of the table; one that does not fit is not known."""
    fitting = []
    for value in values:
        try:
            fitting.append(pa.scalar(value, kind).as_py())
        except (pa.ArrowException, TypeError, ValueError):
            fitting.append(None)
    return pa.array(fitting, kind)


# ---- committing ----------------------------------------------------------------------------------


def _commit(
    root: pathlib.Path, batch: _Batch, tables: Mapping[str, pa.Table], held: pa.Table
) -> None:
    directory = root / DIRECTORY
    name = uuid.uuid4().hex
    staging = directory / f"{_STAGING}{name}"
    staging.mkdir()
    for table, rows in tables.items():
        if rows.num_rows:
            logs.append(staging / _TABLES, table, rows)
    if held.num_rows:
        start = int(pc.min(held["received"]).as_py())
        _write_records(staging / segment_name(PAGES, start, f"held-{name[:8]}"), held)
    plan = {
        "remove": [s.path.name for s in batch.pages],
        "retire": [s.path.name for s in batch.events],
    }
    (staging / _PLAN).write_text(json.dumps(plan))
    files.fsync_tree(staging)
    commit = directory / f"{_COMMIT}{name}"
    staging.rename(commit)
    files.fsync_directory(directory)
    _finish(root, commit)


def _write_records(path: pathlib.Path, records: pa.Table) -> None:
    with path.open("w") as file:
        for record in records.to_pylist():
            known = {key: value for key, value in record.items() if value is not None}
            file.write(json.dumps(known) + "\n")


def _recover(root: pathlib.Path) -> None:
    """Finishes what was decided, and forgets what was only prepared."""
    for staging in (root / DIRECTORY).glob(f"{_STAGING}*"):
        shutil.rmtree(staging)
    for commit in sorted((root / DIRECTORY).glob(f"{_COMMIT}*")):
        logging.info("Finishing the compaction that was interrupted at %s.", commit)
        _finish(root, commit)


def _finish(root: pathlib.Path, commit: pathlib.Path) -> None:
    directory = root / DIRECTORY
    plan_file = commit / _PLAN
    if plan_file.exists():  # It goes last: without it everything is done.
        plan = json.loads(plan_file.read_text())
        for path in sorted((commit / _TABLES).glob("**/*.parquet")):
            target = root / path.relative_to(commit / _TABLES)
            _make_directories(target.parent)
            os.replace(path, target)
            files.fsync_directory(target.parent)
        for path in commit.glob("*.jsonl"):
            os.replace(path, directory / path.name)
        files.fsync_directory(directory)
        for name in plan["retire"]:
            retired = directory / f"{EVIDENCE}{name.removeprefix(EVENTS)}"
            with contextlib.suppress(FileNotFoundError):
                os.replace(directory / name, retired)
        for name in plan["remove"]:
            (directory / name).unlink(missing_ok=True)
        files.fsync_directory(directory)
        plan_file.unlink()
    shutil.rmtree(commit)


def _make_directories(path: pathlib.Path) -> None:
    """Creates a directory and makes its name durable."""
    if not path.is_dir():
        _make_directories(path.parent)
        path.mkdir(exist_ok=True)
        files.fsync_directory(path.parent)


def _drop_old_evidence(root: pathlib.Path, wall_s: float) -> None:
    """Removes events that no impression waits for and that no client sends again."""
    found = segments(root)
    waiting = [segment.start_s for segment in found if segment.stream == PAGES]
    oldest = min([wall_s - CLICK_WINDOW_S, *waiting])
    for segment in found:
        if segment.stream == EVIDENCE and segment.end_s < oldest:
            segment.path.unlink(missing_ok=True)


@contextlib.contextmanager
def paused(root: pathlib.Path) -> Iterator[None]:
    """Lets nobody else compact meanwhile; the system frees the lock of a dead process."""
    with (root / DIRECTORY / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
