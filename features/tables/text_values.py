"""Values that are written as text, as CSV files, JSON and spreadsheets hand them out.

Parquet logs are typed, so :mod:`features.tables.casts` guesses nothing there. Whoever maps a text
column to a column of the contract has said what it is; here it is read value by value, and a value
that cannot be read becomes null, so that the row, not the column, is set aside.
"""

import contextlib
import dataclasses
import functools
import json
import re
from collections.abc import Mapping
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from features.durations import DAY_S, HOUR_S, MINUTE_S
from features.tables import casts

# Seconds of one unit as a fraction, so that whole seconds stay whole. Times count from 1970.
UNITS: Mapping[str, tuple[float, float]] = {
    "ns": (1, 1e9),
    "us": (1, 1e6),
    "ms": (1, 1e3),
    "s": (1, 1),
    "min": (MINUTE_S, 1),
    "h": (HOUR_S, 1),
    "days": (DAY_S, 1),
}
# What stands for nothing in columns of numbers, flags and times. Not in texts: NA is Namibia.
_MISSING = ("", "na", "n/a", "nan", "nat", "none", "null", "<na>", "-", "\\n")
_TRUE = ("true", "t", "yes", "y", "on", "1", "1.0")
_FALSE = ("false", "f", "no", "n", "off", "0", "0.0")

_TEXT = pl.col("text")
_LENIENT: dict[str, Any] = {"strict": False, "time_unit": "us"}
_ZONE = r"(:\d{2}(?:\.\d+)?|\d{2}T\d{6})\s*(Z|z|UTC|utc|GMT|(?:UTC|GMT)?[+-]\d{2}(?::?\d{2})?)$"
_NUMBER = r"^[+-]?\d+(\.\d*)?([eE][+-]?\d+)?$"
_CLOCK = r"^(?:(\d+):)?(\d{1,2}):(\d{2}(?:\.\d+)?)$"  # 4:13 and 1:04:13.
_ISO_PERIOD = r"^P(?:(\d+)D)?(?:T(?:(\d+)H)?(?:(\d+)M)?(?:(\d+(?:\.\d+)?)S)?)?$"  # PT4M13S.
# A day without dashes; as seconds since 1970 it would lie before anybody had a web site.
_DAY = r"^(19|20)\d{6}$"
# As Arrow reads it, which is a hundred times faster than the forms below.
_ISO = (
    r"^\d{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12]\d|3[01])"
    r"(?:[T ](?:[01]\d|2[0-3]):[0-5]\d(?::[0-5]\d(?:\.\d{1,6})?)?(?:Z|[+-]\d{2}(?::?\d{2})?)?)?$"
)
# None of them can be taken for another; a day and a month that stand the other way round can, so
# those need a format.
_TIME_FORMS = (
    "%Y-%m-%dT%H:%M:%S%.f",
    "%Y-%m-%dT%H:%M",
    "%Y-%m-%d",
    "%Y%m%d",
    "%Y%m%dT%H%M%S",
    "%a, %d %b %Y %H:%M:%S",
    "%d/%b/%Y:%H:%M:%S",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Form:
    """How the values of a column are written.

    Attributes:
        unit: A key of ``UNITS``: what a number counts.
        time_zone: Name of the zone of times that name none, as in the IANA database.
        time_format: Form of the times as of ``strptime``; None for those that cannot be mistaken.
        separator: Text between the members of a list; None for lists in brackets alone.
    """

    unit: str = "s"
    time_zone: str = "UTC"
    time_format: str | None = None
    separator: str | None = None


PLAIN = Form()


def is_text(kind: pa.DataType) -> bool:
    """Says whether a type is text."""
    return casts.describe(kind) == "string"


def to_number(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Returns text as doubles; null where it is no number."""
    return _read(values, _number(), pa.float64())


def to_span(values: pa.ChunkedArray, form: Form = PLAIN) -> pa.ChunkedArray:
    """Returns spans of time as double seconds; null where a text is none.

    Args:
        values: Texts: numbers of ``form.unit``, clocks (``1:04:13``) or ISO 8601 (``PT4M13S``).
        form: Form of the values.
    """
    clock = _sum_of(_CLOCK, (HOUR_S, MINUTE_S, 1))
    period = _sum_of(_ISO_PERIOD, (DAY_S, HOUR_S, MINUTE_S, 1))
    span = pl.coalesce(_scaled(_number(), form.unit), clock, period)
    return _read(values, span, pa.float64())


def to_flag(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Returns text as bool; null where it is neither yes nor no."""
    text = _TEXT.str.to_lowercase()
    flag = pl.when(text.is_in(_TRUE)).then(statement=True)
    return _read(values, flag.when(text.is_in(_FALSE)).then(statement=False), pa.bool_())


def to_seconds(values: pa.ChunkedArray, form: Form = PLAIN) -> pa.ChunkedArray:
    """Returns times as int64 Unix seconds; null where a text is no time.

    Args:
        values: Texts: ISO 8601 (also with a space, slashes or without seconds), RFC 2822, the form
            of web servers, numbers of ``form.unit`` since 1970, or ``form.time_format`` alone.
        form: Form of the values.
    """
    text = _stripped(values)
    if form.time_format is None:
        frame = pl.DataFrame({"text": text}).with_row_index("row")
        is_iso = _TEXT.str.contains(_ISO).fill_null(value=False)
        parts = [
            part.with_columns(seconds=read(part["text"], form.time_zone))
            for part, read in (
                (frame.filter(is_iso), _iso),
                (frame.filter(~is_iso), functools.partial(_other, unit=form.unit)),
            )
        ]
        seconds = pl.concat(parts).sort("row")["seconds"]
    else:
        moments = text.str.to_datetime(form.time_format, **_LENIENT)
        has_zone = re.search(r"%(:*z|#z|\+)", form.time_format) is not None
        seconds = _epoch(moments) if has_zone else _of_zone(moments, form.time_zone)
    return pa.chunked_array([seconds.to_arrow()]).cast(pa.int64())


def to_texts(values: pa.ChunkedArray, form: Form = PLAIN) -> pa.ChunkedArray:
    """Returns lists of texts: of JSON, of brackets as Python and PostgreSQL write, or separated.

    Members are trimmed, and those that are empty are left out.

    Args:
        values: Texts, one list each.
        form: Form of the values. Without a separator, text without brackets is a list of itself.
    """
    text = values.cast(pa.string()).to_pylist()
    lists = [None if value is None else _members(value.strip(), form.separator) for value in text]
    return pa.chunked_array([pa.array(lists, pa.list_(pa.string()))])


def is_missing(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Says where a text stands for nothing in a column of numbers, flags or times."""
    return _read(values, _TEXT.is_null(), pa.bool_())


def _members(text: str, separator: str | None) -> list[str]:
    if text[:1] + text[-1:] in {"[]", "{}", "()"}:
        with contextlib.suppress(ValueError):
            parsed = json.loads(text)
            if isinstance(parsed, list):
                return [str(member).strip() for member in parsed if member not in {None, ""}]
        text, separator = text[1:-1], separator or ","
    members = [text] if separator is None else text.split(separator)
    trimmed = (member.strip().strip("\"'").strip() for member in members)
    return [member for member in trimmed if member]


def _scaled(number: pl.Expr, unit: str) -> pl.Expr:
    times, parts = UNITS[unit]
    return number * times / parts


def _number() -> pl.Expr:
    return pl.when(_TEXT.str.contains(_NUMBER)).then(_TEXT).cast(pl.Float64, strict=False)


def _sum_of(pattern: str, seconds: tuple[int, ...]) -> pl.Expr:
    """Returns the sum of what the groups of a pattern count; null where it does not fit."""
    parts = [
        _TEXT.str.extract(pattern, group).cast(pl.Float64, strict=False).fill_null(0) * unit
        for group, unit in enumerate(seconds, start=1)
    ]
    return pl.when(_TEXT.str.contains(pattern)).then(pl.sum_horizontal(*parts))


def _iso(text: pl.Series, time_zone: str) -> pl.Series:
    """Returns Unix seconds of what has the form of ISO 8601, at the speed of Arrow."""
    has_zone = text.str.contains(r"(Z|[+-]\d{2}(:?\d{2})?)$") & (text.str.len_chars() > 10)
    times = text.to_arrow().cast(pa.string())
    try:
        zoned = pc.if_else(has_zone.to_arrow(), times, None).cast(pa.timestamp("us", "UTC"))
        naive = pc.if_else(has_zone.to_arrow(), None, times).cast(pa.timestamp("us"))
    except pa.ArrowInvalid:  # A thirtieth of February.
        return _other(text, time_zone, unit="s")
    return _epoch(pl.Series(pl.from_arrow(zoned))).fill_null(
        _of_zone(pl.Series(pl.from_arrow(naive)), time_zone)
    )


def _other(text: pl.Series, time_zone: str, *, unit: str) -> pl.Series:
    """Returns Unix seconds of numbers and of all forms that cannot be mistaken."""
    number = pl.when(~_TEXT.str.contains(_DAY)).then(_scaled(_number(), unit))
    bare = _TEXT.str.replace(_ZONE, "${1}")
    bare = bare.str.replace(r"^(\d{4})[-/](\d\d?)[-/](\d\d?)\s+", "${1}-${2}-${3}T")
    bare = bare.str.replace(r"^(\d{4})/(\d\d?)/(\d\d?)", "${1}-${2}-${3}")
    zone = _TEXT.str.extract(_ZONE, 2)
    east = zone.str.replace_all(r"[^\d+-]", "")
    size = (
        east.str.slice(1, 2).cast(pl.Int64, strict=False).fill_null(0) * HOUR_S
        + east.str.slice(3, 2).cast(pl.Int64, strict=False).fill_null(0) * MINUTE_S
    )
    frame = pl.DataFrame({"text": text}).select(
        number=number.floor().cast(pl.Int64, strict=False),
        naive=pl.coalesce(*(bare.str.to_datetime(form, **_LENIENT) for form in _TIME_FORMS)),
        offset=pl.when(east.str.starts_with("-")).then(-size).otherwise(size),
        has_zone=zone.is_not_null(),
    )
    local = _of_zone(frame["naive"], time_zone)
    zoned = _epoch(frame["naive"]) - frame["offset"]
    return frame.select(
        pl.coalesce("number", pl.when("has_zone").then(zoned).otherwise(local))
    ).to_series()


def _of_zone(naive: pl.Series, zone: str) -> pl.Series:
    """Returns Unix seconds of what the clocks of a zone showed.

    Of an hour that they show twice it is the earlier one; of one that they skip, its end.
    """
    moments = pc.assume_timezone(naive.to_arrow(), zone, ambiguous="earliest", nonexistent="latest")
    return _epoch(pl.Series(pl.from_arrow(moments)))


def _epoch(moment: pl.Series) -> pl.Series:
    return moment.dt.epoch("us") // 1_000_000


def _read(values: pa.ChunkedArray, expression: pl.Expr, kind: pa.DataType) -> pa.ChunkedArray:
    result = pl.DataFrame({"text": _stripped(values)}).select(expression.alias("result"))
    return pa.chunked_array([result["result"].to_arrow()]).cast(kind)


def _stripped(values: pa.ChunkedArray) -> pl.Series:
    """Returns texts without spaces around them; null where they stand for nothing."""
    text = pl.Series("text", pl.from_arrow(values.cast(pa.string()))).str.strip_chars()
    is_given = ~_TEXT.str.to_lowercase().is_in(_MISSING)
    return pl.DataFrame({"text": text}).select(pl.when(is_given).then("text")).to_series()
