"""Moves the segments of the event log into the Parquet tables of the raw logs, exactly once.

When. Watches and searches: at each compaction. Impressions: ``CLICK_WINDOW_S`` after they were
received, so that the click that follows one can be written into its row (``clicked``,
``watch_time_s``; the rule is in :mod:`serving.events.attribution`). An impression that was clicked
but not watched yet waits for its watch, at most ``WATCH_WINDOW_S``. What comes later is still a
watch in the logs, but the impression stays as it was written.

How. Everything that a compaction will change is first prepared, then decided by one rename
(:mod:`serving.events.commits`).

Once. What was moved is known by its keys for a day (:mod:`serving.events.keys`): what comes again
meanwhile, as after a retry that crossed a crash, is dropped. Nothing leaves the log before the
history store has it: a server brings its store up to segments first. What is moved by something
else, or while the store is out of reach, stays in the log as *owed* until a server of that store
has done so, at most :data:`OWED_S`.
"""

import contextlib
import dataclasses
import fcntl
import os
import pathlib
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from absl import logging

from features.catalogue import combined
from features.durations import DAY_S, MINUTE_S
from serving import errors
from serving.events import attribution
from serving.events import commits as event_commits
from serving.events import keys as event_keys
from serving.events import rows as event_rows
from serving.events.event import CLICK_WINDOW_S, WATCH_WINDOW_S, Kind, NewUser
from serving.events.segments import (
    DIRECTORY,
    EVENTS,
    EVIDENCE,
    HELD,
    IN_TABLES,
    OWED,
    PAGES,
    Segment,
    owed_to,
    read,
    segments,
)

# Impressions read at once: about 2 GB of memory.
_MAX_BATCH_BYTES = 512 << 20

# A replica that was taken away for good never asks for what it is owed.
OWED_S = 30 * DAY_S

Bring = Callable[[Sequence[Segment]], Sequence[Segment]]


def compact(
    logs_dir: str | os.PathLike[str],
    *,
    wall_s: float,
    flush: bool = False,
    bring: Bring | None = None,
) -> dict[str, int]:
    """Moves what is ripe into the tables; segments of live processes are left to them.

    Args:
        logs_dir: Raw logs with an event log inside; nothing is done where there is none.
        wall_s: Clock of the machine, Unix seconds.
        flush: Whether impressions need not be ripe.
        bring: Function that makes sure that the history store at hand has what its segments hold,
            durably, and returns those; raises HistoryUnavailableError where it may not. None
            without a store.

    Returns:
        Rows written by table.
    """
    root = pathlib.Path(logs_dir)
    total: dict[str, int] = {}
    if not (root / DIRECTORY).is_dir():
        return total
    with paused(root):
        event_commits.recover(root)
        while True:
            batch = _choose(segments(root), wall_s=wall_s, flush=flush)
            if not batch.events and not batch.pages:
                break
            brought = _brought(bring, [*batch.events, *batch.pages])
            rows = _compact_batch(root, batch, wall_s=wall_s, flush=flush, brought=brought)
            for table, count in rows.items():
                total[table] = total.get(table, 0) + count
            if batch.is_last:
                break
        owed = [segment for segment in segments(root) if segment.stream == OWED]
        _settle([segment for segment in owed if segment.path in _brought(bring, owed)])
        _drop_what_is_old(root, wall_s)
    if any(total.values()):
        logging.info("Compacted the event log into %s: %s rows.", root, total)
    return total


def settle(logs_dir: str | os.PathLike[str], store: str) -> None:
    """Forgets what is owed to a history store that is empty: it will be filled from the tables.

    To be called within :func:`paused`, and before it is filled.
    """
    present = segments(pathlib.Path(logs_dir))
    _settle([s for s in present if s.stream == OWED and owed_to(store, s)])


def _settle(owed: Sequence[Segment]) -> None:
    for segment in owed:
        os.replace(segment.path, segment.path.with_name(_renamed(segment, EVIDENCE)))


def _renamed(segment: Segment, stream: str) -> str:
    return f"{stream}-{segment.path.name.partition('-')[2]}"


def _brought(bring: Bring | None, chosen: Sequence[Segment]) -> set[pathlib.Path]:
    """Returns the segments whose content is in their history store."""
    if bring is None or not chosen:
        return set()
    try:
        return {segment.path for segment in bring(chosen)}
    except errors.HistoryUnavailableError as error:
        logging.error("The tables get what the history store may lack: %s", error)
        return set()


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Batch:
    """Segments to compact, and those that only help."""

    events: Sequence[Segment]
    pages: Sequence[Segment]
    evidence: Sequence[Segment]
    growing: Sequence[Segment]
    younger: Sequence[Segment]
    is_last: bool


def _choose(present: Sequence[Segment], *, wall_s: float, flush: bool) -> _Batch:
    ripe = [
        s
        for s in present
        if s.stream == PAGES and s.is_sealed and (flush or s.end_s <= wall_s - CLICK_WINDOW_S)
    ]
    oldest = _oldest_needed(present, wall_s)
    pages: list[Segment] = []
    size = 0
    for segment in ripe:
        if pages and size + segment.size > _MAX_BATCH_BYTES:
            break
        pages.append(segment)
        size += segment.size
    return _Batch(
        events=[s for s in present if s.stream == EVENTS and s.is_sealed],
        pages=pages,
        evidence=[s for s in present if s.stream in IN_TABLES and s.end_s >= oldest],
        growing=[s for s in present if s.stream == EVENTS and not s.is_sealed],
        younger=_younger(present, pages),
        is_last=len(pages) == len(ripe),
    )


def _younger(present: Sequence[Segment], pages: Sequence[Segment]) -> list[Segment]:
    """Returns segments of impressions that a click or watch may have come from instead."""
    until_s = max((s.end_s for s in pages), default=0) + CLICK_WINDOW_S
    rest = [s for s in present if s.stream == PAGES and s not in pages]
    return [s for s in rest if s.start_s <= until_s]


def _compact_batch(
    root: pathlib.Path,
    batch: _Batch,
    *,
    wall_s: float,
    flush: bool,
    brought: Collection[pathlib.Path],
) -> dict[str, int]:
    moved = event_keys.moved(root / DIRECTORY)
    read_events = read(batch.events, keep_aside=True)
    events, event_digests = event_keys.not_moved(read_events, moved)
    pages, page_digests = event_keys.not_moved(read(batch.pages, keep_aside=True), moved)
    others = [read(batch.evidence), read_events, read(batch.growing)]
    # What is told of a second time takes no click away from what was told first.
    younger, _ = event_keys.not_moved(read(batch.younger), [np.sort(page_digests), *moved])
    clicked, seconds, moment = _outcomes(pages, others, beside=younger)
    received = np.asarray(combined(pages["received"]), np.int64)
    held = clicked & (seconds == 0) & (received > wall_s - WATCH_WINDOW_S) & (not flush)
    done = pages.filter(pa.array(~held))
    tables = {
        "watches": event_rows.raw_table(
            "watches", events.filter(pc.equal(events["kind"], Kind.WATCH.value))
        ),
        "searches": event_rows.raw_table(
            "searches", events.filter(pc.equal(events["kind"], Kind.SEARCH.value))
        ),
        "feedback": event_rows.feedback(events),
        "impressions": event_rows.impressions(done, clicked[~held], seconds[~held], moment[~held]),
        "users": event_rows.new_users(root, events.filter(pc.equal(events["kind"], NewUser.KIND))),
    }
    commit = event_commits.Commit(
        tables=tables,
        held=pages.filter(pa.array(held)),
        keys=np.concatenate([event_digests, page_digests[~held]]),
        wall_s=wall_s,
        **_left_behind(batch, brought),
    )
    commit.carry_out(root)
    return {name: table.num_rows for name, table in tables.items() if table.num_rows}


def _left_behind(batch: _Batch, brought: Collection[pathlib.Path]) -> dict[str, Any]:
    """Returns which segments are removed, and which get another name."""
    done = {*brought, *(s.path for s in batch.pages if s.store == HELD)}
    kept = {s: EVIDENCE for s in batch.events if s.path in done}
    owed = {s: OWED for s in (*batch.events, *batch.pages) if s.path not in done}
    return {
        "removed": [s.path.name for s in batch.pages if s.path in done],
        "renamed": {s.path.name: _renamed(s, stream) for s, stream in (kept | owed).items()},
    }


@contextlib.contextmanager
def waiting_impressions(logs_dir: str | os.PathLike[str]) -> Iterator[pa.Table]:
    """Gives the impressions that the tables do not have yet, with what came of them so far.

    Meanwhile nothing moves into the tables: what the caller lists there is the rest.

    Yields:
        Columns of the raw table and others. Empty, with a warning, where the event log is another's
        and cannot be held still.
    """
    root = pathlib.Path(logs_dir)
    if not (root / DIRECTORY).is_dir():
        yield read([])
        return
    if not os.access(root / DIRECTORY, os.W_OK):
        logging.warning(
            "%s cannot be written, so nothing of it is read: pages of the last %d minutes, and "
            "those that wait for a watch, are left out.",
            root / DIRECTORY,
            CLICK_WINDOW_S // MINUTE_S,
        )
        yield read([])
        return
    with paused(root):
        event_commits.recover(root)
        present = segments(root)
        moved = event_keys.moved(root / DIRECTORY)
        pages, _ = event_keys.not_moved(read([s for s in present if s.stream == PAGES]), moved)
        others = read([s for s in present if s.stream != PAGES])
        yield event_rows.with_outcomes(pages, *_outcomes(pages, [others], beside=read([])))


def _outcomes(
    pages: pa.Table, others: Sequence[pa.Table], *, beside: pa.Table
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns what came of impressions, see :func:`serving.events.attribution.attribute`."""
    engagements = event_keys.distinct(pa.concat_tables([_engagements(part) for part in others]))
    return attribution.attribute(pages, engagements, beside=beside)


def _engagements(records: pa.Table) -> pa.Table:
    wanted = pa.array([Kind.CLICK.value, Kind.WATCH.value])
    return records.filter(pc.is_in(records["kind"], wanted))


# ---- what is left --------------------------------------------------------------------------------


def _drop_what_is_old(root: pathlib.Path, wall_s: float) -> None:
    """Removes events that no impression waits for, and keys that nobody sends again."""
    present = segments(root)
    oldest = _oldest_needed(present, wall_s)
    for segment in present:
        if segment.stream == EVIDENCE and segment.end_s < oldest:
            segment.path.unlink(missing_ok=True)
        if segment.stream == OWED and segment.end_s < wall_s - OWED_S:
            logging.warning("%s: no server of its history store came for it.", segment.path)
            segment.path.unlink(missing_ok=True)
    event_keys.drop_old(root / DIRECTORY, wall_s=wall_s)


def _oldest_needed(present: Sequence[Segment], wall_s: float) -> float:
    """Returns the time from which on clicks may still meet an impression that waits."""
    waiting = [segment.start_s for segment in present if segment.stream == PAGES]
    return min([wall_s - CLICK_WINDOW_S, *waiting])


@contextlib.contextmanager
def paused(root: pathlib.Path) -> Iterator[None]:
    """Lets nobody else compact meanwhile; the system frees the lock of a dead process."""
    with (root / DIRECTORY / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
