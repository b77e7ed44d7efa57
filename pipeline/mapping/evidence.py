"""What the values of a column look like: the evidence of which column of ours it may be."""

import dataclasses
import re

import pyarrow as pa
import pyarrow.compute as pc

from features import command
from features.tables import casts, raw_tables, text_values
from features.tables.text_values import Form
from pipeline.mapping import values

# Forms of times that need to be named. A day and a month that could be taken for one another come
# in both orders; the first under which every value is a time is proposed.
_DAYS = ("%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%d-%m-%Y", "%m-%d-%Y", "%d %b %Y", "%b %d, %Y")
_CLOCKS = ("", " %H:%M", " %H:%M:%S", " %I:%M %p", " %I:%M:%S %p")
_FORMATS = (*(f"{day}{clock}" for day in _DAYS for clock in _CLOCKS), "%Y%m%d%H%M%S")
_EARLIEST_S = command.parse_time("1995-01-01") or 0
_LATEST_S = command.parse_time("2100-01-01") or 0
_FEW = 20
_READABLE = 0.98  # Of the values: a few are always wrong.
_SEPARATORS = ("|", ";", ",", "/")
_ZONE = r"(Z|z|UTC|GMT|[+-]\d{2}:?\d{0,2})$"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evidence:
    """What is known of a column.

    Attributes:
        name: Name in the source.
        kind: DuckDB's name of the type.
        values: Values of some rows, the first ones.
        fill: Share of the rows that have a value, in [0, 1].
        few: Distinct values as text, where there are few; "" stands for many.
    """

    name: str
    kind: str
    values: pa.ChunkedArray
    fill: float
    few: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Fit:
    """How a column can be read as one of ours.

    Attributes:
        form: Form of its values.
        why: What the values say, for people.
        is_sure: Whether the values leave no other way.
    """

    form: Form
    why: str
    is_sure: bool = True


def look(name: str, kind: str, column: pa.ChunkedArray) -> Evidence:
    """Looks at the values of a column."""
    given = column.filter(pc.is_valid(column))
    if text_values.is_text(given.type):
        given = given.filter(pc.not_equal(pc.utf8_trim_whitespace(given.cast(pa.string())), ""))
    few: tuple[str, ...] = ()
    if not (pa.types.is_nested(given.type) or isinstance(given.type, pa.BaseExtensionType)):
        distinct = pc.unique(given)
        few = tuple(map(str, distinct.to_pylist())) if len(distinct) <= _FEW else ()
    return Evidence(
        name=name,
        kind=kind,
        values=given,
        fill=len(given) / max(len(column), 1),
        few=few,
    )


def fit(seen: Evidence, contract: raw_tables.Column) -> Fit | None:
    """Returns how a column can be read as one of ours; None where it cannot."""
    if not len(seen.values):
        return None
    if contract.is_time:
        return _fit_time(seen)
    if casts.is_list(contract.type):
        return _fit_list(seen)
    if values.is_span(contract):
        return _fit_span(seen, contract)
    if not _is_readable(seen, Form(), contract):
        return None
    return Fit(Form(), _described(seen))


def is_number(seen: Evidence) -> bool:
    """Says whether a column of text holds numbers."""
    if not text_values.is_text(seen.values.type) or not len(seen.values):
        return False
    numbers = text_values.to_number(seen.values)
    has_zeros = pc.any(pc.match_substring_regex(seen.values.cast(pa.string()), r"^0\d")).as_py()
    return numbers.null_count <= (1 - _READABLE) * len(numbers) and not has_zeros


def _described(seen: Evidence) -> str:
    if seen.few and len(seen.few) <= 4:
        return "values " + ", ".join(repr(value) for value in seen.few)
    return f"values such as {seen.values[0].as_py()!r}"[:60]


def _is_readable(seen: Evidence, form: Form, contract: raw_tables.Column) -> bool:
    try:
        converted = values.convert(seen.values, form, contract)
    except casts.UnfitError:
        return False
    return converted.values.null_count <= (1 - _READABLE) * len(seen.values)


def _fit_time(seen: Evidence) -> Fit | None:
    contract = raw_tables.Column(name="time", type=pa.int64(), is_time=True)
    is_text = text_values.is_text(seen.values.type)
    if is_text and not is_number(seen):
        text = seen.values.cast(pa.string())
        if _is_moment(seen, Form(), contract):
            has_zone = pc.all(pc.match_substring_regex(text, _ZONE)).as_py()
            why = "ISO times" + ("" if has_zone else " without a zone: UTC unless time_zone says")
            return Fit(Form(), why, is_sure=bool(has_zone))
        fits = [f for f in _FORMATS if _is_moment(seen, Form(time_format=f), contract)]
        if fits:
            is_sure = len(fits) == 1
            why = f"times as {fits[0]}" + ("" if is_sure else f", or {fits[1]}: CHECK")
            return Fit(Form(time_format=fits[0]), why, is_sure=False)
        return None
    if is_text or _is_numeric(seen.values.type):
        for unit in ("s", "ms", "us", "ns"):
            if _is_moment(seen, Form(unit=unit), contract):
                return Fit(Form(unit=unit), f"numbers of the size of Unix times in {unit}")
        return None
    if _is_moment(seen, Form(), contract):
        has_zone = getattr(seen.values.type, "tz", None) is not None
        return Fit(Form(), f"type {seen.kind}", is_sure=has_zone)
    return None


def _is_moment(seen: Evidence, form: Form, contract: raw_tables.Column) -> bool:
    if not _is_readable(seen, form, contract):
        return False
    seconds = values.convert(seen.values, form, contract).values
    is_plausible = pc.and_(pc.greater_equal(seconds, _EARLIEST_S), pc.less(seconds, _LATEST_S))
    share = (pc.sum(is_plausible).as_py() or 0) / len(seconds)
    return share >= _READABLE


def _fit_list(seen: Evidence) -> Fit | None:
    if casts.is_list(seen.values.type):
        return Fit(Form(), "lists")
    if not text_values.is_text(seen.values.type):
        return None
    text = seen.values.cast(pa.string())
    if pc.sum(pc.match_substring_regex(text, r"^[\[{].*[\]}]$")).as_py() > 0.9 * len(text):
        return Fit(Form(separator=","), "lists in brackets")
    shares = {s: pc.sum(pc.match_substring(text, s)).as_py() / len(text) for s in _SEPARATORS}
    best = max(_SEPARATORS, key=lambda s: shares[s])
    if shares[best] == 0:
        return Fit(Form(separator=","), "no separator seen, so one each", is_sure=False)
    return Fit(Form(separator=best), f"{shares[best]:.0%} of the values have {best!r}")


def _fit_span(seen: Evidence, contract: raw_tables.Column) -> Fit | None:
    if seen.kind in {"INTERVAL", "TIME"}:
        return Fit(Form(), f"type {seen.kind}")
    if not _is_readable(seen, Form(), contract):
        return None
    if pa.types.is_boolean(seen.values.type):
        return None
    name = seen.name.lower()
    for unit, pattern in (
        ("ms", r"(ms|msec|millis\w*|milliseconds?)$|milli|[a-z]Ms$"),
        ("s", r"(_s|secs?|seconds?)$|seconds"),
        ("min", r"(min|mins|minutes?)$|minutes"),
        ("h", r"hours?$"),
    ):
        if re.search(pattern, seen.name if unit == "ms" else name):
            return Fit(Form(unit=unit), f"its name says {unit}")
    if re.search(r"(ms|msec)$", name):
        return Fit(Form(unit="ms"), "its name says ms")
    number = values.convert(seen.values, Form(), contract).values
    median = pc.quantile(number, 0.5)[0].as_py() or 0.0
    if median > 15_000:
        return Fit(Form(unit="ms"), f"half are above {median:,.0f}: milliseconds?", is_sure=False)
    return Fit(Form(), f"half are above {median:,.0f}: seconds?", is_sure=False)


def _is_numeric(kind: pa.DataType) -> bool:
    tests = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal)
    return any(test(kind) for test in tests)
