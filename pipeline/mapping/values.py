"""Values of a source as values of a column of ours."""

import dataclasses

import pyarrow as pa
import pyarrow.compute as pc

from features.durations import DAY_S
from features.tables import casts, raw_tables, text_values
from features.tables.text_values import Form


@dataclasses.dataclass(frozen=True)
class Converted:
    """A column after the conversion.

    Attributes:
        values: Values in the type of the contract; as they came, where it does not name the column.
        is_unreadable: bool; where there was a value that could not be read, and is null now.
    """

    values: pa.ChunkedArray
    is_unreadable: pa.ChunkedArray


def convert(values: pa.ChunkedArray, form: Form, contract: raw_tables.Column | None) -> Converted:
    """Brings values to the type of a column.

    Args:
        values: Values in the type in which the source has them.
        form: Form of the values: unit, zone and so on.
        contract: Column of the contract; None for one that it does not name.

    Raises:
        casts.UnfitError: The values are of a kind that the column cannot be.
    """
    values = _decoded(values)
    is_text = text_values.is_text(values.type)
    if contract is None:
        is_list = is_text and form.separator is not None
        converted = text_values.to_texts(values, form) if is_list else values
    elif is_text:
        converted = _of_text(values, form, contract)
    elif contract.is_time:
        converted = _seconds(values, form)
    else:
        converted = casts.to_type(values, contract.type)
        if is_span(contract) and not pa.types.is_duration(values.type) and form.unit != "s":
            converted = _scaled(converted, form.unit)
    if contract is None or not is_text:
        nothing = pa.chunked_array([pa.repeat(False, len(values))])
        return Converted(converted, nothing)
    is_given = pc.invert(text_values.is_missing(values))
    return Converted(converted, pc.and_(pc.is_null(converted), is_given))


def is_span(contract: raw_tables.Column) -> bool:
    """Says whether a column is a span of time in seconds."""
    return contract.type == pa.float64() and contract.name.endswith("_s")


def unit_problem(form: Form, contract: raw_tables.Column | None) -> str:
    """Says what is wrong with the form of a column of this kind; "" for nothing."""
    is_time = contract is not None and contract.is_time
    if form.unit != "s" and not is_time and not (contract and is_span(contract)):
        return "unit is for times and for spans of time (watch_time_s, duration_s)."
    if form.time_format is not None and not is_time:
        return "format is for times."
    if form.separator is not None and contract and not casts.is_list(contract.type):
        return "separator is for lists."
    return ""


def _of_text(values: pa.ChunkedArray, form: Form, contract: raw_tables.Column) -> pa.ChunkedArray:
    if contract.is_time:
        return text_values.to_seconds(values, form)
    if pa.types.is_boolean(contract.type):
        return text_values.to_flag(values)
    if is_span(contract):
        return text_values.to_span(values, form)
    if casts.is_list(contract.type):
        if form.separator is None:
            raise casts.UnfitError(", so say what parts it, such as separator = ','")
        return text_values.to_texts(values, form)
    if pa.types.is_string(contract.type):
        text = values.cast(pa.string())
        return pc.utf8_trim_whitespace(text) if contract.name.endswith("_id") else text
    numbers = text_values.to_number(values)
    if contract.type == pa.int64():
        numbers = pc.if_else(pc.equal(numbers, pc.floor(numbers)), numbers, None)
    return numbers.cast(contract.type)


def _seconds(values: pa.ChunkedArray, form: Form) -> pa.ChunkedArray:
    kind = values.type
    if pa.types.is_date(kind):
        days = values.cast(pa.date32()).cast(pa.int32()).cast(pa.int64())
        values = pc.multiply(days, DAY_S).cast(pa.timestamp("s"))
        kind = values.type
    if pa.types.is_timestamp(kind) and kind.tz is None:
        # Of an hour that the clocks show twice the earlier one; of one that they skip its end.
        values = pc.assume_timezone(
            values, form.time_zone, ambiguous="earliest", nonexistent="latest"
        )
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        if form.unit == "s" and not pa.types.is_floating(kind):
            return casts.to_seconds(values)
        return casts.to_seconds(pc.floor(_scaled(values.cast(pa.float64()), form.unit)))
    return casts.to_seconds(values)


def _scaled(numbers: pa.ChunkedArray, unit: str) -> pa.ChunkedArray:
    times, parts = text_values.UNITS[unit]
    return pc.divide(pc.multiply(numbers, float(times)), float(parts))


def _decoded(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Returns plain text where DuckDB hands out an enumeration or JSON."""
    if isinstance(values.type, pa.BaseExtensionType):
        storage = [chunk.storage for chunk in values.chunks]
        values = pa.chunked_array(storage, values.type.storage_type)
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    return values
