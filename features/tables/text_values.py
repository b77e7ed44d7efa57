"""Values that are written as text, as CSV files, JSON and spreadsheets hand them out.

Parquet logs are typed, so :mod:`features.tables.casts` guesses nothing there. Whoever maps a text
column to a column of the contract has said what it is; here it is read value by value, and a value
that cannot be read becomes null, so that the row, not the column, is set aside.
"""

import contextlib
import dataclasses
import json
import re
from collections.abc import Mapping
from typing import Any

import polars as pl
import pyarrow as pa

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
    if form.time_format is None:
        number = pl.when(~_TEXT.str.contains(_DAY)).then(_scaled(_number(), form.unit))
        number = number.floor().cast(pl.Int64, strict=False)
        bare = _TEXT.str.replace(_ZONE, "${1}")
        bare = bare.str.replace(r"^(\d{4})[-/](\d\d?)[-/](\d\d?)\s+", "${1}-${2}-${3}T")
        bare = bare.str.replace(r"^(\d{4})/(\d\d?)/(\d\d?)", "${1}-${2}-${3}")
        naive = pl.coalesce(*(bare.str.to_datetime(f, **_LENIENT) for f in _TIME_FORMS))
        zone = _TEXT.str.extract(_ZONE, 2)
        east = zone.str.replace_all(r"[^\d+-]", "")
        seconds = (
            east.str.slice(1, 2).cast(pl.Int64, strict=False).fill_null(0) * HOUR_S
            + east.str.slice(3, 2).cast(pl.Int64, strict=False).fill_null(0) * MINUTE_S
        )
        offset = pl.when(east.str.starts_with("-")).then(-seconds).otherwise(seconds)
        zoned = pl.when(zone.is_not_null()).then(_epoch(naive) - offset)
        moment = pl.coalesce(number, zoned, _of_zone(naive, form.time_zone))
    elif re.search(r"%(:*z|#z|\+|Z)", form.time_format):
        moment = _epoch(_TEXT.str.to_datetime(form.time_format, time_zone="UTC", **_LENIENT))
    else:
        # A time of day is missing in a date alone, which to_datetime takes as midnight.
        naive = _TEXT.str.to_datetime(form.time_format, **_LENIENT)
        moment = _of_zone(naive, form.time_zone)
    return _read(values, moment, pa.int64())


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
            found = json.loads(text)
            if isinstance(found, list):
                return [str(member).strip() for member in found if member not in {None, ""}]
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


def _of_zone(naive: pl.Expr, zone: str) -> pl.Expr:
    """Returns Unix seconds of what the clocks of a zone showed.

    An hour that they show twice is the earlier one; one that they skip is that after it.
    """
    missing = {"ambiguous": "earliest", "non_existent": "null"}
    here = naive.dt.replace_time_zone(zone, **missing)
    skipped = (naive + pl.duration(hours=1)).dt.replace_time_zone(zone, **missing)
    return _epoch(pl.coalesce(here, skipped))


def _epoch(moment: pl.Expr) -> pl.Expr:
    return moment.dt.epoch("us") // 1_000_000


def _read(values: pa.ChunkedArray, expression: pl.Expr, kind: pa.DataType) -> pa.ChunkedArray:
    text = pl.Series("text", pl.from_arrow(values.cast(pa.string()))).str.strip_chars()
    present = pl.when(~text.str.to_lowercase().is_in(_MISSING)).then(text).alias("text")
    found = pl.DataFrame({"text": text}).select(present).select(expression.alias("found"))
    return pa.chunked_array([found["found"].to_arrow()]).cast(kind)
