"""Rows of the raw tables from records of the event log."""

import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from features import clicks
from features.catalogue import combined
from features.tables import log_files, logs, schema
from serving.events.event import Kind


def _first_rows(records: pa.Table, names: Sequence[str]) -> np.ndarray:
    numbered = records.select(list(names)).append_column(
        "row", pa.array(np.arange(records.num_rows))
    )
    first = numbered.group_by(list(names), use_threads=False).aggregate([("row", "min")])
    return np.sort(np.asarray(combined(first["row_min"]), np.int64))


def raw_table(name: str, records: pa.Table) -> pa.Table:
    """Returns the contract columns of a table; "" and -1 of the records stand for null."""
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


def feedback(records: pa.Table) -> pa.Table:
    """Returns rows of the feedback table; its ``kind`` is that of the feedback."""
    given = records.filter(pc.equal(records["kind"], Kind.FEEDBACK.value))
    given = given.set_column(given.column_names.index("kind"), "kind", given["feedback"])
    return raw_table("feedback", given)


def impressions(
    records: pa.Table, clicked: np.ndarray, seconds: np.ndarray, moment: np.ndarray
) -> pa.Table:
    """Returns rows of the impressions table; of the others see :func:`with_outcomes`."""
    return with_outcomes(raw_table("impressions", records), clicked, seconds, moment)


def with_outcomes(
    table: pa.Table, clicked: np.ndarray, seconds: np.ndarray, moment: np.ndarray
) -> pa.Table:
    """Returns impressions with what came of them.

    Args:
        table: n of them.
        clicked: bool [n], whether each was clicked.
        seconds: float64 [n], seconds watched.
        moment: int64 [n], moment of the click, Unix seconds; ``clicks.NEVER`` where nothing tells
            it.
    """
    told = pa.array(moment, mask=moment == clicks.NEVER)
    table = table.append_column("click_time", told)
    for name, values in (("clicked", clicked), ("watch_time_s", seconds)):
        table = table.set_column(table.column_names.index(name), name, pa.array(values))
    return table


def new_users(root: pathlib.Path, records: pa.Table) -> pa.Table:
    """Returns rows for the users table, where the logs have one, of users that it lacks.

    Without one nobody is unknown; a table of the new users alone would make all others so. A user
    may be new to the store alone, and a newer row, which knows less, would replace the table's.
    """
    if not records.num_rows or not log_files.files_of(root, "users"):
        return schema.empty("users")
    records = records.filter(pc.invert(pc.is_in(records["user_id"], value_set=_user_ids(root))))
    kept = records.take(pa.array(_first_rows(records, ["user_id"])))
    types = logs.column_types(root, "users")
    rows = []
    for user_id, profile in zip(
        kept["user_id"].to_pylist(), kept["profile"].to_pylist(), strict=True
    ):
        rows.append({**json.loads(profile or "{}"), "user_id": user_id})
    columns = {name: _typed([row.get(name) for row in rows], kind) for name, kind in types.items()}
    return pa.table(columns)


def _user_ids(root: pathlib.Path) -> pa.Array:
    """Returns the ids of the users table, which may have no rows yet."""
    files_of_users = log_files.files_of(root, "users")
    if not sum(pq.read_metadata(file.path).num_rows for file in files_of_users):
        return pa.array([], pa.string())
    return combined(logs.read_table(root, "users", columns=["user_id"])["user_id"])


def _typed(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    """Returns the values in the type of the table; one that does not fit is not known."""
    fitting = []
    for value in values:
        try:
            fitting.append(pa.scalar(value, kind).as_py())
        except (pa.ArrowException, TypeError, ValueError):
            fitting.append(None)
    return pa.array(fitting, kind)
