"""Runs of values of different lengths: bags and lists, as lengths and their values in one array."""

from typing import NamedTuple

import numpy as np
import pyarrow as pa

from features.catalogue import ragged_rows


class Coded(NamedTuple):
    """Strings as codes: whoever knows a thing by its code need not look for its name.

    Attributes:
        codes: int [n].
        names: string, of each code.
    """

    codes: np.ndarray
    names: pa.Array

    def plain(self) -> pa.Array:
        """Returns string [n]."""
        return self.names.take(pa.array(self.codes))


def list_array(lengths: np.ndarray, values: pa.Array) -> pa.ListArray:
    """Returns list<...> [n] of consecutive runs of ``values``."""
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), values)


def sum_runs(counts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Sums consecutive runs of ``counts``; run i has ``lengths[i]`` members."""
    totals = np.concatenate([[0], np.cumsum(counts)])
    ends = np.cumsum(lengths)
    return (totals[ends] - totals[ends - lengths]).astype(np.int64)


def first(lengths: np.ndarray, values: np.ndarray, limit: int) -> tuple[np.ndarray, np.ndarray]:
    """Keeps the first ``limit`` members of each run."""
    kept = np.minimum(lengths, limit)
    return kept, values[ragged_rows(np.cumsum(lengths) - lengths, kept)]


def cut(lengths: np.ndarray, values: pa.Array | Coded, limit: int) -> tuple[np.ndarray, pa.Array]:
    """Keeps the first ``limit`` of each run of values, as plain strings."""
    if isinstance(values, Coded):
        kept, codes = first(lengths, values.codes, limit)
        return kept, Coded(codes, values.names).plain()
    if not len(lengths) or lengths.max() <= limit:
        return lengths, values
    lengths, chosen = first(lengths, np.arange(len(values)), limit)
    return lengths, values.take(pa.array(chosen))
