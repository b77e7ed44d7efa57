"""Dense vectors of videos and users: columns of lists of numbers, all of one width.

What an embedding of a title, a frame or a sound says of a video is there when it is uploaded, and
nobody has watched it yet.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features import command
from features.catalogue import combined
from features.spec import MODELS, WATCH_BAG, Feature, Kind, Side

# Watches over which a vector of videos is averaged (``history.watched.X``), by what that is called.
WINDOWS = {"watched": WATCH_BAG, "last": 1}
_NAMED = 3


def declarations_of(column: str, width: int) -> list[dict[str, object]]:
    """Returns what ``features.json`` says of a vector of videos, for both models.

    That is the vector itself, and what a user watched by it: the mean over the last watches and
    the last one, which know a video also where training has not met its id.

    Args:
        column: Column of the videos table, letters, digits and _.
        width: Width of the vectors.
    """
    common = {"kind": Kind.VECTOR.value, "width": width, "models": list(MODELS)}
    own = {"name": column, "side": Side.CANDIDATE.value, "source": f"videos.{column}"}
    of_watches = [
        {"name": f"{bag}_{column}", "side": Side.QUERY.value, "source": f"history.{bag}.{column}"}
        for bag in WINDOWS
    ]
    return [{**one, **common} for one in (own, *of_watches)]


def of_column(column: pa.Array, width: int) -> np.ndarray:
    """Returns the vectors of a column, float32 [n, width].

    One that is null, of another width, or not finite is missing as a whole: NaN.

    Args:
        column: Lists of numbers, n of them; or all null.
        width: Declared width.
    """
    vectors = np.full((len(column), width), np.nan, np.float32)
    if not pa.types.is_list(column.type):
        return vectors
    fits = pc.fill_null(pc.equal(pc.list_value_length(column), width), False)
    values = column.filter(fits).flatten().cast(pa.float32(), safe=False)
    filled = np.array(values.fill_null(np.nan)).reshape(-1, width)
    filled[~np.isfinite(filled).all(axis=1)] = np.nan
    vectors[np.asarray(fits)] = filled
    return vectors


def means(vectors: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Returns the mean of each run of vectors, float32 [n, width]; NaN of one that has none.

    Args:
        vectors: Vectors, float32 [sum of lengths, width]; those that are missing, NaN, do not
            count.
        lengths: Lengths of n consecutive runs, int64 [n].

    Example:
        >>> vectors = np.array([[1.0], [np.nan], [3.0], [5.0]], np.float32)
        >>> means(vectors, np.array([3, 0, 1])).ravel().tolist()
        [2.0, nan, 5.0]
    """
    known = ~np.isnan(vectors[:, :1])
    sums = np.zeros((len(lengths), vectors.shape[1] + 1), np.float64)
    runs = np.flatnonzero(lengths)
    if len(runs):
        starts = (np.cumsum(lengths) - lengths)[runs]
        counted = np.concatenate([np.where(known, vectors, 0), known], axis=1)
        sums[runs] = np.add.reduceat(counted, starts, axis=0)
    with np.errstate(invalid="ignore"):  # 0 / 0 is missing.
        return (sums[:, :-1] / sums[:, -1:]).astype(np.float32)


def read_by(features: Sequence[Feature], table: str) -> list[tuple[Feature, str]]:
    """Returns the vector features that read a table, and the column that each of them reads."""
    mine = [f for f in features if f.kind is Kind.VECTOR]
    own = [(f, f.column) for f in mine if f.origin == table]
    return own + [(f, f.of_watched) for f in mine if table == "videos" and f.of_watched]


def faults(table: pa.Table, features: Sequence[Feature], *, name: str, key: str) -> list[str]:
    """Says of vectors that they have another width than is declared, or are not finite.

    Args:
        table: Rows of a table of videos or users.
        features: Features of the data set; those that read no vector of it are left alone.
        name: Name of the table.
        key: Column that names a row.

    Returns:
        A sentence for each fault of each feature: the column, how many rows have it, and some of
        them.
    """
    faulty = []
    named = {(read, feature.width): feature for feature, read in reversed(read_by(features, name))}
    for (read, width), feature in named.items():
        column = combined(table[read])
        is_other = pc.fill_null(pc.not_equal(pc.list_value_length(column), width), False)
        missing = np.isnan(of_column(column, width)).any(axis=1)
        is_no_number = missing & np.asarray(pc.is_valid(column)) & ~np.asarray(is_other)
        for wrong, what in (
            (is_other, f"have another width than the declared {width}"),
            (pa.array(is_no_number), "hold a number that is null, NaN or infinite"),
        ):
            if count := pc.sum(wrong).as_py() or 0:
                some = table[key].filter(wrong).slice(0, _NAMED).to_pylist()
                faulty.append(
                    f"table {name}, column {read!r}, the vector feature "
                    f"{feature.name!r}: {count:,} of {table.num_rows:,} rows {what} (first: "
                    f"{some}). Write vectors of {width} finite numbers, or null where there is "
                    "none."
                )
    return faulty


def require(table: pa.Table, features: Sequence[Feature], *, name: str, key: str) -> None:
    """Refuses what :func:`faults` finds.

    Raises:
        command.InputError: Names every fault.
    """
    if faulty := faults(table, features, name=name, key=key):
        raise command.InputError("\n  ".join(faulty))
