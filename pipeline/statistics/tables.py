"""Statistics of the raw tables, as they were read: where to look when features look odd."""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl
from absl import logging

from features import command
from features.tables import log_writer, logs, schema

SAMPLED_ROWS = 300_000
QUANTILES = (0.0, 0.01, 0.25, 0.5, 0.75, 0.99, 1.0)
TOP = 10
_COUNTED = frozenset({"read", "accepted"})


def build(
    logs_dir: pathlib.Path,
    rows: Mapping[str, Mapping[str, int]],
    *,
    from_s: int | None,
    until_s: int,
) -> dict[str, Any]:
    """Returns statistics by table.

    Args:
        logs_dir: Directory of the raw logs.
        rows: Table -> ``read``, ``accepted`` and reasons -> number.
        from_s: First second that was read, None for all.
        until_s: First second that was not.
    """
    result = {}
    for name, counts in rows.items():
        events = schema.table_of(name).time_column is not None
        window = {"from_s": from_s, "until_s": until_s} if events else {}
        frame = _sample(logs_dir, name, window)
        result[name] = {
            "rows": counts.get("read", 0),
            "accepted": counts.get("accepted", 0),
            "rejected": {k: n for k, n in counts.items() if k not in _COUNTED},
            "sampled_rows": frame.height,
            **_times(frame, schema.table_of(name)),
            "columns": {column: _column(frame[column]) for column in frame.columns},
        }
    return result


def _sample(logs_dir: pathlib.Path, name: str, window: Mapping[str, Any]) -> pl.DataFrame:
    """Reads evenly spread pieces of a table, the first and the last among them."""
    pieces = logs.fragments(logs_dir, name, max_rows=1, **window)
    total = sum(piece.num_rows for piece in pieces)
    wanted = max(2, len(pieces) * SAMPLED_ROWS // max(total, 1))
    chosen = np.unique(np.linspace(0, len(pieces) - 1, min(len(pieces), wanted)).astype(int))
    parts = [logs.read_fragment(pieces[i], **window) for i in chosen]
    table = log_writer.concatenated(parts) if parts else schema.empty(name)
    if table.num_rows > SAMPLED_ROWS:
        every = -(-table.num_rows // SAMPLED_ROWS)
        table = table.take(np.arange(0, table.num_rows, every))
    logging.debug("Statistics of %s: %d of %d rows.", name, table.num_rows, total)
    return pl.DataFrame(pl.from_arrow(table))


def _times(frame: pl.DataFrame, contract: schema.Table) -> dict[str, str | None]:
    if contract.time_column is None:
        return {}
    bounds = (frame[contract.time_column].min(), frame[contract.time_column].max())
    return {
        name: command.format_time(bound) if isinstance(bound, int) and abs(bound) < 2e11 else None
        for name, bound in zip(("first", "last"), bounds, strict=True)
    }


def _column(values: pl.Series) -> dict[str, Any]:
    described: dict[str, Any] = {"type": str(values.dtype)}
    if isinstance(values.dtype, pl.List):
        lengths = values.list.len()
        described["missing"] = _share(values.is_null() | (lengths == 0))
        described["mean_length"] = lengths.mean()
        values = values.explode().drop_nulls()
    else:
        missing = values.is_null()
        if values.dtype.is_float():
            missing |= values.is_nan().fill_null(False)
        described["missing"] = _share(missing)
        values = values.filter(~missing)
    if values.dtype.is_nested() or values.dtype in {pl.Null, pl.Binary}:
        return described
    described["distinct"] = values.n_unique()
    if values.dtype.is_numeric() and len(values):
        known = values.cast(pl.Float64).to_numpy()
        known = known[np.isfinite(known)]
        quantiles = np.quantile(known, QUANTILES).tolist() if len(known) else []
        described["quantiles"] = dict(zip(map(str, QUANTILES), quantiles, strict=False))
        described["zero"] = _share(values == 0)
    elif len(values):
        counts = values.alias("value").value_counts(name="count")
        top = counts.sort(["count", "value"], descending=[True, False]).head(TOP)
        described["top"] = {shortened(str(v)): n for v, n in top.iter_rows()}
    return described


def _share(marked: pl.Series) -> float:
    return int(marked.sum()) / len(marked) if len(marked) else 0.0


def shortened(value: str, most: int = 60) -> str:
    """Cuts a value that would flood a report: a query may have thousands of characters."""
    return value if len(value) <= most else f"{value[:most]}..."
