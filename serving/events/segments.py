"""The segment files of the event log: their names, which are still being written, their records.

:func:`record_of` says what is a record, to all who read them: a history store that catches
up, whoever follows other processes, and compaction, which keeps aside what is none.
"""

import contextlib
import dataclasses
import fcntl
import io
import json
import math
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json
from absl import logging

from features import feedback, files
from serving.events.event import Kind, NewUser

DIRECTORY = ".event_log"
EVENTS, PAGES = "events", "pages"
# What the tables have already: kept as evidence of where impressions led; and, until a server has
# brought its history store up to them, what something without such a store has moved.
EVIDENCE, OWED = "evidence", "owed"
# In place of the store: impressions that compaction put back, which were in other segments before.
HELD = "held"
ANY = "any"  # Of a log that does not know its store: the next that asks.
IN_TABLES = frozenset({EVIDENCE, OWED})

RECORD = pa.schema(
    [
        ("kind", pa.string()),
        ("event_id", pa.string()),
        ("user_id", pa.string()),
        ("time", pa.int64()),
        ("received", pa.int64()),
        ("video_id", pa.string()),
        ("query", pa.string()),
        ("watch_time_s", pa.float64()),
        ("completed", pa.bool_()),
        ("clicked", pa.bool_()),
        ("page_id", pa.string()),
        ("position", pa.int64()),
        ("source", pa.string()),
        ("surface", pa.string()),
        ("device", pa.string()),
        ("candidate_sources", pa.list_(pa.string())),
        ("retrieval_score", pa.float64()),
        ("release_id", pa.string()),
        ("exposures", pa.list_(pa.string())),
        ("profile", pa.string()),
        ("feedback", pa.string()),
        ("channel_id", pa.string()),
        ("value", pa.float64()),
    ]
)
_KINDS = (*(kind.value for kind in Kind), NewUser.KIND)
_END_OF_TIME_S = 1 << 34  # As in features.event_columns.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Segment:
    """A file of records.

    Attributes:
        path: Path of the file.
        stream: ``events``, ``pages``, ``evidence`` or ``owed``.
        store: Id of the history store of the server that wrote it.
        start_s: Moment at which its oldest record was received, or a little before; Unix seconds.
        end_s: Moment of its last write, Unix seconds.
        size: Size of the file, bytes.
        is_sealed: Whether nobody writes it any more.
    """

    path: pathlib.Path
    stream: str
    store: str
    start_s: int
    end_s: float
    size: int
    is_sealed: bool


def owed_to(store: str, segment: Segment) -> bool:
    """Returns whether a segment is of this store's servers."""
    return segment.store in {store, ANY}


def segment_name(stream: str, start_s: int, store: str, suffix: str) -> str:
    """Returns the file name of a segment."""
    return f"{stream}-{start_s:012d}-{store}-{suffix}.jsonl"


def segments(root: pathlib.Path) -> list[Segment]:
    """Returns the segments of a logs directory, oldest first."""
    listed = []
    for path in sorted((root / DIRECTORY).glob("*.jsonl")):
        stream, start, store, *_ = path.name.split("-")
        with contextlib.suppress(FileNotFoundError):
            status = path.stat()
            listed.append(
                Segment(
                    path=path,
                    stream=stream,
                    store=store,
                    start_s=int(start),
                    end_s=status.st_mtime,
                    size=status.st_size,
                    is_sealed=_is_sealed(path),
                )
            )
    return listed


def record_of(line: bytes) -> dict[str, Any] | None:
    """Returns the record that a line holds; None where it holds none."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) and _is_record(record) else None


def _is_record(record: Mapping[str, Any]) -> bool:
    if not all(_fits(record[f.name], f.type) for f in RECORD if record.get(f.name) is not None):
        return False
    kind = record.get("kind")
    if kind not in _KINDS or not record.get("user_id"):
        return False
    if kind == NewUser.KIND:
        return _is_profile(record.get("profile") or "{}")
    what = record.get("query") if kind == Kind.SEARCH.value else record.get("video_id")
    if kind == Kind.FEEDBACK.value:
        what = record.get("video_id") or record.get("channel_id")
        if record.get("feedback") not in feedback.KINDS:
            return False
    is_named = what is not None and record.get("event_id") is not None
    return is_named and 0 <= record.get("time", -1) < _END_OF_TIME_S


def _fits(value: Any, kind: pa.DataType) -> bool:
    if pa.types.is_string(kind):
        # Half a surrogate pair is no text that a table or a store could hold.
        return isinstance(value, str) and value.encode(errors="replace").decode() == value
    if pa.types.is_list(kind):
        return isinstance(value, list) and all(_fits(v, kind.value_type) for v in value)
    if pa.types.is_boolean(kind):
        return isinstance(value, bool)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    if pa.types.is_integer(kind):
        return isinstance(value, int) and -(1 << 63) <= value < 1 << 63
    return math.isfinite(value)


def _is_profile(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def records(path: pathlib.Path) -> Iterator[dict[str, Any]]:
    """Yields the records of a segment; nothing where it is gone. Names what is none in the log."""
    damaged = 0
    for line in _whole_lines(path).splitlines():
        record = record_of(line)
        if record is not None:
            yield record
        damaged += record is None
    if damaged:
        logging.error("%s: %d lines are no records; they are left out.", path, damaged)


def read(chosen: Sequence[Segment], *, keep_aside: bool = False) -> pa.Table:
    """Returns the records of segments; what is missing in a record has its default.

    Args:
        chosen: Segments to read.
        keep_aside: Whether lines that are no records are written to a file beside the segment.
    """
    tables = [_parse(segment.path, keep_aside=keep_aside) for segment in chosen]
    together = pa.concat_tables([RECORD.empty_table(), *tables])
    for name, default in (
        ("video_id", ""),
        ("event_id", ""),
        ("query", ""),
        ("page_id", ""),
        ("source", ""),
        ("surface", ""),
        ("feedback", ""),
        ("channel_id", ""),
        ("watch_time_s", 0.0),
        ("clicked", False),
        ("received", 0),
    ):
        filled = pc.fill_null(together[name], default)
        together = together.set_column(together.column_names.index(name), name, filled)
    return together.combine_chunks()


def _parse(path: pathlib.Path, *, keep_aside: bool) -> pa.Table:
    content = _whole_lines(path)
    options = pa.json.ParseOptions(explicit_schema=RECORD, unexpected_field_behavior="ignore")
    blocks = pa.json.ReadOptions(block_size=8 << 20)
    if not content.strip():
        return RECORD.empty_table()
    try:
        table = pa.json.read_json(io.BytesIO(content), parse_options=options, read_options=blocks)
    except (pa.ArrowException, UnicodeDecodeError):
        return _parse_by_line(path, content, keep_aside=keep_aside)
    return table if _are_records(table) else _parse_by_line(path, content, keep_aside=keep_aside)


def _are_records(table: pa.Table) -> bool:
    """Returns whether :func:`record_of` would take all of them; False where it had to be asked."""
    is_user = pc.equal(table["kind"], NewUser.KIND)
    is_search = pc.equal(table["kind"], Kind.SEARCH.value)
    what = pc.if_else(is_search, table["query"], table["video_id"])
    is_feedback = pc.equal(table["kind"], Kind.FEEDBACK.value)
    what = pc.if_else(is_feedback, pc.coalesce(what, table["channel_id"]), what)
    is_given = pc.is_in(table["feedback"], pa.array(feedback.KINDS))
    time = table["time"]
    is_named = pc.and_(pc.is_valid(what), pc.is_valid(table["event_id"]))
    is_timed = pc.and_(pc.greater_equal(time, 0), pc.less(time, _END_OF_TIME_S))
    whole = (
        pc.is_in(table["kind"], pa.array(_KINDS)),
        pc.fill_null(pc.not_equal(table["user_id"], ""), False),
        pc.fill_null(pc.or_(is_user, pc.and_(is_named, is_timed)), False),
        pc.fill_null(pc.is_finite(table["watch_time_s"]), True),
        pc.fill_null(pc.is_finite(table["retrieval_score"]), True),
        pc.fill_null(pc.is_finite(table["value"]), True),
        pc.fill_null(pc.or_(pc.invert(is_feedback), is_given), False),
    )
    profiles = table["profile"].filter(pc.fill_null(is_user, False)).drop_null().to_pylist()
    return all(pc.all(w).as_py() for w in whole) and all(_is_profile(p or "{}") for p in profiles)


def _parse_by_line(path: pathlib.Path, content: bytes, *, keep_aside: bool) -> pa.Table:
    """Reads line by line; what is not a record is named in the log and kept aside."""
    whole, damaged = [], []
    for line in content.splitlines(keepends=True):
        record = record_of(line)
        if record is not None:
            whole.append(record)
        else:
            damaged.append(line)
    if damaged and keep_aside:
        aside = path.with_suffix(".damaged")
        logging.error("%s: %d lines are no records; kept in %s.", path, len(damaged), aside)
        files.atomic_write(aside, b"".join(damaged))
    return pa.Table.from_pylist(whole, schema=RECORD)


def _whole_lines(path: pathlib.Path) -> bytes:
    """Returns a file up to its last line end: what follows was never acknowledged."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return b""
    return content[: content.rfind(b"\n") + 1]


def _is_sealed(path: pathlib.Path) -> bool:
    """Returns whether no process holds the segment open for writing."""
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
