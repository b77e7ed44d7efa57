"""Columns of tables as features have them: rows first, casts after.

A table may hold millions of videos, and the rows that are asked for are hundreds.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features import vectors
from features.as_of import ragged
from features.catalogue import combined, filled
from features.spec import Feature, Kind


def taken(column: pa.Array, rows: np.ndarray) -> pa.Array:
    """Returns ``column[rows]``, null where the row is -1."""
    rows = np.asarray(rows, np.int64)
    return column.take(pa.array(rows, mask=rows < 0))


def strings(table: pa.Table, feature: Feature, rows: np.ndarray) -> pa.Array:
    """Returns the values of a categorical feature at rows [n], -1 for none.

    string [n], "" where missing, of a univalent one; list<string> [n] of a multivalent one, its
    first ``max_length`` values.
    """
    column = taken(_combined_column(table, feature.column, len(rows)), rows)
    if feature.kind is Kind.UNIVALENT:
        return filled(column, pa.string(), "")
    if not pa.types.is_list(column.type):
        column = _as_lists(column.cast(pa.string()))
    column = column.cast(pa.list_(pa.string()))
    lengths = np.asarray(pc.fill_null(pc.list_value_length(column), 0), np.int64)
    return ragged.list_array(
        *ragged.cut(lengths, filled(column.flatten(), pa.string(), ""), feature.max_length)
    )


def dense(table: pa.Table, column: str, rows: np.ndarray, *, width: int) -> np.ndarray:
    """Returns the vectors of a column at rows [n], float32 [n, width], NaN where missing."""
    return vectors.of_column(taken(_combined_column(table, column, len(rows)), rows), width)


def floats(table: pa.Table, name: str, rows: np.ndarray) -> np.ndarray:
    """Returns the numbers of a column at rows [n], float32 [n], NaN where missing."""
    if name not in table.column_names or not table.num_rows:
        return np.full(len(rows), np.nan, np.float32)
    return numbers(taken(combined(table[name]), rows))


def numbers(column: pa.Array) -> np.ndarray:
    """Returns a column of numbers or truth values as float32 [n], NaN for null."""
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.int8())
    return np.asarray(filled(column, pa.float64(), np.nan)).astype(np.float32)


def _as_lists(column: pa.Array) -> pa.ListArray:
    lengths = np.asarray(column.is_valid(), np.int64)
    return ragged.list_array(lengths, column.drop_null())


def _combined_column(table: pa.Table, name: str, rows: int) -> pa.Array:
    """Returns a column as one array; all null where the table does not have it."""
    if name not in table.column_names:
        return pa.nulls(max(table.num_rows, rows), pa.string())
    return combined(table[name])
