"""CSV, JSON and Parquet files as relations of DuckDB.

Nothing is guessed from the first rows: DuckDB's own look at a CSV file takes a line with a field
too few for the end of a preamble, and what stands before it is gone. So the header, the separator
and the encoding are looked at here, every column is text, as it is written, and a line that does
not fit is an error that names it.
"""

import collections
import csv
import dataclasses
import glob
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
from absl import logging

from features import command
from features.tables import log_files

_TEXT = {
    "csv": (".csv", ".tsv", ".txt"),
    "json": (".json", ".jsonl", ".ndjson"),
}
_PACKED = ("", ".gz", ".zst")
_SUFFIXES = {
    kind: tuple(suffix + packed for suffix in suffixes for packed in _PACKED)
    for kind, suffixes in _TEXT.items()
}
FORMATS = ("csv", "json", "parquet")
_DELIMITERS = ",;\t|"
_HEAD_BYTES = 1 << 20
_MISSING = ("", "\\N")  # An empty cell; what Hive, PostgreSQL and MySQL write for null.
# What DuckDB takes JSON text for that looks like it; the text says more (zones, leading zeros).
_FROM_TEXT = ("DATE", "TIME", "TIMESTAMP", "UUID")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Files:
    """The files of one source.

    Attributes:
        paths: Files, in the order in which they are read.
        format: One of ``FORMATS``.
        has_partitions: Whether they lie in ``key=value`` directories, which are columns then.
    """

    paths: tuple[pathlib.Path, ...]
    format: str
    has_partitions: bool


def find(location: str, directory: pathlib.Path, options: Mapping[str, Any]) -> Files:
    """Finds the files of a source.

    Args:
        location: Path of a file or directory, or a pattern (``plays_*.csv``, ``**``).
        directory: Directory at which a relative path begins.
        options: Options of the source; ``format`` where the names do not tell it.

    Raises:
        command.InputError: There are none, or of several formats, or some cannot be read.
    """
    wanted = options.get("format")
    if wanted is not None and wanted not in FORMATS:
        raise command.InputError(f"format must be in {list(FORMATS)}, got {wanted!r}.")
    every = [suffix for suffixes in _SUFFIXES.values() for suffix in suffixes]
    pattern = str(directory / location)
    starts = sorted(map(pathlib.Path, glob.glob(pattern, recursive=True)))
    if not starts and pathlib.Path(pattern).exists():  # A name with brackets.
        starts = [pathlib.Path(pattern)]
    files: dict[pathlib.Path, bool] = {}
    for start in starts:
        is_named = start.is_file() and wanted not in {None, "parquet"}
        listing = log_files.find_data(start, ("",) if is_named else every)
        if listing.problems:
            raise command.InputError(" ".join(listing.problems))
        if listing.left_alone:
            logging.warning("Left alone: %s.", listing.notice())
        files |= {file.path: bool(file.partitions) for file in listing.files}
    if not files:
        raise command.InputError(_nothing(pathlib.Path(pattern), starts))
    formats = collections.Counter(wanted or _format_of(path) for path in files)
    if len(formats) > 1:
        counts = ", ".join(f"{count} of {name}" for name, count in sorted(formats.items()))
        raise command.InputError(f"{pattern} has files of several formats ({counts}). Name one.")
    return Files(paths=tuple(files), format=next(iter(formats)), has_partitions=all(files.values()))


def relation(files: Files, options: Mapping[str, Any], cursor: Any) -> str:
    """Returns the table function of DuckDB that reads files, for a FROM clause.

    Raises:
        command.InputError: The head of a file does not say which columns there are.
    """
    if files.format == "csv":
        return _csv(files, options)
    names = _list(map(str, files.paths))
    partitions = str(files.has_partitions).lower()
    if files.format == "parquet":
        return (
            f"read_parquet({names}, union_by_name=true, hive_partitioning={partitions}, "
            "hive_types_autocast=false)"
        )
    # All rows are looked at, since what a field holds may change far down.
    read = f"read_json({names}, union_by_name=true, hive_partitioning={partitions}, "
    rows = cursor.sql(f"SELECT * FROM {read} sample_size=-1)")
    types = {
        name: "VARCHAR" if str(kind).startswith(_FROM_TEXT) else str(kind)
        for name, kind in zip(rows.columns, rows.types, strict=True)
    }
    columns = ", ".join(f"{quoted(name)}: {quoted(kind)}" for name, kind in types.items())
    return f"{read} auto_detect=false, columns={{{columns}}})"


def quoted(text: str) -> str:
    """Returns a text as a literal of SQL."""
    return "'" + text.replace("'", "''") + "'"


def _csv(files: Files, options: Mapping[str, Any]) -> str:
    """Reads every file by its own header and puts columns of the same name together."""
    missing = [*_MISSING, *options.get("missing", ())]
    parts = []
    for path in files.paths:
        encoding = str(options.get("encoding") or _encoding(path))
        head = _head(path).decode(encoding, errors="replace").lstrip("\ufeff")
        delimiter = str(options.get("delimiter") or _delimiter(head))
        names = options.get("names") or _header(path, head, delimiter)
        columns = ", ".join(f"{quoted(name)}: 'VARCHAR'" for name in names)
        partitions = "true" if files.has_partitions else "false"
        parts.append(
            f"SELECT * FROM read_csv({quoted(str(path))}, auto_detect=false, "
            f"header={'false' if 'names' in options else 'true'}, delim={quoted(delimiter)}, "
            f"quote='\"', escape='\"', columns={{{columns}}}, nullstr={_list(missing)}, "
            f"encoding={quoted(encoding)}, hive_partitioning={partitions}, "
            "hive_types_autocast=false)"
        )
    return f"({' UNION ALL BY NAME '.join(parts)})"


def _format_of(path: pathlib.Path) -> str:
    name = path.name.lower()
    return next((kind for kind, ends in _SUFFIXES.items() if name.endswith(ends)), "parquet")


def _nothing(path: pathlib.Path, starts: Sequence[pathlib.Path]) -> str:
    if starts:
        return f"{path} has no file of CSV, JSON or Parquet. Say format = where names do not."
    parent = next(p for p in path.parents if p.is_dir())
    names = ", ".join(sorted(item.name for item in parent.iterdir())[:10]) or "nothing"
    return f"{path} does not exist. {parent} holds: {names}."


def _head(path: pathlib.Path) -> bytes:
    """Returns the first bytes of the content, unpacked."""
    try:
        with pa.input_stream(str(path), compression="detect") as stream:
            return bytes(stream.read(_HEAD_BYTES))
    except (OSError, pa.ArrowException) as error:
        raise command.InputError(f"{path} cannot be read: {error}. Copy it again.") from error


def _encoding(path: pathlib.Path) -> str:
    head = _head(path)
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    try:
        head[: head.rfind(b"\n") + 1].decode()
    except UnicodeDecodeError:
        logging.warning("%s is not UTF-8: it is read as latin-1; encoding = says otherwise.", path)
        return "latin-1"
    return "utf-8"


def _delimiter(head: str) -> str:
    """Returns the character that parts the header into the most fields; a comma for a single."""
    line = head.partition("\n")[0]
    return max(_DELIMITERS, key=lambda each: len(next(csv.reader([line], delimiter=each), [])))


def _header(path: pathlib.Path, head: str, delimiter: str) -> list[str]:
    names = next(csv.reader(head.splitlines(), delimiter=delimiter), [])
    if not any(name.strip() for name in names):
        raise command.InputError(f"{path} is empty: its first line must name the columns.")
    unnamed = [name.strip() or f"column{place}" for place, name in enumerate(names)]
    counts = collections.Counter(name.lower() for name in unnamed)
    twice = sorted(name for name in unnamed if counts[name.lower()] > 1)
    if twice:
        raise command.InputError(
            f"{path} has columns whose names differ in their case at most: {', '.join(twice)}. "
            "Rename one of them."
        )
    return unnamed


def _list(texts: Any) -> str:
    return f"[{', '.join(quoted(text) for text in texts)}]"
