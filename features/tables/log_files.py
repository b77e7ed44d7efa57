"""Which files of a table are read: the one place that decides it, and says what is left alone.

A file is read when it is Parquet, whatever it is called: other tools write ``000000_0``, ``.parq``
or ``.PARQUET``. Links to files and directories are followed. What begins with a dot or an
underscore, or is not finished, or is not Parquet, is left alone, with a warning that counts it.
What should hold rows and cannot be read, such as a link to nothing, is an error that names it.
"""

import collections
import contextlib
import dataclasses
import datetime
import hashlib
import json
import os
import pathlib
import re
import stat
from collections.abc import Iterator, Sequence

from features import command
from features.tables import log_writer, schema

_SUFFIXES = (".parquet", ".parq", ".pq")
_MAGIC = (b"PAR1", b"PARE")  # The second: with an encrypted footer, which reading then names.
_GZIP = b"\x1f\x8b"
_UNFINISHED = (
    *(".tmp", ".temp", ".part", ".partial", ".filepart", ".crdownload", ".inprogress"),
    *(".download", "._copying_", ".swp", "~"),
)
# What Spark, Hive and Databricks leave beside the data by convention; it holds no rows.
_MARKERS = ("_success", "_metadata", "_common_metadata", "_started_", "_committed_", ".ds_store")
_VERSIONED = {"_delta_log": "Delta Lake", ".hoodie": "Hudi"}
_HIDDEN = "hidden by a dot or an underscore"


@dataclasses.dataclass(frozen=True, kw_only=True)
class TableFile:
    """One file of a table.

    Attributes:
        path: Path at which the file was found, its links unresolved.
        partitions: ``key=value`` directories between the table's and the file, outermost first.
        modified_ns: Time at which the content was written, Unix nanoseconds.
        size: Size in bytes.
    """

    path: pathlib.Path
    partitions: tuple[tuple[str, str], ...]
    modified_ns: int
    size: int


@dataclasses.dataclass(frozen=True)
class Listing:
    """What lies below the directory of a table.

    Attributes:
        files: Files that are read, sorted by path.
        left_alone: Paths that are not read, each with the reason.
        problems: Faults of what should hold rows and cannot be read, one sentence each.
    """

    files: tuple[TableFile, ...]
    left_alone: tuple[tuple[pathlib.Path, str], ...]
    problems: tuple[str, ...]

    def notice(self) -> str:
        """Says how much is left alone, and why, with an example each; empty for nothing."""
        by_reason = collections.defaultdict(list)
        for path, reason in self.left_alone:
            by_reason[reason].append(path)
        parts = [f"{len(paths)} {why}, such as {paths[0]}" for why, paths in by_reason.items()]
        return "; ".join(parts)


def find(logs_dir: str | os.PathLike[str], table: str) -> Listing:
    """Looks at all that lies in the directory of a table, or in a file or directory .parquet."""
    root = pathlib.Path(logs_dir)
    return _Search(root, _SUFFIXES).run(root / table, root / f"{table}.parquet")


def find_data(path: pathlib.Path, suffixes: Sequence[str]) -> Listing:
    """Looks at all that lies in a directory of rows that need not be ours.

    Args:
        path: Directory as Spark, Hive and others write them, or a file.
        suffixes: Ends of the names of files that hold rows besides Parquet, in lower case.
    """
    real = path.resolve()
    return _Search(real, (*_SUFFIXES, *suffixes)).run(real)


def table_at(path: pathlib.Path) -> str:
    """Returns the table that something directly below a logs directory is (part of), or ""."""
    name = path.name.removesuffix(".parquet")
    return name if name in schema.TABLES else ""


def files_of(logs_dir: str | os.PathLike[str], table: str) -> tuple[TableFile, ...]:
    """Returns the files of a table, by path; empty where it has none.

    Raises:
        command.InputError: Something should hold rows and cannot be read; it names all of that.
    """
    listing = find(logs_dir, table)
    if listing.problems:
        raise command.InputError("\n  ".join(listing.problems))
    if listing.left_alone:
        schema.warn_once(f"Table {table}: left alone: {listing.notice()}.")
    return listing.files


def inventory(logs_dir: str | os.PathLike[str], table: str) -> dict[str, str | int]:
    """Returns what a table consists of, for the record of whoever reads it; JSON values.

    ``files`` and ``bytes`` count, ``first`` and ``last`` are the partitions at both ends ("" where
    the table has none), and ``sha256`` is over the paths and sizes of all files, so that two
    records tell whether they are of the same ones. Contents are not read.
    """
    root = pathlib.Path(logs_dir)
    listed = find(root, table).files
    parts = sorted("/".join(f"{key}={value}" for key, value in file.partitions) for file in listed)
    rows = sorted((str(file.path.relative_to(root)), file.size) for file in listed)
    return {
        "files": len(listed),
        "bytes": sum(file.size for file in listed),
        "first": parts[0] if parts else "",
        "last": parts[-1] if parts else "",
        "sha256": hashlib.sha256(json.dumps(rows).encode()).hexdigest(),
    }


def has_tables(logs_dir: str | os.PathLike[str]) -> bool:
    """Says whether there is anything of a table, readable or not; a new site has nothing yet."""
    listings = (find(logs_dir, table) for table in schema.TABLES)
    return any(table.files or table.problems for table in listings)


def oldest_first(files: Sequence[TableFile]) -> list[TableFile]:
    """Sorts the files of a table by what they are evidence of.

    By the day in the name of their directory (``date=``, ``dt=`` and so on) where all have one,
    since copies of files lose their times; then by the time at which they were written, then by
    name.
    """
    days = {file.path: _day(file) for file in files}
    is_dated = all(days.values())
    return sorted(
        files, key=lambda f: (days[f.path] if is_dated else "", f.modified_ns, str(f.path))
    )


def parse_day(value: str) -> datetime.date | None:
    """Returns the day that the value of a partition names, as 2026-11-20 or 20261120."""
    if not re.fullmatch(r"\d{8}|\d{4}-\d{2}-\d{2}", value):
        return None
    digits = value.replace("-", "")
    with contextlib.suppress(ValueError):
        return datetime.date(int(digits[:4]), int(digits[4:6]), int(digits[6:]))
    return None


def strays(root: pathlib.Path) -> list[str]:
    """Says what lies in a logs directory and is taken for no table, one sentence each."""
    said = []
    for path in sorted(root.iterdir()):
        name = path.name.lower().partition(".")[0]
        table = next((t for t in schema.TABLES if name in {t, t.rstrip("s")}), "")
        is_known = path.name == log_writer.FEATURES_FILE or table_at(path)
        if path.name.startswith((".", "_")) or is_known:
            continue
        if path.is_file() and path.name.lower().endswith((*_SUFFIXES, ".csv", ".json", ".gz")):
            way = f" For example: mkdir {root / table} && mv {path} {root / table}" if table else ""
            said.append(
                f"{path} is not read: a table is a directory of Parquet files, such as "
                f"{root / (table or 'watches')}.{way}"
            )
        elif path.is_dir() and table:
            said.append(f"{path} is not read. Is it the table {table}? Rename it {root / table}")
    return said


class _Search:
    """Walks through one table, links last, so that what they lead to twice is read once."""

    def __init__(self, root: pathlib.Path, suffixes: Sequence[str]) -> None:
        self._root = root
        self._suffixes = tuple(suffixes)
        real = root.resolve()
        self._seen = {_identity(path.stat()) for path in (real, *real.parents) if path.exists()}
        self._links: list[pathlib.Path] = []
        self._files: list[TableFile] = []
        self._left_alone: list[tuple[pathlib.Path, str]] = []
        self._problems: list[str] = []

    def run(self, *starts: pathlib.Path) -> Listing:
        for path in starts:
            if path.is_symlink():
                self._links.append(path)
            elif path.exists():
                self._look_at(path, is_link=False)
        while self._links:
            self._look_at(self._links.pop(0), is_link=True)
        files = sorted(self._files, key=lambda file: file.path)
        return Listing(tuple(files), tuple(sorted(self._left_alone)), tuple(sorted(self._problems)))

    def _look_into(self, directory: pathlib.Path) -> None:
        try:
            entries = sorted(os.scandir(directory), key=lambda entry: entry.name)
        except OSError as error:
            self._problems.append(f"{directory} cannot be read: {error.strerror}.")
            return
        for entry in entries:
            path = pathlib.Path(entry.path)
            if entry.name.lower() in _VERSIONED:
                kind = _VERSIONED[entry.name.lower()]
                why = f"of {kind}: rows that {kind} removed are read too, export the table instead"
                self._left_alone.append((path, why))
            elif entry.name.startswith((".", "_")):
                if not entry.name.lower().startswith(_MARKERS) and path.suffix != ".crc":
                    self._left_alone.append((path, _HIDDEN))
            elif entry.is_symlink():
                self._links.append(path)
            else:
                self._look_at(path, is_link=False)

    def _look_at(self, path: pathlib.Path, *, is_link: bool) -> None:
        try:
            status = path.stat()
        except OSError as error:
            if is_link:
                self._problems.append(
                    f"{path} is a link to {os.readlink(path)}, which cannot be read: "
                    f"{error.strerror}. Mount what it leads to, or remove the link."
                )
            return  # A file that has just been removed holds nothing.
        if is_link and _identity(status) in self._seen:
            self._left_alone.append((path, "a link to what is read already"))
            return
        self._seen.add(_identity(status))
        if stat.S_ISDIR(status.st_mode):
            self._look_into(path)
        elif not stat.S_ISREG(status.st_mode):
            self._left_alone.append((path, "neither file nor directory"))
        else:
            self._judge(path, status)

    def _judge(self, path: pathlib.Path, status: os.stat_result) -> None:
        name = path.name.lower()
        if name.endswith(_UNFINISHED):
            self._left_alone.append((path, "not finished"))
            return
        if not name.endswith(self._suffixes):
            try:
                with path.open("rb") as file:
                    head = file.read(4)
            except OSError as error:
                self._problems.append(f"{path} cannot be read: {error.strerror}.")
                return
            if head not in _MAGIC:
                self._refuse(path, head)
                return
        self._files.append(
            TableFile(
                path=path,
                partitions=tuple(_partitions(path.relative_to(self._root))),
                modified_ns=status.st_mtime_ns,
                size=status.st_size,
            )
        )

    def _refuse(self, path: pathlib.Path, head: bytes) -> None:
        is_called_parquet = any(suffix in path.name.lower() for suffix in _SUFFIXES)
        if is_called_parquet and head.startswith(_GZIP):
            self._problems.append(f"{path} is compressed as a whole. Unpack it: gunzip {path}")
        elif is_called_parquet:
            self._problems.append(f"{path} is not Parquet, though its name says so.")
        else:
            self._left_alone.append((path, "not Parquet" if head else "empty"))


def _partitions(relative: pathlib.Path) -> Iterator[tuple[str, str]]:
    for part in relative.parts[:-1]:
        key, equals, value = part.partition("=")
        if equals:
            yield key, value


def _day(file: TableFile) -> str:
    """Returns the innermost partition that is a day, as YYYY-MM-DD; empty for none."""
    days = (parse_day(value) for _, value in reversed(file.partitions))
    return next((day.isoformat() for day in days if day is not None), "")


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
