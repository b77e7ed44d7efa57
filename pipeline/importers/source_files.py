"""Reads the files of a public data set, CSV or Parquet, or says in one message why it cannot."""

import contextlib
import csv
import dataclasses
import pathlib
import re
from collections.abc import Iterable, Iterator, Mapping

import polars as pl
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
from absl import logging

from features import command
from features.screen import progress

BLOCK_BYTES = 32 << 20
BATCH_ROWS = 500_000

_UNIT_SEPARATOR = "\x1f"
_NULLS = ("", "NA", "NaN", "nan", "NULL", "null", "None")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dialect:
    """How a text file is laid out.

    Attributes:
        separator: Text between the fields. Files with more than one character are read whole.
        has_header: Whether the first line names the columns. Without it, the columns are in the
            order of the types asked for, and quotes mean nothing.
        encoding: Encoding of the text; None for UTF-8, or Latin-1 where a file that is read whole
            is none.
    """

    separator: str = ","
    has_header: bool = True
    encoding: str | None = None


CSV = Dialect()


def read_batches(
    path: pathlib.Path, types: Mapping[str, pa.DataType], *, dialect: Dialect = CSV
) -> Iterator[pa.Table]:
    """Yields a file piece by piece, so that a file of any size can be read.

    Args:
        path: A Parquet file if it ends in ``.parquet``, one of Feather
            (version 2) if it ends in ``.feather``, else text, which ``.gz`` compresses.
        types: Columns to read, in this order, and their types. Others are left out.
        dialect: Dialect of text files.

    Raises:
        InputError: The file is empty or not whole, lacks a column, or has a value of a wrong
            type. Raised while iterating.
    """
    total = 0
    with _explained(path):
        if path.suffix == ".parquet":
            batches = _parquet_batches(path, types)
        elif path.suffix == ".feather":
            batches = _feather_batches(path, types)
        else:
            names = _check_text(path, types, dialect)
            batches = _text_batches(path, types, dialect, names)
        for batch in batches:
            total += batch.num_rows
            yield batch
    if total == 0:
        raise command.InputError(f"{path} has no rows. Copy or unpack it again.")


def frames(
    paths: Iterable[pathlib.Path], types: Mapping[str, pa.DataType], **dialect: Dialect
) -> Iterator[pl.DataFrame]:
    """Yields files one after the other, piece by piece, as :func:`read_batches` reads them."""
    for path in paths:
        logging.info("Reading %s", path)
        for batch in read_batches(path, types, **dialect):
            yield pl.DataFrame(pl.from_arrow(batch))


def text(column: str) -> pl.Expr:
    """Returns a column, such as one of ids that are numbers, as text."""
    return pl.col(column).cast(pl.String)


def watches(shown: pl.DataFrame, *, source: pl.Expr) -> pl.DataFrame:
    """Returns the watches of impressions of which the data knows no more, in their order."""
    return shown.filter(pl.col("watch_time_s") > 0).select(
        *("user_id", "video_id", "time", "watch_time_s"),
        completed=pl.col("clicked"),
        source=source,
        device=pl.col("device"),
    )


def told(directory: pathlib.Path) -> str:
    """Returns what a directory holds, for a message: its first ten names."""
    names = ", ".join(sorted(item.name for item in directory.iterdir())[:10]) or "nothing"
    return f"It holds: {names}."


def num_rows(path: pathlib.Path) -> int:
    """Returns the number of rows of a Parquet file, or raises InputError."""
    with _explained(path):
        return int(pq.read_metadata(path).num_rows)


def require_directory(source: pathlib.Path, *, expected: str) -> None:
    """Raises InputError unless ``source`` is a directory; ``expected`` says what it should hold."""
    if source.is_dir():
        return
    state = "is a file" if source.exists() else "does not exist"
    raise command.InputError(f"--source={source} {state}. Give the directory with {expected}.")


@contextlib.contextmanager
def _explained(path: pathlib.Path) -> Iterator[None]:
    try:
        yield
    except (OSError, EOFError, UnicodeDecodeError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())
        raise command.InputError(
            f"{path} cannot be read: {reason}. It may be truncated, half copied or of another "
            "format: copy or unpack it again."
        ) from error


def _parquet_batches(path: pathlib.Path, types: Mapping[str, pa.DataType]) -> Iterator[pa.Table]:
    with pq.ParquetFile(path) as file:
        _require_columns(path, file.schema_arrow.names, types)
        progress.at(f"reading {path.name}", total=file.metadata.num_rows, unit="rows")
        for batch in file.iter_batches(BATCH_ROWS, columns=list(types), use_threads=False):
            progress.add(batch.num_rows)
            table = pa.table(batch).select(list(types))
            for index, (name, kind) in enumerate(types.items()):
                table = table.set_column(index, name, _cast(table[name], kind, f"{path}, {name}"))
            yield table


def _feather_batches(path: pathlib.Path, types: Mapping[str, pa.DataType]) -> Iterator[pa.Table]:
    with pa.memory_map(str(path)) as mapped:
        opened = pa.ipc.open_file(mapped)
        progress.at(f"reading {path.name}", total=opened.num_record_batches, unit="batches")
        for number in range(opened.num_record_batches):
            table = pa.table(opened.get_batch(number))
            progress.add()
            _require_columns(path, table.column_names, types)
            columns = {
                name: _cast(table[name], kind, f"{path}, {name}") for name, kind in types.items()
            }
            yield pa.table(columns)


def _cast(values: pa.ChunkedArray, kind: pa.DataType, what: str) -> pa.ChunkedArray:
    # Arrow would parse text as numbers; a number that comes as text is another format.
    is_text = pa.types.is_string(values.type) or pa.types.is_large_string(values.type)
    if is_text and not pa.types.is_string(kind):
        raise command.InputError(f"{what}: expected {kind}, found {values.type}.")
    try:
        return values.cast(kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        message = f"{what}: expected {kind}, found {values.type}: {error}"
        raise command.InputError(message) from error


def _text_batches(
    path: pathlib.Path, types: Mapping[str, pa.DataType], dialect: Dialect, names: list[str]
) -> Iterator[pa.Table]:
    separator, encoding = dialect.separator, dialect.encoding or "utf8"
    if len(separator) > 1:
        separator = _UNIT_SEPARATOR
        content = path.read_bytes()
        encoding = dialect.encoding or _encoding(content)
        content = content.replace(dialect.separator.encode(), separator.encode())
        file: pa.NativeFile = pa.BufferReader(content)
    else:
        file = pa.OSFile(str(path))
    data = pa.CompressedInputStream(file, "gzip") if path.suffix == ".gz" else file
    read = pa_csv.ReadOptions(
        block_size=BLOCK_BYTES,
        encoding=encoding,
        column_names=None if dialect.has_header else names,
    )
    parse = pa_csv.ParseOptions(
        delimiter=separator, quote_char='"' if dialect.has_header else False
    )
    convert = pa_csv.ConvertOptions(
        column_types=dict(types),
        include_columns=list(types),
        null_values=list(_NULLS),
        strings_can_be_null=True,
    )
    progress.at(f"reading {path.name}", total=file.size(), unit="bytes")
    done = 0
    with (
        file,
        _column_named(path, names, types),
        pa_csv.open_csv(
            data, read_options=read, parse_options=parse, convert_options=convert
        ) as reader,
    ):
        for batch in reader:
            progress.add(file.tell() - done)
            done = file.tell()
            yield pa.table(batch)


@contextlib.contextmanager
def _column_named(
    path: pathlib.Path, names: list[str], types: Mapping[str, pa.DataType]
) -> Iterator[None]:
    """Says which column a value of a wrong type is in, and how to write it instead.

    Arrow gives the number of the column only.
    """
    try:
        yield
    except pa.ArrowInvalid as error:
        match = re.match(r"In CSV column #(\d+): .*?invalid value '(.*)'", str(error), re.DOTALL)
        if match is None:
            raise
        name = names[int(match[1])]
        raise command.InputError(
            f"{path}, column {name!r}: expected {types[name]}, as in the original download, found "
            f"{match[2][:60]!r}. {_remedy(name, match[2])}"
        ) from error


def _remedy(name: str, value: str) -> str:
    """Says what to do about a value that is not the number that it should be."""
    column = f"df[{name!r}]"
    if re.match(r"\d{4}-\d\d-\d\d", value):
        since = f"(pd.to_datetime({column}, utc=True) - pd.Timestamp(0, tz='UTC'))"
        return f"Write whole Unix seconds; pandas: {column} = {since} // pd.Timedelta('1s')"
    if re.fullmatch(r"[+-]?\d+(\.\d*)?([eE][+-]?\d+)?", value):
        return f"Write whole numbers; pandas: {column} = ({column} // 1).astype('Int64')"
    return "Mend that value, or take the file of the original download."


def _encoding(content: bytes) -> str:
    """Returns utf8 where the content is that, else latin-1, as old data sets are."""
    try:
        content.decode("utf8")
    except UnicodeDecodeError:
        return "latin-1"
    return "utf8"


def _check_text(
    path: pathlib.Path, types: Mapping[str, pa.DataType], dialect: Dialect
) -> list[str]:
    """Returns the names of the columns in the file; warns of an unfinished last line."""
    with pa.input_stream(str(path), compression="detect") as stream:
        # Longer than any header here; a row is not needed.
        first_line = stream.read(1 << 16).decode(errors="replace").partition("\n")[0]
    if not first_line:
        raise command.InputError(f"{path} is empty. Copy or unpack it again.")
    names = list(types)
    if dialect.has_header:
        line = first_line.lstrip("\ufeff").rstrip("\r")
        names = next(csv.reader([line], delimiter=dialect.separator))
        _require_columns(path, names, types)
    if path.suffix != ".gz":
        with path.open("rb") as file:
            file.seek(-1, 2)
            if file.read() != b"\n":
                logging.warning("%s does not end with a line break: is it truncated?", path)
    return names


def _require_columns(path: pathlib.Path, have: list[str], types: Mapping[str, pa.DataType]) -> None:
    missing = [name for name in types if name not in have]
    if missing:
        raise command.InputError(
            f"{path} lacks the column{'s' if len(missing) > 1 else ''} {', '.join(missing)}. "
            f"Found: {', '.join(have) or 'no columns'}."
        )
