"""Queries of offline retrieval: what a Parquet file of them must hold, checked when it is read."""

import pathlib
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from features import command
from features.catalogue import combined
from serving.batch import output as batch_output

_STRINGS = pa.list_(pa.string())
_REQUIRED: Mapping[str, pa.DataType] = {
    "query_id": pa.null(),  # Of any type; it is handed through.
    "time": pa.int64(),
    "watched_video_ids": _STRINGS,
}
MAX_TIME_S = 1 << 33  # The year 2242; what lies beyond is no time in seconds.
_OPTIONAL: Mapping[str, pa.DataType] = {
    "watched_times": pa.list_(pa.int64()),
    "search_queries": _STRINGS,
}


def read(path: pathlib.Path) -> pa.Table:
    """Reads and checks a file of queries.

    Raises:
        command.InputError: A column is missing or of a wrong type; see
            :func:`serving.batch.retrieval.retrieve`.
    """
    table = batch_output.read_parquet(path, flag="queries")
    for name, wanted in {**_REQUIRED, **_OPTIONAL}.items():
        if name not in table.column_names:
            if name in _REQUIRED:
                raise command.InputError(
                    f"--queries {path} lacks the column {name!r} ({_word(wanted)}). "
                    f"Found: {', '.join(table.column_names)}."
                )
            continue
        if not pa.types.is_null(wanted):
            table = _cast(table, name, wanted, path)
    _require_seconds(table, path)
    if table["time"].null_count:
        raise command.InputError(
            f"--queries {path}: {table['time'].null_count} rows have no time; each needs one."
        )
    _require_equal_lengths(table, path)
    return table


def _require_seconds(table: pa.Table, path: pathlib.Path) -> None:
    times = table["time"].drop_null()
    if len(times) and not 0 <= pc.min(times).as_py() <= pc.max(times).as_py() < MAX_TIME_S:
        raise command.InputError(
            f"--queries {path}, column 'time': times must be Unix seconds, UTC, below "
            f"{MAX_TIME_S}; found {pc.min(times)} to {pc.max(times)} (milliseconds?)."
        )


def _cast(table: pa.Table, name: str, wanted: pa.DataType, path: pathlib.Path) -> pa.Table:
    given = table[name].type
    if pa.types.is_temporal(given.value_type if hasattr(given, "value_type") else given):
        raise command.InputError(
            f"--queries {path}, column {name!r}: expected {_word(wanted)}, found {given}. "
            "Write times as whole Unix seconds, UTC."
        )
    try:
        column = table[name].cast(wanted)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise command.InputError(
            f"--queries {path}, column {name!r}: expected {_word(wanted)}, found {given}: {error}."
        ) from None
    return table.set_column(table.column_names.index(name), name, column)


def _word(kind: pa.DataType) -> str:
    if pa.types.is_null(kind):
        return "any type"
    return f"list<{kind.value_type}>" if pa.types.is_list(kind) else str(kind)


def _require_equal_lengths(table: pa.Table, path: pathlib.Path) -> None:
    if "watched_times" not in table.column_names:
        return
    ids, times = (lengths(table[name]) for name in ("watched_video_ids", "watched_times"))
    unequal = np.flatnonzero(ids != times)
    if len(unequal):
        query = table["query_id"][int(unequal[0])].as_py()
        raise command.InputError(
            f"--queries {path}: watched_times and watched_video_ids must have equal lengths, but "
            f"differ in {len(unequal)} rows, first in query {query!r}."
        )


def lengths(column: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    """Returns the length of every list, int64 [n]; null counts as empty."""
    return np.asarray(pc.fill_null(pc.list_value_length(combined(column)), 0), np.int64)
