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
from features.spec import Feature, Kind

_NAMED = 3


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


def require(table: pa.Table, features: Sequence[Feature], *, name: str, key: str) -> None:
    """Refuses vectors of another width than is declared, and such as are not finite.

    Args:
        table: Rows of a table of videos or users.
        features: Features that read it; those of other kinds are left alone.
        name: Name of the table.
        key: Column that names a row.

    Raises:
        command.InputError: Names the column, how many rows are wrong, and some of them.
    """
    for feature in features:
        if feature.kind is not Kind.VECTOR:
            continue
        column = combined(table[feature.column])
        lengths = pc.list_value_length(column)
        _refuse(
            pc.fill_null(pc.not_equal(lengths, feature.width), False),
            f"have another width than the declared {feature.width}",
            (table, name, key, feature),
        )
        missing = np.isnan(of_column(column, feature.width)).any(axis=1)
        given = np.asarray(pc.is_valid(column))
        what = "hold a number that is null, NaN or infinite"
        _refuse(pa.array(missing & given), what, (table, name, key, feature))


def _refuse(wrong: pa.Array, what: str, where: tuple[pa.Table, str, str, Feature]) -> None:
    table, name, key, feature = where
    count = pc.sum(wrong).as_py() or 0
    if count:
        named = table[key].filter(wrong).slice(0, _NAMED).to_pylist()
        raise command.InputError(
            f"table {name}, column {feature.column!r}, the vector feature {feature.name!r}: "
            f"{count:,} of {table.num_rows:,} rows {what} (first: {named}). Write vectors of "
            f"{feature.width} finite numbers, or null where there is none."
        )
