"""Brings a column to the type of the contract, whatever a tool wrote it as, or says why not.

Nothing is lost on the way but what lies below a second in times, and the zone of a time, which is
taken as it is; a time without a zone is UTC. Text is not guessed to be a number. Columns that the
contract does not name get a plain type, so that the files of a table can be put together;
those of a kind that nothing here could use (structs, maps, lists of them) have none.
"""

import functools
from collections.abc import Callable

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from features.durations import DAY_S

_UTC_US = pa.timestamp("us", "UTC")
_UNITS_PER_S = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
# Floats hold whole numbers up to here; beyond it two ids could become one.
_MAX_WHOLE = {pa.float16(): 2.0**11, pa.float32(): 2.0**24, pa.float64(): 2.0**53}
# ISO 8601 text, as Arrow parses it: a letter for UTC, no space before the zone, microseconds.
_ISO_FORMS = (
    (r"\s*(UTC|utc|GMT|z)$", "Z"),
    (r"\s+([+-]\d{2}(:?\d{2})?)$", r"\1"),
    (r"(\.\d{6})\d+", r"\1"),
)
_ZONE = r":\d{2}(\.\d+)?(Z|[+-]\d{2}(:?\d{2})?)$"


class UnfitError(Exception):
    """A column cannot be brought to a type; the message says what to do, and may be empty."""


def to_type(values: pa.ChunkedArray, expected: pa.DataType) -> pa.ChunkedArray:
    """Returns a column in a type of the contract.

    Args:
        values: Column in the type of its file.
        expected: Type of the contract: string, bool, int64, double or list<string>.

    Raises:
        UnfitError: The column is of another kind, or has a value that the type cannot hold. A
            column without any value is of every kind: pandas writes it as floats.
    """
    return _cast(values, _TO_TYPE[expected], expected)


def to_seconds(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Returns times as int64 Unix seconds: of whole numbers, timestamps, dates or ISO 8601 text.

    Raises:
        UnfitError: The column is of another kind, or has a value that is no time.
    """
    return _cast(values, _seconds, pa.int64())


def has_no_zone(values: pa.ChunkedArray) -> bool:
    """Says whether a column holds times that do not say of which zone they are."""
    values = _unwrapped(values)
    kind = values.type
    if pa.types.is_timestamp(kind):
        return kind.tz is None
    if _is_text(kind):
        return pc.any(pc.invert(pc.match_substring_regex(_iso(values), _ZONE))).as_py() is True
    return bool(pa.types.is_date(kind))


def plain_type(kind: pa.DataType, name: str = "") -> pa.DataType | None:
    """Returns what a column that the contract does not name is read as; None: not at all.

    Args:
        kind: Type of the column in its file.
        name: Name of the column: timestamps in one that ends in ``_ms`` are int64 milliseconds.
    """
    if isinstance(kind, pa.BaseExtensionType):
        is_uuid = kind.extension_name == "arrow.uuid"
        return pa.string() if is_uuid else plain_type(kind.storage_type, name)
    if pa.types.is_dictionary(kind):
        return plain_type(kind.value_type, name)
    if _is_text(kind) or _is_binary(kind):
        return pa.string()
    if is_list(kind):
        item = plain_type(kind.value_type)
        return None if item is None or is_list(item) else pa.list_(item)
    if pa.types.is_decimal(kind):
        is_whole = kind.scale <= 0 and kind.precision - kind.scale <= 18
        return pa.int64() if is_whole else pa.float64()
    if pa.types.is_timestamp(kind):
        return pa.int64() if name.endswith("_ms") else _UTC_US
    if pa.types.is_date(kind):
        return pa.date32()
    is_number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
    is_span = pa.types.is_time(kind) or pa.types.is_duration(kind)
    return kind if is_number or is_span or pa.types.is_null(kind) else None


def to_plain(values: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    """Returns a column as its :func:`plain_type`, which it must have; bytes of no text stay."""
    plain = plain_type(values.type, name)
    values = _unwrapped(values)
    if _is_binary(values.type):
        try:
            return values.cast(pa.string())
        except pa.ArrowInvalid:
            return values.cast(pa.binary())
    if is_list(plain):
        return _each_list(values, lambda items: to_plain(items, ""))
    if pa.types.is_timestamp(values.type):
        values = values.cast(_UTC_US, safe=False)
        return pc.divide(values.cast(pa.int64()), 1_000) if name.endswith("_ms") else values
    return values.cast(plain)


def is_list(kind: pa.DataType) -> bool:
    """Says whether each value is a list."""
    tests = ("list", "large_list", "fixed_size_list", "list_view", "large_list_view")
    return any(getattr(pa.types, f"is_{test}")(kind) for test in tests)


def describe(kind: pa.DataType) -> str:
    """Returns the name of a type for people: lists by what they hold, text as string."""
    if _is_text(kind):
        return "string"
    return f"list<{describe(kind.value_type)}>" if is_list(kind) else str(kind)


Cast = Callable[[pa.ChunkedArray], pa.ChunkedArray]


def _cast(values: pa.ChunkedArray, cast: Cast, expected: pa.DataType) -> pa.ChunkedArray:
    values = _unwrapped(values)
    if len(values) and _without_nan(values).null_count == len(values):
        return pa.chunked_array([pa.nulls(len(values), expected)])
    try:
        return cast(values)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise UnfitError(f" with a value it cannot hold: {error}") from error


def _text(values: pa.ChunkedArray) -> pa.ChunkedArray:
    kind = values.type
    if pa.types.is_floating(kind):
        # pandas turns integer ids with a gap into floats with NaN.
        numbers = _without_nan(values.cast(pa.float64()))
        is_whole = pc.and_(
            pc.equal(numbers, pc.trunc(numbers)), pc.less_equal(pc.abs(numbers), _MAX_WHOLE[kind])
        )
        if pc.all(is_whole).as_py() is False:
            raise UnfitError
        return numbers.cast(pa.int64()).cast(pa.string())
    if pa.types.is_decimal(kind):
        return values.cast(pa.decimal128(38, 0)).cast(pa.string())
    if _is_text(kind) or _is_binary(kind) or _is_whole(kind):
        return values.cast(pa.string())
    raise UnfitError


def _texts(values: pa.ChunkedArray) -> pa.ChunkedArray:
    if pa.types.is_struct(values.type) and values.type.num_fields == 1:
        # BigQuery writes a repeated column as a struct of one list, of structs of one element.
        values = pc.struct_field(values, [0])
    if pa.types.is_null(values.type):
        return values.cast(pa.list_(pa.string()))
    if not is_list(values.type):
        raise UnfitError
    return _each_list(values, lambda items: _text(_unwrapped(_only_field(items))))


def _flags(values: pa.ChunkedArray) -> pa.ChunkedArray:
    if pa.types.is_boolean(values.type):
        return values
    numbers = _without_nan(_numbers(values))
    if pc.all(pc.or_(pc.equal(numbers, 0), pc.equal(numbers, 1))).as_py() is False:
        bounds = pc.min_max(numbers).as_py()
        raise UnfitError(f" with values from {bounds['min']:.6g} to {bounds['max']:.6g}")
    return numbers.cast(pa.bool_())


def _numbers(values: pa.ChunkedArray) -> pa.ChunkedArray:
    if pa.types.is_duration(values.type):
        unit = _UNITS_PER_S[values.type.unit]
        return pc.divide(values.cast(pa.int64()).cast(pa.float64()), float(unit))
    if not _is_number(values.type):
        raise UnfitError
    return values.cast(pa.float64())


def _whole(values: pa.ChunkedArray) -> pa.ChunkedArray:
    if not _is_number(values.type):
        raise UnfitError
    return _without_nan(values).cast(pa.int64())


def _seconds(values: pa.ChunkedArray) -> pa.ChunkedArray:
    kind = values.type
    if _is_text(kind) or _is_binary(kind):
        text = _iso(values)
        has_zone = pc.match_substring_regex(text, _ZONE)
        zoned = pc.if_else(has_zone, text, None).cast(_UTC_US)
        naive = pc.if_else(has_zone, None, text).cast(pa.timestamp("us")).cast(_UTC_US)
        values, kind = pc.coalesce(zoned, naive), _UTC_US
    if pa.types.is_timestamp(kind):
        return pc.divide(values.cast(pa.int64()), _UNITS_PER_S[kind.unit])
    if pa.types.is_date(kind):
        days = values.cast(pa.date32()).cast(pa.int32()).cast(pa.int64())
        return pc.multiply(days, DAY_S)
    if pa.types.is_decimal(kind):
        return pc.floor(values).cast(pa.int64())
    return _whole(values)


_TO_TYPE: dict[pa.DataType, Cast] = {
    pa.string(): _text,
    pa.bool_(): _flags,
    pa.int64(): _whole,
    pa.float64(): _numbers,
    pa.list_(pa.string()): _texts,
}


def _unwrapped(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Returns the values without dictionary, extension type or views."""
    kind = values.type
    if isinstance(kind, pa.BaseExtensionType):
        storage = pa.chunked_array([chunk.storage for chunk in values.chunks], kind.storage_type)
        return _uuids(storage) if kind.extension_name == "arrow.uuid" else _unwrapped(storage)
    if pa.types.is_dictionary(kind):
        return _unwrapped(values.cast(kind.value_type))
    if pa.types.is_string_view(kind):
        return values.cast(pa.string())
    return values.cast(pa.binary()) if pa.types.is_binary_view(kind) else values


def _uuids(storage: pa.ChunkedArray) -> pa.ChunkedArray:
    digits = pl.Series(pl.from_arrow(storage.cast(pa.binary()))).bin.encode("hex")
    parts = [digits.str.slice(at, n) for at, n in ((0, 8), (8, 4), (12, 4), (16, 4), (20, 12))]
    text = functools.reduce(lambda a, b: a + "-" + b, parts)
    return pa.chunked_array([text.to_arrow()]).cast(pa.string())


def _each_list(values: pa.ChunkedArray, convert: Cast) -> pa.ChunkedArray:
    """Returns lists of the converted items.

    Built anew: pyarrow 25 casts a list view to an array that is not valid.
    """
    chunks = []
    for chunk in values.chunks or [pa.array([], values.type)]:
        lengths = pc.fill_null(pc.list_value_length(chunk), 0).cast(pa.int32())
        items = convert(pa.chunked_array([pc.list_flatten(chunk)]))
        offsets = pa.concat_arrays([pa.array([0], pa.int32()), pc.cumulative_sum(lengths)])
        flat = items.combine_chunks()
        chunks.append(pa.ListArray.from_arrays(offsets, flat, mask=pc.is_null(chunk)))
    return pa.chunked_array(chunks)


def _only_field(items: pa.ChunkedArray) -> pa.ChunkedArray:
    is_wrapped = pa.types.is_struct(items.type) and items.type.num_fields == 1
    return pc.struct_field(items, [0]) if is_wrapped else items


def _iso(values: pa.ChunkedArray) -> pa.ChunkedArray:
    text = pc.utf8_trim_whitespace(values.cast(pa.string()))
    for pattern, form in _ISO_FORMS:
        text = pc.replace_substring_regex(text, pattern, form)
    return pc.if_else(pc.equal(text, ""), None, text)


def _without_nan(values: pa.ChunkedArray) -> pa.ChunkedArray:
    if not pa.types.is_floating(values.type):
        return values
    return pc.if_else(pc.is_nan(values), pa.scalar(None, values.type), values)


def _is_text(kind: pa.DataType) -> bool:
    tests = ("string", "large_string", "string_view")
    return any(getattr(pa.types, f"is_{test}")(kind) for test in tests)


def _is_binary(kind: pa.DataType) -> bool:
    tests = ("binary", "large_binary", "fixed_size_binary", "binary_view")
    return any(getattr(pa.types, f"is_{test}")(kind) for test in tests)


def _is_whole(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_null(kind)


def _is_number(kind: pa.DataType) -> bool:
    return _is_whole(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
