"""The segment files of the event log: their names, which are still being written, their records."""

import contextlib
import dataclasses
import fcntl
import io
import json
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json
from absl import logging

from features import files

DIRECTORY = ".event_log"
EVENTS, PAGES, EVIDENCE = "events", "pages", "evidence"

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
    ]
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Segment:
    """A file of records.

    Attributes:
        path: Where.
        stream: ``events``, ``pages`` or ``evidence``.
        start_s: When its oldest record was received, or a little before; Unix seconds.
        end_s: When it was written last, Unix seconds.
        size: Bytes.
        is_sealed: Whether nobody writes it any more.
    """

    path: pathlib.Path
    stream: str
    start_s: int
    end_s: float
    size: int
    is_sealed: bool


def segment_name(stream: str, start_s: int, suffix: str) -> str:
    """Returns the file name of a segment."""
    return f"{stream}-{start_s:012d}-{suffix}.jsonl"


def segments(root: pathlib.Path) -> list[Segment]:
    """Returns the segments of a logs directory, oldest first."""
    found = []
    for path in sorted((root / DIRECTORY).glob("*.jsonl")):
        stream, start, _ = path.name.split("-", 2)
        with contextlib.suppress(FileNotFoundError):
            status = path.stat()
            found.append(
                Segment(
                    path=path,
                    stream=stream,
                    start_s=int(start),
                    end_s=status.st_mtime,
                    size=status.st_size,
                    is_sealed=_is_sealed(path),
                )
            )
    return found


def pending(logs_dir: str | os.PathLike[str]) -> Iterator[dict[str, Any]]:
    """Yields the records that the tables do not have yet, and all clicks that may still count."""
    for segment in segments(pathlib.Path(logs_dir)):
        for line in _whole_lines(segment.path).splitlines():
            with contextlib.suppress(ValueError):
                record = json.loads(line)
                if segment.stream != EVIDENCE or record["kind"] == "click":
                    yield record


def read(chosen: Sequence[Segment]) -> pa.Table:
    """Returns the records of segments; what is missing in a record has its default."""
    tables = [_parse(segment.path) for segment in chosen]
    records = pa.concat_tables([RECORD.empty_table(), *tables])
    for name, default in (
        ("video_id", ""),
        ("event_id", ""),
        ("query", ""),
        ("page_id", ""),
        ("source", ""),
        ("surface", ""),
        ("watch_time_s", 0.0),
        ("clicked", False),
        ("received", 0),
    ):
        filled = pc.fill_null(records[name], default)
        records = records.set_column(records.column_names.index(name), name, filled)
    return records.combine_chunks()


def _parse(path: pathlib.Path) -> pa.Table:
    content = _whole_lines(path)
    options = pa.json.ParseOptions(explicit_schema=RECORD, unexpected_field_behavior="ignore")
    blocks = pa.json.ReadOptions(block_size=8 << 20)
    if not content:
        return RECORD.empty_table()
    try:
        return pa.json.read_json(io.BytesIO(content), parse_options=options, read_options=blocks)
    except pa.ArrowInvalid:
        return _parse_damaged(path, content)


def _parse_damaged(path: pathlib.Path, content: bytes) -> pa.Table:
    """Reads line by line; what is not a record is named in the log and kept aside."""
    records, damaged = [], []
    for line in content.splitlines(keepends=True):
        try:
            row = json.loads(line)
            records.append(pa.Table.from_pylist([row], schema=RECORD))
        except (ValueError, AttributeError, pa.ArrowException):
            damaged.append(line)
    if damaged:
        aside = path.with_suffix(".damaged")
        logging.error("%s: %d lines are damaged; they are kept in %s.", path, len(damaged), aside)
        files.atomic_write(aside, b"".join(damaged))
    return pa.concat_tables([RECORD.empty_table(), *records])


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
